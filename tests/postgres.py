"""A real PostgreSQL for tests, from the system's packages; skipped with the reason without one."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from experiments.server import postgres as server


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Give what makes an empty database in a PostgreSQL of these tests, and returns its URL."""
    numbers = itertools.count()
    with ExitStack() as open_:
        # Not in tmp_path: the user whom PostgreSQL runs as, where tests run as root, cannot enter.
        folder = open_.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))
        try:
            url = open_.enter_context(server.postgres(Path(folder), durable=False))
        except server.Absent as error:
            pytest.skip(str(error))
        yield lambda: server.database(url, f"test{next(numbers)}")


@pytest.fixture
def postgres(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database in a real PostgreSQL."""
    return new_database()
