"""Every test here may train, export and prove."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _proofs(one_pool: object) -> None:
    """Let all proofs be made by one worker."""
