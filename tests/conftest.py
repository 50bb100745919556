"""What every test needs set before MXNet, MLflow or matplotlib is imported."""

import os
import signal
from pathlib import Path
from typing import Any

# One thread: training is then bit-reproducible, and parallel test workers do not fight for cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "Agg"
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))

# What runs in a shell's background, or under nohup, ignores these, and so do its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import copy
import gc
import inspect
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp import run
from gluonexp.base import files
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import COMMANDING
from gluonexp.base.workers import Workers
from gluonexp.config.schema import Config
from gluonexp.tracking import internals
from tests.postgres import new_database, postgres  # noqa: F401  fixtures of all tests

# On a shared machine a slow example says nothing of the code. The examples are the same each
# time, so that what fails is what the commit changed; with --hypothesis-profile=search pytest
# looks further. `make fuzz` damages files for each parser by the last profile.
settings.register_profile("gluonexp", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, derandomize=False, max_examples=2000)
settings.register_profile("fuzz", deadline=None, derandomize=False, max_examples=10_000)
settings.load_profile("gluonexp")


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage among a million objects of what tests import, then and later."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what is computed once be kept in a folder of these tests, not in the user's cache."""
    mine = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if "MPLCONFIGDIR" not in os.environ:  # where matplotlib has its list of fonts
            patch.setenv("MPLCONFIGDIR", str(Path(mine, "matplotlib")))
        yield


@pytest.fixture
def compose() -> Callable[..., Config]:
    """Compose a configuration as the command line would: ``compose("optim=sgd", "seed=1")``."""

    return run.compose


@pytest.fixture(scope="session", autouse=True)
def make_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Make each store of this process a copy of its first: MLflow takes a second for one.

    Gives the function that really makes one.
    """
    make, first = internals.make_tables, tmp_path_factory.mktemp("store") / "mlflow.db"

    def copied(database: Path, artifacts: Path) -> None:
        if not first.exists():
            _wait_for_no_disk()
            make(first, artifacts)
        shutil.copyfile(first, database)
        with closing(sqlite3.connect(database)) as link, link:
            link.execute("UPDATE experiments SET artifact_location = ?", [f"{artifacts}/0"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(internals, "make_tables", copied)
        yield make


@pytest.fixture(scope="session", autouse=True)
def really_sync() -> Iterator[Callable[[Path], None]]:
    """Let no file of this process wait for the disk; gives the function that does."""
    with pytest.MonkeyPatch.context() as patch:
        sync = files._sync
        patch.setattr(files, "_sync", lambda path: None)
        yield sync


def _wait_for_no_disk() -> None:
    """Let no store of this process wait for the disk after each of a run's forty writes."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def connected(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


@contextmanager
def here(pool: Workers) -> Iterator[Workers]:
    """Give a pool of one worker, which works where this process does, and leave it running."""
    list(pool.stream([(None, os.chdir, (os.getcwd(),))]))
    yield pool


@pytest.fixture(scope="session")
def one_pool() -> Iterator[Callable[[Workers], AbstractContextManager[Workers]]]:
    """Let every proof of this process be made by one worker: to start one takes two seconds.

    Gives what gives another such worker.
    """
    from gluonexp.verification import score, verify

    with Workers(1, score.warm_up) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "workers", lambda macs=None: here(pool))
        yield here


def _drawn_once(draw: Callable[..., None]) -> Callable[..., None]:
    made: list[bytes] = []

    def drawn(*arguments: Any, **more: Any) -> None:
        path = inspect.signature(draw).bind(*arguments, **more).arguments["path"]
        if not made:
            draw(*arguments, **more)
            made.append(path.read_bytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[0])

    return drawn


_DRAWN_ONCE: dict[str, Callable[..., None]] = {}


@pytest.fixture(scope="module")
def one_picture() -> Iterator[None]:
    """Draw each kind of a run's pictures once in this process: the others are copies of it.

    Half of the time of the smallest run goes into pictures. Tests of them, and the run that
    test_run.py starts as users do, draw them all.
    """
    from gluonexp.report import plots

    with pytest.MonkeyPatch.context() as patch:
        for kind in ("sample_grid", "curves", "confusion_matrix", "worst_mistakes", "prediction"):
            once = _DRAWN_ONCE.setdefault(kind, _drawn_once(getattr(plots, kind)))
            patch.setattr(plots, kind, once)
        yield


_TELLING = [b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0" * 7 + b"\x40", b"\x1b[2J", b"\n"]
_KINDS = ["set", "flip", "insert", "remove", "repeat", "cut"]


def _damage(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, first, second, piece in edits:
        start, end = sorted(place % (len(content) + 1) for place in (first, second))
        before, after = content[:start], content[start:]
        if kind == "set":
            content = before + piece + after[len(piece) :]
        elif kind == "flip":
            flipped = bytes([after[0] ^ 1 << second % 8]) if after else b""
            content = before + flipped + after[1:]
        elif kind == "insert":
            content = before + piece + after
        elif kind == "remove":
            content = before + content[min(end, start + 16) :]
        elif kind == "repeat":
            content = before + content[start : start + 16] + after
        else:
            content = before
    return content


def _change(text: str, edits: list[tuple[str, int, Any]]) -> bytes:
    """Replace, remove or repeat parts of JSON, wherever they are in it."""
    whole = [json.loads(text)]
    for kind, number, value in edits:
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = [whole]
        for node in waiting:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
        node, key = places[number % len(places)]
        if node is whole or kind == "replace":
            node[key] = value
        elif kind == "remove":
            del node[key]
        elif isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        else:
            node[str(value)] = copy.deepcopy(node[key])
    return json.dumps(whole[0]).encode()


class Fuzz:
    """Reads damaged files: each is read, or refused in one sentence that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def damaged(self, content: bytes) -> st.SearchStrategy[bytes]:
        """Change some bytes of a file."""
        place, piece = st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)
        edit = st.tuples(st.sampled_from(_KINDS), place, place, piece | st.sampled_from(_TELLING))
        return st.lists(edit, min_size=1, max_size=4).map(partial(_damage, content))

    def changed(self, text: str) -> st.SearchStrategy[bytes]:
        """Change some values of a file of JSON, or some of its bytes."""
        plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
        plain |= st.sampled_from([10**400, 2**63, -1, 0, 1.0, "", "\x1b[2J", "\ud800", "../x"])
        value = st.recursive(
            plain, lambda v: st.lists(v) | st.dictionaries(st.text(max_size=3), v), max_leaves=4
        )
        kinds = st.sampled_from(["replace", "replace", "remove", "repeat"])
        edits = st.lists(st.tuples(kinds, st.integers(0, 1 << 16), value), min_size=1, max_size=4)
        return edits.map(partial(_change, text)) | self.damaged(text.encode())

    def __call__(
        self, read: Callable[[Path], object], contents: st.SearchStrategy[bytes], name: str
    ) -> None:
        """Read file `name` with each of `contents`."""
        path = self.folder / name
        looked_for = settings.default.max_examples  # by the profile
        examples = looked_for if looked_for > 1000 else 25

        @settings(max_examples=examples)
        @given(contents)
        def each(content: bytes) -> None:
            path.write_bytes(content)
            try:
                read(path)
            except GluonexpError as error:
                assert name in str(error)
                assert not COMMANDING.search(str(error))

        each()


@pytest.fixture
def fuzz(tmp_path: Path) -> Fuzz:
    """Give what reads damaged files, in a new folder."""
    return Fuzz(tmp_path)
