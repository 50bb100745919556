"""Pictures that compare many runs, for a page: each function takes plain values.

A reader who points at a line or a dot is told which run it is. Nothing is said by a colour alone.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gluonexp.base.better import best_of
from gluonexp.base.text import digits
from gluonexp.report.drawing import BLUE, GRAY, GREEN, INK, ORANGE, PALE, RED, Drawing, short
from gluonexp.report.page import Picture

WIDTH, HEIGHT = 5.6, 3.5  # inches; a wide picture is twice as wide
FONT = 9.5  # points; legible where a picture is as narrow as a telephone
NAMED = 8  # so many lines have a colour, a mark and a name each; more are pale, but for the best
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#8C6D00", "#444444")
MARKS = "os^Dvp*X"
FAINT = "#8E99A3"
# What XML 1.0 cannot hold, such as a terminal's escape sequences in a name.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Chart(Drawing):
    """A drawing for a page.

    Parameters
    ----------
    wide
        Whether it is as wide as the page.

    Attributes
    ----------
    hints
        What a reader sees who points at a part, by the part's `gid`.
    signs
        The marks to be explained below: the mark and its colour, by their meaning.
    """

    def __init__(self, title: str, height: float = HEIGHT, *, wide: bool = False) -> None:
        self.wide = wide
        self.width = 2 * WIDTH if wide else WIDTH  # inches
        super().__init__(self.width, height, title)
        self.hints: dict[str, str] = {}
        self.signs: dict[str, tuple[str, str]] = {}

    def finish(self, axes: Axes, below: str) -> None:
        """Name the axis below, and make what it shows legible."""
        axes.set_xlabel(short(below, 60), color=GRAY, fontsize=FONT)
        self.mark_empty(axes)
        axes.tick_params(labelsize=FONT)
        axes.ticklabel_format(axis="y", useOffset=False)

    def picture(self, salt: str, alt: str, caption: str = "") -> Picture:
        """Return the chart as an ``<svg>`` element of a page, its text as text.

        Parameters
        ----------
        salt
            Differs between the pictures of a page, which are told apart by it.
        """
        self._explain()
        file = io.BytesIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
            self.savefig(file, format="svg", metadata={"Date": None})
        text = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue().decode())
        return Picture(_element(text, self.hints), alt, caption, self.wide)

    def _explain(self) -> None:
        """Write what the marks mean, in one line at the bottom, the best first."""
        ordered = sorted(self.signs.items(), key=lambda sign: sign[1][0] != "*")
        marks = [
            Line2D([], [], ls="", marker=mark, color=colour, ms=10 if mark == "*" else 7, mew=1.5)
            for _, (mark, colour) in ordered
        ]
        if marks:
            self.legend(
                marks,
                [word for word, _ in ordered],
                loc="lower left",
                ncols=len(marks),
                frameon=False,
                fontsize=FONT,
                labelcolor=INK,
                handletextpad=0.2,
                columnspacing=1.2,
            )


def _element(text: str, hints: Mapping[str, str]) -> str:
    """Return an SVG file as an element of an HTML page, with a title for each part of `hints`."""
    root = ElementTree.fromstring(text)
    references = " ".join(value for element in root.iter() for value in element.attrib.values())
    used = set(re.findall(r"#([\w-]+)", references))
    for element in root.iter():
        # HTML knows SVG without its namespaces.
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
        label = element.get("id", "")
        if label in hints:
            element.set("class", "hint")
            hint = ElementTree.Element("title")
            hint.text = hints[label]
            element.insert(0, hint)
        if label not in used:
            element.attrib.pop("id", None)
    for outer in list(root.iter()):
        for inner in list(outer):
            if inner.tag in ("metadata", "style"):
                outer.remove(inner)
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.set("stroke-linejoin", "round")
    return ElementTree.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class Line:
    """One run's metric by epoch.

    Attributes
    ----------
    label
        The run's name.
    points
        Epochs and values; what is not finite is left out.
    best
        Whether the run stands out.
    ended
        ``"pruned"``, ``"failed"`` or such, of a run that was cut short: its end is marked.
    """

    label: str
    points: Sequence[tuple[int, float]]
    best: bool = False
    ended: str = ""


def curves(lines: Sequence[Line], metric: str, mode: str, wide: bool = False) -> Picture:
    """Draw a metric by epoch, one line a run, and mark the best epoch of the best run.

    Parameters
    ----------
    mode
        ``max`` or ``min``: which is better.
    wide
        Whether the picture is as wide as the page.
    """
    drawn = [line for line in map(_finite, lines) if line.points]
    few = len(drawn) <= NAMED
    room = 1.6 if few and drawn else 0.25  # inches, for the names
    chart = Chart(f"{metric} by epoch", wide=wide)
    axes = chart.panel(0.72, 0.85, chart.width - 0.72 - room, chart.top - 0.95)
    bests = [best_of(line.points, mode) or line.points[-1] for line in drawn]
    for index, line in sorted(enumerate(drawn), key=lambda item: item[1].best):
        colour = COLOURS[index] if few else BLUE if line.best else FAINT
        epochs, values = zip(*line.points, strict=True)
        axes.plot(
            epochs,
            values,
            color=colour,
            alpha=1 if few or line.best else 0.6,
            linewidth=2.4 if line.best else 1.4 if few else 0.9,
            marker=MARKS[index] if few and len(epochs) <= 30 else "",
            markersize=4.5,
            gid=f"line{index}",
        )
        at, value = bests[index]
        told = f"{line.label}\nbest {digits(value)} at epoch {at}"
        chart.hints[f"line{index}"] = f"{told}\n{line.ended}" if line.ended else told
        if line.best:
            axes.plot(at, value, "*", color=colour, markersize=15, markeredgecolor="white")
            name = "best epoch" if few else f"best: {short(line.label, 34)}"
            chart.signs[name] = ("*", colour)
        if line.ended:
            chart.signs[line.ended] = mark, shade = ending(line.ended)
            axes.plot(epochs[-1], values[-1], mark, color=shade, markersize=8, mew=2)
    axes.margins(x=0.04)
    view(axes, *visible([value for line in drawn for _, value in line.points], mode))
    chart.mark_epochs(axes, (epoch for line in drawn for epoch, _ in line.points))
    chart.finish(axes, "epoch")
    if few and drawn:
        _names(chart, axes, drawn, room - 0.24)
    named = zip(drawn[:NAMED], bests, strict=False)
    told = ", ".join(f"{line.label} {digits(best)}" for line, (_, best) in named)
    missing = len(lines) - len(drawn)
    return chart.picture(
        f"curves {metric}",
        f"{metric} by epoch of {len(drawn)} runs; best values: {told or 'none'}",
        f"{missing} of {len(lines)} runs have no value to draw." if missing else "",
    )


def spread(names: Sequence[str], values: Sequence[Sequence[float]], metric: str) -> Picture:
    """Draw groups of values, one a row: each value, their mean, and one standard deviation of it.

    Parameters
    ----------
    values
        Of each group, which may be empty.
    """
    chart = Chart(f"Mean {metric} and standard deviation", 1.15 + 0.34 * len(names))
    left, height = 1.9, chart.top - 1.0  # inches, for the names and for the rows
    axes = chart.panel(left, 0.85, WIDTH - left - 0.25, height)
    chart.signs |= {"one run": ("o", FAINT), "mean": ("D", BLUE)}
    for row, group in enumerate(values):
        known = [value for value in group if drawable(value)]
        axes.plot(known, [row] * len(known), "o", color=FAINT, alpha=0.7, markersize=5, mew=0)
        if known:
            error = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
            mean = float(np.mean(known))
            axes.errorbar(
                mean, row, xerr=error, fmt="D", color=BLUE, elinewidth=2, capsize=4, markersize=6
            )
        middle = 0.85 + (len(names) - row - 0.5) / len(names) * height
        chart.write(left - 0.15, middle, names[row], left - 0.3, FONT, ha="right", va="center")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.06)
    chart.finish(axes, metric)
    axes.grid(axis="x", color=PALE, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return chart.picture(
        "spread",
        f"Mean and standard deviation of {metric} of {len(names)} groups of runs; "
        "the table has the numbers",
    )


def drawable(value: float) -> bool:
    """Say whether a value can be drawn: it is finite, and no more than a float32 could be."""
    return abs(value) <= 3.5e38


def _finite(line: Line) -> Line:
    return replace(line, points=[point for point in line.points if drawable(point[1])])


def ending(word: str) -> tuple[str, str]:
    """Return the mark and the colour of a run's end."""
    return {"pruned": ("|", "#7A4F9A"), "running": (">", GRAY)}.get(word, ("x", RED))


def visible(values: Sequence[float], mode: str) -> tuple[float, float]:
    """Return lowest and highest of what is to be seen; NaN without any.

    A loss that exploded, or a first epoch's, would leave nothing to see of the others.
    """
    known = [value for value in values if drawable(value)]
    if not known:
        return math.nan, math.nan
    most = 30 * float(np.median(np.abs(known))) or math.inf
    seen = [value for value in known if (-value if mode == "max" else value) <= most]
    return min(seen), max(seen)


def view(axes: Axes, low: float, high: float, strip: float = 0.0) -> None:
    """Show a range above a strip, a part of the height."""
    if low <= high:
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        height = (high - low + 2 * margin) / (1 - strip)
        axes.set_ylim(high + margin - height, high + margin)
    else:
        axes.set(ylim=(0, 1), yticks=())


def _names(chart: Chart, axes: Axes, lines: Sequence[Line], room: float) -> None:
    """Write the lines' names at their right, each as near to its line's end as there is room."""
    across, up = chart.get_size_inches()
    box = axes.get_position()
    right, step = box.x1 * across, 0.21  # inches
    ends = axes.transData.transform([line.points[-1] for line in lines])[:, 1] / chart.dpi  # (N,)
    ends = np.clip(ends, box.y0 * up, box.y1 * up)
    order = np.argsort(-ends, kind="stable")
    heights: list[float] = []
    for index in order:
        heights.append(min(ends[index], heights[-1] - step if heights else box.y1 * up))
    # What was pushed below the axes is pushed up again.
    lowest = box.y0 * up
    for row in reversed(range(len(heights))):
        heights[row] = max(heights[row], lowest)
        lowest = heights[row] + step
    last = max(line.points[-1][0] for line in lines)
    for index, height in zip(order, heights, strict=True):
        line, colour, mark = lines[index], COLOURS[index], MARKS[index]
        if line.points[-1][0] < last:  # it stopped early, and the eye is led on
            axes.hlines(
                line.points[-1][1], line.points[-1][0], last, colour, ":", lw=0.9, alpha=0.6
            )
        across_gap = [right + 0.02, right + 0.14]
        leader = Line2D(across_gap, [ends[index], height], color=colour, linewidth=1, alpha=0.6)
        sample = Line2D([right + 0.21], [height], color=colour, marker=mark, markersize=5)
        for artist in (leader, sample):
            artist.set_transform(chart.dpi_scale_trans)
            chart.add_artist(artist)
        style = {"va": "center", "weight": "bold" if line.best else "normal"}
        chart.write(right + 0.32, height, line.label, room - 0.1, FONT, **style)
