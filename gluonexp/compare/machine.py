"""Runs and comparisons for programs: whole ids, all digits, nothing left out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from gluonexp.compare.comparison import Comparison, Row
from gluonexp.tracking.read.records import RunRecord


def comparison_csv(comparison: Comparison, out: TextIO) -> None:
    """Write one row a run: what it is, its best value, what differs, its last metrics."""
    headings = [*_HEAD, "metric", "best", "epoch"]
    rows = [
        [
            *_head(row.run).values(),
            comparison.metric,
            row.best,
            row.epoch,
            *_values(comparison, row),
        ]
        for row in comparison.rows
    ]
    headings += [f"params.{key}" for key in comparison.keys]
    _csv(out, [*headings, *(f"metrics.{name}" for name in comparison.metrics)], rows)


def comparison_json(comparison: Comparison, out: TextIO) -> None:
    """Write everything: also what is the same, and the curves."""
    runs = [
        {
            **_head(row.run),
            "best": row.best,
            "epoch": row.epoch,
            "params": dict(row.settings),
            "metrics": dict(row.run.metrics),
            "curve": [list(point) for point in row.curve],
        }
        for row in comparison.rows
    ]
    whole = {"metric": comparison.metric, "mode": comparison.mode}
    differ = {"differ": list(comparison.keys), "same": dict(comparison.same)}
    _json(out, {**whole, **differ, "runs": runs})


def listing_csv(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write one row a run, with its last metrics; its parent is a sweep it belongs to."""
    names = sorted({name for run in runs for name in run.metrics})
    rows = [
        [*_head(run).values(), run.parent_id, *(run.metrics.get(name) for name in names)]
        for run in runs
    ]
    _csv(out, [*_HEAD, "parent", *(f"metrics.{name}" for name in names)], rows)


def listing_json(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write the runs with parameters, metrics and tags."""
    _json(
        out,
        [
            {
                **_head(run),
                "parent": run.parent_id,
                "params": dict(run.params),
                "metrics": dict(run.metrics),
                "tags": dict(run.tags),
            }
            for run in runs
        ],
    )


_HEAD = ("run_id", "name", "experiment", "status", "start", "seconds")


def _head(run: RunRecord) -> dict[str, object]:
    start = run.start.isoformat(timespec="milliseconds")
    values = (run.run_id, run.name, run.experiment, run.status, start, run.seconds)
    return dict(zip(_HEAD, values, strict=True))


def _values(comparison: Comparison, row: Row) -> list[object]:
    params = [row.settings.get(key) for key in comparison.keys]
    return [*params, *(row.run.metrics.get(name) for name in comparison.metrics)]


def _csv(out: TextIO, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([_known(value) for value in row] for row in rows)  # an unknown one is empty


def _json(out: TextIO, value: object) -> None:
    json.dump(_known(value), out, indent=2, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def _known(value: object) -> object:
    """Return `value` with None for every NaN in it, for which JSON has no word."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_known(inner) for inner in value]
    return value
