"""Whether a network answers for each image by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import mx, nd
from gluonexp.graph.graph import VARIABLE, Graph, Output
from gluonexp.graph.symbols import block

_TOLERANCE = 1e-3  # of the largest value; another number of images is summed in another order


def flaw(
    net: Callable[[nd.NDArray], nd.NDArray],
    graph: Callable[[], tuple[Graph, Mapping[str, nd.NDArray]]],
    name: str,
    shape: Sequence[int],
    device: mx.Context | None = None,
) -> str | None:
    """Say why a network's answer for an image is not that image's alone; None if it is.

    Three noise images are scored together and alone. Such a network gives `predict` other answers
    than a server, and no proof by samples holds for other images.

    Parameters
    ----------
    net
        Takes images (N, C, H, W) float32 as its input `name`, and gives (N, K).
    graph
        Gives its graph and the values in it: asked for only to name the layer.
    shape
        (C, H, W) of an image.
    """
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    given = nd.array(images, ctx=device or mx.cpu())
    together, again, alone = (net(each).asnumpy() for each in (given, given, given[:1]))
    if _differ(again, together):
        return "its answer changes from call to call: a layer draws at random when it predicts"
    if not _differ(alone, together[:1]):
        return None
    network, values = graph()
    layer = _first(network, values, name, images)
    return (
        "its answer for an image depends on the other images that it is given with"
        f"{f', from layer {layer} on' if layer else ''}, as where it takes a mean over the batch"
    )


def _first(
    graph: Graph, values: Mapping[str, nd.NDArray], name: str, images: NDArray[np.float32]
) -> str | None:
    """Return the first layer, in the graph's order, where an image's answer is not its own."""
    layers = [at for at, node in enumerate(graph.nodes) if node.op != VARIABLE]
    inner = block(replace(graph, heads=tuple(map(Output, layers))), values, name)
    alone, together = (_arrays(inner(nd.array(each))) for each in (images[:1], images))
    for at, one, all_of_them in zip(layers, alone, together, strict=True):
        rows = all_of_them[:1] if len(all_of_them) == len(images) else all_of_them
        if rows.shape != one.shape or _differ(one, rows):
            return f"{graph.nodes[at].name} ({graph.nodes[at].op})"
    return None


def _arrays(outputs: Any) -> list[NDArray[np.float32]]:
    return [each.asnumpy() for each in (outputs if isinstance(outputs, list) else [outputs])]


def _differ(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    largest = float(np.abs(expected).max(initial=0.0))
    return not np.allclose(found, expected, rtol=0, atol=_TOLERANCE * largest, equal_nan=True)
