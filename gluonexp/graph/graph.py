"""The graph of a network's operators: each node stands after those whose outputs it takes.

It is plain Python, read from the JSON of an MXNet symbol. That JSON may come from anybody, and
MXNet believes what it says of its own structure, so a graph is checked as it is read: what
`Graph.to_json` writes refers to nothing that is not there, and holds nothing that was not read.

Names may repeat: a layer that is called twice makes two nodes of one name, and two inputs of a
node may be the same output. So nodes go by their position, and what flows between them by
`Output`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

VARIABLE: Final = "null"
"""The operator of an input, a parameter or a running statistic, as MXNet calls it."""

MXNET: Final = 10901
"""The version that graphs made here are of: 1.9.1. MXNet changes older ones as it reads them."""

_DEEPEST: Final = 16  # graphs within graphs

# How the network was trained, and on which devices: old files have it among what an operator does,
# for itself or one input (`weight_lr_mult`). MXNet moves it away as it reads a file of those days.
_OF_TRAINING: Final = re.compile(
    r"(.+_)?(ctx_group|lr_mult|wd_mult|force_mirroring|mirror_stage|profiler_scope)"
)


@dataclass(frozen=True)
class Output:
    """One output of a node: what another node takes as an input, or the graph gives as a head.

    Attributes
    ----------
    node
        The node's position in the graph.
    index
        Which of its outputs.
    version
        How often earlier nodes have written to it (running statistics): MXNet's own number, kept
        for the way back to it. Outputs that differ in nothing else are equal.
    """

    node: int
    index: int = 0
    version: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Node:
    """One operator with its inputs, or a variable.

    Attributes
    ----------
    op
        MXNet's operator; `VARIABLE` where it is none.
    name
        Not always its own.
    inputs
        All of earlier nodes; of layers with weights the data comes first.
    attrs
        As MXNet writes them, such as ``{"kernel": "(3, 3)"}``.
    subgraphs
        The graphs inside a node that stands for several, such as oneDNN's.
    """

    op: str
    name: str
    inputs: tuple[Output, ...] = ()
    attrs: Mapping[str, str] = field(default_factory=dict)
    subgraphs: tuple[Graph, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Nodes, each after those it takes inputs from, and the outputs that the network gives.

    Attributes
    ----------
    attrs
        What MXNet notes of the whole, such as its version.
    """

    nodes: tuple[Node, ...]
    heads: tuple[Output, ...]
    attrs: Mapping[str, Any] = field(default_factory=lambda: {"mxnet_version": ["int", MXNET]})

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Return the graph in a symbol's JSON, which may come from anybody.

        Which operators it has is not looked at. Numbers that MXNet computes anew are not read.

        Raises
        ------
        ValueError
            It is no JSON, no graph, or does not hold together; the message says where.
        """
        try:
            return _graph(json.loads(text), _DEEPEST)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None

    @classmethod
    def from_symbol(cls, symbol: Any) -> Graph:
        """Return the graph of an MXNet symbol."""
        return cls.from_json(symbol.tojson())

    def to_json(self) -> str:
        """Return the graph as the JSON that MXNet reads."""
        return json.dumps(_data(self), ensure_ascii=False)

    @property
    def variables(self) -> tuple[int, ...]:
        """The positions of inputs, parameters and statistics."""
        return tuple(at for at, node in enumerate(self.nodes) if node.op == VARIABLE)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each node that no other has; of several nodes of one name the first has it.

        Variables come first, for by their names their values are known.
        """
        own = [node.name for node in self.nodes]
        names: dict[int, str] = {}
        used, taken = set(), {*own}
        for at in sorted(range(len(own)), key=lambda at: self.nodes[at].op != VARIABLE):
            name, number = own[at], 0
            while name in used or (number and name in taken):
                number += 1
                name = f"{own[at]}_{number}"
            used.add(name)
            names[at] = name
        return tuple(names[at] for at in range(len(own)))

    def walk(self) -> Iterator[Node]:
        """Yield every node in order, and after each the nodes of the graphs inside it."""
        for node in self.nodes:
            yield node
            for inner in node.subgraphs:
                yield from inner.walk()

    def needed(self, outputs: Iterable[Output]) -> set[int]:
        """Return the positions of the nodes that `outputs` are computed by, and from."""
        needed = {output.node for output in outputs}
        for at in range(len(self.nodes) - 1, -1, -1):  # each stands after its inputs
            if at in needed:
                needed |= {source.node for source in self.nodes[at].inputs}
        return needed

    def prefix(self, *heads: Output) -> Graph:
        """Return the part that computes `heads`, and nothing else, in the same order."""
        kept = sorted(self.needed(heads))
        places = {old: new for new, old in enumerate(kept)}

        def moved(outputs: Iterable[Output]) -> tuple[Output, ...]:
            return tuple(replace(output, node=places[output.node]) for output in outputs)

        nodes = (replace(self.nodes[at], inputs=moved(self.nodes[at].inputs)) for at in kept)
        return replace(self, nodes=tuple(nodes), heads=moved(heads))

    def behind(self, output: Output, name: str) -> Graph:
        """Return the part that computes the heads from `output`, which is its input `name`.

        Other outputs of the same node are not to be needed for that.
        """
        nodes = list(self.nodes)
        nodes[output.node] = Node(VARIABLE, name)
        return replace(self, nodes=tuple(nodes)).prefix(*self.heads)


def _graph(data: Any, deepest: int) -> Graph:
    """Return the graph that JSON describes; of other JSON it raises what reading it raises."""
    if not deepest:
        raise ValueError("graphs within graphs without end")
    nodes, heads = data["nodes"], data["heads"]
    if not isinstance(nodes, list) or not isinstance(heads, list) or not heads:
        raise ValueError("no nodes or no heads")
    return Graph(
        tuple(_node(node, at, deepest) for at, node in enumerate(nodes)),
        tuple(_output(entry, len(nodes), "the output") for entry in heads),
        dict(data.get("attrs", {})),
    )


def _node(data: Any, at: int, deepest: int) -> Node:
    op, name, inputs = data["op"], data["name"], data["inputs"]
    if not isinstance(op, str) or not isinstance(name, str):
        raise ValueError(f"node {at} has no name")
    if op == VARIABLE and inputs:
        raise ValueError(f"node {at} is a variable with inputs")
    attrs: dict[str, str] = {}
    for place in ("param", "attr", "attrs"):  # by the version of MXNet that wrote it
        for key, text in data.get(place, {}).items():
            if not isinstance(text, str):
                raise ValueError(f"node {at} has attributes that are no texts")
            if _OF_TRAINING.fullmatch(key):
                continue
            if attrs.setdefault(key, text) != text:
                raise ValueError(f"{name!r} ({op}): {key} is given twice")
    return Node(
        op,
        name,
        tuple(_output(entry, at, f"node {at}") for entry in inputs),
        attrs,
        tuple(_graph(inner, deepest - 1) for inner in data.get("subgraphs", [])),
    )


def _output(entry: Any, end: int, who: str) -> Output:
    """Return what a node, or the graph, refers to: an output of a node before `end`."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        raise ValueError(f"{who} refers to {entry!r}, not [node, result, version]")
    if not _is_index(entry[0], end):
        raise ValueError(f"{who} refers to node {entry[0]!r}, which is not before it")
    for what, number in zip(("result", "version"), entry[1:], strict=False):
        if not _is_index(number, 1 << 31):
            raise ValueError(f"{who} refers to {what} {number!r} of node {entry[0]}")
    return Output(*entry)


def _is_index(number: Any, end: int) -> bool:
    return type(number) is int and 0 <= number < end


def _data(graph: Graph) -> dict[str, Any]:
    """Return the JSON of a graph, with everything that MXNet asks for."""

    def entries(outputs: tuple[Output, ...]) -> list[list[int]]:
        return [[output.node, output.index, output.version] for output in outputs]

    nodes: list[dict[str, Any]] = []
    for node in graph.nodes:
        nodes.append({"op": node.op, "name": node.name, "attrs": node.attrs})
        nodes[-1]["inputs"] = entries(node.inputs)
        if node.subgraphs:
            nodes[-1]["subgraphs"] = [_data(inner) for inner in node.subgraphs]
    data = {"nodes": nodes, "arg_nodes": graph.variables, "heads": entries(graph.heads)}
    return {**data, "attrs": graph.attrs} if graph.attrs else data
