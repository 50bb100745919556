"""Whether a network answers for each image, or whatever else it takes, by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import mx, nd
from gluonexp.graph.graph import VARIABLE, Graph, Output
from gluonexp.graph.symbols import block, classic

_TOLERANCE = 1e-3  # of the largest value; another number of images is summed in another order

_MOST = 7  # inputs that are looked at


def noise(shape: Sequence[int]) -> NDArray[np.float32]:
    """Return two images (2, C, H, W) of noise, for `flaw`, of `shape` (C, H, W) each."""
    return np.random.default_rng(0).standard_normal((2, *shape), np.float32)


def flaw(
    net: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    graph: Callable[[], tuple[Graph, Mapping[str, nd.NDArray]]],
    name: str,
    inputs: NDArray[np.float32],
    what: str = "image",
) -> str | None:
    """Say why a network's answer for an input is not that input's alone; None if it is.

    A few inputs and one of zeros are scored together and each alone: what goes through a batch in
    its order leaves the first one's answer, or the last one's, as it is. Such a network gives
    `predict` other answers than a server, and no proof by samples holds for other inputs.

    Parameters
    ----------
    net
        Takes (N, ...) as its input `name`, and gives (N, ...).
    graph
        Gives its graph and the values in it: asked for only to name the layer.
    inputs
        (N, ...), of which the first few are taken.
    what
        One of them is called.
    """
    given = np.concatenate([inputs[:_MOST], np.zeros_like(inputs[:1])])
    together, again = net(given), net(given)
    if _differ(again, together):
        return "its answer changes from call to call: a layer draws at random when it predicts"
    singles = range(len(given))
    if not any(_differ(net(given[at : at + 1]), together[at : at + 1]) for at in singles):
        return None
    layer = None
    with suppress(mx.MXNetError), classic():  # the network runs; its parts one by one need not
        layer = _first(*graph(), name, given)
    return (
        f"its answer for an {what} depends on the other {what}s that it is given with"
        f"{f', from layer {layer} on' if layer else ''}, as where it takes a mean over the batch"
    )


def _first(
    graph: Graph, values: Mapping[str, nd.NDArray], name: str, inputs: NDArray[np.float32]
) -> str | None:
    """Return the first layer, in the graph's order, where an input's answer is not its own."""
    layers = [at for at, node in enumerate(graph.nodes) if node.op != VARIABLE]
    inner = block(replace(graph, heads=tuple(map(Output, layers))), values, name)
    together = _arrays(inner(nd.array(inputs)))
    alone = [_arrays(inner(nd.array(inputs[at : at + 1]))) for at in range(len(inputs))]
    for at, made in enumerate(together):
        if not all(_among(each[at], made, index, alone) for index, each in enumerate(alone)):
            node = graph.nodes[layers[at]]
            return f"{node.name} ({node.op})"
    return None


def _among(
    one: NDArray[np.float32], made: NDArray[np.float32], index: int, inputs: Sequence[object]
) -> bool:
    """Say whether `made` of all inputs holds `one`, which was made of number `index` alone."""
    if one.ndim != made.ndim:
        return False
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, made.shape, strict=True)) if a != b]
    if not axes:
        return not _differ(made, one)
    if len(axes) > 1 or made.shape[axes[0]] != len(inputs) * one.shape[axes[0]]:
        return False
    return not _differ(np.split(made, len(inputs), axis=axes[0])[index], one)


def _arrays(outputs: Any) -> list[NDArray[np.float32]]:
    return [each.asnumpy() for each in (outputs if isinstance(outputs, list) else [outputs])]


def _differ(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return found.shape != expected.shape or not np.allclose(
        found, expected, rtol=0, atol=_TOLERANCE * largest, equal_nan=True
    )
