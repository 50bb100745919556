"""Overrides as text: ``KEY=VALUE`` words of Hydra's command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Final, get_type_hints

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import CompactHydraException, HydraException

from gluonexp.base.text import in_shell
from gluonexp.config.schema import Config

# Texts among the arguments of constructors; the typed fields say themselves what they are.
TEXT_ARGUMENTS: Final = (
    *("dataset.source.root", "dataset.source.folder", "dataset.source.title"),
    *("dataset.source.note", "dataset.source.cache_folder"),
    *("model.weights", "model.sha256", "model.backbone"),
    *("hydra.sweeper.study", "hydra.sweeper.storage"),
)
_QUOTED: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")


def by_key(words: Iterable[str]) -> dict[str, str]:
    """Return the overrides by key; of several with one key the last counts."""
    return {word.partition("=")[0].lstrip("+~"): word for word in words}


def quoted(text: str) -> str:
    """Return `text` as a quoted value of an override."""
    return QuotedString(text, Quote.single).with_quotes()


def override(key: str, text: str) -> str:
    """Return the override that gives `key` a text; quoted only where Hydra would take it apart."""
    plain = f"{key}={text}"
    try:
        same = _parsed(plain)._value == text
    except HydraException:
        same = False
    return plain if same else f"{key}={quoted(text)}"


def typed(key: str, text: str) -> str:
    """Return the `override` as one types it in a shell."""
    return in_shell(override(key, text))


def text_of(word: str) -> str | None:
    """Return the value of an override as a text, None for ``null``."""
    value = _parsed(word).value()
    return None if value is None else str(value)


def value_in(words: Iterable[str], key: str) -> str | None:
    """Return the value that the overrides give a key, the last of several."""
    word = by_key(words).get(key)
    return None if word is None or word.startswith("~") else text_of(word)


def as_typed(words: Iterable[str]) -> list[str]:
    """Return overrides that Hydra reads as they were typed.

    A text stays as it is: ``1.10`` and ``2024_01_01`` are no numbers there. What Hydra's grammar
    cannot take (``photos (1)``, ``a=b``, ``été``) is quoted where only a text can be meant.

    Raises
    ------
    HydraException
        A value cannot be read; the message shows how to quote it.
    """
    return [_as_typed(word) for word in words]


def _as_typed(word: str) -> str:
    found = re.fullmatch(r"(\+{0,2}([\w$.@/-]+)=)(.*)", word, re.DOTALL | re.ASCII)
    if found is None:
        return word
    start, key, value = found.groups()
    is_text = key in _texts()
    if key in _lists() and re.fullmatch(r"[\w.-]+", value) and value != "null":
        return f"{start}[{value}]"  # one of several
    try:
        parsed = _parsed(word)
    except HydraException as error:
        if is_text and "," not in value:
            # Hydra knows no ~; whoever reads a field of ours does.
            return start + quoted(os.path.expanduser(value) if key.startswith("hydra.") else value)
        each = ", each of several texts in quotes of its own" if "," in value else ""
        raise CompactHydraException(
            f"{word}: Hydra's grammar does not take the value ({str(error).splitlines()[0]}); "
            f"if a text is meant, type it as {in_shell(start + quoted(value))}{each}"
        ) from None
    if _is_group(key) and isinstance(parsed._value, int | float):
        return start + quoted(value)
    if not is_text:
        return word
    if not parsed.is_sweep_override():
        return word if _is_text(parsed._value) else start + quoted(value)
    several = parsed._value
    if not isinstance(several, ChoiceSweep) or all(map(_is_text, several.list)):
        return word
    opening = "choice(" if value.startswith("choice(") else ""
    inside = value[len(opening) : len(value) - bool(opening)]
    if re.search(r"[()\[\]{}]", _QUOTED.sub("", inside)):
        return word  # sort(...) and the like: no list of texts
    pieces = re.sub(rf"{_QUOTED.pattern}|[^,'\"]+", _as_text, inside)
    return start + opening + pieces + value[len(opening) + len(inside) :]


def _as_text(piece: re.Match[str]) -> str:
    text = piece[0].strip()
    return text if _is_text(_parsed(f"key={text}")._value) else quoted(text)


def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str | QuotedString)


def _is_group(key: str) -> bool:
    """Tell whether the value of a key is the name of a file, as in ``model=cnn``."""
    nodes = {name for name, kind in get_type_hints(Config).items() if kind not in (int, str)}
    return "/" in key or key in (nodes | {"experiment"})


@cache
def _texts() -> frozenset[str]:
    return frozenset((*_fields(Config), *_fields(HydraConf, "hydra."), *TEXT_ARGUMENTS))


@cache
def _lists() -> frozenset[str]:
    return frozenset(_fields(Config, kinds=(list[str], list[str] | None)))


def _fields(
    node: type, above: str = "", kinds: tuple[object, ...] = (str, str | None)
) -> Iterator[str]:
    """Yield the keys of the fields of some `kinds` in a typed node, the texts if not said."""
    for name, kind in get_type_hints(node).items():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _fields(kind, f"{above}{name}.", kinds)
        elif kind in kinds:
            yield f"{above}{name}"
