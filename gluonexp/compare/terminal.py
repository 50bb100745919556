"""A comparison on the terminal: one row a run, or one column a run, whichever fits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gluonexp.base.text import tell
from gluonexp.compare.baseline import BETTER, OTHER, WORSE
from gluonexp.compare.columns import SHORT_ID, Column, identity, measured, names, ranking, settings
from gluonexp.compare.comparison import Comparison
from gluonexp.tracking.statuses import FINISHED

_GAP = 2  # columns of the terminal between two of the table
_WIDEST = 24  # longer values are folded
_CURVE = 20
_CHOSEN_FIRST = 4  # so many settings are worth more room than any metric
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_NOT_A_NUMBER = "x"
_STYLES = {BETTER: "green", WORSE: "red", OTHER: "yellow", "": ""}


def render(console: Console, title: str, comparison: Comparison) -> None:
    """Print what differs between the runs, their metrics, and the metric's curves."""
    rows = comparison.rows
    order = "highest" if comparison.mode == "max" else "lowest"
    several = len(rows) > 1
    tell(console, f"{title}, {order} {comparison.metric} first" if several else title)
    if several:
        count = len(comparison.keys)
        differ = "1 setting differs" if count == 1 else f"{count or 'no'} settings differ"
        tell(console, f"{differ}, {len(comparison.same)} are the same")
    if (base := comparison.baseline) is not None:
        by = f"{base.run.run_id[:SHORT_ID]} ({base.run.name})"
        tell(console, f"differences are to the baseline {by}; * is not as there")
    console.print()

    runs = [row.run for row in rows]
    who, named, ranks = identity(comparison), names(runs), ranking(comparison)
    before, after = settings(comparison), measured(comparison)
    curve = [_curve(console, comparison, _CURVE)] if any(row.curve for row in rows) else []
    full = [*who, *before, *named, *ranks, *after, *curve]
    if _width(full) <= console.width:
        console.print(_by_row(full, comparison))
        return
    heads = max(len(column.heading) for column in [*before, *ranks, *after])
    widest = max(_clipped(column) for column in [*who, *named, *before])
    room = (console.width - heads) // len(rows) - _GAP
    if room >= widest:
        short = [_curve(console, comparison, min(_CURVE, room))] if curve else []
        parts = [[*who, *named], before, [*ranks, *after], short]
        console.print(_by_column([part for part in parts if part]))
        return
    shown = _fitting(
        console.width - _width([*who, *ranks, *curve]),
        [*before[:_CHOSEN_FIRST], *after[:1], *before[_CHOSEN_FIRST:], *after[1:]],
    )
    left_out = [column for column in [*before, *after] if column not in shown]
    columns = [*who, *before, *ranks, *after, *curve]
    console.print(_by_row([one for one in columns if one not in left_out], comparison))
    if left_out:
        console.print()
        missing = ", ".join(column.heading for column in left_out)
        tell(console, f"not shown here: {missing} (--csv, --json and --html have everything)")


def sparkline(
    curve: Sequence[tuple[int, float]],
    steps: Sequence[int],
    bounds: tuple[float, float],
    width: int,
    levels: str = _BLOCKS,
) -> str:
    """Return a curve as one line of characters, the last value of each place.

    Parameters
    ----------
    steps
        All steps of all the curves that are seen together, which share `width` characters.
    bounds
        The lowest and the highest value of them all.
    levels
        Characters from low to high.
    """
    width = min(width, len(steps))
    places = {step: index * width // len(steps) for index, step in enumerate(steps)}
    low, high = bounds
    marks = [" "] * width
    for step, value in curve:
        if math.isfinite(value):
            part = (value - low) / (high - low) if high > low else 0.5
            marks[places[step]] = levels[min(int(part * len(levels)), len(levels) - 1)]
        else:
            marks[places[step]] = _NOT_A_NUMBER
    return "".join(marks).rstrip()


def _curve(console: Console, comparison: Comparison, width: int) -> Column:
    curves = [row.curve for row in comparison.rows]
    steps = sorted({step for curve in curves for step, _ in curve})
    values = [value for curve in curves for _, value in curve if math.isfinite(value)]
    bounds = (min(values), max(values)) if values else (0.0, 0.0)
    levels = _BLOCKS if console.encoding.lower().startswith("utf") else _ASCII
    lines = [sparkline(curve, steps, bounds, width, levels) for curve in curves]
    return Column(f"{comparison.metric} by epoch", lines, short="by epoch")


def _fitting(room: int, columns: Sequence[Column]) -> list[Column]:
    """Return those of `columns`, the first ones first, that fit side by side."""
    shown = []
    for column in columns:
        if (needed := _clipped(column) + _GAP) <= room:
            shown.append(column)
            room -= needed
    return shown


def _by_row(columns: Sequence[Column], comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.narrow,
            justify="right" if column.is_number else "left",
            overflow="fold",
            min_width=_clipped(column),
            max_width=_WIDEST,
        )
    for index, row in enumerate(comparison.rows):
        is_best = index == 0 and row.best is not None and len(comparison.rows) > 1
        style = "bold" if is_best else "" if row.run.status == FINISHED else "dim"
        table.add_row(*(_cell(column, index) for column in columns), style=style)
    return table


def _by_column(parts: Sequence[Sequence[Column]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    for _ in parts[0][0].values:
        table.add_column(overflow="fold")
    for index, part in enumerate(parts):
        if index:
            table.add_row()
        for column in part:
            cells = (_cell(column, place) for place in range(len(column.values)))
            table.add_row(Text(column.heading), *cells)
    return table


def _cell(column: Column, index: int) -> Text:
    return Text(column.values[index], _STYLES[column.tones[index]] if column.tones else "")


def _clipped(column: Column) -> int:
    return min(column.width, _WIDEST)


def _width(columns: Sequence[Column]) -> int:
    return sum(map(_clipped, columns)) + _GAP * (len(columns) - 1)
