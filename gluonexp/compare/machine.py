"""Runs and comparisons for programs: whole ids, all digits, nothing left out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from gluonexp.compare.comparison import Comparison
from gluonexp.tracking.read.records import RunRecord

_Record = dict[str, Any]
_HEAD = ("run_id", "name", "experiment", "status", "start", "seconds")


def comparison_csv(comparison: Comparison, out: TextIO) -> None:
    """Write one row a run: what it is, its best value, what differs, its last metrics."""
    params = [f"params.{key}" for key in comparison.keys]
    metrics = [f"metrics.{name}" for name in comparison.metrics]
    rows = [{**record, "metric": comparison.metric} for record in _ranked(comparison)]
    _csv(out, [*_HEAD, "metric", "best", "epoch", *params, *metrics], rows)


def comparison_json(comparison: Comparison, out: TextIO) -> None:
    """Write everything: also what is the same, and the curves."""
    whole = {"metric": comparison.metric, "mode": comparison.mode}
    differ = {"differ": comparison.keys, "same": comparison.same}
    write_json(out, {**whole, **differ, "runs": _ranked(comparison)})


def listing_csv(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write one row a run, with its last metrics; its parent is a sweep it belongs to."""
    metrics = sorted({f"metrics.{name}" for run in runs for name in run.metrics})
    _csv(out, [*_HEAD, "parent", *metrics], _listed(runs))


def listing_json(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write the runs with parameters, metrics and tags."""
    write_json(out, _listed(runs))


def _ranked(comparison: Comparison) -> list[_Record]:
    return [
        {
            **_head(row.run),
            "best": row.best,
            "epoch": row.epoch,
            "params": row.settings,
            "metrics": row.run.metrics,
            "curve": row.curve,
        }
        for row in comparison.rows
    ]


def _listed(runs: Sequence[RunRecord]) -> list[_Record]:
    return [
        {
            **_head(run),
            "parent": run.parent_id,
            "params": run.params,
            "metrics": run.metrics,
            "tags": run.tags,
        }
        for run in runs
    ]


def _head(run: RunRecord) -> _Record:
    start = run.start.isoformat(timespec="milliseconds")
    values = (run.run_id, run.name, run.experiment, run.shown_status, start, run.seconds)
    return dict(zip(_HEAD, values, strict=True))


def _csv(out: TextIO, columns: Sequence[str], records: Sequence[_Record]) -> None:
    """Write `columns` of the records; what one holds under a name in it is ``field.name``."""
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        inner = {
            f"{field}.{name}": value
            for field, values in record.items()
            if isinstance(values, Mapping)
            for name, value in values.items()
        }
        writer.writerow(_known({**record, **inner}))  # an unknown value is empty


def write_json(out: TextIO, value: object) -> None:
    """Write a value as JSON; NaN and infinities, which JSON does not have, become null."""
    json.dump(_known(value), out, indent=2, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def _known(value: Any) -> Any:
    """Return `value` with None for every NaN and infinity in it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(inner) for inner in value]
    return value
