"""The runs there are: which to list, and their table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gluonexp.base.better import best_of
from gluonexp.base.text import digits, duration, in_bytes, moment, tell
from gluonexp.compare.columns import SHORT_ID, Column
from gluonexp.compare.comparison import DEFAULT_METRIC, direction
from gluonexp.tracking.read.records import PEAK_MEMORY, RunRecord
from gluonexp.tracking.read.runs import Reader
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, LOST, PRUNED, RUNNING
from gluonexp.tracking.store import KIND
from gluonexp.tracking.sweeps import BEST

_ENDS = (FINISHED, PRUNED, FAILED, KILLED)


def listed(
    reader: Reader,
    limit: int,
    *,
    experiment: str | None = None,
    sweep: str | None = None,
    status: str | None = None,
) -> list[RunRecord]:
    """Return at most `limit` runs, the newest first.

    The runs of a sweep are listed when they are asked for, by `sweep` or `status`; else the sweep
    is listed in their place. A run that is lost is not RUNNING.
    """
    if sweep is not None:
        runs = reader.sweep(sweep)[1][::-1]
    elif status in (RUNNING, LOST):  # the store does not tell them apart
        runs = reader.newest(experiment=experiment, status=RUNNING, offline=True)
    else:
        top = status is None
        return reader.newest(limit, experiment=experiment, status=status, top=top, offline=True)
    return [run for run in runs if status in (None, run.shown_status)][:limit]


def render(console: Console, reader: Reader, runs: Sequence[RunRecord]) -> None:
    """Print one line a run, a sweep's with the best value of its runs."""
    sizes = reader.count_children([run.run_id for run in runs if KIND in run.tags])
    winners = {
        run.run_id: run
        for run in reader.existing([run.tags[BEST] for run in runs if BEST in run.tags])
    }
    shown = [winners.get(run.tags.get(BEST, ""), run) for run in runs]
    bests = _bests(reader, shown)
    metrics = list(dict.fromkeys(metric for metric, _ in bests.values()))

    now = datetime.now(timezone.utc)
    several = len({run.experiment for run in runs}) > 1
    tests = [digits(run.metrics.get("test/acc")) for run in shown]
    peaks = [_memory(run.metrics.get(PEAK_MEMORY)) for run in shown]
    best = [_best(*bests[run.run_id], len(metrics) > 1) for run in shown]
    columns = [
        Column("run", [run.run_id[:SHORT_ID] for run in runs]),
        Column("name", [_named(run, sizes) for run in runs], folds=True),
        *([Column("experiment", [run.experiment for run in runs], folds=True)] if several else []),
        Column("status", [run.shown_status for run in runs]),
        Column("started", [moment(run.start, now) for run in runs]),
        Column("took", [_took(run, now) for run in runs], is_number=True),
        Column(metrics[0] if len(metrics) == 1 else "best", best, is_number=True),
        *([Column("test/acc", tests, is_number=True)] if set(tests) != {"-"} else []),
        *([Column("memory", peaks, is_number=True)] if set(peaks) != {"-"} else []),
    ]
    for name in ("took", "memory", "test/acc"):  # the first to go where there is no room
        if sum(column.width + 2 for column in columns) - 2 > console.width:
            columns = [column for column in columns if column.heading != name]

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=not column.folds,
            overflow="fold",
        )
    for index, run in enumerate(runs):
        style = "" if run.shown_status in (FINISHED, RUNNING) else "dim"
        table.add_row(*(Text(column.values[index]) for column in columns), style=style)
    console.print(table)
    if any(run.lost for run in runs):
        tell(console, "lost: its process is gone; gluonexp recover ends it with what it had")


def _bests(reader: Reader, runs: Sequence[RunRecord]) -> dict[str, tuple[str, float | None]]:
    """Return each run's objective, and its best value."""
    by_metric: dict[str, list[RunRecord]] = {}
    for run in runs:
        metric = run.params.get("objective.metric", DEFAULT_METRIC)
        by_metric.setdefault(metric, []).append(run)
    bests: dict[str, tuple[str, float | None]] = {}
    for metric, alike in by_metric.items():
        curves = reader.curves([run.run_id for run in alike], metric)
        for run in alike:
            found = best_of(curves[run.run_id], direction([run], metric))
            bests[run.run_id] = metric, found[1] if found else None
    return bests


def _named(run: RunRecord, sizes: Mapping[str, int]) -> str:
    kind = run.tags.get(KIND)
    if run.run_id in sizes:
        # Once a sweep has ended it has counted its points, of which some may be tried twice.
        counts = [run.tags.get(f"gluonexp.sweep.{status.lower()}", "") for status in _ENDS]
        known = run.status in _ENDS and all(count.isdigit() for count in counts)
        kind = f"{kind} of {sum(map(int, counts)) if known else sizes[run.run_id]}"
    return f"{run.name} ({kind})" if kind else run.name


def _took(run: RunRecord, now: datetime) -> str:
    so_far = (now - run.start).total_seconds() if run.shown_status == RUNNING else math.nan
    return duration(so_far if math.isnan(run.seconds) else run.seconds)


def _memory(megabytes: float | None) -> str:
    return "-" if megabytes is None else in_bytes(1e6 * megabytes)


def _best(metric: str, value: float | None, name_it: bool) -> str:
    return f"{metric} {digits(value)}" if name_it and value is not None else digits(value)
