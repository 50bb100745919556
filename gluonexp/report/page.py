"""One page in one file: tables, pictures and text, which any browser shows without a network.

Everything but a picture's SVG is escaped; the page holds no script.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True)
class Text:
    """A paragraph; a `quiet` one explains."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Code:
    """What a user copies, such as a command; its line breaks are kept."""

    text: str


@dataclass(frozen=True)
class Facts:
    """A few short texts that matter most, each under its name: ``[("val/acc", "0.9931")]``."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of texts under headings.

    Attributes
    ----------
    right
        The headings of columns of numbers, which end at the right.
    marked
        The indices of rows that stand out.
    verbatim
        The headings of columns whose texts keep their line breaks and wrap where they must.
    ids
        The headings of columns of which eight characters are seen, and all copied.
    tones
        How a text stands, by its row and its place there: ``better``, ``worse`` or ``other``.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    marked: Collection[int] = ()
    verbatim: Collection[str] = ()
    ids: Collection[str] = ()
    tones: Mapping[tuple[int, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture: an ``<svg>`` element, trusted; what it shows, in words; a line below it.

    A `wide` one is as wide as the page, others stand side by side where there is room.
    """

    svg: str
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Pictures:
    """Some pictures."""

    items: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; without a title, it stands alone."""

    title: str
    parts: Sequence[Text | Code | Facts | Table | Pictures]


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return a whole HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, subtitle=subtitle, sections=sections, zip=zip)
