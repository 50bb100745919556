"""Every test here may train, export and prove."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _cheap(one_pool: object, one_picture: object) -> None:
    """Let all proofs be made by one worker, and each kind of picture be drawn once."""
