"""What a network would compute with: sizes and types, inferred before anything runs.

MXNet 1.9.1 computes in some places beyond its arrays where others would refuse: where a Reshape
does not keep the number of values, and where an array has 2^31 of them or more, for it counts in
32 bits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, Final, NamedTuple

import numpy as np

from gluonexp.base.mx import mx, sym
from gluonexp.graph.graph import Graph, Output
from gluonexp.model_folder import operators

BATCH: Final = 64
"""So many images at once a network is looked at with; it must not be given more."""

_LARGEST: Final = 2**31 - 1  # values of an array
_MOST: Final = 2**30  # values of all of them, for one image: 4 GiB

# Operators that go through as many values of their first input as their output has, or the other
# way about, without a look at whether they are as many.
_KEEPING: Final = {"Reshape", "reshape", "where"}
_CONVOLVING: Final = {"Convolution", "Deconvolution", "_npx_convolution", "_npx_deconvolution"}

_Shapes = dict[Output, tuple[int, ...]]  # of what every node gives


class Input(NamedTuple):
    """The one argument that is not a parameter."""

    name: str
    shape: tuple[int, ...]  # of one image, with the 1 in front
    dtype: str


def flaw(symbol: sym.Symbol, image: Input, values: Mapping[str, Any]) -> str | None:
    """Say what keeps a network from being run with up to `BATCH` images; None if nothing does.

    Parameters
    ----------
    values
        Its parameters, as arrays of any library: their shapes and types count.
    """
    everything = symbol.get_internals()
    graph = Graph.from_symbol(everything)
    given = {name: values[name] for name in everything.list_arguments() if name in values}
    known = {name: value.shape for name, value in given.items()}

    def inferred(count: int) -> _Shapes:
        images = {image.name: (count, *image.shape[1:])}
        with redirect_stdout(io.StringIO()):  # where it tells of a failure besides raising it
            _, outputs, _ = everything.infer_shape(**{**known, **images})
        if outputs is None:
            raise mx.MXNetError("the shapes do not follow from the input's")
        return dict(zip(graph.heads, outputs, strict=True))

    try:
        return (
            _too_large(inferred)
            or _reshaped(graph, inferred)
            or _convolved(graph, inferred(1))
            or _mistyped(graph, everything, image, {k: v.dtype for k, v in given.items()})
        )
    except mx.MXNetError:
        return f"it does not take 1 to {BATCH} images at once"


def _too_large(inferred: Callable[[int], _Shapes]) -> str | None:
    for count, most in ((1, _MOST), (BATCH, math.inf)):
        sizes = [math.prod(shape) for shape in inferred(count).values()]
        if max(sizes) > _LARGEST or sum(sizes) > most:
            return (
                f"it needs {sum(sizes)} values for {count} images, of which {max(sizes)} are in "
                "one array"
            )
    return None


def _reshaped(graph: Graph, inferred: Callable[[int], _Shapes]) -> str | None:
    nodes = [(at, node) for at, node in enumerate(graph.nodes) if node.op in _KEEPING]
    for count in range(1, BATCH + 1) if nodes else ():
        found = inferred(count)
        for at, node in nodes:
            before, after = found[node.inputs[0]], found[Output(at)]
            if math.prod(before) != math.prod(after):
                return f"{node.name} makes {after} of {before}, which are not as many values"
    return None


def _convolved(graph: Graph, found: _Shapes) -> str | None:
    """Look for convolutions whose patches do not fit into an array."""
    for at, node in enumerate(graph.nodes):
        if node.op in _CONVOLVING:
            before, after = found[node.inputs[0]], found[Output(at)]
            kernel = math.prod(operators.numbers(node.attrs["kernel"]))
            places = max(math.prod(before[2:]), math.prod(after[2:]))
            if kernel * max(before[1], after[1]) * places > _LARGEST:
                return f"{node.name} has too many patches"
    return None


def _mistyped(
    graph: Graph, everything: sym.Symbol, image: Input, types: Mapping[str, Any]
) -> str | None:
    """Look for whole numbers divided, for by 0 that ends the process, and for wider sums.

    Those are of oneDNN's convolutions, which add to an array in its place.
    """
    # A Module casts the parameters to what follows from the input, a SymbolBlock leaves them.
    for known in ({}, types):
        try:
            with redirect_stdout(io.StringIO()):
                _, kinds, _ = everything.infer_type_partial(**{**known, image.name: image.dtype})
        except mx.MXNetError:
            continue  # where types do not fit together, running the network says so
        found = dict(zip(graph.heads, kinds, strict=True))
        for at, node in enumerate(graph.nodes):
            made = found[Output(at)]
            if node.op in operators.DIVIDING and any(
                kind is not None and np.dtype(kind).kind != "f"
                for kind in (found[node.inputs[0]], made)
            ):
                return f"{node.name} ({node.op}) divides whole numbers"
            if node.op == "_sg_mkldnn_conv" and (place := operators.added_to(node)) is not None:
                pair = (found[node.inputs[place]], made)
                if None in pair or len({np.dtype(kind).itemsize for kind in pair}) != 1:
                    return f"{node.name} adds to numbers of another size"
    return None
