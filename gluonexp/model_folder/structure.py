"""What MXNet itself must be asked about a graph from anybody, before it may see all of it.

MXNet believes what a symbol's JSON says of its own structure: where an input refers to a result
that its node does not have, memory is read that is not the graph's, and the process crashes.
`Graph` checks what can be checked without MXNet; here MXNet is asked how many inputs and results
each operator has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from gluonexp.base.mx import mx
from gluonexp.graph.graph import VARIABLE, Graph, Node, Output
from gluonexp.graph.symbols import to_symbol
from gluonexp.model_folder import operators

_NORMS: Final = {"BatchNorm", "BatchNorm_v1"}


def flaw(graph: Graph) -> str | None:
    """Say what is wrong with a graph, or with one inside its nodes; None if nothing is.

    Its operators must have been looked through already: MXNet is asked how many inputs and
    results they have.
    """
    try:
        return next(_problems(graph, {}), None)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    except mx.MXNetError as error:
        return str(error).strip().splitlines()[-1]


def _problems(graph: Graph, counted: dict[str, int]) -> Iterator[str]:
    """Yield what is wrong; may raise what reading other attributes than expected raises."""
    for at, node in enumerate(graph.nodes):
        if problem := operators.flaw(node):
            yield f"{node.name!r} ({node.op}) {problem}"
        yield from _dangling(graph, node.inputs, f"node {at}", counted)
        for inner in node.subgraphs:
            yield from _problems(inner, counted)
        if node.op == VARIABLE or node.subgraphs:  # of those `operators` has counted them
            continue
        given, takes = len(node.inputs), _inputs(node, counted)
        # Before 0.9, MXNet left the statistics out; it adds them when it reads such a file.
        if given != takes and not (given == takes - 2 and node.op in _NORMS and _is_old(graph)):
            yield f"{node.name!r} ({node.op}) has {given} inputs, not {takes}"
    yield from _dangling(graph, graph.heads, "the output", counted)


def _is_old(graph: Graph) -> bool:
    kind, version = graph.attrs.get("mxnet_version", ["int", 800])
    return kind == "int" and type(version) is int and version < 900


def _dangling(
    graph: Graph, outputs: Iterable[Output], who: str, counted: dict[str, int]
) -> Iterator[str]:
    """Yield what of `outputs` their nodes do not have."""
    for output in outputs:
        node = graph.nodes[output.node]
        if output.index and output.index >= _results(graph, node, counted):
            yield f"{who} refers to result {output.index} of {node.name!r}, which it has not"


def _inputs(node: Node, counted: dict[str, int]) -> int:
    """Return how many inputs a node takes: MXNet is asked, with a graph of that node alone."""
    # A graph of this version: to an older one MXNet would add the inputs that it misses.
    alone = Graph((replace(node, name="n", inputs=()),), (Output(0),))
    if (text := alone.to_json()) not in counted:
        symbol = to_symbol(alone)
        symbol._compose(name="n")  # adds a variable for each input
        counted[text] = len(symbol.list_inputs())
    return counted[text]


def _results(graph: Graph, node: Node, counted: dict[str, int]) -> int:
    """Return how many results a node has: MXNet is asked, with a graph of that node alone."""
    if node.op == VARIABLE:
        return 1
    count = len(node.inputs)
    variables = [Node(VARIABLE, f"v{index}") for index in range(count)]
    alone = replace(node, name="n", inputs=tuple(map(Output, range(count))))
    graph = replace(graph, nodes=(*variables, alone), heads=(Output(count),))
    if (text := graph.to_json()) not in counted:
        # Old graphs leave inputs out, which MXNet then adds as variables of their own.
        internals = to_symbol(graph).get_internals()
        counted[text] = len(internals.list_outputs()) - len(internals.list_inputs())
    return counted[text]
