"""The engine that trains a Gluon network by PyTorch, by MXNet's rules."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.memory import keep_freed
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.base.seeds import engine_seed
from gluonexp.config.optimizers import OptimConfig
from gluonexp.config.schema import EngineConfig
from gluonexp.data.batches import batches
from gluonexp.data.types import Batch, Split
from gluonexp.engines import freezing
from gluonexp.engines.torch import gate
from gluonexp.engines.torch.average import Averages
from gluonexp.engines.torch.lowering import Lowered, lower
from gluonexp.engines.torch.rules import rule
from gluonexp.engines.torch.scores import IssuedStep, Sums, scored
from gluonexp.freeze import FreezePlan
from gluonexp.graph import symbols
from gluonexp.graph.graph import Graph, Output
from gluonexp.training.engine import Scores, State
from gluonexp.training.team import ALONE, Team

_LOGITS, _LABELS = "logits", "labels"


class TorchEngine:
    """Implements `gluonexp.training.engine.Engine`.

    The Gluon network owns names, multipliers and what is frozen. Its values are those of when the
    engine was made, of the last `load` or of the last `publish`.

    Parameters
    ----------
    net, preprocess
        The network, with its values on MXNet's CPU; what makes its input (N, C', H', W') float32
        of images (N, H, W, C) uint8.
    image
        (H, W, C).
    team
        The processes that train together, each its part of a batch. Layers that normalize by a
        batch do so by that part; their statistics are evaluated, and kept, as rank 0 has them.
    loss
        Takes (logits, labels) to a loss for each sample.

    Raises
    ------
    GluonexpError
        An operator that cannot be lowered, or a parameter that is not float32, by its name.
    """

    def __init__(
        self,
        net: nn.HybridBlock,
        preprocess: nn.HybridBlock,
        image: tuple[int, int, int],
        loss: gluon.loss.Loss,
        optim: OptimConfig,
        config: EngineConfig,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        self.net, self.preprocess, self.loss = net, preprocess, loss
        self.device, self._team = device, team
        self._optim, self._config, self._rule = optim, config, rule(optim)
        _set_up(config, device)
        self._preprocess = _lowered(preprocess, (1, *image)).to(device)
        prepared = self._preprocess(torch.zeros(1, *image, dtype=torch.uint8, device=device))
        self._input = tuple(prepared.shape)
        self._values = {
            name: self._parameter(parameter) for name, parameter in net.collect_params().items()
        }
        self._slots: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in self._rule.slots}
        self._updates: dict[str, int] = {}
        self._averages = Averages(self._values)
        self.start(None)
        self._classes = self._module.eval()(prepared).shape[1]
        with mx.name.NameManager():
            losses = loss(mx.sym.var(_LOGITS), mx.sym.var(_LABELS))
        self._loss = lower(
            Graph.from_symbol(losses), {}, {_LOGITS: (1, self._classes), _LABELS: (1,)}
        ).to(device)
        self.reset()

    @property
    def where(self) -> str:
        """The device, as PyTorch calls it."""
        return str(self.device)

    def _parameter(self, parameter: gluon.Parameter) -> torch.Tensor:
        if (dtype := np.dtype(parameter.dtype)) != np.float32:
            raise GluonexpError(
                f"engine=torch: {parameter.name} is {dtype}; it trains float32, in bfloat16 with "
                "engine.precision=bfloat16; take engine=mxnet"
            )
        value = self._put(parameter.data().asnumpy())
        return torch.nn.Parameter(value) if parameter._differentiable else value

    def _put(self, value: NDArray[Any]) -> torch.Tensor:
        """Return a value on the device, in the layout that convolutions are fast in."""
        made = torch.tensor(value, device=self.device)
        return made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 else made

    def seed(self, seed: int, epoch: int, step: int = 0) -> None:
        """Seed PyTorch's generators: each epoch starts anew."""
        if step:
            self._share_statistics()
        torch.manual_seed(engine_seed(seed, epoch, step) + self._team.rank)

    def reset(self, sums: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Start the running scores from nothing, or from a state's `sums`."""
        self._sums = Sums(self.device, sums)

    def start(self, behind: Output | None) -> None:
        """Take the features at this output of the graph in place of images; None: images."""
        symbol = symbols.traced(self.net)
        graph, name, shape = Graph.from_symbol(symbol), "data", self._input
        if behind is not None:
            shape = symbols.shapes(symbol, {"data": shape})[behind.node][behind.index]
            graph, name = symbols.rest(self.net, behind)
        self._behind = behind
        names = {parameter.name: name for name, parameter in self._parameters().items()}
        parameters = self.net.collect_params()
        learning = {key: p for key, p in parameters.items() if p.grad_req != "null"}
        self._learning = [*learning]
        self._lr_mults = [p.lr_mult for p in learning.values()]
        self._decays = [self._optim.weight_decay * p.wd_mult for p in learning.values()]
        for key, value in self._values.items():
            value.requires_grad_(key in learning).grad = None
        self._module = lower(graph, self._values, {name: shape}, names)
        self._run = torch.compile(self._module) if self._config.compile else self._module

    def _inputs(self, images: NDArray[Any]) -> torch.Tensor:
        """Return what the network takes: of images (N, H, W, C) uint8, or features (N, ...)."""
        given = self._moved(images)
        made = given.float() if self._behind is not None else self._preprocess(given)
        return made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 else made

    def _moved(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array on the device; what was issued there before is not waited for."""
        made = torch.from_numpy(np.require(array, requirements=("C", "W")))
        if self.device.type == "cpu":
            return made
        return made.pin_memory().to(self.device, non_blocking=True)

    def prove(self, batch: Batch) -> dict[str, str]:
        """Compare a step with MXNet's, and both with one in float64; return the figures."""
        batch = batch.part(slice(gate.images(self._input[1:])))
        prepared = self._inputs(batch.images)
        coarse: Any = partial(gate.tf32, True) if self._config.tf32 else None
        if self._config.precision == "bfloat16":
            coarse = partial(torch.autocast, self.device.type, torch.bfloat16)
        return gate.prove(
            self.net,
            self.preprocess,
            self.loss,
            self._module,
            self._loss,
            batch.images,
            prepared,
            batch.labels,
            coarse,
        )

    def step(self, batch: Batch, lr: float) -> IssuedStep:
        """Move the parameters once, at the learning rate `lr`."""
        samples = len(batch)
        batch = batch.part(self._team.part(samples))
        scores = torch.zeros(2, device=self.device)
        if len(batch):  # of fewer images than processes some get none
            scores = self._backward(batch)
        with torch.no_grad():
            norm = self._update(samples, lr, scores)
            self._sums.add(scores, samples, norm)
        return IssuedStep(scores[0] / samples)

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Compute gradients of the sum of losses; return that sum and the hits (2,)."""
        labels = self._moved(batch.labels)
        if not self._module.training:
            self._module.train()
        with torch.no_grad():
            inputs = self._inputs(batch.images)
        low = self._config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            logits = self._run(inputs)
        logits = logits.float()
        losses = self._losses(batch, logits, labels)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._module.settle()
        return scored(losses, logits, labels)

    def _losses(self, batch: Batch, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses (N,) of a batch, given its logits (N, K) and labels (N,)."""
        losses: torch.Tensor = self._loss(logits, labels.float())
        if batch.share is None:
            return losses
        share = self._moved(batch.share)
        others: torch.Tensor = self._loss(logits, self._moved(batch.others).float())
        return share * losses + (1 - share) * others

    def _update(self, samples: int, lr: float, scores: torch.Tensor) -> torch.Tensor | None:
        """Move what learns by its gradients, sums over `samples`; return the mean's norm.

        Gradients and `scores` are summed over the processes first.
        """
        names = self._learning
        weights = [self._values[name] for name in names]
        gradients = [
            torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights
        ]
        self._team.sum_(*gradients, scores)
        norm = None
        if (longest := self._optim.clip_norm) is not None:
            norm = torch.stack(torch._foreach_norm(gradients)).norm() / samples
            torch._foreach_mul_(gradients, torch.clamp(longest / norm, max=1))
        for name, weight in zip(names, weights, strict=True):
            self._updates[name] = self._updates.get(name, 0) + 1
            for slot in self._slots.values():
                if name not in slot:
                    slot[name] = torch.zeros_like(weight)
        self._rule.update(
            weights,
            gradients,
            {kind: [slot[name] for name in names] for kind, slot in self._slots.items()},
            [self._updates[name] for name in names],
            [lr * multiplier for multiplier in self._lr_mults],
            self._decays,
            1 / samples,
        )
        for weight in weights:
            weight.grad = None
        return norm

    def average(self, decay: float) -> None:
        """Move the averages of what learns."""
        self._averages.move(self._learning, decay)

    def _share_statistics(self) -> None:
        self._team.share_(*(v for v in self._values.values() if not _is_parameter(v)))

    def running(self) -> Scores:
        """Return the scores of the training batches since `reset` (device sync)."""
        return self._sums.read()

    def sync(self) -> None:
        """Return once everything issued is computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def evaluate(self, split: Split, batch_size: int, *, keep_logits: bool = False) -> Scores:
        """Return the scores of `split` in prediction mode, in float32 (device sync)."""
        self._share_statistics()
        rows = np.arange(len(split))[self._team.part(len(split))]
        scores = torch.zeros(2, dtype=torch.float64, device=self.device)
        # Of all processes together: each fills its rows.
        kept = torch.zeros(len(split), self._classes, device=self.device) if keep_logits else None
        for at, (labels, logits) in enumerate(self._predicted(split.select(rows), batch_size)):
            scores += scored(self._loss(logits, labels.float()), logits, labels)
            if kept is not None:
                kept[rows[at * batch_size :][: len(logits)]] = logits
        self._team.sum_(scores)
        sums = Sums(self.device)
        sums.add(scores, len(split))
        if kept is None:
            return sums.read()
        self._team.sum_(kept)
        return replace(sums.read(), logits=kept.cpu().numpy())

    def logits(self, split: Split, batch_size: int) -> NDArray[np.float32]:
        """Return the logits (N, K) of `split` in data-set order, in float32."""
        made = self._predicted(split, batch_size)
        return np.concatenate([logits.cpu().numpy() for _, logits in made])

    @torch.no_grad()
    def _predicted(self, split: Split, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return labels (N,) and logits (N, K) of each batch."""
        self._module.eval()
        with self._averages.inside():
            return [
                (self._moved(batch.labels), self._module(self._inputs(batch.images)))
                for batch in batches(split, batch_size)
            ]

    @torch.no_grad()
    def losses(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the loss (N,) of each sample, given its logits (N, K) and label (N,)."""
        given = torch.tensor(logits, device=self.device)
        losses: NDArray[np.float32] = self._loss(given, self._moved(labels).float()).cpu().numpy()
        return losses

    def state(self) -> State:
        """Return a copy of the state (device sync)."""
        named = {parameter.name: name for name, parameter in self._parameters().items()}
        return State(
            values={n: _array(self._averages.of(p.name)) for n, p in self._parameters().items()},
            slots={
                kind: {named[name]: _array(value) for name, value in slot.items()}
                for kind, slot in self._slots.items()
                if slot
            },
            updates={named[name]: count for name, count in self._updates.items()},
            sums=self._sums.state(),
            raw={named[name]: _array(self._values[name]) for name in self._averages.kept},
        )

    def load(self, state: State, *, optimizer: bool) -> None:
        """Take over the values of a state, and with `optimizer` all else that training needs."""
        parameters = self._parameters()
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        state.check(shapes, self._rule.slots if optimizer else None)
        keys = {name: parameter.name for name, parameter in parameters.items()}
        raw = state.raw if optimizer else {}
        self._averages.kept = {keys[name]: self._put(state.values[name]) for name in raw}
        given = {**state.values, **raw}
        self._averages.put({keys[name]: torch.tensor(given[name]) for name in parameters})
        self._hand_back()
        if optimizer:
            self._updates = {keys[name]: count for name, count in state.updates.items()}
            self._slots = {
                kind: {keys[n]: self._put(v) for n, v in state.slots.get(kind, {}).items()}
                for kind in self._rule.slots
            }
            self.reset(state.sums)

    def freeze(self, plan: FreezePlan) -> None:
        """Train as `plan` says when training begins."""
        freezing.apply(self.net, plan)
        self.start(self._behind)

    def release(self, names: Collection[str]) -> None:
        """Train these frozen parameters, and move these frozen statistics, from now on."""
        freezing.release(self.net, names)
        self.start(self._behind)

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """Return the sha256 of the value of each of these parameters (device sync)."""
        parameters = self._parameters()
        values = ((n, _array(self._averages.of(parameters[n].name))) for n in names)
        return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values}

    def publish(self) -> None:
        """Put the values into the Gluon network, and compile it (device sync)."""
        self._hand_back()
        self.net(nd.zeros(self._input)).wait_to_read()

    def _hand_back(self) -> None:
        for name, parameter in self.net.collect_params().items():
            parameter.set_data(nd.array(_array(self._averages.of(name)), dtype=parameter.dtype))
        nd.waitall()

    def _parameters(self) -> dict[str, gluon.Parameter]:
        """Return parameters and statistics by structural name, which no counter can change."""
        found: dict[str, gluon.Parameter] = self.net._collect_params_with_prefix()
        return found


def _lowered(block: nn.HybridBlock, shape: tuple[int, ...]) -> Lowered:
    """Return a block without parameters."""
    return lower(Graph.from_symbol(symbols.traced(block)), {}, {"data": shape}).eval()


def _is_parameter(value: torch.Tensor) -> bool:
    """Tell a parameter from a statistic."""
    return isinstance(value, torch.nn.Parameter)


def _array(value: torch.Tensor) -> NDArray[Any]:
    """Return a copy of a value, in the order of its axes."""
    return np.array(value.detach().cpu().numpy(), order="C")


def _set_up(config: EngineConfig, device: torch.device) -> None:
    """Set what PyTorch has one of in a process; an earlier job may have set it otherwise."""
    if device.type == "cpu":
        keep_freed()
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:
        # Setting it imports the compiler, which takes a second.
        torch.use_deterministic_algorithms(config.deterministic)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what they need on a GPU
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.tf32
