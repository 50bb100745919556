"""Overrides as text: ``KEY=VALUE`` words of Hydra's command line."""

from __future__ import annotations

from collections.abc import Iterable


def by_key(words: Iterable[str]) -> dict[str, str]:
    """Return the overrides by key; of several with one key the last counts."""
    return {word.partition("=")[0].lstrip("+~"): word for word in words}


def quoted(text: str) -> str:
    """Return `text` as a quoted value of an override."""
    escaped = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"
