"""The reliability diagram: whether a network is right as often as it is sure."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from gluonexp.base.measures import Reliability
from gluonexp.report.drawing import BLUE, GRAY, INK, ORANGE, Drawing


def draw(found: Reliability, path: Path, which: str) -> None:
    """Draw accuracy by the probability of the predicted class, and how many images that is of.

    Parameters
    ----------
    which
        Images of what, in a few words: ``test split``.
    """
    bins, images = len(found.counts), int(found.counts.sum())
    edges = np.linspace(0, 1, bins + 1)
    filled = found.counts > 0
    left, width = edges[:-1][filled], 1 / bins
    drawing = Drawing(5.6, 6.3, f"Calibration error {found.error:.4f} on {images:,} images")
    axes = drawing.panel(0.85, 2.35, 4.5, drawing.top - 2.45)
    style = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
    accuracy, sure = found.accuracy[filled], found.confidence[filled]
    axes.bar(left, accuracy, width, color=BLUE, label="accuracy", **style)  # type: ignore[arg-type]
    middle = left + width / 2
    axes.vlines(middle, accuracy, sure, color=ORANGE, linewidth=2)
    axes.plot(middle, sure, "_", color=ORANGE, markersize=9, mew=2, label="mean probability")
    axes.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1, label="as sure as right")
    axes.set_ylabel(f"accuracy, {which}", color=GRAY)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    axes.set_ylim(0, 1.02)
    below = drawing.panel(0.85, 0.6, 4.5, 1.4)
    below.bar(left, found.counts[filled] / images, width, color=GRAY, **style)  # type: ignore[arg-type]
    below.set_ylabel("share of images", color=GRAY)
    below.set_xlabel("probability of the predicted class", color=GRAY)
    for each in (axes, below):
        each.set_xlim(0, 1)
        each.xaxis.set_major_formatter(PercentFormatter(1))
        each.yaxis.set_major_formatter(PercentFormatter(1))
    drawing.save(path)
