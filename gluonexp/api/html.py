"""What a notebook shows of an object: parts of a page that need nothing else.

All texts are escaped. The styles stand at the elements: notebooks that are not trusted, and pages
that are made of notebooks, keep no other.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Sequence
from html import escape
from typing import Final

_CELL: Final = "padding:2px 10px 2px 0;border:0;vertical-align:top;text-align:"
_MONO: Final = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere"


def title(text: str, beside: str = "") -> str:
    """Return a headline, and what stands beside it in a lighter hand."""
    quiet = f' <span style="opacity:.7;font-weight:normal">{escape(beside)}</span>'
    return f'<div style="font-weight:bold;margin:4px 0">{escape(text)}{quiet}</div>'


def note(text: str) -> str:
    """Return a line that explains."""
    return f'<div style="opacity:.8;margin:4px 0">{escape(text)}</div>'


def code(text: str) -> str:
    """Return what is copied, its line breaks kept."""
    return f'<div style="{_MONO};margin:4px 0">{escape(text)}</div>'


def link(address: str, text: str) -> str:
    """Return a link; of an address that is none of the web's, its text alone."""
    if not address.startswith(("http://", "https://", "file://")):
        return note(f"{text}: {address}")
    return f'<div style="margin:4px 0"><a href="{escape(address)}">{escape(text)}</a></div>'


def picture(png: bytes, alt: str) -> str:
    """Return a picture, which is not wider than the page."""
    return _image("image/png", png, alt)


def svg(element: str, alt: str) -> str:
    """Return an ``<svg>`` element as a picture: whatever names it uses stay its own."""
    named = element.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return _image("image/svg+xml", named.encode(), alt)


def _image(kind: str, content: bytes, alt: str) -> str:
    style = "max-width:min(100%,720px);height:auto;background:white"
    data = f"data:{kind};base64,{b64encode(content).decode()}"
    return f'<img style="{style}" alt="{escape(alt)}" src="{data}">'


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> str:
    """Return a table; the columns named in `right` end at their right."""
    aligned = ["right" if heading in right else "left" for heading in headings]

    def line(kind: str, cells: Sequence[str]) -> str:
        inner = "".join(
            f'<{kind} style="{_CELL}{align}">{escape(cell)}</{kind}>'
            for cell, align in zip(cells, aligned, strict=True)
        )
        return f"<tr>{inner}</tr>"

    body = "".join(line("td", row) for row in rows)
    head, whole = line("th", headings), "border-collapse:collapse;font-size:90%"
    return (
        f'<div style="overflow-x:auto"><table style="{whole}"><thead>{head}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def block(*parts: str) -> str:
    """Return the parts as one."""
    return f"<div>{''.join(parts)}</div>"
