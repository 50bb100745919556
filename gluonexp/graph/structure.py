"""Gluon's structural names of parameters (``features.0.weight``), noted in a network's graph.

In the graph itself parameters have names that count layers, ``alexnet0_conv0_weight``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from gluonexp.base.mx import gluon
from gluonexp.graph.graph import VARIABLE, Graph

_NOTE: Final = "__structure__"  # MXNet keeps what is called so, and heeds none of it


def noted(graph: Graph, net: gluon.Block) -> Graph:
    """Return the graph of `net` with the structural name of each of its parameters."""
    names: dict[str, str] = {}
    for structural, parameter in net._collect_params_with_prefix().items():
        names.setdefault(parameter.name, structural)
    nodes = (
        replace(node, attrs={**node.attrs, _NOTE: names[node.name]})
        if node.op == VARIABLE and names.get(node.name, node.name) != node.name
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def structural_names(graph: Graph) -> dict[str, str]:
    """Return the structural name of each variable, as far as they are noted and differ."""
    found = {
        node.name: node.attrs[_NOTE]
        for node in graph.nodes
        if node.op == VARIABLE and _NOTE in node.attrs
    }
    times = Counter(found.values())
    return {name: structural for name, structural in found.items() if times[structural] == 1}
