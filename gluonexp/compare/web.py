"""A comparison as one self-contained page."""

from __future__ import annotations

from pathlib import Path

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import write_text
from gluonexp.base.text import duration
from gluonexp.compare.columns import SHORT_ID, Column, identity, measured, names, ranking, settings
from gluonexp.compare.comparison import Comparison
from gluonexp.report.charts import Line, curves
from gluonexp.report.page import Pictures, Section, Table, Text, page
from gluonexp.tracking.statuses import FINISHED

_FEW = 6  # so many runs are read side by side rather than one below the other


def write(title: str, comparison: Comparison, path: Path) -> None:
    """Write the page to `path`, replacing what is there."""
    order = "highest" if comparison.mode == "max" else "lowest"
    text = page(
        f"{title}, compared",
        [
            Section("What differs, and the results", [_table(comparison)]),
            *_drawn(comparison),
            Section("The same in all runs", [_same(comparison)]),
        ],
        f"{order} {comparison.metric} first{_measured_by(comparison)}",
    )
    try:
        write_text(path, text)
    except OSError as error:
        raise GluonexpError(f"--html {path} cannot be written: {error.strerror}") from error


def _table(comparison: Comparison) -> Table:
    runs = [row.run for row in comparison.rows]
    columns = [
        *identity(comparison),
        *settings(comparison),
        *ranking(comparison),
        *measured(comparison),
        *names(runs),
        Column("time", [duration(run.seconds) for run in runs], True),
        Column("whole id", [run.run_id for run in runs]),
    ]
    if len(runs) <= _FEW < len(columns):
        first, *others = columns
        rows = [[column.heading, *column.values] for column in others]
        tones = {
            (place, index): tone
            for place, column in enumerate(others)
            for index, tone in enumerate(column.tones, 1)
        }
        return Table([first.heading, *first.values], rows, tones=tones)
    by_run = [[column.values[index] for column in columns] for index in range(len(runs))]
    right = [column.heading for column in columns if column.is_number]
    best = [0] if comparison.rows[0].best is not None else []
    tones = {
        (index, place): tone
        for place, column in enumerate(columns)
        for index, tone in enumerate(column.tones)
    }
    return Table([column.heading for column in columns], by_run, right, best, tones=tones)


def _measured_by(comparison: Comparison) -> str:
    if (base := comparison.baseline) is None:
        return ""
    named = f"{base.run.run_id[:SHORT_ID]} ({base.run.name})"
    return f"; differences are to the baseline {named}, and * is not as there"


def _drawn(comparison: Comparison) -> list[Section]:
    lines = []
    for index, row in enumerate(comparison.rows):
        run, is_best = row.run, index == 0 and row.best is not None
        ended = "" if run.status == FINISHED else run.status.lower()
        lines.append(Line(run.name or run.run_id[:SHORT_ID], row.curve, is_best, ended))
    if not any(line.points for line in lines):
        return []
    picture = curves(lines, comparison.metric, comparison.mode)
    return [Section("Curves", [Pictures([picture])])]


def _same(comparison: Comparison) -> Table | Text:
    if not comparison.same:
        return Text("Nothing.", quiet=True)
    return Table(["setting", "value"], [[key, value] for key, value in comparison.same.items()])
