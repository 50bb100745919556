"""What a translation to ONNX is made of: an operator of the network, its inputs, ONNX's nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Shape = tuple[int | None, ...]
"""None is a dimension that depends on the number of images."""

Step = tuple[str, list[str | None], dict[str, Any]]
"""An ONNX operator, its inputs (None is what the step before gives), and its attributes."""

Translation = tuple["list[NodeProto]", Sequence[DTypeLike] | None]
"""ONNX's nodes, of which the last one's output has the layer's name, and the types of the layer's
outputs; None: all are of the first input's type."""


class Value(NamedTuple):
    """What flows between ONNX's nodes."""

    name: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Layer:
    """An operator of the network that is to be translated.

    Attributes
    ----------
    name
        No other has it.
    position
        In the graph.
    inputs
        What they are in ONNX.
    given, made
        The shapes of its inputs, and of its outputs.
    constants
        Those of all the network so far; translations add to them.
    """

    op: str
    name: str
    attrs: Mapping[str, str]
    position: int
    inputs: Sequence[Value]
    given: Sequence[Shape]
    made: Sequence[Shape]
    constants: list[TensorProto]

    def changed(self, **attributes: object) -> Layer:
        """Return the layer with other attributes; None removes one."""
        attrs = {**self.attrs, **attributes}
        kept = {key: str(value) for key, value in attrs.items() if value is not None}
        return replace(self, attrs=kept)

    def numbers(self, key: str) -> list[int]:
        """Return an attribute that is a number or several, none if it is not given."""
        return [int(number) for number in re.findall(r"-?\d+", self.attrs.get(key, ""))]

    def constant(self, name: str, values: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """Add a constant to the network, and return its name."""
        from onnx.numpy_helper import from_array

        whole = f"{self.name}_{name}"
        self.constants.append(from_array(np.array(values, dtype), whole))
        return whole

    def chain(self, *steps: Step, entry: int = 0) -> list[NodeProto]:
        """Return ONNX's nodes, one a step; the first begins with the layer's input `entry`."""
        from onnx.helper import make_node

        nodes, before = [], self.inputs[entry].name
        for number, (operator, inputs, attributes) in enumerate(steps, 1):
            result = self.name if number == len(steps) else f"{self.name}_step{number}"
            names = [before if name is None else name for name in inputs]
            nodes.append(make_node(operator, names, [result], **attributes))
            before = result
        return nodes

    def outputs(
        self, nodes: Sequence[NodeProto], dtypes: Sequence[DTypeLike] | None
    ) -> list[Value]:
        """Return what its translation gives: ``name``, or ``name0``, ``name1`` and so on."""
        several = [f"{self.name}{index}" for index in range(100)]
        given = {name for node in nodes for name in node.output}
        names = [name for name in (self.name, *several) if name in given] or [self.name]
        if dtypes is None:
            dtypes = [self.inputs[0].dtype] * len(names)
        return [Value(name, np.dtype(each)) for name, each in zip(names, dtypes, strict=True)]


def fixed(shape: Shape) -> list[int]:
    """Return sizes that are the same for any number of images.

    Raises
    ------
    NotImplementedError
        One is not.
    """
    if None in shape:
        raise NotImplementedError("a size depends on the number of images")
    return [side for side in shape if side is not None]
