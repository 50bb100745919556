"""Dense layers trained on a CPU as fast as its memory: what often lies behind a frozen front.

The arrays are those of the Gluon parameters, and of their trainer's optimizer: whatever else looks
at them, or goes on with them, sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import autograd, gluon, mx, nd, threads
from gluonexp.engines.mxnet import blas, rules
from gluonexp.engines.mxnet.blas import Floats, Team, gemm
from gluonexp.engines.mxnet.memory import Memory
from gluonexp.graph.graph import VARIABLE, Graph, Node

_ROWS: Final = 512  # of a weight, that a thread computes with at once
_TRUE: Final = ("True", "1")


@dataclass(frozen=True)
class Dense:
    """A product with a weight (units, inputs), and a bias (units,) or none, by their names."""

    weight: str
    bias: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Their names."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class Relu:
    """Zero in place of what is below."""


@dataclass(frozen=True)
class Dropout:
    """Zero with probability `rate`, and larger otherwise so that the mean stays: in training."""

    rate: float


Layer: TypeAlias = Dense | Relu | Dropout


def read(graph: Graph, name: str) -> tuple[Layer, ...] | None:
    """Return the layers that lead from the input `name` to the logits (N, K), in their order.

    None where they are others than Dense, ReLU and Dropout, or no chain, or share a parameter.
    """
    chain: list[Node] = []
    at = graph.heads[0]
    while (node := graph.nodes[at.node]).inputs and not at.index:
        chain.append(node)
        at = node.inputs[0]
    if node.op != VARIABLE or node.name != name or len(graph.heads) > 1:
        return None
    layers: list[Layer] = []
    flat = False  # whether what the next layer gets is (N, inputs), whatever the features were
    for node in reversed(chain):
        variables = [graph.nodes[source.node] for source in node.inputs[1:]]
        names = [variable.name for variable in variables if variable.op == VARIABLE]
        attrs = node.attrs
        match node.op:
            case "FullyConnected" if flat or attrs.get("flatten", "True") in _TRUE:
                layers.append(Dense(names[0], names[1] if names[1:] else None))
                flat = True
            case "relu":
                layers.append(Relu())
            case "Activation" if attrs["act_type"] == "relu":
                layers.append(Relu())
            case "Dropout" if attrs.get("mode", "training") == "training" and (
                attrs.get("axes", "()") in ("()", "[]")
            ):
                layers.append(Dropout(float(attrs.get("p", "0.5"))))
            case "Flatten":
                flat = True
            case "Reshape" if attrs.get("shape", "").replace(" ", "") in ("(0,-1)", "[0,-1]"):
                flat = True
            case "_copy":
                pass
            case _:
                return None
        if len(names) < len(variables):
            return None
    used = [name, *_parameters(layers)]
    return tuple(layers) if flat and len(used) == len({*used}) else None


def dense_rest(
    graph: Graph,
    name: str,
    trainer: gluon.Trainer,
) -> DenseRest | None:
    """Return what trains such a graph of the input `name`; None: MXNet has to."""
    layers = read(graph, name)
    if layers is None or rules.rule(trainer._optimizer) is None or not blas.usable():
        return None
    for each in (trainer._params[trainer._param2idx[n]] for n in _parameters(layers)):
        here = each.list_ctx() == [mx.cpu()] and each.grad_req in ("write", "null")
        if not here or each.dtype not in (np.float32, "float32"):
            return None
    return DenseRest(layers, trainer, threads())


def _parameters(layers: Iterable[Layer]) -> list[str]:
    dense = (layer for layer in layers if isinstance(layer, Dense))
    return [name for layer in dense for name in layer.parameters]


class DenseRest:
    """Implements `Computation` for a chain of layers, in the memory of its Gluon parameters.

    The same numbers come out of any number of threads.

    Parameters
    ----------
    layers
        As `read` gives them.
    trainer
        Has their parameters, float32 on the CPU, and the optimizer.
    workers
        How many threads compute.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        trainer: gluon.Trainer,
        workers: int,
    ) -> None:
        self.layers, self.trainer = layers, trainer
        indices = trainer._param2idx
        self._index = {name: indices[name] for name in _parameters(layers)}
        self._parameters = {n: trainer._params[index] for n, index in self._index.items()}
        rule = rules.rule(trainer._optimizer)
        if rule is None:
            raise ValueError(f"{type(trainer._optimizer).__name__}: there is no rule for it")
        self._rule: rules.Rule = rule
        self._team, self._memory = Team(workers), Memory()
        sizes = [_ROWS * parameter.shape[-1] for parameter in self._parameters.values()]
        self._spare = np.empty((workers, 2, max(sizes)), np.float32)
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Let dropout from here on depend on this number alone."""
        self._random = np.random.default_rng(seed)

    def put(self, features: NDArray[Any]) -> Floats:
        """Return features (N, ...) as vectors (N, inputs)."""
        return np.ascontiguousarray(features, np.float32).reshape(len(features), -1)

    def logits(self, inputs: Floats) -> nd.NDArray:
        """Return the logits (N, K) of vectors (N, inputs) in prediction mode (device sync)."""
        self._attach()
        with self._team.alone():
            *_, (logits, _) = self._forward(inputs, training=False)
        return nd.array(logits.T, dtype="float32")

    def step(
        self,
        inputs: Floats,
        loss: Callable[[nd.NDArray], nd.NDArray],
    ) -> tuple[nd.NDArray, nd.NDArray, None]:
        """Move the parameters once, at the trainer's learning rate (device sync)."""
        trainer = self.trainer
        trainer._check_and_rescale_grad(trainer._scale / len(inputs))
        self._attach()
        with self._team.alone():
            outputs = self._forward(inputs, training=True)
            logits = nd.array(outputs[-1][0].T, dtype="float32")
            logits.attach_grad()
            with autograd.record():
                losses = loss(logits)
            losses.backward()
            self._backward(outputs, np.ascontiguousarray(logits.grad.asnumpy().T))
        return losses, logits, None

    def _attach(self) -> None:
        """Find the parameters' memory: MXNet lays weights out anew when it predicts."""
        nd.waitall()  # device sync
        self._values = {name: self._memory.view(p.data()) for name, p in self._parameters.items()}

    def _forward(self, inputs: Floats, *, training: bool) -> list[tuple[Floats, Floats | None]]:
        """Return the inputs and what each layer makes of them (units, N), and dropout's masks.

        What a Dense layer has made, the next layers change in place.
        """
        given, place, mask = inputs.T, None, None
        outputs: list[tuple[Floats, Floats | None]] = [(given, mask)]
        for layer in self.layers:
            mask = None
            match layer:
                case Dense():
                    given = place = self._product(layer, given)
                case Relu():
                    given = place = np.maximum(given, 0, out=place)
                case Dropout(rate) if training and rate:
                    kept = self._random.random(given.shape, np.float32) >= rate
                    mask = kept * np.float32(1 / (1 - rate))
                    given = place = np.multiply(given, mask, out=place)
            outputs.append((given, mask))
        return outputs

    def _product(self, layer: Dense, given: Floats) -> Floats:
        weight = self._values[layer.weight]
        bias = None if layer.bias is None else self._values[layer.bias][:, None]
        made = np.empty((len(weight), given.shape[1]), np.float32)

        def part(rows: slice, _: int) -> None:
            gemm(made[rows], weight[rows], given)
            if bias is not None:
                made[rows] += bias[rows]

        self._team.each(part, _slices(len(weight), _ROWS))
        return made

    def _backward(
        self,
        outputs: list[tuple[Floats, Floats | None]],
        slope: Floats,
    ) -> None:
        """Move each parameter that learns.

        Parameters
        ----------
        slope
            Of the sum of losses, at the logits: (K, N).
        """
        learns = [
            [name for name in layer.parameters if self._parameters[name].grad_req != "null"]
            if isinstance(layer, Dense)
            else []
            for layer in self.layers
        ]
        lowest = len([*takewhile(lambda names: not names, learns)])
        for number in reversed(range(lowest, len(self.layers))):
            layer, (made, mask) = self.layers[number], outputs[number + 1]
            if isinstance(layer, Dense):
                # Before the weight moves.
                below = self._below(layer, slope) if number > lowest else slope
                for name in learns[number]:
                    self._update(name, outputs[number][0], slope)
                slope = below
            elif mask is not None:
                slope *= mask
            elif isinstance(layer, Relu):
                slope *= made > 0

    def _below(self, layer: Dense, slope: Floats) -> Floats:
        """Return the slope at the layer's inputs."""
        weight = self._values[layer.weight]
        below = np.empty((weight.shape[1], slope.shape[1]), np.float32)

        def part(inputs: slice, _: int) -> None:
            gemm(below[inputs], weight[:, inputs].T, slope)

        self._team.each(part, _slices(len(below), 4 * _ROWS))
        return below

    def _update(self, name: str, given: Floats, slope: Floats) -> None:
        """Move a parameter by the rule."""
        index, optimizer = self._index[name], self.trainer._optimizer
        optimizer._update_count(index)
        lr, wd = optimizer._get_lr(index), optimizer._get_wd(index)
        values, kept = self._values[name], [*map(self._memory.view, self._kept(index))]

        def part(rows: slice, thread: int) -> None:
            weight = values[rows]
            one, two = (room[: weight.size].reshape(weight.shape) for room in self._spare[thread])
            self._rule(
                optimizer,
                rules.Part(
                    weight,
                    tuple(array[rows] for array in kept),
                    _gradient(weight, given, slope[rows]),
                    (one, two),
                    lr,
                    wd,
                    optimizer.rescale_grad,
                ),
            )

        # A bias is not worth waking another thread.
        width = _ROWS if values.ndim > 1 else len(values)
        self._team.each(part, _slices(len(values), width))

    def _kept(self, index: int) -> tuple[nd.NDArray, ...]:
        """Return what the optimizer keeps of a parameter, made at its first update as by MXNet."""
        updater, parameter = self.trainer._updaters[0], self.trainer._params[index]
        if index not in updater.states:
            made = updater.optimizer.create_state_multi_precision(index, parameter.data())
            updater.states[index], updater.states_synced[index] = made, True
            nd.waitall()
        state = updater.states[index]
        return tuple(state if isinstance(state, tuple) else () if state is None else (state,))


def _gradient(part: Floats, given: Floats, slope: Floats) -> rules.Gradient:
    """Return the gradient of some rows of a weight (rows, inputs), or of a bias (rows,).

    Parameters
    ----------
    given, slope
        The layer's inputs (inputs, N), and the slope at these of its outputs (rows, N).
    """

    def of_weight(out: Floats, alpha: float, beta: float) -> None:
        gemm(out, slope, given.T, alpha, beta)

    def of_bias(out: Floats, alpha: float, beta: float) -> None:
        total = slope @ np.full(slope.shape[1], alpha, np.float32)
        np.add(out * beta if beta else 0, total, out=out)

    return of_bias if part.ndim == 1 else of_weight


def _slices(size: int, width: int) -> list[slice]:
    return [slice(start, start + width) for start in range(0, size, width)]
