"""Runs and comparisons for programs: whole ids, all digits, nothing left out."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from gluonexp.base.plain import plain
from gluonexp.compare.comparison import BEST, Comparison, Row
from gluonexp.tracking.read.records import RunRecord

_Record = dict[str, Any]
_KINDS = ("difference", "percent", "better")
_CHANGES = _KINDS[:2]
_HEAD = ("run_id", "name", "experiment", "status", "start", "seconds")


def comparison_csv(found: Comparison, out: TextIO) -> None:
    """Write one row a run: what it is, its best value, what differs, its last metrics."""
    params = [f"params.{key}" for key in found.keys]
    metrics = [f"metrics.{name}" for name in found.metrics]
    rows = [{**record, "metric": found.metric} for record in _ranked(found)]
    against: list[str] = []
    if found.baseline is not None:
        names = [BEST, *found.metrics]
        against = ["baseline", *(f"{kind}.{name}" for name in names for kind in _CHANGES)]
        rows = [{**row, "baseline": found.baseline.run.run_id} for row in rows]
    _csv(out, [*_HEAD, "metric", "best", "epoch", *params, *metrics, *against], rows)


def comparison(found: Comparison) -> _Record:
    """Return everything: also what is the same, and the curves."""
    whole = {"metric": found.metric, "mode": found.mode}
    differ = {"differ": found.keys, "same": found.same}
    base = None if found.baseline is None else found.baseline.run.run_id
    return {**whole, "baseline": base, **differ, "runs": _ranked(found)}


def listing_csv(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write one row a run, with its last metrics; its parent is a sweep it belongs to."""
    metrics = sorted({f"metrics.{name}" for run in runs for name in run.metrics})
    _csv(out, [*_HEAD, "parent", *metrics], listing(runs))


def _ranked(found: Comparison) -> list[_Record]:
    return [
        {
            **_head(row.run),
            "best": row.best,
            "epoch": row.epoch,
            "params": row.settings,
            "metrics": row.run.metrics,
            "curve": row.curve,
            **_against(found, row),
        }
        for row in found.rows
    ]


def _against(found: Comparison, row: Row) -> _Record:
    """Return how a run stands to the baseline, by the name of a metric; its settings that differ.

    Which direction is better is not known of each metric, and null then.
    """
    if found.baseline is None:
        return {}
    changes = found.changes(row)
    told = {kind: {name: getattr(c, kind) for name, c in changes.items()} for kind in _KINDS}
    return {**told, "others": found.others(row)}


def listing(runs: Sequence[RunRecord]) -> list[_Record]:
    """Return the runs with parameters, metrics and tags."""
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
        writer.writerow(plain({**record, **inner}))  # an unknown value is empty
