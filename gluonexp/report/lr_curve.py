"""The picture of a learning-rate search."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from gluonexp.report.drawing import BLUE, GRAY, INK, ORANGE, Drawing


def lr_curve(
    lrs: NDArray[np.float64],
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    suggestion: float | None,
    path: Path,
    title: str,
) -> None:
    """Draw loss by learning rate (logarithmic), and mark the suggestion where there is one.

    Parameters
    ----------
    lrs, losses, smoothed
        (S,) of each step; what is not finite is left out.
    """
    drawing = Drawing(7.2, 4.2, title)
    axes = drawing.panel(0.8, 0.65, 6.1, drawing.top - 0.75)
    axes.set_xscale("log")
    axes.plot(lrs, losses, ".", color=GRAY, alpha=0.5, markersize=4, label="one batch")
    axes.plot(lrs, smoothed, color=BLUE, label="running mean")
    finite = losses[np.isfinite(losses)]
    if finite.size:
        # The fall shall be seen; how far the loss explodes after it says nothing.
        low, high = finite.min(), finite[: int(finite.argmin()) + 1].max()
        margin = 0.2 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin / 2, high + margin)
    else:
        axes.plot([], [], " ", label="no finite value")
    if suggestion is not None:
        height = np.interp(np.log(suggestion), np.log(lrs), smoothed)
        label = f"suggestion: optim.lr={suggestion:.3g}"
        axes.axvline(suggestion, color=ORANGE, linewidth=1.2, zorder=0)
        axes.plot(suggestion, height, "*", color=ORANGE, markersize=14, label=label)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower left")
    axes.set_xlabel("learning rate", color=GRAY)
    axes.set_ylabel("loss", color=GRAY)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    drawing.save(path)
