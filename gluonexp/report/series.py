"""The curves of metrics of any name, as loops that are not ours measure them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from gluonexp.report.drawing import BLUE, GRAY, GREEN, INK, ORANGE, RED, Drawing

_MOST: Final = 12  # panels; more are not legible, and all values are in a table beside it
_COLUMNS: Final = 3
_COLOURS: Final = {"train": BLUE, "val": ORANGE, "test": GREEN}
_OTHERS: Final = (BLUE, ORANGE, GREEN, RED, GRAY, INK)


def draw(table: pd.DataFrame, path: Path, title: str) -> None:
    """Draw each metric by step, as `drawn` does, into a file."""
    drawn(table, title).save(path)


def drawn(table: pd.DataFrame, title: str) -> Drawing:
    """Draw each metric by step; ``train/loss`` and ``val/loss`` share a panel.

    Of more than twelve panels the first are drawn, and the title says so.

    Parameters
    ----------
    table
        A row a step: ``step``, and the metrics by their names; what was not measured is NaN.
    """
    panels: dict[str, list[str]] = {}
    for name in table.columns.drop("step"):
        panels.setdefault(str(name).rpartition("/")[2], []).append(str(name))
    shown = list(panels.items())[:_MOST]
    if len(shown) < len(panels):
        title += f" (the first {len(shown)} of {len(panels)} panels are shown)"
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    drawing = Drawing(4.6 * columns + 0.4, 3.5 * rows, title)
    steps = table["step"].to_numpy(np.float64)
    for index, (heading, names) in enumerate(shown):
        row, column = divmod(index, columns)
        axes = drawing.panel(0.75 + 4.6 * column, drawing.top - 3.5 * (row + 1) + 0.6, 3.75, 2.55)
        for name, colour in zip(names, _colours(names), strict=True):
            values = table[name].to_numpy(np.float64)
            there = np.isfinite(values)
            if not there.any():
                continue
            marker = "o" if there.sum() <= 30 else ""
            axes.plot(
                steps[there], values[there], marker=marker, markersize=4, color=colour, label=name
            )
        axes.set_title(
            names[0] if len(names) == 1 else heading, loc="left", fontsize=11, color=INK
        )
        axes.set_xlabel("step", color=GRAY)
        axes.margins(x=0.04, y=0.08)
        drawing.mark_epochs(axes, steps)
        drawing.mark_empty(axes)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return drawing


def _colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each metric of a panel: that of its split, if no other has it."""
    wanted = [_COLOURS.get(name.partition("/")[0]) for name in names]
    free = [colour for colour in _OTHERS if colour not in wanted] or list(_OTHERS)
    chosen: list[str] = []
    for index, colour in enumerate(wanted):
        taken = colour is None or colour in chosen
        chosen.append(free[index % len(free)] if taken or colour is None else colour)
    return chosen
