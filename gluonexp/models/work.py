"""What the network computes, read from its symbol: work by layer, and what each depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gluonexp.base.mx import mx, nn


class Graph:
    """The operators of a network with one input; parameters go by their global names here."""

    def __init__(self, net: nn.HybridBlock) -> None:
        with mx.name.NameManager():  # so that asking does not change the names of later networks
            output = net(mx.sym.var("data"))
        self._internals = output.get_internals()
        graph: dict[str, Any] = json.loads(self._internals.tojson())
        self._nodes: list[dict[str, Any]] = graph["nodes"]
        self._heads: list[list[int]] = graph["heads"]

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
        # By node and output, not by name: a layer that is called twice has one name for both.
        shapes = {tuple(head[:2]): s for head, s in zip(self._heads, inferred, strict=True)}
        work: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            if node["op"] in ("Convolution", "FullyConnected"):
                source, position = node["inputs"][1][:2]
                # The weight's shape is (outputs, inputs of its group, kernel...), in every layout
                # but for the place of the channels.
                each = math.prod(shapes[source, position][1:])
                name = self._nodes[source]["name"]
                work[name] = work.get(name, 0) + math.prod(shapes[index, 0]) * each
        return work

    def before(self) -> list[tuple[str, frozenset[str]]]:
        """Return the running mean of each BatchNorm node and all variables that lead to it."""
        variables: list[frozenset[str]] = []  # that lead to each node
        means = []
        for node in self._nodes:  # each stands after its inputs
            sources = [source for source, *_ in node["inputs"]]
            own = [node["name"]] if node["op"] == "null" else []
            variables.append(frozenset(own).union(*(variables[source] for source in sources)))
            if "BatchNorm" in node["op"]:  # data, gamma, beta, mean, variance
                means.append((self._nodes[sources[3]]["name"], variables[-1]))
        return means
