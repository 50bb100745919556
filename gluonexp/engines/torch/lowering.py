"""A graph as a PyTorch module: each operator once, in the graph's order, on the values given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import mx
from gluonexp.engines.torch.layer import Function, Layer, Refused, Run, Shape
from gluonexp.engines.torch.operators import lowered
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph


class _Step(NamedTuple):
    """One operator: what it takes is named by place and, where several are made, by index."""

    place: int
    function: Function
    moded: bool
    inputs: tuple[tuple[int, int | None], ...]
    done: tuple[int, ...]  # what nothing takes afterwards


class Lowered(torch.nn.Module, Run):
    """A network, or a part of one, of PyTorch's operators; made by `lower`.

    ``train()`` and ``eval()`` decide what dropout and BatchNorm do, as MXNet's modes do.

    Attributes
    ----------
    drop
        False: dropout passes everything on, also in training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop = True
        self.moves = []
        self.register_buffer("_floating", torch.zeros(()), persistent=False)
        self._entries: list[int] = []
        self._held: list[tuple[int, torch.nn.Module, str]] = []
        self._steps: list[_Step] = []
        self._head: tuple[int, int | None] = (0, None)

    @property
    def floating(self) -> torch.dtype:
        """The type that it computes in where MXNet says float32."""
        return self.get_buffer("_floating").dtype

    def forward(self, data: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """Return the first head; inputs in the order in which `lower` was given them."""
        made: dict[int, Any] = {}  # a tensor, or several
        for place, owner, key in self._held:
            made[place] = getattr(owner, key)
        for number, place in enumerate(self._entries):
            made[place] = others[number - 1] if number else data
        for place, function, moded, inputs, done in self._steps:
            taken = [made[at] if index is None else made[at][index] for at, index in inputs]
            made[place] = function(self, *taken) if moded else function(*taken)
            for at in done:
                del made[at]
        at, index = self._head
        head: torch.Tensor = made[at] if index is None else made[at][index]
        return head

    def settle(self) -> None:
        """Move BatchNorm's statistics after backward, of the layers that a gradient reached."""
        with torch.no_grad():
            for statistic, found, factor, momentum in reversed(self.moves):
                statistic.mul_(momentum).add_(found, alpha=(1 - momentum) * factor)
        self.moves.clear()


def lower(
    graph: Graph,
    values: Mapping[str, torch.Tensor],
    entries: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str] | None = None,
) -> Lowered:
    """Return the graph as a module.

    Parameters
    ----------
    graph
        Of `symbols.traced`, of a loss, or of what lies behind an output.
    values
        Parameters and statistics by the graph's names; the module has these tensors, no copies.
        What is no `torch.nn.Parameter` and no statistic becomes one of the same memory, with a
        gradient where the tensor has one.
    entries
        The inputs' shapes by name, for any number of images, in the order `forward` takes them.
    names
        The key in `state_dict` of each value; its own name if there is none.

    Raises
    ------
    GluonexpError
        A node cannot be lowered; it is named.
    """
    shapes = _shapes(graph, values, entries)
    module, names = Lowered(), names or {}
    needed = graph.needed(graph.heads[:1])
    statistics = {
        node.inputs[number].node
        for node in graph.nodes
        if node.op.startswith("BatchNorm")
        for number in (3, 4)
    }
    places: dict[str, int] = {}
    several: set[int] = set()
    constants = len(graph.nodes)
    for at, node in enumerate(graph.nodes):
        if at not in needed:
            continue
        if node.op == VARIABLE:
            if node.name in entries:
                places[node.name] = at
            elif node.name in values:
                key = names.get(node.name, node.name)
                _register(module, at, key, values[node.name], at in statistics)
            else:
                raise GluonexpError(f"engine=torch: {node.name} has no value; take engine=mxnet")
            continue
        given = [shapes[source.node][source.index] for source in node.inputs]
        layer = Layer(node.op, node.attrs, given, shapes[at])
        try:
            if node.subgraphs:
                raise Refused("it has a graph inside")
            function = lowered(layer)
        except (Refused, ValueError, IndexError, TypeError) as error:
            raise GluonexpError(
                f"engine=torch: layer {node.name} ({node.op}) cannot be computed by PyTorch: "
                f"{reason(error)}; take engine=mxnet"
            ) from error
        if len(shapes[at]) > 1:
            several.add(at)
        inputs = [(s.node, s.index if s.node in several else None) for s in node.inputs]
        for constant in layer.held:
            key = f"_constant{constants - len(graph.nodes)}"
            module.register_buffer(key, constant, persistent=False)
            module._held.append((constants, module, key))
            inputs.append((constants, None))
            constants += 1
        module._steps.append(_Step(at, function, layer.moded, tuple(inputs), ()))
    module._entries = [places.get(name, -1 - number) for number, name in enumerate(entries)]
    (head, *_) = graph.heads
    module._head = head.node, head.index if head.node in several else None
    module._steps = _freed(module._steps, head.node)
    return module


def _register(module: Lowered, place: int, key: str, value: torch.Tensor, statistic: bool) -> None:
    """Put a value into the module under a key with dots, in modules for each part of it."""
    *path, last = key.split(".")
    owner: torch.nn.Module = module
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, torch.nn.Module())
        owner = owner.get_submodule(part)
    if statistic:
        owner.register_buffer(last, value)
    else:
        if not isinstance(value, torch.nn.Parameter):
            value = torch.nn.Parameter(value, value.requires_grad)
        owner.register_parameter(last, value)
    module._held.append((place, owner, last))


def _freed(steps: Sequence[_Step], head: int) -> list[_Step]:
    """Return the steps such that each forgets what it is the last to take."""
    made, seen, freed = {step.place for step in steps}, {head}, []
    for step in reversed(steps):
        taken = dict.fromkeys(at for at, _ in step.inputs if at in made)
        done = tuple(at for at in taken if at not in seen)
        seen.update(done)
        freed.append(step._replace(done=done))
    return freed[::-1]


def _shapes(
    graph: Graph, values: Mapping[str, torch.Tensor], entries: Mapping[str, tuple[int, ...]]
) -> list[list[Shape]]:
    """Infer what every node gives; None is a dimension that depends on the number of images."""
    known = {name: tuple(value.shape) for name, value in values.items()}
    found = []
    try:
        symbol = symbols.to_symbol(graph)
        for images in (2, 3):
            batch = {name: (images, *shape[1:]) for name, shape in entries.items()}
            found.append(symbols.shapes(symbol, {**known, **batch}))
    except mx.MXNetError as error:
        raise GluonexpError(
            f"engine=torch: the network does not take every number of images: {reason(error)}; "
            "take engine=mxnet"
        ) from error
    return [
        [
            tuple(a if a == b else None for a, b in zip(*sizes, strict=True))
            for sizes in zip(two, three, strict=True)
        ]
        for two, three in zip(*found, strict=True)
    ]
