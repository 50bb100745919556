"""What a network would compute with: sizes and types, inferred before anything runs.

MXNet 1.9.1 computes in some places beyond its arrays where others would refuse: where a Reshape
does not keep the number of values, and where an array has 2^31 of them or more, for it counts in
32 bits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from gluonexp.base.mx import mx, sym
from gluonexp.graph.graph import Graph, Node, Output
from gluonexp.graph.symbols import to_symbol
from gluonexp.model_folder import operators

_Of = TypeVar("_Of")

BATCH: Final = 64
"""So many images at once a network is looked at with; it must not be given more."""

_LARGEST: Final = 2**31 - 1  # values of an array
_MOST: Final = 2**30  # values of all of them, for one image: 4 GiB

# Operators that go through as many values of their first input as their output has, or the other
# way about, without a look at whether they are as many.
_KEEPING: Final = {"Reshape", "reshape", "where"}
_CONVOLVING: Final = {
    *("Convolution", "Deconvolution", "_npx_convolution", "_npx_deconvolution"),
}


class Input(NamedTuple):
    """The one argument that is not a parameter."""

    name: str
    shape: tuple[int, ...]  # of one image, with the 1 in front
    dtype: str


def flaw(
    symbol: sym.Symbol,
    image: Input,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, Any],
) -> str | None:
    """Say what keeps a network from being run with up to `BATCH` images; None if nothing does.

    Parameters
    ----------
    shapes, types
        Of its parameters.
    """
    try:
        return (
            _too_large(symbol, image, shapes)
            or _reshaped(symbol, image, shapes)
            or _convolved(symbol, image, shapes)
            or _divided(symbol, image, types)
            or _added(symbol, image, types)
        )
    except mx.MXNetError:
        return f"it does not take 1 to {BATCH} images at once"


def _too_large(
    symbol: sym.Symbol, image: Input, shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    everything = symbol.get_internals()
    for count, most in ((1, _MOST), (BATCH, math.inf)):
        sizes = [math.prod(shape) for shape in _inferred(everything, image, count, shapes)]
        if max(sizes) > _LARGEST or sum(sizes) > most:
            return (
                f"it needs {sum(sizes)} values for {count} images, of which {max(sizes)} are in "
                "one array"
            )
    return None


def _reshaped(
    symbol: sym.Symbol, image: Input, shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    nodes, ends = _ends(symbol, image, _KEEPING)
    for count in range(1, BATCH + 1) if nodes else ():
        found = _inferred(ends, image, count, shapes)
        for node, (before, after) in zip(nodes, _pairs(found), strict=True):
            if math.prod(before) != math.prod(after):
                return f"{node.name} makes {after} of {before}, which are not as many values"
    return None


def _convolved(
    symbol: sym.Symbol, image: Input, shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Look for convolutions whose patches do not fit into an array."""
    nodes, ends = _ends(symbol, image, _CONVOLVING)
    found = _inferred(ends, image, 1, shapes) if nodes else [image.shape]
    for node, (before, after) in zip(nodes, _pairs(found), strict=True):
        kernel = math.prod(operators.numbers(node.attrs["kernel"]))
        places = max(math.prod(before[2:]), math.prod(after[2:]))
        if kernel * max(before[1], after[1]) * places > _LARGEST:
            return f"{node.name} has too many patches"
    return None


def _divided(symbol: sym.Symbol, image: Input, types: Mapping[str, Any]) -> str | None:
    """Look for whole numbers divided, for by 0 that ends the process."""
    nodes, ends = _ends(symbol, image, operators.DIVIDING)
    for found in _kinds(ends, image, types):
        for node, pair in zip(nodes, _pairs(found), strict=True):
            if any(kind is not None and np.dtype(kind).kind != "f" for kind in pair):
                return f"{node.name} ({node.op}) divides whole numbers"
    return None


def _added(symbol: sym.Symbol, image: Input, types: Mapping[str, Any]) -> str | None:
    """Look for oneDNN's convolutions that add to an array, in its place, of wider numbers."""
    nodes, ends = _ends(symbol, image, {"_sg_mkldnn_conv"}, operators.added_to)
    for found in _kinds(ends, image, types):
        for node, pair in zip(nodes, _pairs(found), strict=True):
            if None in pair or len({np.dtype(kind).itemsize for kind in pair}) != 1:
                return f"{node.name} adds to numbers of another size"
    return None


def _kinds(ends: sym.Symbol, image: Input, types: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Return types as a Module has them, then as a SymbolBlock has them.

    The one casts the parameters to what follows from the input, the other leaves them.
    """
    arguments = set(ends.list_arguments())
    for known in ({}, {name: kind for name, kind in types.items() if name in arguments}):
        # Where types do not fit together, running the network says so.
        with suppress(mx.MXNetError), redirect_stdout(io.StringIO()):
            _, found, _ = ends.infer_type_partial(**{**known, image.name: image.dtype})
            yield list(found)


def _inferred(
    symbol: sym.Symbol, image: Input, count: int, shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[int, ...]]:
    known = {name: shapes[name] for name in symbol.list_arguments() if name in shapes}
    known[image.name] = (count, *image.shape[1:])
    with redirect_stdout(io.StringIO()):  # where it tells of a failure besides raising it
        _, outputs, _ = symbol.infer_shape(**known)
    if outputs is None:
        raise mx.MXNetError("the shapes do not follow from the input's")
    return list(outputs)


def _ends(
    symbol: sym.Symbol,
    image: Input,
    of: Collection[str],
    source: Callable[[Node], int | None] = lambda node: 0,
) -> tuple[list[Node], sym.Symbol]:
    """Return the nodes with operators `of`, and a symbol of one input and the output of each.

    It gives the two for each node in turn, and the network's input at the end.

    Parameters
    ----------
    source
        Says which input of a node; None leaves the node out.
    """
    graph = Graph.from_symbol(symbol)
    nodes, heads = [], []
    for at, node in enumerate(graph.nodes):
        if node.op in of and (place := source(node)) is not None:
            nodes.append(node)
            heads += [node.inputs[place], Output(at)]
    heads += [Output(at) for at in graph.variables if graph.nodes[at].name == image.name]
    return nodes, to_symbol(replace(graph, heads=tuple(heads)))


def _pairs(found: Sequence[_Of]) -> Iterator[tuple[_Of, _Of]]:
    """Return what was inferred of each node, without the network's input at the end."""
    return zip(found[:-1:2], found[1::2], strict=True)
