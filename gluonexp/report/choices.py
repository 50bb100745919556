"""Pictures of what runs chose, and what they came to by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from gluonexp.base.text import brief, digits, is_number
from gluonexp.report.charts import FONT, NAMED, Chart, drawable, ending, view, visible
from gluonexp.report.drawing import BLUE, GRAY, INK, ORANGE, PALE, RED, short
from gluonexp.report.page import Picture


@dataclass(frozen=True)
class Dot:
    """What one run chose, and what it came to.

    Attributes
    ----------
    label
        The run's name.
    chosen
        Its choices by key. A key is drawn as numbers where all dots have one, else as names.
    value
        Its metric; None or not finite where it has none.
    best
        Whether the run stands out.
    ended
        ``"pruned"``, ``"failed"`` or such, of a run that was cut short.
    """

    label: str
    chosen: Mapping[str, str]
    value: float | None
    best: bool = False
    ended: str = ""

    @property
    def height(self) -> float:
        """The value, NaN where there is none to draw."""
        return self.value if self.value is not None and drawable(self.value) else math.nan

    @property
    def hint(self) -> str:
        """What a reader sees who points at it."""
        return "\n".join(filter(None, [self.label, digits(self.value), self.ended]))


@dataclass(frozen=True)
class Scale:
    """Where the values of a key lie on an axis: numbers, or names side by side."""

    key: str
    at: Mapping[str, float]
    names: Sequence[str]
    log: bool

    @classmethod
    def of(cls, key: str, texts: Sequence[str]) -> Scale:
        """Choose: a learning rate, and what spans a factor of 20, is seen on a log axis."""
        distinct = list(dict.fromkeys(texts))
        numbers = {
            text: float(text) for text in distinct if is_number(text) and drawable(float(text))
        }
        if len(numbers) < len(distinct):
            names = sorted(distinct)
            return cls(key, {name: float(at) for at, name in enumerate(names)}, names, False)
        low, high = min(numbers.values()), max(numbers.values())
        log = low > 0 and (high / low >= 20 or key.split(".")[-1] == "lr")
        return cls(key, numbers, (), log)

    def part(self, text: str) -> float:
        """Return how far up the axis a value lies, from 0 to 1."""
        return self._part(self.at[text])

    def marks(self) -> list[tuple[float, str]]:
        """Return where to write what: the values where they are few, else round numbers."""
        marks = sorted({self.part(text): brief(text) for text in self.at}.items())
        apart = min((b[0] - a[0] for a, b in itertools.pairwise(marks)), default=1.0)
        if apart >= 0.1 or (self.names and len(marks) <= 20):
            return marks
        if self.names:
            return marks[:: -(-len(marks) // 20)]
        low, high = min(self.at.values()), max(self.at.values())
        steps: Locator = MaxNLocator(6)
        if self.log:
            decades = math.log10(high / low)
            finer = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3.5 else (1,)
            steps = LogLocator(subs=finer)
        ticks = [float(tick) for tick in steps.tick_values(low, high) if low <= tick <= high]
        if len(ticks) < 2:  # within a decade
            ticks = [low, high]
        return [(self._part(tick), f"{tick:.4g}") for tick in ticks]

    def _part(self, number: float) -> float:
        scaled = math.log if self.log else float
        low, high = scaled(min(self.at.values())), scaled(max(self.at.values()))
        return 0.5 if low == high else (scaled(number) - low) / (high - low)


def against(
    key: str, dots: Sequence[Dot], metric: str, mode: str, joined: bool = False
) -> Picture:
    """Draw what the runs came to by what they chose for one key, on the key's `Scale`.

    What has no value is a cross in a strip at the bottom.

    Parameters
    ----------
    mode
        ``max`` or ``min``: which is better.
    joined
        Whether the means at each choice are joined by a line: where nothing else was chosen.
    """
    scale = Scale.of(key, [dot.chosen[key] for dot in dots])
    chart = Chart(f"{metric} by {short(key, 40)}")
    axes = chart.panel(0.72, 0.85, chart.width - 0.72 - 0.25, chart.top - 0.95)
    strip = 0.1 if any(math.isnan(dot.height) for dot in dots) else 0.0
    low, high = _span(dots, mode)
    view(axes, low, high, strip)
    if joined:
        groups: dict[float, list[float]] = {}
        for dot in dots:
            if low <= dot.height <= high:
                groups.setdefault(scale.part(dot.chosen[key]), []).append(dot.height)
        middles = sorted((at, float(np.mean(heights))) for at, heights in groups.items())
        if middles:
            axes.plot(*zip(*middles, strict=True), color=PALE, linewidth=2)
    _explain_crosses(chart, dots)
    for index, dot in sorted(enumerate(dots), key=lambda item: item[1].best):
        # Dots of one name lie side by side.
        aside = 0.3 * (index * 0.618 % 1 - 0.5) / len(scale.names) if scale.names else 0
        at = scale.part(dot.chosen[key]) + aside
        chart.hints[f"dot{index}"] = dot.hint
        if math.isnan(dot.height):
            (cross,) = axes.plot(at, strip / 2, "x", color=RED, markersize=8, mew=2)
            cross.set(transform=axes.get_xaxis_transform(), gid=f"dot{index}")
            continue
        word, (mark, colour) = "", ("o", BLUE)
        if dot.best:
            word, mark, colour = "best", "*", ORANGE
        elif dot.ended:
            word, (mark, colour) = dot.ended, ending(dot.ended)
        if not low <= dot.height <= high:
            word = f"{word}, beyond the axis".removeprefix(", ")
            mark = "^" if dot.height > high else "v"
        if word:
            chart.signs[word] = (mark, colour)
        (drawn,) = axes.plot(at, min(max(dot.height, low), high), mark, gid=f"dot{index}")
        drawn.set(color=colour, markersize=17 if dot.best else 7, markeredgewidth=2)
        if mark != "|":
            drawn.set(markeredgecolor="white", markeredgewidth=0.8)
    edge = 0.5 / len(scale.names) if scale.names else 0.07
    axes.set_xlim(-edge, 1 + edge)
    marks = scale.marks()
    room = 60 // len(marks)  # characters
    axes.set_xticks([part for part, _ in marks], [short(text, room) for _, text in marks])
    chart.finish(axes, key)
    if strip:
        axes.add_patch(
            Rectangle((0, 0), 1, strip, transform=axes.transAxes, color="#F4F4F4", lw=0)
        )
    sign = -1 if mode == "max" else 1
    known = [dot for dot in dots if not math.isnan(dot.height)]
    known.sort(key=lambda dot: sign * dot.height)
    told = ", ".join(f"{dot.chosen[key]}: {digits(dot.value)}" for dot in known[:NAMED])
    return chart.picture(
        f"against {key}",
        f"{metric} by {key} of {len(dots)} runs, {len(dots) - len(known)} without a value; "
        f"best values: {told or 'none'}",
    )


def parallel(keys: Sequence[str], dots: Sequence[Dot], metric: str, mode: str) -> Picture:
    """Draw each run as a line through what it chose, key by key, up to what it came to."""
    scales = [Scale.of(key, [dot.chosen.get(key, "-") for dot in dots]) for key in keys]
    chart = Chart(f"What was chosen, and {metric}", wide=True)
    axes = chart.place(0.9, 0.5, chart.width - 2.0, chart.top - 0.95)
    axes.set(xlim=(0, len(keys)), ylim=(-0.04, 1.04))
    axes.axis("off")
    low, high = _span(dots, mode)
    strip = 0.14 if any(math.isnan(dot.height) for dot in dots) else 0.0

    def height(value: float) -> float:
        if math.isnan(value):
            return 0.0
        part = 0.5 if low == high else (min(max(value, low), high) - low) / (high - low)
        return strip + (1 - strip) * part

    _explain_crosses(chart, dots)
    by_height = sorted((dot.best, height(dot.height), index) for index, dot in enumerate(dots))
    for _, end, index in by_height:
        dot = dots[index]
        ends = [scale.part(dot.chosen.get(scale.key, "-")) for scale in scales]
        failed = math.isnan(dot.height)
        good = end if mode == "max" else 1 - end
        shade = RED if failed else ORANGE if dot.best else BLUE
        axes.plot(
            range(len(keys) + 1),
            [*ends, end],
            color=shade,
            alpha=1 if dot.best or failed else 0.12 + 0.6 * good**2,
            linewidth=3 if dot.best else 1.2,
            linestyle=(0, (2, 2)) if failed else "-",
            gid=f"line{index}",
            zorder=3 if dot.best else 2,
        )
        chart.hints[f"line{index}"] = dot.hint
        if failed:
            axes.plot(len(keys), 0, "x", color=RED, markersize=8, mew=2, clip_on=False)
        elif dot.best:
            (star,) = axes.plot(len(keys), end, "*", color=ORANGE, markersize=17)
            star.set(markeredgecolor="white", zorder=4, clip_on=False)
            chart.signs["best"] = ("*", ORANGE)
    for at, scale in enumerate(scales):
        _pole(axes, at, scale.marks())
    if low <= high:
        values = np.unique(np.linspace(low, high, 5)).tolist()
        _pole(axes, len(keys), [(height(value), digits(value)) for value in values], 1)
    each = (chart.width - 2.0) / len(keys)
    style = {"ha": "center", "va": "center", "weight": "bold"}
    for at, name in enumerate([*keys, metric]):
        left, room = 0.9 + each * at, min(each, 1.8) - 0.1
        chart.write(left, chart.top - 0.25, name, room, 10, **style)
    return chart.picture(
        "parallel",
        f"{len(dots)} runs as lines through {', '.join(keys)} and {metric}; "
        "the table above has all values",
        "Each line is a point: the darker, the better.",
    )


def _explain_crosses(chart: Chart, dots: Sequence[Dot]) -> None:
    """Say what a cross means: ``failed, killed: no value``."""
    without = dict.fromkeys(dot.ended or "finished" for dot in dots if math.isnan(dot.height))
    if without:
        chart.signs[f"{', '.join(without)}: no value"] = ("x", RED)


def _span(dots: Sequence[Dot], mode: str) -> tuple[float, float]:
    """Return lowest and highest value to be seen: of whole runs, where there are some."""
    known = [dot for dot in dots if not math.isnan(dot.height)]
    whole = [dot for dot in known if not dot.ended]
    return visible([dot.height for dot in (whole if len(whole) > 1 else known)], mode)


def _pole(axes: Axes, at: float, marks: Sequence[tuple[float, str]], side: int = -1) -> None:
    """Draw one upright axis of several, its texts at the left, or at the right (`side` 1)."""
    axes.plot([at, at], [0, 1], color=GRAY, linewidth=1, zorder=1)
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.8}
    for height, text in marks:
        axes.annotate(
            short(text, 18),
            (at, height),
            (7 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=FONT,
            color=INK,
            bbox=box,
            zorder=5,
        )
