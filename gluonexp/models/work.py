"""What the network computes, read from its graph: work by layer, and what leads where."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gluonexp.base.mx import mx, nn
from gluonexp.graph.graph import VARIABLE, Graph, Output
from gluonexp.graph.symbols import shapes, traced


class Work:
    """The operators of a network with one input; parameters go by their global names here."""

    def __init__(self, net: nn.HybridBlock) -> None:
        self._symbol = traced(net)
        self.graph = Graph.from_symbol(self._symbol)

    def macs(self, input_shape: Sequence[int]) -> dict[str, int]:
        """Return the multiply-accumulates of one image by weight, as of `by_node`."""
        work: dict[str, int] = {}
        for node, macs in zip(self.graph.nodes, self.by_node(input_shape), strict=True):
            if macs:
                name = self.graph.nodes[node.inputs[1].node].name
                work[name] = work.get(name, 0) + macs
        return work

    def by_node(self, input_shape: Sequence[int]) -> list[int]:
        """Return the multiply-accumulates of one image by the position of the node.

        Convolution and FullyConnected count, in the forward pass; a weight that is used twice
        counts twice. Biases, normalization and pooling are left out, as is usual.

        Parameters
        ----------
        input_shape
            Of one image, (C, H, W).
        """
        made = self.shapes(input_shape)
        work = [0] * len(self.graph.nodes)
        for at, node in enumerate(self.graph.nodes):
            if node.op in ("Convolution", "FullyConnected"):
                # The weight's shape is (outputs, inputs of its group, kernel...), in every layout
                # but for the place of the channels.
                weight = node.inputs[1]
                each = math.prod(made[weight.node][weight.index][1:])
                work[at] = math.prod(made[at][0]) * each
        return work

    def shapes(self, input_shape: Sequence[int], images: int = 1) -> list[list[tuple[int, ...]]]:
        """Return the shape of each output of each node, for images (C, H, W)."""
        return shapes(self._symbol, {"data": (images, *input_shape)})

    def by_image(self, input_shape: Sequence[int]) -> list[tuple[int, ...] | None]:
        """Return the shape of what each node gives for an image, by the position of the node.

        None where the first axis of what it gives is not that of the images.
        """
        try:
            one, two = (self.shapes(input_shape, images) for images in (1, 2))
        except mx.MXNetError:  # it takes a single image
            return [None] * len(self.graph.nodes)
        found: list[tuple[int, ...] | None] = []
        for (mine, *_), (theirs, *_) in zip(one, two, strict=True):
            rest = mine[1:]
            found.append(rest if (mine, theirs) == ((1, *rest), (2, *rest)) else None)
        return found

    def before(self) -> list[tuple[str, frozenset[str]]]:
        """Return the running mean of each BatchNorm node and all variables that lead to it."""
        nodes, means = self.graph.nodes, []
        for at, node in enumerate(nodes):
            if "BatchNorm" in node.op:
                leading = (nodes[place] for place in self.graph.needed([Output(at)]))
                variables = frozenset(each.name for each in leading if each.op == VARIABLE)
                mean = node.inputs[3]  # data, gamma, beta, mean, variance
                means.append((nodes[mean.node].name, variables))
        return means
