"""Texts for people: numbers, times and names as tables show them."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from gluonexp.base.secrets import hide

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console
    from rich.text import Text


def short_keys(keys: Sequence[str]) -> list[str]:
    """Return the last part of each dotted key, and more of it where two would be the same."""
    return [_short(key, [f".{other}" for other in keys if other != key]) for key in keys]


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other.endswith(f".{ending}") for other in others):
            return ending
    return key


def brief(text: str) -> str:
    """Return a value for a table: of a long fraction four digits, anything else as it is."""
    if len(text) <= 8 or text.lstrip("-").isdigit() or not is_number(text):
        return text
    return f"{float(text):.4g}"


def digits(value: float | None) -> str:
    """Return a number as tables show it: ``0.9931``, ``1.2e-05``, ``-`` for none."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.3g}"


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def duration(seconds: float) -> str:
    """Return a time as people say it: ``4.2 s``, ``3 min 05 s``, ``2 h 05 min``; ``-`` for NaN."""
    if math.isnan(seconds):
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(time: datetime, now: datetime) -> str:
    """Return a time for a table, in this place's time: the day and minute, or the year and day."""
    local = time.astimezone()
    return local.strftime("%m-%d %H:%M" if local.year == now.year else "%Y-%m-%d")


def in_bytes(size: float) -> str:
    """Return a size as people say it: ``176 bytes``, ``31 MB``, ``1.8 GB``."""
    for unit, count in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= count:
            return f"{size / count:,.{0 if size >= 10 * count else 1}f} {unit}"
    return f"{size:.0f} bytes"


def in_shell(*words: str) -> str:
    """Return words as one types them in a shell."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Quote a word as people do, and as `shlex` does where that is not safe."""
    if "'" in word:
        return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'
    setting = re.fullmatch(r"([\w.@/+-]+=)(.+)", word, re.DOTALL | re.ASCII)
    return setting[1] + shlex.quote(setting[2]) if setting else shlex.quote(word)


def store_option(uri: str | None) -> str:
    """Return the option of a command that names the store, with a space before it, or nothing."""
    return f" {in_shell('--tracking-uri', hide(uri))}" if uri else ""


def readable(text: str) -> str:
    """Return a text with what is no UTF-8 in it, as in names of files, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Control characters, ends of lines, what turns the direction of writing.
COMMANDING: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    """Return a text in which nothing commands a terminal, but that its lines may end."""
    return re.sub(rf"(?!\n){COMMANDING.pattern}", lambda found: repr(found[0])[1:-1], text)


def not_utf8(error: UnicodeEncodeError) -> str | None:
    """Say which name could not be written for what it is; None where it was no name."""
    name = re.search(r"\S*[\ud800-\udfff]\S*", error.object)
    if name is None:
        return None
    return f"{readable(name[0])}: this name is not UTF-8; rename it, or give another one"


_NAMED = 5


def listed(names: Iterable[object]) -> str:
    """Name the first five, and say how many more there are."""
    words = [str(name) for name in names]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def in_kernel() -> bool:
    """Tell whether this is the process of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def plain_console(**options: Any) -> Console:
    """Return a console that prints names as they are: ``[old]`` is no style, ``:cat:`` no picture.

    A notebook gets plain lines, of which its page makes one output, rather than a picture of each.
    `options` are those of `rich.console.Console`.
    """
    from gluonexp.base.console import PlainConsole

    options.setdefault("force_jupyter", False)
    if in_kernel() or "JPY_PARENT_PID" in os.environ:
        # FORCE_COLOR says there, and to all that is started there, that any file is a terminal.
        file = options.get("file") or (sys.stderr if options.get("stderr") else sys.stdout)
        options.setdefault("force_terminal", file.isatty())
    return PlainConsole(markup=False, emoji=False, highlight=False, **options)


def tell(console: Console, text: str | Text) -> None:
    """Print a text as it is, whatever the console makes of others."""
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str) -> None:
    """Print on standard error: what is no result."""
    print(line, file=sys.stderr, flush=True)


class Warnings(logging.Handler):
    """Says warnings on standard error, wherever that is at the time, also beside a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say one; not each attempt of a request that is repeated: how that ends is said."""
        if not record.name.startswith("urllib3"):
            say(hide(f"{record.levelname.lower()}: {record.getMessage()}"))
