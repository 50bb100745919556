"""What the network computes, read from its graph: work by layer, and what leads where."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gluonexp.base.mx import mx, nn
from gluonexp.graph.graph import VARIABLE, Graph, Output


class Work:
    """The operators of a network with one input; parameters go by their global names here."""

    def __init__(self, net: nn.HybridBlock) -> None:
        with mx.name.NameManager():  # so that asking does not change the names of later networks
            self._internals = net(mx.sym.var("data")).get_internals()
        self._graph = Graph.from_symbol(self._internals)

    def macs(self, input_shape: Sequence[int]) -> dict[str, int]:
        """Return the multiply-accumulates of one image by weight.

        Convolution and FullyConnected count, in the forward pass; a weight that is used twice
        counts twice. Biases, normalization and pooling are left out, as is usual.

        Parameters
        ----------
        input_shape
            Of one image, (C, H, W).
        """
        _, inferred, _ = self._internals.infer_shape(data=(1, *input_shape))
        shapes = dict(zip(self._graph.heads, inferred, strict=True))
        work: dict[str, int] = {}
        for at, node in enumerate(self._graph.nodes):
            if node.op in ("Convolution", "FullyConnected"):
                weight = node.inputs[1]
                # The weight's shape is (outputs, inputs of its group, kernel...), in every layout
                # but for the place of the channels.
                each = math.prod(shapes[weight][1:])
                name = self._graph.nodes[weight.node].name
                work[name] = work.get(name, 0) + math.prod(shapes[Output(at)]) * each
        return work

    def before(self) -> list[tuple[str, frozenset[str]]]:
        """Return the running mean of each BatchNorm node and all variables that lead to it."""
        nodes, means = self._graph.nodes, []
        for at, node in enumerate(nodes):
            if "BatchNorm" in node.op:
                leading = (nodes[place] for place in self._graph.needed([Output(at)]))
                variables = frozenset(each.name for each in leading if each.op == VARIABLE)
                mean = node.inputs[3]  # data, gamma, beta, mean, variance
                means.append((nodes[mean.node].name, variables))
        return means
