"""Names and values in the form MLflow takes them; pure functions."""

import enum
import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

from gluonexp.base.secrets import hidden, hide
from gluonexp.base.text import readable

# MLflow takes 250 and 6000 characters; a parameter longer than 500 is no longer read in a table,
# servers before 2.8 refuse it, and the whole configuration is an artifact of the run.
MAX_KEY = 250
MAX_PARAM = 500
MAX_TAG = 5000


def sanitised(key: str) -> str:
    """Return `key` as MLflow accepts it for a parameter, a metric or a tag.

    What is not a letter, digit, ``_ - . : /`` or space becomes ``_`` (``acc@1`` is ``acc_1``),
    paths are normalised, and what is too long ends in a digest of the whole.
    """
    clean = re.sub(r"[^/\w.\- :]", "_", str(key))
    parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
    return _cut(posixpath.join(*parts) if parts else "_", MAX_KEY)


def number(value: SupportsFloat) -> float:
    """Return `value` as a float, NaN where it is infinite.

    MLflow stores an infinity as the largest float, which flattens the rest of its chart.
    """
    as_float = float(value)
    return as_float if math.isfinite(as_float) else math.nan


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested `config` as ``a.b.c`` keys and texts; of a key that is there twice the last.

    A list of plain values is one JSON text (``[0.9,0.999]``); a list that holds mappings or lists
    is counted (``callbacks.0.patience``). None, true and false are written as JSON writes them.
    Secrets are hidden.
    """
    return {key: _cut(_text(hidden(value, key)), MAX_PARAM) for key, value in leaves(config)}


def leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values that `flatten` makes texts of, also those of one key."""

    def visit(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                yield from visit(f"{key}.{name}", inner)
        elif isinstance(value, list | tuple) and any(_is_nested(item) for item in value):
            for index, inner in enumerate(value):
                yield from visit(f"{key}.{index}", inner)
        else:
            yield key, value

    for name, value in config.items():
        yield from visit(str(name), value)


def tag_text(value: object) -> str:
    """Return a tag's value as MLflow accepts it, secrets hidden."""
    return _cut(hide(_text(value)), MAX_TAG)


def one_line(text: str, limit: int) -> str:
    """Return `text` without line breaks, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | Mapping | list | tuple):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_text)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy scalar
        return _text(value.item())
    return str(value)


def _cut(text: str, limit: int) -> str:
    """Return `text` in UTF-8, its end replaced by a digest of the whole where it is too long."""
    text = readable(text)
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: limit - 15]}...{digest}"
