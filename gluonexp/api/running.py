"""Runs and sweeps begun from Python, which leave nothing behind in its process but themselves."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gluonexp.api import stored
from gluonexp.api.recorded import Run
from gluonexp.api.sweeps import Sweep
from gluonexp.base.errors import GluonexpError, debugging, sentence

if TYPE_CHECKING:
    from gluonexp.config.schema import Config
    from gluonexp.experiment import Result

_Made = TypeVar("_Made")


def single(overrides: Sequence[str], config_dir: str | Path | None) -> Run:
    """Train one run; see `gluonexp.api.run`."""

    def train() -> Run:
        from gluonexp import run

        return _recorded(*run.single(*overrides, config_dir=config_dir))

    _check(overrides, config_dir, "run")
    return _told(train, overrides)


def several(overrides: Sequence[str], config_dir: str | Path | None) -> Sweep:
    """Run a sweep; see `gluonexp.api.sweep`."""

    def train() -> Sweep:
        from gluonexp import run

        return Sweep.of_summary(run.sweep(*overrides, config_dir=config_dir))

    _check(overrides, config_dir, "sweep")
    return _told(train, overrides)


def _check(overrides: Sequence[object], config_dir: object, call: str) -> None:
    """Refuse what no override can be, before Hydra is asked.

    Raises
    ------
    GluonexpError
        It is no word, or one of the command line's options.
    """
    for word in overrides:
        if not isinstance(word, str):
            several = isinstance(word, list | tuple)
            how = (
                f": gx.{call}(*words)" if several else f", each of its own: gx.{call}('model=mlp')"
            )
            raise GluonexpError(f"gx.{call} takes words, not a {type(word).__name__}{how}")
        if not word.strip():
            raise GluonexpError(f"{word!r} is no override: write KEY=VALUE")
        if word.startswith("-"):
            more = "" if call == "sweep" else "; for several values there is gx.sweep"
            raise GluonexpError(
                f"{word}: options belong to the command line; gx.{call} takes KEY=VALUE{more}"
            )
    if not isinstance(config_dir, str | os.PathLike | None):
        raise GluonexpError(f"config_dir={config_dir!r}: give the path of a folder")


def _recorded(config: Config, result: Result) -> Run:
    if result.run_id is not None:
        store = stored.opened(config.tracking.uri)
        return Run.of_record(store, stored.record_of(store, result.run_id))
    return Run.untracked(result.folder, result.ending.status, result.metrics, result.history)


def _told(make: Callable[[], _Made], overrides: Sequence[str]) -> _Made:
    """Return what `make` does; what it raises has one sentence, and a short traceback."""
    try:
        with _as_before():
            return make()
    except KeyboardInterrupt as stop:
        said = str(stop) or "interrupted"
        ended: BaseException = KeyboardInterrupt(f"{said}{_how_to_go_on(stop, overrides)}")
    except SystemExit as stop:
        if stop.code != 130:  # as a sweep ends whose job was interrupted
            raise
        ended = KeyboardInterrupt(f"interrupted{_how_to_go_on(stop, overrides)}")
    except Exception as error:
        from gluonexp import run
        from gluonexp.config import hints

        known = hints.sentence(error, overrides, run.conf_dir()) or sentence(error)
        if known is None or debugging():
            raise
        ended = GluonexpError(known)
    # Outside of the handler: what it caught holds the frames of the run, and so its network.
    raise ended


def _how_to_go_on(stop: BaseException, overrides: Sequence[str]) -> str:
    """Say with which call a sweep goes on that `stop` has ended; "" of all else."""
    from gluonexp.base.secrets import hidden_words
    from gluonexp.sweep.conduct import CUT_OFF

    if (sweep_id := getattr(stop, CUT_OFF, None)) is None:
        return ""
    where = [word for word in overrides if word.startswith("tracking.uri=")]
    words = [f"sweep.resume={sweep_id}", *hidden_words(where)]
    return f"; to continue: gx.sweep({', '.join(map(repr, words))})"


@contextmanager
def _as_before() -> Iterator[None]:
    """Give the generators of random numbers back as they were: a run seeds them anew."""
    import numpy as np

    for_python, for_numpy = random.getstate(), np.random.get_state()
    torch: Any = sys.modules.get("torch")  # one that is not there yet has no state to keep
    for_torch = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(for_python)
        np.random.set_state(for_numpy)
        if torch is not None:
            torch.set_rng_state(for_torch)
