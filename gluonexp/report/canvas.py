"""What every picture is drawn with: colours, places in inches, text that fits, one file format.

Figures are made as objects, never through pyplot: no window system, no global state, any thread.
The colours (Okabe and Ito, 2008) can be told apart by colour-blind readers.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GRAY, PALE = "#222222", "#6B6B6B", "#E4E4E4"
DPI = 144
WIDTH = 10.0  # inches, of every grid of pictures
MARGIN = 0.22  # inches, around and between pictures
# What XML 1.0 cannot hold, such as a terminal's escape sequences in a name.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def titled(width: float, height: float, title: str) -> tuple[Figure, float]:
    """Return a figure (inches) with a title above, and where the room below the title begins."""
    head = 0.45
    figure = Figure(figsize=(width, height + head), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    style = {"color": INK, "weight": "bold", "va": "top"}
    room = width - 2 * MARGIN
    write(figure, MARGIN, height + head - 0.16, title, room, 13, **style)
    return figure, height


def write(
    figure: Figure,
    left: float,
    bottom: float,
    text: str | tuple[str, str],
    room: float,
    size: float,
    **style: Any,
) -> None:
    """Write one line at a place given in inches, made to fit `room` inches.

    It is set smaller, down to 7 points, then the middle of `text` (of its first part, if there are
    two) is left out.
    """
    head, tail = (text, "") if isinstance(text, str) else text
    across, up = figure.get_size_inches()
    drawn = figure.text(left / across, bottom / up, "", **style)
    drawn.set_parse_math(False)
    shortened = " ".join(head.split())
    while True:
        drawn.set(text=shortened + tail, fontsize=size)
        width = drawn.get_window_extent().width / figure.dpi
        if width <= room or (size <= 7 and len(shortened) <= 3):
            return
        if size > 7:
            size = max(7, size - 1)
        else:
            shortened = short(head, int(len(shortened) * min(room / width, 0.97)))


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a place given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def sheet(figure: Figure) -> Axes:
    """Return axes over the whole figure, in inches: many images on one are soon drawn."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(0, up), autoscale_on=False)
    axes.set_axis_off()
    return axes


def plain(axes: Axes) -> None:
    """Leave of a coordinate system what a curve needs: horizontal lines and numbers."""
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRAY)
    axes.tick_params(length=0, colors=GRAY, labelsize=9)


def short(text: str, room: int) -> str:
    """Return `text` in one line of at most `room` characters, its middle left out if need be."""
    text = " ".join(str(text).split())
    if len(text) <= room:
        return text
    tail = max(room // 3, 1)
    return f"{text[: max(room - tail - 1, 1)]}…{text[-tail:]}"


def save(figure: Figure, path: Path) -> None:
    """Write the picture, into a folder that need not exist yet."""
    _verbatim(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in the file, equal pictures are equal files.
    figure.savefig(path, metadata={"Software": None})


def svg(figure: Figure, salt: str, hints: Mapping[str, str]) -> str:
    """Return the picture as an ``<svg>`` element of a page, its text as text.

    Parameters
    ----------
    salt
        Differs between the pictures of a page, which are told apart by it.
    hints
        What a reader sees who points at a part, by the part's `gid`.
    """
    _verbatim(figure)
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(
        _NO_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue().decode())
    )
    used = set(
        re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values()))
    )
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


def _verbatim(figure: Figure) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called "$5"
