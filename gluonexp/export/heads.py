"""What a network from elsewhere gives, reduced to the logits of one classifier."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import sym
from gluonexp.base.text import listed
from gluonexp.graph.graph import VARIABLE, Graph, Node, Output

# Heads that turn logits into something else; the first input of each is the logits. The last five
# take labels as well, which is how networks were trained before Gluon.
_HEADS: Final = {
    *("softmax", "log_softmax", "SoftmaxActivation", "sigmoid", "Activation"),
    *("SoftmaxOutput", "SVMOutput"),
    *("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"),
}

_SIGMOIDS: Final = {"LogisticRegressionOutput", "sigmoid", "Activation"}

# What may stand around a head and changes nothing of what is likeliest, or nothing at all.
_AROUND: Final = {
    *("BlockGrad", "MakeLoss", "make_loss", "_copy", "_np_copy", "_identity_with_attr_like_rhs"),
    *("Cast", "Flatten", "amp_cast", "clip"),
}

_LOSSES: Final = {"MakeLoss", "make_loss"}


def output(symbol: sym.Symbol, name: str | None, path: Path, changes: list[str]) -> Graph:
    """Return the graph of one output.

    Parameters
    ----------
    name
        Of an output, or of a layer within; with or without MXNet's ``_output`` at its end. None
        where there is one only, or one that a training checkpoint classifies by.
    path
        Of the symbol, for messages.
    changes
        What was done is added to it.

    Raises
    ------
    GluonexpError
        There is no such output, or there are several.
    """
    graph, names = Graph.from_symbol(symbol), symbol.list_outputs()
    if name is not None:
        return _named(symbol, name, path, changes)
    if len(names) == 1:
        return graph
    if (main := _classifying(graph)) is None:
        raise GluonexpError(
            f"{path} has {len(names)} outputs, not one: {listed(names)}; name the one that "
            "classifies with --output"
        )
    changes.append(f"of the outputs {listed(names)}, {names[main]} classifies: it alone is taken")
    return graph.prefix(graph.heads[main])


def _named(symbol: sym.Symbol, name: str, path: Path, changes: list[str]) -> Graph:
    for whole in (symbol, symbol.get_internals()):
        graph, names = Graph.from_symbol(whole), whole.list_outputs()
        found = [
            head
            for head, each in zip(graph.heads, names, strict=True)
            if name in (each, each.removesuffix("_output"))
            and graph.nodes[head.node].op != VARIABLE
        ]
        if len(found) > 1:
            raise GluonexpError(f"{path} has {len(found)} outputs of the name {name}")
        if found:
            if len(names) > 1:
                changes.append(f"the output {name} alone is taken")
            return graph.prefix(*found)
    raise GluonexpError(
        f"{path} has no output {name}: its outputs are {listed(symbol.list_outputs())}, and each "
        "layer has one of its name"
    )


def _classifying(graph: Graph) -> int | None:
    """Return which output is trained to classify, the others being watched; None if unclear."""
    ends = [graph.nodes[head.node] for head in graph.heads]
    real = [at for at, node in enumerate(ends) if node.op not in _LOSSES]
    # Besides a head, or a loss of the user's own, others are watched.
    heads = [at for at in real if _is_head(ends[at])]
    watched = [at for at in real if ends[at].op == "BlockGrad"]
    if len(heads) == 1 and len(heads) + len(watched) == len(real):
        return heads[0]
    return real[0] if len(real) == 1 else None


def ending(graph: Graph) -> Node:
    """Return the last node but those that may stand around a head and change nothing."""
    node = graph.nodes[graph.heads[0].node]
    while node.op in _AROUND and node.inputs:
        node = graph.nodes[node.inputs[0].node]
    return node


def logits(graph: Graph, changes: list[str]) -> tuple[Graph, bool]:
    """Return what the head at the end, if there is one, is of; say so in `changes`.

    Also whether the head was a sigmoid, which gives each class a probability of its own.
    """
    cut = []
    at = graph.heads[0]
    while (node := graph.nodes[at.node]).op in _AROUND and node.inputs:
        if not node.attrs.get("dtype", "float").startswith("float"):
            return graph, False
        cut.append(node)
        at = node.inputs[0]
    if not _is_head(node):
        return graph, False
    cut.append(node)
    named = " and ".join(f"{each.name} ({each.op})" for each in cut)
    verb = "is" if len(cut) == 1 else "are"
    changes.append(f"{named} at the end {verb} cut off: the output is logits")
    rest = graph.prefix(node.inputs[0])
    temperature = node.attrs.get("temperature", "None")
    if temperature not in ("None", "1", "1.0"):
        changes.append(f"the logits are divided by {temperature}, its temperature")
        rest = _ending(rest, "_div_scalar", f"{node.name}_logits", {"scalar": temperature})
    return rest, node.op in _SIGMOIDS


def _is_head(node: Node) -> bool:
    if node.op == "Activation":
        return node.attrs.get("act_type") == "sigmoid"
    # Over another axis than the classes it makes something else of them.
    return node.op in _HEADS and bool(node.inputs) and node.attrs.get("axis", "1") in ("1", "-1")


def flat(graph: Graph, shape: tuple[int, ...], changes: list[str]) -> Graph:
    """Return a network that gives (N, K), if it gives `shape` of two images, (2, K, 1, 1)."""
    if len(shape) < 3 or math.prod(shape[2:]) != 1:
        return graph
    changes.append(f"its output {shape[1:]} is flattened to ({shape[1]},)")
    return _ending(graph, "Flatten", f"{graph.nodes[graph.heads[0].node].name}_flat", {})


def two_classes(graph: Graph, changes: list[str]) -> Graph:
    """Return a network that gives (N, 2), (0, x), where `graph` gives (N, 1), x before a sigmoid.

    Softmax of it is (1 - p, p), if p is the sigmoid of x.
    """
    changes.append("its one output x, before the sigmoid, is of two classes now: (0, x)")
    name, (one,) = graph.nodes[graph.heads[0].node].name, graph.heads
    zero = _ending(graph, "zeros_like", f"{name}_zero", {})
    both = Node("Concat", f"{name}_both", (*zero.heads, one), {"num_args": "2", "dim": "1"})
    return replace(zero, nodes=(*zero.nodes, both), heads=(Output(len(zero.nodes)),))


def _ending(graph: Graph, op: str, name: str, attrs: dict[str, str]) -> Graph:
    """Return `graph` with one more operator at the end."""
    nodes = (*graph.nodes, Node(op, name, graph.heads, attrs))
    return replace(graph, nodes=nodes, heads=(Output(len(graph.nodes)),))
