"""Patterns over structural parameter names: ordered, first match wins, each must say something."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from gluonexp.base.errors import GluonexpError
from gluonexp.models.outline import Outline

_BLOCK = re.compile(r"([\w.]+)\[(-?\d+)\]")

# What policies call the parts of a fine-tuning network.
_TOP = re.compile(r"(backbone|head)\b")


class NoSuchBlock(GluonexpError):
    """A pattern that counts further than the network has blocks."""


def compiled(outline: Outline, match: str, key: str) -> re.Pattern[str]:
    """Return the regular expression for a pattern: ``*`` is any text, all else is literal.

    In front, ``backbone[-1]`` stands for the counted block of `backbone` (see `blocks`), which
    may be several of its children.

    Raises
    ------
    GluonexpError
        There is no such part; the message begins with `key`.
    NoSuchBlock
        The part has fewer blocks.
    """
    if (block := _BLOCK.match(match)) is None:
        return re.compile(_text(match))
    path, index = block[1], int(block[2])
    if path not in outline.layers:
        raise _nothing(outline, match, key)
    counted = outline.blocks(path)
    if not -len(counted) <= index < len(counted):
        raise NoSuchBlock(
            f"{key}={match}: {path} has {len(counted)} block(s), counted from 0, or from -1 back"
        )
    children = "|".join(re.escape(f"{path}.{name}") for name in counted[index])
    return re.compile(f"(?:{children}){_text(match[block.end() :])}")


def matching(outline: Outline, match: str, key: str) -> list[str]:
    """Return the parameters that a pattern matches, in structural order: one at least."""
    pattern = compiled(outline, match, key)
    found = [name for name in outline.parameters if pattern.fullmatch(name)]
    if not found:
        raise _nothing(outline, match, key)
    return found


def assign(outline: Outline, matches: Sequence[str], key: str) -> dict[str, int]:
    """Return the position of the first pattern that matches, for each parameter.

    Parameters
    ----------
    matches
        Patterns in order.
    key
        What the list is called in the configuration, for messages.

    Raises
    ------
    GluonexpError
        A parameter that no pattern matches, a pattern that matches nothing, or one that changes
        nothing because earlier ones match all that it does.
    """
    assigned: dict[str, int] = {}
    for position, match in enumerate(matches):
        here = f"{key}[{position}].match"
        new = [name for name in matching(outline, match, here) if name not in assigned]
        if not new:
            raise GluonexpError(
                f"{here}={match}: changes nothing, rules before it match all that it does; "
                "the first match wins, so put it before them or remove it"
            )
        assigned |= dict.fromkeys(new, position)
    names = list(outline.parameters)
    if left := [name for name in names if name not in assigned]:
        raise GluonexpError(
            f"{key}: no rule matches {left[0]} (one of {len(left)} such parameters); "
            'end with a rule for the rest, such as {match: "*"}'
        )
    return {name: assigned[name] for name in names}


def _text(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))


def _nothing(outline: Outline, match: str, key: str) -> GluonexpError:
    names = list(outline.parameters)
    # The patterns one could have meant: every part of the network, and every parameter.
    parts = dict.fromkeys(
        f"{name.rsplit('.', cut)[0]}.*" for name in names for cut in range(1, name.count(".") + 1)
    )
    near = difflib.get_close_matches(match, [*parts, *names], n=3, cutoff=0)
    message = f"{key}={match}: matches no parameter of this network; nearest: {', '.join(near)}"
    top = dict.fromkeys(name.partition(".")[0] for name in names)
    if (part := _TOP.match(match)) and part[1] not in top:
        message = (
            f"{key}={match}: this network has no `{part[1]}`, its parts are {', '.join(top)}; "
            "choose a network that has one (model=alexnet_ft, model=zoo_ft) or another freeze="
        )
    return GluonexpError(message)
