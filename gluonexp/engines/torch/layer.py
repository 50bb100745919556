"""One operator of a network as it is lowered: a function, and the attributes bound to it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch

Shape = tuple[int | None, ...]
"""None is a dimension that depends on the number of images."""

Function = Callable[..., Any]
"""Takes tensors, one an input, and MXNet's attributes as keywords with MXNet's defaults, by whose
types they are read; a list is held as a tensor of shape (C, 1, 1). If it asks for `given` or
`made` it gets the shapes of the inputs and outputs, if for `run` the `Run`."""


Entry = Function | tuple[Function, str]
"""A function, and attributes that it need not be given, as `bind` takes them."""


class Refused(Exception):
    """PyTorch has no equivalent of an operator, or not of how it is used; the message says why."""


class Run:
    """What an operator may ask while the network runs.

    Attributes
    ----------
    moves
        What BatchNorm has for `Lowered.settle`: statistic, the batch's, its factor, momentum.
    anchor
        Of the type that stands for MXNet's float32, on the network's device.
    """

    training: bool
    drop: bool
    moves: list[tuple[torch.Tensor, torch.Tensor, float, float]]
    anchor: torch.Tensor

    def dtype(self, name: str) -> torch.dtype:
        """Return the type that stands for MXNet's `name`."""
        kind = self.anchor.dtype if name == "float32" else getattr(torch, name, None)
        if not isinstance(kind, torch.dtype):
            raise Refused(f"dtype={name}")
        return kind


RUN: Final = Run()
"""The default of an operator's `run`, which is always given."""

_WITHOUT_EFFECT: Final = frozenset(
    ("cudnn_off", "cudnn_tune", "workspace", "num_args", "is_int", "lazy_update", "no_bias")
)
_READ: Final[dict[type, Callable[[str], Any]]] = {
    bool: lambda text: text in ("True", "true", "1"),
    int: lambda text: None if text == "None" else int(text),
    float: float,
    str: str,
    tuple: lambda text: tuple(
        None if each == "None" else int(each)
        for each in re.findall(r"None|-?\d+", "" if text == "None" else text)
    ),
    list: lambda text: torch.tensor(
        [[[float(each)]] for each in re.findall(r"[-+.\de]+", text)], dtype=torch.float32
    ),
}


def bind(
    function: Function,
    heeded: str,
    attrs: Mapping[str, str],
    given: Sequence[Shape],
    made: Sequence[Shape],
) -> tuple[Function, bool, list[torch.Tensor]]:
    """Return the function with its attributes, whether it asks for `run`, and what it holds.

    Parameters
    ----------
    heeded
        Attributes that others say as well, such as the shapes; or ``key=value``: the only value.

    Raises
    ------
    Refused
        An attribute has an effect that the function does not have.
    """
    # What is written in C takes tensors only.
    parameters = {} if inspect.isbuiltin(function) else inspect.signature(function).parameters
    wanted = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY or isinstance(parameter.default, list)
    }
    known = {*heeded.split()} | _WITHOUT_EFFECT | wanted.keys()
    for key, text in attrs.items():
        if not key.startswith("__") and known.isdisjoint((key, f"{key}={text}")):
            raise Refused(f"{key}={text} is not lowered")
    read = {
        key: _READ[type(default)](attrs[key]) if key in attrs else default
        for key, default in wanted.items()
    }
    read |= {key: value for key, value in (("given", given), ("made", made)) if key in wanted}
    held = [
        value if isinstance(value, torch.Tensor) else torch.tensor([[value]])
        for key, value in read.items()
        if isinstance(wanted[key], list)
    ]
    kept = {k: v for k, v in read.items() if k != "run" and not isinstance(wanted[k], list)}
    return partial(function, **kept) if kept else function, "run" in wanted, held


def refuse(when: bool, why: str) -> None:
    """Refuse an operator for how it is used."""
    if when:
        raise Refused(why)


def target(made: Sequence[Shape]) -> list[int]:
    """Return the first outcome's shape for `reshape`, of any number of images."""
    refuse(made[0].count(None) > 1, "several dimensions depend on the number of images")
    return [-1 if size is None else size for size in made[0]]


def within(index: torch.Tensor, size: Any, mode: str = "clip") -> torch.Tensor:
    """Return whole indices in the range of `size`: others go to its ends, or around it."""
    whole = index.long()
    return whole.remainder(size) if mode == "wrap" else whole.clamp(0, size - 1)
