"""Texts of users in Markdown: they stay the text that they are, in whatever shows it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from gluonexp.base.secrets import hide
from gluonexp.base.text import COMMANDING, readable

WIDTH: Final = 96  # characters, of a line of prose

_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_BLANKS: Final = re.compile(r"[\s\u200b-\u200f\u2060\ufeff]+")


def plain(text: str) -> str:
    """Return a text as one line of Markdown that shows it: no mark-up, link or tag is made of it.

    Secrets in it are hidden.
    """
    line = _BLANKS.sub(" ", hide(readable(text))).strip()
    line = COMMANDING.sub("?", line)
    line = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # within a word it emphasizes nothing
    line = re.sub(r"[&<>@]", lambda found: _ENTITIES[found[0]], line)
    line = re.sub(r"(?i)(www)\.|:(?=//)", lambda f: f"{f[1]}&#46;" if f[1] else "&#58;", line)
    return _begins_nothing(line)


def _begins_nothing(line: str) -> str:
    """Return a line that begins no list, heading or rule where it is the first of its block."""
    return re.sub(r"^(\d{0,9})([-+=#.)]+(?:\s|$))", r"\1\\\2", line)


def paragraph(text: str, indent: str = "") -> str:
    """Return prose in lines of at most `WIDTH` characters, of which none begins a list."""
    lines = textwrap.wrap(
        text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False
    )
    return f"\n{indent}".join([*lines[:1], *map(_begins_nothing, lines[1:])])


def bullets(items: Iterable[str]) -> str:
    """Return a list, an item a sentence."""
    return "\n".join(f"- {paragraph(item, '  ')}" for item in items)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers, cells as given."""
    whole = [head, *rows]
    widths = [max(3, *(len(row[at]) for row in whole)) for at in range(len(head))]

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cells(row: Sequence[str]) -> list[str]:
        return [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]

    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells(head)), line(rules), *(line(cells(row)) for row in whole[1:])])


def code(text: str, language: str = "") -> str:
    """Return a block of code; nothing in it ends it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
