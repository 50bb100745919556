"""The frozen front of a network: where in its graph nothing has learned, and nothing is drawn yet.

What comes out there for an image is the same in every epoch, and in every run that freezes the
same: it need be computed only once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gluonexp.graph.graph import VARIABLE, Graph, Node, Output

INPUT: Final = "data"

_RANDOM: Final = ("_random_", "_sample_", "_image_random_", "_shuffle", "_contrib_dgl_")

# Of NumPy's operators some do; what a user's own does is not known.
_UNKNOWN: Final = ("_npi_", "Custom")

# What belongs to the layer before it, and is not counted as one.
_ACTIVATIONS: Final = ("Activation", "LeakyReLU", "relu", "sigmoid", "tanh", "clip")


@dataclass(frozen=True)
class Front:
    """The longest frozen, deterministic front of a network that ends in a single output.

    Attributes
    ----------
    end
        Its output, in the graph of the whole network.
    shape
        Of that for one image.
    layers, of
        How many operators it has, activations not counted, and how many the network.
    work
        Its share of the network's multiply-accumulates for one image (forward).
    stop
        What comes next and is not frozen, as a sentence.
    """

    end: Output
    shape: tuple[int, ...]
    layers: int
    of: int
    work: float
    stop: str = field(compare=False)  # two fronts that end alike are one

    def sentence(self) -> str:
        """Say how much it is."""
        share = f"{self.work:.0%}" if self.work <= 0.99 else "over 99%"
        return f"{self.layers} of {self.of} layers, {share} of the arithmetic"


def find(
    graph: Graph,
    frozen: Collection[str],
    macs: Sequence[int],
    shapes: Sequence[tuple[int, ...] | None],
    names: Mapping[str, str],
) -> Front | str:
    """Return the frozen front of a network, or why there is none, as a sentence.

    Parameters
    ----------
    graph
        From ``data``, the preprocessed images, to the logits.
    frozen
        Parameters and statistics that do not change, by their names in the graph.
    macs
        Multiply-accumulates of each node.
    shapes
        Of what each node gives for an image; None where that is not by image.
    names
        What people call the parameters, by their names in the graph.
    """
    stops = _stops(graph, frozen, names)
    stop = next((why for at, why in enumerate(stops) if why and _leads(graph, stops, at)), "")
    ends = [
        at
        for at in _bottlenecks(graph)
        if stops[at] is None and graph.nodes[at].op != VARIABLE and shapes[at] is not None
    ]
    if not ends:
        return stop or "no single layer leads from its front to the rest"
    inside = graph.needed([Output(ends[-1])])
    total = sum(macs)
    return Front(
        end=Output(ends[-1]),
        shape=shapes[ends[-1]] or (),
        layers=_layers(graph.nodes[at] for at in inside),
        of=_layers(graph.nodes),
        work=sum(macs[at] for at in inside) / max(1, total),
        stop=stop,
    )


def _stops(graph: Graph, frozen: Collection[str], names: Mapping[str, str]) -> list[str | None]:
    """Say for each node why its value may differ between two epochs; None: it does not.

    What only gets its data from such a node has the empty sentence.
    """
    stops: list[str | None] = []
    of_image: set[int] = set()
    for at, node in enumerate(graph.nodes):
        if node.name == INPUT or any(source.node in of_image for source in node.inputs):
            of_image.add(at)
        if node.op == VARIABLE:
            still = node.name == INPUT or node.name in frozen
            stops.append(None if still else f"{names.get(node.name, node.name)} learns")
            continue
        data, *others = [stops[source.node] for source in node.inputs] or [None]
        if _is_random(node):
            stops.append(f"{node.name} ({node.op}) draws at random")
        elif _may_vary(node):
            stops.append(f"{node.name} ({node.op}) may give something else each time")
        elif data is None and "BatchNorm" in node.op and None not in others[2:]:
            mean = graph.nodes[node.inputs[3].node].name  # data, gamma, beta, mean, variance
            layer = names.get(mean, node.name).removesuffix(".running_mean")
            stops.append(f"{layer} normalizes by each batch")
        elif moved := [why for why in (data, *others) if why is not None]:
            stops.append(max(moved) if data is None or at not in of_image else "")
        else:
            stops.append(None)
    return stops


def _leads(graph: Graph, stops: Sequence[str | None], at: int) -> bool:
    """Whether a node is an operator whose data are frozen, though it is not."""
    node = graph.nodes[at]
    return node.op != VARIABLE and all(
        stops[source.node] is None
        for source in node.inputs
        if graph.nodes[source.node].op != VARIABLE
    )


def _is_random(node: Node) -> bool:
    attrs = node.attrs
    if node.op == "Dropout":
        return float(attrs.get("p", 0.5)) > 0
    if node.op == "RNN":
        return float(attrs.get("p", 0)) > 0
    if node.op == "LeakyReLU":
        return attrs.get("act_type") == "rrelu"
    inside = (inner for graph in node.subgraphs for inner in graph.nodes)
    return node.op.startswith(_RANDOM) or any(_is_random(inner) for inner in inside)


def _may_vary(node: Node) -> bool:
    """Whether nobody can tell that an operator gives the same each time."""
    inside = (inner for graph in node.subgraphs for inner in graph.nodes)
    return node.op.startswith(_UNKNOWN) or any(
        "BatchNorm" in inner.op or _may_vary(inner) for inner in inside
    )


def _bottlenecks(graph: Graph) -> list[int]:
    """Return the nodes through whose first output alone everything passes from input to head."""
    needed = graph.needed(graph.heads)
    depends = {at for at, node in enumerate(graph.nodes) if node.name == INPUT and not node.inputs}
    last: dict[Output, int] = {}  # the last node that takes each output which depends on the input
    for at, node in enumerate(graph.nodes):
        sources = [source for source in node.inputs if source.node in depends]
        if at not in needed or not sources:
            continue
        depends.add(at)
        last |= dict.fromkeys(sources, at)
    last |= dict.fromkeys(graph.heads, len(graph.nodes))
    found = []
    for at in sorted(depends):
        # Each stands after its inputs, so what passes it by is made before and taken after.
        passing = {output for output, end in last.items() if output.node <= at < end}
        if passing == {Output(at)}:
            found.append(at)
    return found


def _layers(nodes: Iterator[Node] | Sequence[Node]) -> int:
    return sum(node.op != VARIABLE and node.op not in _ACTIVATIONS for node in nodes)
