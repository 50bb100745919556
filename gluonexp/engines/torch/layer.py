"""One operator of a network as it is lowered: its attributes and the shapes around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

Shape = tuple[int | None, ...]
"""None is a dimension that depends on the number of images."""

Function = Callable[..., Any]
"""Takes tensors, one an input of the operator, and gives one, or a tuple of several outputs."""

_WITHOUT_EFFECT: Final = frozenset(
    ("cudnn_off", "cudnn_tune", "cudnn_algo_verbose", "num_args", "workspace", "lazy_update")
)


class Refused(Exception):
    """PyTorch has no equivalent of an operator, or not of how it is used; the message says why."""


class Run:
    """What an operator may ask while the network runs: `Lowered` is one."""

    training: bool
    drop: bool
    moves: list[tuple[torch.Tensor, torch.Tensor, float, float]]
    """What `Lowered.settle` does: a statistic, the batch's, its factor, MXNet's momentum."""

    @property
    def floating(self) -> torch.dtype:
        """The type that the network computes in where MXNet says float32."""
        raise NotImplementedError


@dataclass
class Layer:
    """An operator of the network that is to be lowered.

    An attribute that nothing asked for is one that the operator's function does not heed: such a
    layer is refused by `unread`.

    Attributes
    ----------
    given, made
        The shapes of its inputs, and of its outputs.
    held
        Constants, which the function takes as tensors behind the inputs.
    moded
        Whether the function takes the `Run` first.
    """

    op: str
    attrs: Mapping[str, str]
    given: Sequence[Shape]
    made: Sequence[Shape]
    held: list[torch.Tensor] = field(default_factory=list)
    moded: bool = False
    read: set[str] = field(default_factory=set)

    @property
    def rank(self) -> int:
        """The number of dimensions of the first input."""
        return len(self.given[0])

    def text(self, key: str, default: str = "None") -> str:
        """Return an attribute as MXNet writes it."""
        self.read.add(key)
        return self.attrs.get(key, default)

    def only(self, **permitted: str | tuple[str, ...]) -> None:
        """Refuse attributes that are given with other values than these."""
        for key, values in permitted.items():
            values = (values,) if isinstance(values, str) else values
            if (found := self.text(key, values[0])) not in values:
                raise Refused(f"{key}={found}")

    def flag(self, key: str, default: bool = False) -> bool:
        """Return an attribute that is true or false."""
        return self.text(key, str(default)) in ("True", "true", "1")

    def number(self, key: str, default: float | None = None) -> float:
        """Return an attribute that is a number."""
        return float(self.text(key, str(default)))

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an attribute that is a whole number."""
        return int(self.number(key, default))

    def numbers(self, key: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Return an attribute that is a whole number or several, `default` if it is not given."""
        found = re.findall(r"-?\d+", self.text(key, ""))
        return tuple(map(int, found)) or tuple(default)

    def axis(self, key: str = "axis", default: int = -1, rank: int | None = None) -> int:
        """Return an axis, counted from the front."""
        rank = self.rank if rank is None else rank
        axis = self.integer(key, default)
        if not -rank <= axis < rank:
            raise Refused(f"{key}={axis} of {rank} dimensions")
        return axis % rank

    def fixed(self, shape: Shape) -> tuple[int, ...]:
        """Return sizes, none of which may depend on the number of images."""
        if None in shape:
            raise Refused("it is made for one number of images")
        return tuple(size for size in shape if size is not None)

    def hold(self, values: Any) -> None:
        """Add a constant of the network's floating type to what the function takes."""
        self.held.append(torch.as_tensor(values, dtype=torch.float32))

    def unread(self) -> list[str]:
        """Return the attributes that were not asked for, as ``key=value``."""
        known = self.read | _WITHOUT_EFFECT
        return [
            f"{key}={value}"
            for key, value in self.attrs.items()
            if key not in known and not key.startswith("__")
        ]
