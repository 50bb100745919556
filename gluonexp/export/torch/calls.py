"""A network as calls of PyTorch's functions, in their order: recorded while it is lowered and run.

What depends on the number of images is found by running it twice, for two images and for three.
Their values do not matter: all are 0. (Tensors without values would do, but the first of them has
PyTorch load its compiler, which takes seconds.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.engines.torch import library
from gluonexp.engines.torch.lowering import Lowered, lower
from gluonexp.graph.graph import Graph
from gluonexp.model_folder.network import Network

FUNCTIONAL: Final = "torch.nn.functional."
BATCH_NORM: Final = f"{FUNCTIONAL}batch_norm"
_DROPOUT: Final = f"{FUNCTIONAL}dropout"

_MOMENTUM: Final = 0.9  # MXNet's default

_DEPENDS: Final = "what it computes depends on the number of images"
FIXED_STATISTICS: Final = (
    "Some BatchNorm layers were trained with fixed statistics: eval() of such a layer fixes them."
)


class Untold(Exception):
    """It is not known how PyTorch computes something, or how that is written; the reason."""


@dataclass(frozen=True)
class Value:
    """What a call gave, or one item of that; number 0 is the network's input."""

    number: int
    item: int | None = None


@dataclass(frozen=True)
class Variable:
    """A parameter or a running statistic, by its name in the graph."""

    name: str


@dataclass(frozen=True)
class Images:
    """So many times the number of images."""

    times: int


@dataclass(frozen=True)
class Word:
    """What is known only where the network runs."""

    name: str


_RECURRENT: Final = ("torch.lstm", "torch.gru", "torch.rnn_tanh", "torch.rnn_relu")
TRAINING: Final = Word("training")
DEVICE: Final = Word("device")


@dataclass(frozen=True)
class Constant:
    """A tensor of these numbers, in tuples."""

    values: Any


Argument: TypeAlias = Any
"""One of the above, or a constant of Python's; tuples and slices of them."""


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes
    ----------
    function
        Its full name, ``torch.nn.functional.relu``; ``torch.Tensor.T.__get__`` is an attribute.
        `BATCH_NORM` takes the data, mean, variance, gamma or None, and beta; by name ``eps`` and
        PyTorch's ``momentum``, and the ``rank`` of the data.
    made
        The number of its value.
    """

    function: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    made: int

    @property
    def arguments(self) -> Iterator[Argument]:
        """Its arguments, those inside tuples and slices too."""
        waiting = [*self.kwargs.values(), *reversed(self.args)]
        while waiting:
            each = waiting.pop()
            if isinstance(each, tuple):
                waiting += reversed(each)
            elif isinstance(each, slice):
                waiting += [each.step, each.stop, each.start]
            else:
                yield each


@dataclass(frozen=True)
class Calls:
    """What a network computes.

    Attributes
    ----------
    output
        The logits.
    notes
        Sentences on what is otherwise in training than it was in MXNet.
    """

    calls: tuple[Call, ...]
    output: Value
    notes: tuple[str, ...]


def recorded(network: Network, image: tuple[int, ...]) -> Calls:
    """Return what a network computes of images of this shape (C, H, W), in either mode.

    Raises
    ------
    Untold
        PyTorch cannot compute an operator, or it is not known how that is written.
    """
    graph = Graph.from_symbol(network.symbol)
    (entry,) = {*network.symbol.list_inputs()} - network.values.keys()
    values = {name: torch.zeros(value.shape) for name, value in network.values.items()}
    keys = {name: f"variable{number}" for number, name in enumerate(values)}
    try:
        module = lower(graph, values, {entry: (1, *image)}, keys).train()
    except GluonexpError as error:
        raise Untold(library.why(error)) from None
    names = {key: Variable(name) for name, key in keys.items()}
    known = [(t, names.get(key) or Constant(_tuples(t.tolist()))) for key, t in _held(module)]
    two, three = (
        _Recording(module, known, _momenta(graph), (number, *image)).found for number in (2, 3)
    )
    if len(two.calls) != len(three.calls) or two.output != three.output:
        raise Untold(_DEPENDS)
    merged = tuple(_merged(*pair) for pair in zip(two.calls, three.calls, strict=True))
    return replace(two, calls=_needed(merged, two.output))


class _Recording(TorchFunctionMode):
    """Records what is called while a module runs, in training mode.

    Parameters
    ----------
    known
        Its tensors, and what they are.
    momenta
        Of its BatchNorm layers, by the name of the moving mean.

    Attributes
    ----------
    found
        What it computes, for this number of images.
    """

    def __init__(
        self,
        module: Lowered,
        known: Iterable[tuple[torch.Tensor, Argument]],
        momenta: Mapping[str, float],
        shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self._momenta = momenta
        self._calls: list[Call] = []
        self._notes: dict[str, None] = {}  # in their order
        self._alive: list[torch.Tensor] = []  # or another tensor might get the same id
        self._known: dict[int, Argument] = {}
        given = torch.zeros(shape)
        for tensor, what in (*known, (given, Value(0))):
            self._note(tensor, what)
        try:
            with torch.no_grad(), self:
                made = module(given)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise Untold(reason(error)) from error
        self.found = Calls(tuple(self._calls), self._told(made), tuple(self._notes))

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function, and note it if it gives tensors."""
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        several = isinstance(made, tuple | list)
        tensors = made if several else (made,)
        if not tensors or not all(isinstance(each, torch.Tensor) for each in tensors):
            return made
        if (name := resolve_name(function)) is None:
            raise Untold(f"{function} has no name")
        if several or id(made) not in self._known:  # some give what they are given
            told = tuple(map(self._told, args))
            if name == "torch.Tensor.view_as" and told[0] == told[1]:
                self._note(made, self._learnt(told[0]))
                return made
            named = {key: self._told(value) for key, value in kwargs.items()}
            self._call(name, told, named, args)
            for item, each in enumerate(tensors):
                self._note(each, Value(len(self._calls), item if several else None))
        return made

    def _call(
        self, name: str, told: tuple[Argument, ...], named: dict[str, Argument], args: Any
    ) -> None:
        if name == "torch.batch_norm":  # by the batch, whose statistics go to buffers for a while
            data, gamma, beta, *buffers, _, _, eps, _ = told
            mean, variance = (self._calls[each.number - 1].args[0] for each in buffers)
        elif name == BATCH_NORM:
            data, mean, variance = told
            gamma, beta, eps = (named[key] for key in ("weight", "bias", "eps"))
            self._notes[FIXED_STATISTICS] = None
        else:
            if name == _DROPOUT:
                named["training"] = TRAINING
            if name in _RECURRENT:  # its dropout is between layers, in training
                told = (*told[:6], TRAINING, *told[7:])
            self._calls.append(Call(name, told, named, len(self._calls) + 1))
            return
        if not isinstance(mean, Variable):
            raise Untold("a BatchNorm layer computes its statistics")
        options = {"eps": eps, "momentum": 1 - self._momenta[mean.name], "rank": args[0].dim()}
        told = data, mean, variance, gamma, beta
        self._calls.append(Call(BATCH_NORM, told, options, len(self._calls) + 1))

    def _learnt(self, value: Argument) -> Argument:
        """Return what the engine gave a gradient of MXNet's, where PyTorch has one of its own."""
        call = self._calls[value.number - 1] if isinstance(value, Value) and value.number else None
        return call.args[0] if call and call.function == "torch.Tensor.detach" else value

    def _note(self, tensor: torch.Tensor, known: Argument) -> None:
        self._known[id(tensor)] = known
        self._alive.append(tensor)

    def _told(self, value: Any) -> Argument:
        """Return an argument without tensors."""
        match value:
            case torch.Tensor():
                if (known := self._known.get(id(value))) is None:
                    raise Untold("it computes in a way that is not one of PyTorch's functions")
                return known
            case tuple() | list():
                return tuple(map(self._told, value))
            case slice():
                return slice(*map(self._told, (value.start, value.stop, value.step)))
            case torch.device():
                return DEVICE
        return value


def _held(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _tuples(values: Any) -> Any:
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


def _momenta(graph: Graph) -> dict[str, float]:
    """Return the momentum, as MXNet counts it, by the name of the moving mean."""
    return {
        graph.nodes[node.inputs[3].node].name: float(node.attrs.get("momentum", _MOMENTUM))
        for node in graph.nodes
        if "BatchNorm" in node.op and len(node.inputs) > 3
    }


def _merged(two: Any, three: Any) -> Any:
    """Return an argument, or a call, of which two and three images make these."""
    match two, three:
        case Call(), Call() if two.function == three.function and [*two.kwargs] == [*three.kwargs]:
            kwargs = {key: _merged(two.kwargs[key], three.kwargs[key]) for key in two.kwargs}
            return replace(two, args=_merged(two.args, three.args), kwargs=kwargs)
        case tuple(), tuple() if len(two) == len(three):
            return tuple(_merged(*pair) for pair in zip(two, three, strict=True))
        case slice(), slice():
            parts = zip(_parts(two), _parts(three), strict=True)
            return slice(*(_merged(*pair) for pair in parts))
        case int(), int() if two != three and two % 2 == 0 and two // 2 * 3 == three:
            return Images(two // 2)
    if two != three:
        raise Untold(_DEPENDS)
    return two


def _parts(index: slice) -> tuple[Argument, ...]:
    return index.start, index.stop, index.step


def _needed(calls: Iterable[Call], output: Value) -> tuple[Call, ...]:
    """Leave out the calls whose values nothing needs."""
    needed, kept = {output.number}, []
    for call in reversed([*calls]):
        if call.made in needed:
            kept.append(call)
            needed |= {each.number for each in call.arguments if isinstance(each, Value)}
    return tuple(reversed(kept))
