"""Patterns over structural parameter names: ordered, first match wins, each must say something."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import nn
from gluonexp.models.layers import blocks, walk

_BLOCK = re.compile(r"([\w.]+)\[(-?\d+)\]")

# What policies call the parts of a fine-tuning network.
_TOP = re.compile(r"(backbone|head)\b")


class NoSuchBlock(GluonexpError):
    """A pattern that counts further than the network has blocks."""


def compiled(net: nn.HybridBlock, match: str, key: str) -> re.Pattern[str]:
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
    layers = walk(net)
    if path not in layers:
        raise _nothing(net, match, key)
    counted = blocks(layers[path])
    if not -len(counted) <= index < len(counted):
        raise NoSuchBlock(
            f"{key}={match}: {path} has {len(counted)} block(s), counted from 0, or from -1 back"
        )
    children = "|".join(re.escape(f"{path}.{name}") for name in counted[index])
    return re.compile(f"(?:{children}){_text(match[block.end() :])}")


def matching(net: nn.HybridBlock, match: str, key: str) -> list[str]:
    """Return the parameters that a pattern matches, in structural order: one at least."""
    pattern = compiled(net, match, key)
    found = [name for name in net._collect_params_with_prefix() if pattern.fullmatch(name)]
    if not found:
        raise _nothing(net, match, key)
    return found


def assign(net: nn.HybridBlock, matches: Sequence[str], key: str) -> dict[str, int]:
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
        new = [name for name in matching(net, match, here) if name not in assigned]
        if not new:
            raise GluonexpError(
                f"{here}={match}: changes nothing, rules before it match all that it does; "
                "the first match wins, so put it before them or remove it"
            )
        assigned |= dict.fromkeys(new, position)
    names = list(net._collect_params_with_prefix())
    if left := [name for name in names if name not in assigned]:
        raise GluonexpError(
            f"{key}: no rule matches {left[0]} (one of {len(left)} such parameters); "
            'end with a rule for the rest, such as {match: "*"}'
        )
    return {name: assigned[name] for name in names}


def _text(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))


def _nothing(net: nn.HybridBlock, match: str, key: str) -> GluonexpError:
    names = list(net._collect_params_with_prefix())
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
