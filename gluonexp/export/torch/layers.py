"""Which of PyTorch's layers do what recorded calls do, and where in the network they stand."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from torch import nn

from gluonexp.export.torch.calls import (
    BATCH_NORM,
    FUNCTIONAL,
    Argument,
    Call,
    Value,
    Variable,
)

Path = tuple[str, ...]

# What variables are called in Gluon, and by PyTorch's layers.
_LEAVES: Final = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}


@dataclass(frozen=True)
class Layer:
    """One of PyTorch's layers.

    Attributes
    ----------
    made
        How it is constructed.
    roles
        By variable, what the layer calls it.
    ones
        How many weights it has that no variable has, and that stay 1; None: it has no such.
    """

    made: str
    roles: Mapping[str, str]
    ones: int | None = None


@dataclass
class Place:
    """A part of the network: a layer, or a container of other parts.

    Attributes
    ----------
    path
        Of the names that lead there in the file.
    """

    path: Path = ()
    layer: Layer | None = None
    parts: dict[str, Place] = field(default_factory=dict)
    _names: dict[Any, str] = field(default_factory=dict)

    def part(self, own: str) -> Place:
        """Return the part that Gluon calls so; it is made where there is none."""
        name = self.name(("part", own), own)
        return self.parts.setdefault(name, Place((*self.path, name)))

    def name(self, key: object, wanted: str) -> str:
        """Return the name of something here, which nothing else here has."""
        if key not in self._names:
            name = re.sub(r"^__+", "_", re.sub(r"[^0-9A-Za-z_]", "_", wanted)) or "_"
            while name in self._names.values() or _reserved(name):
                name += "_"
            self._names[key] = name
        return self._names[key]


def _reserved(name: str) -> bool:
    return keyword.iskeyword(name) or hasattr(_container(), name)


@cache
def _container() -> nn.ModuleDict:
    return nn.ModuleDict()


class Places:
    """Every variable of a network at its place.

    Parameters
    ----------
    structure
        By variable its structural name, as far as that is known.
    shapes
        By variable.

    Attributes
    ----------
    root
        The network itself.
    layers
        By the number of its value, the place of the layer that does what a call does.
    others
        By variable that no layer has, the place and its name there.
    keys
        By variable, its key in the state_dict.
    ones
        Keys of what stays 1, and how many numbers that are.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        structure: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        used = [[v.name for v in call.arguments if isinstance(v, Variable)] for call in calls]
        self._split = {
            name: _split(structure.get(name), name)
            for name in dict.fromkeys(name for names in used for name in names)
        }
        wanted = {call.made: found for call in calls if (found := layer(call, shapes))}
        users: dict[str, list[Layer | None]] = {name: [] for name in self._split}
        for call, names in zip(calls, used, strict=True):
            for name in names:
                users[name].append(wanted.get(call.made))
        inside: dict[Path, set[str]] = {}  # the variables at and below a path
        for name, (path, _) in self._split.items():
            for end in range(len(path) + 1):
                inside.setdefault(path[:end], set()).add(name)
        self.root = Place()
        self.keys: dict[str, str] = {}
        self.ones: dict[str, int] = {}
        self.layers: dict[int, Place] = {}
        self.others: dict[str, tuple[Place, str]] = {}
        for made, found in wanted.items():
            if all(user == found for name in found.roles for user in users[name]):
                self._place(made, found, inside)
        for name, (path, leaf) in self._split.items():
            if name not in self.keys:
                place = self._at(path)
                word = place.name(("variable", name), leaf)
                self.others[name] = place, word
                self.keys[name] = ".".join([*place.path, word])

    def _place(self, made: int, found: Layer, inside: Mapping[Path, set[str]]) -> None:
        """Let a layer do a call, if its variables are called so and are for themselves."""
        paths = {self._split[name][0] for name in found.roles}
        leaves = {name: _LEAVES.get(self._split[name][1]) for name in found.roles}
        if len(paths) > 1 or () in paths or leaves != found.roles:
            return
        (path,) = paths
        if inside[path] != {*found.roles}:
            return
        place = self._at(path)
        place.layer = found
        self.layers[made] = place
        for name, role in found.roles.items():
            self.keys[name] = ".".join([*place.path, role])
        if found.ones is not None:
            self.ones[".".join([*place.path, "weight"])] = found.ones

    def _at(self, path: Path) -> Place:
        place = self.root
        for own in path:
            place = place.part(own)
        return place


def _split(structural: str | None, name: str) -> tuple[Path, str]:
    """Return the path of a variable's layer, and what it is called there."""
    if structural:
        *path, leaf = structural.split(".")
        return tuple(path), leaf
    for leaf in _LEAVES:
        if name.endswith(f"_{leaf}"):
            return (name[: -len(leaf) - 1],), leaf
    return (), name


def layer(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> Layer | None:
    """Return the layer that does what a call does, whatever its variables are called."""
    if call.function == BATCH_NORM:
        return _batch_norm(call, shapes)
    short = call.function.removeprefix(FUNCTIONAL)
    if short == "linear":
        if (found := _bound(call, {})) is None:
            return None
        units, inputs = shapes[found["weight"].name]
        return _of_weights(f"nn.Linear({inputs}, {units}", found)
    if re.fullmatch("conv[123]d", short):
        defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        if (found := _bound(call, defaults)) is None:
            return None
        filters, inputs, *kernel = shapes[found["weight"].name]
        sizes = f"{inputs * found['groups']}, {filters}, {compact(tuple(kernel))!r}"
        settings = [
            f", {key}={value!r}"
            for key, default in defaults.items()
            if (value := compact(found[key])) != default
        ]
        return _of_weights(f"nn.Conv{short[4]}d({sizes}{''.join(settings)}", found)
    return None


def _batch_norm(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> Layer | None:
    """Return a BatchNorm layer; where gamma counts as 1, it has one of its own, that stays 1."""
    _, mean, variance, gamma, beta = call.args
    given = {"running_mean": mean, "running_var": variance, "weight": gamma, "bias": beta}
    roles = {each.name: role for role, each in given.items() if isinstance(each, Variable)}
    rank, eps, momentum = (call.kwargs[key] for key in ("rank", "eps", "momentum"))
    if len(roles) < len(given) - (gamma is None) or not 2 <= rank <= 5:
        return None
    kind, (count,) = f"nn.BatchNorm{max(1, rank - 2)}d", shapes[mean.name]
    made = f"{kind}({count}, eps={eps!r}, momentum={momentum:.6g})"
    return Layer(made, roles, count if gamma is None else None)


def _of_weights(begun: str, found: Mapping[str, Argument]) -> Layer:
    weight, bias = found["weight"], found["bias"]
    if bias is None:
        return Layer(f"{begun}, bias=False)", {weight.name: "weight"})
    return Layer(f"{begun})", {weight.name: "weight", bias.name: "bias"})


def _bound(call: Call, defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a call's arguments by their names; None where the weights are no variables."""
    names = ("input", "weight", "bias", *defaults)
    found = {"bias": None, **defaults, **dict(zip(names, call.args, strict=False)), **call.kwargs}
    weight, bias = found.get("weight"), found["bias"]
    right = isinstance(weight, Variable) and isinstance(bias, Variable | None) and weight != bias
    return found if right and isinstance(found.get("input"), Value) else None


def compact(sizes: Any) -> Any:
    """Return one number for equal ones."""
    if isinstance(sizes, tuple) and len({*sizes}) == 1 and type(sizes[0]) is int:
        return sizes[0]
    return sizes
