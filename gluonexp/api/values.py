"""Recorded texts as the values they were, and tables of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Value = str | int | float | bool | None

# As JSON writes them, and so the tracker.
_WORDS: Final = {"null": None, "true": True, "false": False}
# What may look like a number, and is none.
_DIGESTS: Final = ("digest", "sha256")


def typed(key: str, text: str) -> Value:
    """Return a recorded parameter as what it was: a number, true, false, none, or a text."""
    if text in _WORDS:
        return _WORDS[text]
    return text if key.endswith(_DIGESTS) else _number(text)


def whole(name: str, value: object) -> int:
    """Return a number of things, which is 1 or more.

    Raises
    ------
    GluonexpError
        It is none.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or found < 1:
        raise GluonexpError(f"{name}={value!r}: must be a whole number, at least 1")
    return found


def _number(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        if str(found) == text:  # so Python writes it: ``007`` and ``1e5`` are somebody's names
            return found
    return text


def column(key: str, texts: Sequence[str | None] | NDArray[Any]) -> pd.Series[Any]:
    """Return a parameter of many runs, of one type: None where a run does not have it.

    Texts that are not all numbers, or not all true or false, stay texts.
    """
    import numpy as np
    import pandas as pd

    codes, found = pd.factorize(np.asarray(texts, dtype=object))  # -1 where there is none
    known = [typed(key, text) for text in found]
    kinds = {type(value) for value in known if value is not None}
    some_missing = None in known or bool((codes < 0).any())
    if kinds and kinds <= {int, float}:
        whole = kinds == {int} and all(abs(int(value or 0)) < 2**63 for value in known)
        kind = ("Int64" if some_missing else "int64") if whole else "float64"
    elif kinds == {bool}:
        kind = "boolean" if some_missing else "bool"
    else:
        kind = "object"
        if not kinds <= {str}:
            known = list(found)
    made: pd.Series[Any] = pd.Series(np.array([*known, None], dtype=object)[codes], dtype=kind)
    return made


def by_split(names: Iterable[str]) -> list[str]:
    """Return metrics in the order in which one reads them: those of the test split first."""
    splits = ("test", "val", "train")

    def place(name: str) -> tuple[int, str]:
        split = name.partition("/")[0]
        return splits.index(split) if split in splits else len(splits), name

    return sorted(names, key=place)
