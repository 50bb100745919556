"""What every picture is drawn with: colours, places in inches, text that fits, one file format.

Figures are made as objects, never through pyplot: no window system, no global state, any thread.
The colours (Okabe and Ito, 2008) can be told apart by colour-blind readers.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from gluonexp.base.text import readable

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GRAY, PALE = "#222222", "#6B6B6B", "#E4E4E4"
DPI = 144


class Drawing(Figure):
    """A figure with a title. Places on it are given in inches.

    Parameters
    ----------
    width, height
        Of the room below the title.

    Attributes
    ----------
    top
        Where the title begins.
    """

    MARGIN = 0.22  # around and between pictures

    def __init__(self, width: float, height: float, title: str) -> None:
        head = 0.45
        super().__init__(figsize=(width, height + head), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self)
        self.top = height
        room = width - 2 * self.MARGIN
        self.write(self.MARGIN, height + head - 0.16, title, room, 13, weight="bold", va="top")

    def write(
        self,
        left: float,
        bottom: float,
        text: str | tuple[str, str],
        room: float,
        size: float,
        color: str = INK,
        **style: Any,
    ) -> None:
        """Write one line at a place, made to fit `room` inches.

        It is set smaller, down to 7 points, then the middle of `text` (of its first part, if there
        are two) is left out.
        """
        head, tail = map(readable, (text, "") if isinstance(text, str) else text)
        across, up = self.get_size_inches()
        drawn = self.text(left / across, bottom / up, "", color=color, **style)
        drawn.set_parse_math(False)
        shortened = " ".join(head.split())
        while True:
            drawn.set(text=shortened + tail, fontsize=size)
            width = drawn.get_window_extent().width / self.dpi
            if width <= room or (size <= 7 and len(shortened) <= 3):
                return
            if size > 7:
                size = max(7, size - 1)
            else:
                shortened = short(head, int(len(shortened) * min(room / width, 0.97)))

    def place(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return axes at a place."""
        across, up = self.get_size_inches()
        return self.add_axes((left / across, bottom / up, width / across, height / up))

    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return axes with what curves need: horizontal lines and numbers."""
        axes = self.place(left, bottom, width, height)
        axes.grid(axis="y", color=PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRAY)
        axes.tick_params(length=0, colors=GRAY, labelsize=9)
        return axes

    @staticmethod
    def mark_epochs(axes: Axes, epochs: Iterable[float]) -> None:
        """Name whole epochs below the axes, and a single one, around which there is no span."""
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if len(distinct := {*epochs}) == 1:
            axes.set_xticks([*distinct])

    @staticmethod
    def mark_empty(axes: Axes) -> None:
        """Say so where no curve has a value."""
        if not axes.lines:
            where = {"ha": "center", "va": "center", "transform": axes.transAxes}
            axes.text(0.5, 0.5, "no finite value", color=GRAY, **where)  # type: ignore[arg-type]

    def sheet(self) -> Axes:
        """Return axes over the whole figure, in inches: many images on one are soon drawn."""
        across, up = self.get_size_inches()
        axes = self.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(0, up), autoscale_on=False)
        axes.set_axis_off()
        return axes

    def savefig(self, *arguments: Any, **settings: Any) -> None:
        """Write the picture, every text as it is: a class may be called "$5"."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().savefig(*arguments, **settings)

    def save(self, path: Path) -> None:
        """Write a PNG file, into a folder that need not exist yet."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the version of matplotlib in the file, equal pictures are equal files.
        self.savefig(path, metadata={"Software": None})

    def png(self) -> bytes:
        """Return the picture as the content of a PNG file."""
        file = io.BytesIO()
        self.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()


def short(text: str, room: int) -> str:
    """Return `text` in one line of at most `room` characters, its middle left out if need be."""
    text = " ".join(str(text).split())
    if len(text) <= room:
        return text
    tail = max(room // 3, 1)
    return f"{text[: max(room - tail - 1, 1)]}…{text[-tail:]}"
