"""Values as JSON has them, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timezone
from pathlib import PurePath
from typing import Any, TextIO


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: mappings, lists, texts, numbers, true, false, null.

    NaN and infinities, which JSON does not have, become None; times are ISO 8601 in UTC, to the
    millisecond; paths are texts; of a dataclass its fields are taken, of an array its numbers.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):  # an enumeration of texts is one
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Set):
        return [plain(inner) for inner in sorted(value)]
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    if isinstance(value, date | PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_json(out: TextIO, value: object) -> None:
    """Write `plain` of a value as one document of JSON, and the end of its line."""
    # Written at once: half of a document, where something has no form, helps nobody.
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    out.write(f"{text}\n")
