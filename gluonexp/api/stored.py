"""Where runs lie: their store, found and read; their files, brought here."""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gluonexp.tracking.artifacts import Artifacts
    from gluonexp.tracking.read.records import RunRecord
    from gluonexp.tracking.read.runs import Reader


def named(one: object, what: str) -> tuple[str, str | None]:
    """Return the name of a run or a sweep, and the store of one that is given as an object.

    Parameters
    ----------
    what
        What it should be: "a run", "a sweep".

    Raises
    ------
    GluonexpError
        It is no name, and no object of ours that a store has.
    """
    from gluonexp.api.recorded import Run
    from gluonexp.api.sweeps import Sweep
    from gluonexp.base.errors import GluonexpError

    if isinstance(one, Run | Sweep):
        if one.id is None:
            raise GluonexpError(f"{one!r} is in no store: it was run with tracking=none")
        return one.id, one.uri
    if not isinstance(one, str) or not one.strip():
        raise GluonexpError(
            f"{one!r} does not name {what}: give 'last', its id, or the first 6 or more "
            "characters of it"
        )
    return one, None


def opened(uri: str | None) -> Reader:
    """Open the store `uri`; None: that of ``MLFLOW_TRACKING_URI``, else the one in this folder.

    Raises
    ------
    GluonexpError
        There is no store, or it cannot be read.
    """
    from gluonexp.base.errors import GluonexpError
    from gluonexp.tracking.read.runs import reader

    if not isinstance(uri, str | None):
        raise GluonexpError(f"uri={uri!r}: give the store's address as a text")

    return reader(uri or os.environ.get("MLFLOW_TRACKING_URI"), alone=True)


def record_of(store: Reader, ref: str) -> RunRecord:
    """Return the run that `ref` means; of a sweep, its best run.

    Raises
    ------
    GluonexpError
        There is no such run, or no run of such a model.
    """
    from gluonexp.base.errors import GluonexpError
    from gluonexp.tracking.references import no_best, run_of
    from gluonexp.tracking.store import KIND, open_store
    from gluonexp.tracking.sweeps import BEST

    if ref.startswith("models:/"):
        run = run_of(open_store(store.uri), ref)
        if run is None:
            raise GluonexpError(f"{ref}: its run is unknown, or was deleted")
        ref = run.info.run_id
    (record,) = store.fetch([ref.removeprefix("runs:/")])
    if record.tags.get(KIND) != "sweep":
        return record
    if BEST not in record.tags:
        raise no_best(record.run_id)
    (record,) = store.fetch([record.tags[BEST]])
    return record


def artifacts(store: Reader, run_id: str) -> Artifacts:
    """Return the files of a run, by its whole id."""
    from gluonexp.tracking.artifacts import of_log, of_run
    from gluonexp.tracking.logs import offline_run
    from gluonexp.tracking.store import open_store

    if (log := offline_run(run_id, store.uri)) is not None:
        return of_log(log)
    return of_run(open_store(store.uri), run_id)


@cache
def downloads() -> Path:
    """Return the folder of what was brought here, which goes when the process does."""
    from gluonexp.base.files import temporary

    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary())
