"""Graphs that compute the same, written so that every reader of them computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gluonexp.graph.graph import VARIABLE, Graph, Node, Output


def uniquely_named(graph: Graph) -> Graph:
    """Return the graph with operators that have no name in common: a layer called twice makes two.

    Variables keep their names, by which their values are known.
    """
    nodes = (
        node if node.op == VARIABLE else replace(node, name=name)
        for node, name in zip(graph.nodes, graph.names, strict=True)
    )
    return replace(graph, nodes=tuple(nodes))


def flattened(graph: Graph, dimensions: Sequence[Sequence[int]]) -> Graph:
    """Return the graph with a Flatten before each dense layer that flattens its input by itself.

    What MXNet's Module makes of such a layer after a convolution down to 1x1 fails at the second
    call: "We can't generate TBlob for MKLDNN data". So it does, rarely, of one that works along
    the last axis of images: a Reshape to the same shape stands before that.

    Parameters
    ----------
    dimensions
        How many dimensions each output of each node has.
    """
    nodes: list[Node] = []
    places: list[int] = []  # where each node of `graph` stands now
    names = {*graph.names}

    def moved(output: Output) -> Output:
        return replace(output, node=places[output.node])

    for node in graph.nodes:
        inputs = [*map(moved, node.inputs)]
        data = node.inputs[0] if node.op == "FullyConnected" else None
        size = 0 if data is None else dimensions[data.node][data.index]
        flatten = node.attrs.get("flatten", "True") in ("True", "1")
        if size > (2 if flatten else 3):
            name = f"{node.name}_{'flatten' if flatten else 'reshape'}"
            while name in names:
                name += "_"
            names.add(name)
            same = {"shape": f"({', '.join('0' * size)})"}
            op, attrs = ("Flatten", {}) if flatten else ("Reshape", same)
            nodes.append(Node(op, name, (inputs[0],), attrs))
            inputs[0] = Output(len(nodes) - 1)
        places.append(len(nodes))
        nodes.append(replace(node, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(nodes), heads=tuple(map(moved, graph.heads)))
