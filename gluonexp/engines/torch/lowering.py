"""A graph as a PyTorch module: each operator once, in the graph's order, on the values given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import mx
from gluonexp.engines.torch.layer import Function, Refused, Run, Shape, bind
from gluonexp.engines.torch.operators import OPERATORS
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph


class _Step(NamedTuple):
    """One operator: what it takes is named by place and, where several are made, by index."""

    place: int
    function: Function
    asks: bool  # for the run
    inputs: Sequence[tuple[int, int | None]]
    done: Sequence[int] = ()  # what nothing takes afterwards


class Lowered(torch.nn.Module, Run):
    """A network, or a part of one, of PyTorch's operators; made by `lower`.

    ``train()`` and ``eval()`` decide what dropout and BatchNorm do, as MXNet's modes do.

    Attributes
    ----------
    drop
        False: dropout passes everything on, also in training.
    """

    anchor: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.moves = True, []
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        self._entries: list[int] = []
        self._held: list[tuple[int, torch.nn.Module, str]] = []
        self._steps: list[_Step] = []
        self._head: tuple[int, int | None] = (0, None)

    def forward(self, data: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """Return the first head; inputs in the order in which `lower` was given them."""
        made: dict[int, Any] = {}  # a tensor, or several
        for place, owner, key in self._held:
            made[place] = getattr(owner, key)
        for number, place in enumerate(self._entries):
            made[place] = others[number - 1] if number else data
        for place, function, asks, inputs, done in self._steps:
            taken = [made[at] if index is None else made[at][index] for at, index in inputs]
            made[place] = function(*taken, run=self) if asks else function(*taken)
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

    def hold(self, place: int, key: str, value: torch.Tensor, parameter: bool = False) -> None:
        """Keep a value under a key with dots, in modules for each part of it."""
        *path, last = key.split(".")
        owner: torch.nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        if not parameter:
            owner.register_buffer(last, value, persistent=place >= 0)
        elif isinstance(value, torch.nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_parameter(last, torch.nn.Parameter(value, value.requires_grad))
        self._held.append((place, owner, last))


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
    shapes, sizes = _shapes(graph, values, entries)
    module, names, places = Lowered(), names or {}, dict.fromkeys(entries, -1)
    needed, several = graph.needed(graph.heads[:1]), set()
    statistics = {
        source.node for node in graph.nodes if "BatchNorm" in node.op for source in node.inputs[3:]
    }
    for at in sorted(needed):
        node = graph.nodes[at]
        if node.op == VARIABLE and node.name in entries:
            places[node.name] = at
        elif node.op == VARIABLE:
            if node.name not in values:
                raise GluonexpError(f"engine=torch: {node.name} has no value; take engine=mxnet")
            key = names.get(node.name, node.name)
            module.hold(at, key, values[node.name], at not in statistics)
        else:
            try:
                given = [shapes[source.node][source.index] for source in node.inputs]
                if node.op not in OPERATORS or node.subgraphs:
                    raise Refused("the operator is not in the engine's table")
                entry = OPERATORS[node.op]
                function, heeded = entry if isinstance(entry, tuple) else (entry, "")
                function, asks, held = bind(function, heeded, node.attrs, given, shapes[at])
                if asks or {"given", "made"} & getattr(function, "keywords", {}).keys():
                    inputs = [torch.zeros(sizes[s.node][s.index]) for s in node.inputs]
                    _try(function, [*inputs, *held], asks)
            except (Refused, RuntimeError, ValueError, LookupError, TypeError) as error:
                raise GluonexpError(
                    f"engine=torch: layer {node.name} ({node.op}) cannot be computed by PyTorch: "
                    f"{reason(error)}; take engine=mxnet"
                ) from error
            if len(shapes[at]) > 1:
                several.add(at)
            taken = [(s.node, s.index if s.node in several else None) for s in node.inputs]
            for number, constant in enumerate(held):
                place = -2 - len(module._held)
                module.hold(place, f"constant{at}_{number}", constant)
                taken.append((place, None))
            module._steps.append(_Step(at, function, asks, taken))
    module._entries = [*places.values()]
    head = graph.heads[0]
    module._head = head.node, head.index if head.node in several else None
    module._steps = _freed(module._steps, head.node)
    return module


def _try(function: Function, inputs: Sequence[torch.Tensor], asks: bool) -> None:
    """Compute an operator once, for what it refuses; nothing is drawn, and no statistic moves."""
    run = Run()
    run.training, run.drop, run.moves, run.anchor = True, False, [], torch.zeros(())
    with torch.no_grad():
        function(*inputs, run=run) if asks else function(*inputs)


def _freed(steps: Sequence[_Step], head: int) -> list[_Step]:
    """Return the steps such that each forgets what it is the last to take."""
    made, seen, freed = {step.place for step in steps}, {head}, []
    for step in reversed(steps):
        done = {at for at, _ in step.inputs if at in made} - seen
        seen |= done
        freed.append(step._replace(done=(*done,)))
    return freed[::-1]


def _shapes(
    graph: Graph, values: Mapping[str, torch.Tensor], entries: Mapping[str, tuple[int, ...]]
) -> tuple[list[list[Shape]], list[list[tuple[int, ...]]]]:
    """Infer what every node gives, for any number of images (None), and for two."""
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
    free = [
        [
            tuple(a if a == b else None for a, b in zip(*sizes, strict=True))
            for sizes in zip(two, three, strict=True)
        ]
        for two, three in zip(*found, strict=True)
    ]
    return free, found[0]
