"""The table of runs."""

from __future__ import annotations

import difflib
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from gluonexp.api import stored, values
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import listed

if TYPE_CHECKING:
    import pandas as pd

    from gluonexp.tracking.read.records import RunRecord
    from gluonexp.tracking.read.runs import Reader

_FIRST: Final = ("run_id", "name", "experiment", "status", "started", "seconds")
# Frames between `DataFrame.eval` and whoever called `gluonexp.api.runs`, whose @names it knows.
_DEPTH: Final = 3
_CONDITION: Final = 'give a condition as a text, such as "`val/acc` > 0.9"'


def runs(
    experiment: str | None, where: str | None, uri: str | None, limit: int | None
) -> pd.DataFrame:
    """Return a row a run, the newest first; see `gluonexp.api.runs`."""
    if limit is not None:
        limit = values.whole("limit", limit)
    if not isinstance(where, str | None):
        raise GluonexpError(f"where={where!r}: {_CONDITION}")
    if experiment is not None and not (isinstance(experiment, str) and experiment.strip()):
        raise GluonexpError(f"experiment={experiment!r}: give the name of an experiment")
    store = stored.opened(uri)
    with _no_garbage():
        table = _table(_newest(store, experiment, limit if where is None else None))
    if where is not None:
        table = _chosen(table, where)
    return table.head(limit) if limit is not None else table


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Look for no garbage meanwhile: among a million texts there is none, and it takes as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _newest(store: Reader, experiment: str | None, limit: int | None) -> list[RunRecord]:
    """Return runs, the newest first, but no sweeps."""
    from gluonexp.tracking.read.records import OF_STATUS
    from gluonexp.tracking.store import KIND

    asked = limit
    while True:
        found = store.newest(asked, experiment=experiment, offline=True, tags=(KIND, *OF_STATUS))
        kept = [run for run in found if run.tags.get(KIND) != "sweep"]
        if asked is None or limit is None or len(kept) >= limit or len(found) < asked:
            return kept[:limit]
        asked *= 4


def _table(found: list[RunRecord]) -> pd.DataFrame:
    import pandas as pd

    params = pd.DataFrame([run.params for run in found], dtype=object)
    measured = pd.DataFrame([run.metrics for run in found], dtype="float64")
    metrics = values.by_split(map(str, measured.columns))
    columns: dict[str, Any] = {
        "run_id": [run.run_id for run in found],
        "name": [run.name for run in found],
        "experiment": [run.experiment for run in found],
        "status": [run.shown_status for run in found],
        "started": pd.to_datetime([run.start for run in found], utc=True),
        "seconds": pd.Series([run.seconds for run in found], dtype="float64"),
    }
    taken = {*_FIRST, *metrics}
    for key in map(str, params.columns):
        shown = f"params.{key}" if key in taken else key
        columns[shown] = values.column(key, params[key].to_numpy())
    for name in metrics:
        columns[f"metrics.{name}" if name in _FIRST else name] = measured[name]
    table: pd.DataFrame = pd.DataFrame(columns)
    return table


def _chosen(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the rows for which `where` is true.

    Raises
    ------
    GluonexpError
        It names a column that is not there, or is no condition.
    """
    import pandas as pd

    if not where.strip():
        raise GluonexpError(f"where={where!r}: {_CONDITION}")
    for name in re.findall(r"`([^`]+)`", where):
        if name not in table:
            if table.empty:
                return table
            near = difflib.get_close_matches(name, list(map(str, table.columns)), n=3, cutoff=0.4)
            meant = f"; did you mean {listed(near)}?" if near else ""
            raise GluonexpError(f"where={where!r}: no run has `{name}`{meant}")
    try:
        try:
            chosen = table.eval(where, target=None, level=_DEPTH)
        except TypeError:
            if "started" not in where:
                raise
            # Of a text pandas makes a time without a zone, which it compares with no other.
            times = table["started"].dt.tz_localize(None)
            chosen = table.assign(started=times).eval(where, target=None, level=_DEPTH)
    except Exception as error:  # pandas, Python's parser and what is compared have their own
        reason = " ".join(str(error).split()) or type(error).__name__
        if "cannot assign" in reason:
            raise GluonexpError(f"where={where!r}: equal is `==`, not `=`") from None
        raise GluonexpError(
            f"where={where!r} cannot be evaluated ({reason}); write it as `val/acc` > 0.9, names "
            "with a dot or a slash between backquotes"
        ) from None
    if not isinstance(chosen, pd.Series) or len(chosen) != len(table):
        raise GluonexpError(f"where={where!r} is no condition on each run: {_CONDITION}")
    known = chosen.dropna()  # of a run that has no such parameter it is not true
    if not (len(known) or table.empty) or not known.map(pd.api.types.is_bool).all():
        raise GluonexpError(f"where={where!r} is no condition on each run: {_CONDITION}")
    chosen = chosen.astype("boolean").fillna(False)
    numbered: pd.DataFrame = table[chosen].reset_index(drop=True)
    return numbered
