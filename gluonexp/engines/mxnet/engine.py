"""The engine that trains a Gluon network by MXNet itself: the reference for every other."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.base.seeds import engine_seed
from gluonexp.data.batches import batches
from gluonexp.data.types import Batch, Split
from gluonexp.engines import freezing
from gluonexp.engines.mxnet.dense import dense_rest
from gluonexp.engines.mxnet.optimizers import slot_names
from gluonexp.engines.mxnet.recorded import Computation, Recorded
from gluonexp.freeze import FreezePlan
from gluonexp.graph import symbols
from gluonexp.graph.graph import Output
from gluonexp.training.engine import Scores, State


class IssuedStep:
    """One training step, by its losses (N,) on the device, from before the update."""

    def __init__(self, losses: nd.NDArray) -> None:
        self._losses = losses

    def wait(self) -> None:
        """Return once it is computed."""
        self._losses.wait_to_read()

    def loss(self) -> float:
        """Return the mean loss of its batch (device sync)."""
        return float(self._losses.asnumpy().mean())


class Sums:
    """Loss and hits summed on the device and weighted by sample; nothing waits until `read`.

    A short last batch counts with its true size, which averaging per-batch means would not do.
    """

    def __init__(
        self, device: mx.Context, start: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        start = start or {}

        def first(name: str) -> nd.NDArray:
            return nd.array(start.get(name, np.zeros(1)), ctx=device, dtype="float32")

        self._loss, self._correct, self._norm = first("loss"), first("correct"), first("grad_norm")
        self._samples, self._clipped = (int(start.get(n, 0)) for n in ("samples", "clipped_steps"))

    def add(
        self,
        losses: nd.NDArray,
        logits: nd.NDArray,
        labels: nd.NDArray,
        grad_norm: nd.NDArray | None = None,
    ) -> None:
        """Add one batch: losses (N,), logits (N, K), labels (N,) float32, grad_norm (1,)."""
        self._loss += losses.sum()
        self._correct += (logits.argmax(axis=1) == labels).sum()
        self._samples += len(labels)
        if grad_norm is not None:
            self._norm += grad_norm
            self._clipped += 1

    def read(self) -> Scores:
        """Return the scores so far (device sync)."""
        if not self._samples:
            return Scores(float("nan"), float("nan"), 0)
        return Scores(
            loss=float(self._loss.asscalar()) / self._samples,
            acc=float(self._correct.asscalar()) / self._samples,
            samples=self._samples,
            grad_norm=float(self._norm.asscalar()) / self._clipped if self._clipped else None,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what `start` takes (device sync)."""
        sums = {"loss": self._loss, "correct": self._correct, "grad_norm": self._norm}
        counts = {"samples": self._samples, "clipped_steps": self._clipped}
        return {
            **{name: total.asnumpy() for name, total in sums.items()},
            **{name: np.array(count) for name, count in counts.items()},
        }


class MXNetEngine:
    """Implements `gluonexp.training.engine.Engine`.

    Parameters
    ----------
    net, preprocess
        The network, initialized and compiled; what makes its input (N, C', H', W') float32 of
        images (N, H, W, C) uint8.
    loss
        Takes (logits, labels) to a loss for each sample.
    optimizer
        Of `gluonexp.engines.mxnet.optimizers`.
    clip_norm
        The longest the mean gradient of a batch may be (L2, all parameters together); it is
        shortened to that. None leaves it as it is.
    """

    def __init__(
        self,
        net: nn.HybridBlock,
        preprocess: nn.HybridBlock,
        loss: gluon.loss.Loss,
        optimizer: mx.optimizer.Optimizer,
        device: mx.Context,
        clip_norm: float | None = None,
    ) -> None:
        self.net, self.preprocess, self.loss, self.device = net, preprocess, loss, device
        self.trainer = gluon.Trainer(net.collect_params(), optimizer)
        self.clip_norm = clip_norm
        self._averages: dict[str, nd.NDArray] = {}  # by structural name
        self._seed = 0
        self.start(None)
        self.reset()

    @property
    def where(self) -> str:
        """The device, as MXNet calls it."""
        return str(self.device)

    def prove(self, batch: Batch) -> dict[str, str]:
        """Return nothing: this engine is what others are compared with."""
        return {}

    def seed(self, seed: int, epoch: int, step: int = 0) -> None:
        """Seed MXNet's generators: it cannot save their state, so each epoch starts anew."""
        self._seed = engine_seed(seed, epoch, step)
        mx.random.seed(self._seed)
        self._computation.seed(self._seed)

    def reset(self, sums: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Start the running scores from nothing, or from a state's `sums`."""
        self._sums = Sums(self.device, sums)

    def start(self, behind: Output | None) -> None:
        """Take the features at this output of the graph in place of images; None: images."""
        self.sync()
        self._behind = behind
        self._computation = self._from(behind)
        self._computation.seed(self._seed)

    def _from(self, behind: Output | None) -> Computation:
        if behind is None:
            return Recorded(self.net, self.preprocess, self.trainer, self.device, self.clip_norm)
        if self.device.device_type == "cpu" and self.clip_norm is None:
            dense = dense_rest(*symbols.rest(self.net, behind), self.trainer)
            if dense is not None:
                return dense
        block = symbols.behind(self.net, behind)
        return Recorded(block, None, self.trainer, self.device, self.clip_norm)

    def put(self, images: NDArray[Any], labels: NDArray[np.int64]) -> tuple[Any, nd.NDArray]:
        """Return what the network takes, and the labels (N,) on the device."""
        targets = nd.array(labels, ctx=self.device, dtype="float32")
        return self._computation.put(images), targets

    def step(self, batch: Batch, lr: float) -> IssuedStep:
        """Move the parameters once, at the learning rate `lr`; MXNet is not waited for."""
        self.trainer.set_learning_rate(lr)
        inputs, targets = self.put(batch.images, batch.labels)
        loss = partial(self._losses, batch, targets)
        losses, logits, norm = self._computation.step(inputs, loss)
        self._sums.add(losses, logits, targets, norm)
        return IssuedStep(losses)

    def _losses(self, batch: Batch, targets: nd.NDArray, logits: nd.NDArray) -> nd.NDArray:
        """Return the losses (N,) of a batch, given its labels (N,) and its logits (N, K)."""
        losses = self.loss(logits, targets)
        if batch.share is None:
            return losses
        share = nd.array(batch.share, ctx=self.device)
        others = nd.array(batch.others, ctx=self.device, dtype="float32")
        return share * losses + (1 - share) * self.loss(logits, others)

    def average(self, decay: float) -> None:
        """Move the averages of what learns; MXNet is not waited for.

        Statistics could not be averaged without waiting: a static graph shows old ones.
        """
        for index, name in self._names().items():
            parameter = self.trainer._params[index]
            if parameter.grad_req == "null":
                continue
            value = parameter.data()
            if name in self._averages:
                # So that one which equals its value stays equal to the bit.
                self._averages[name] += (value - self._averages[name]) * (1 - decay)
            else:
                self._averages[name] = value.copy()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Have the averages in the network inside, if there are any (device sync then)."""
        if not self._averages:
            yield
            return
        self.sync()
        parameters = self._parameters()
        raw = {name: parameters[name].data().copy() for name in self._averages}
        try:
            for name, value in self._averages.items():
                parameters[name].set_data(value)
            yield
        finally:
            self.sync()
            for name, value in raw.items():
                parameters[name].set_data(value)

    def running(self) -> Scores:
        """Return the scores of the training batches since `reset` (device sync)."""
        return self._sums.read()

    def sync(self) -> None:
        """Return once everything issued is computed.

        Values read for a checkpoint or an evaluation must not be stale: a static graph shows old
        BatchNorm statistics without it, and oneDNN reorders weights in place after a prediction.
        """
        nd.waitall()  # device sync

    def evaluate(self, split: Split, batch_size: int, *, keep_logits: bool = False) -> Scores:
        """Return the scores of `split` in prediction mode (device sync)."""
        sums, kept = Sums(self.device), list[nd.NDArray]()
        with self._averaged():
            for batch in batches(split, batch_size):
                inputs, targets = self.put(batch.images, batch.labels)
                logits = self._computation.logits(inputs)
                sums.add(self.loss(logits, targets), logits, targets)
                if keep_logits:
                    kept.append(logits)
            scores = sums.read()
            if not kept:
                return scores
            return replace(scores, logits=np.concatenate([part.asnumpy() for part in kept]))

    def logits(self, split: Split, batch_size: int) -> NDArray[np.float32]:
        """Return the logits (N, K) of `split` in data-set order."""
        parts = []
        with self._averaged():
            for batch in batches(split, batch_size):
                inputs, _ = self.put(batch.images, batch.labels)
                parts.append(self._computation.logits(inputs).asnumpy())  # device sync
        return np.concatenate(parts)

    def losses(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the loss (N,) of each sample, given its logits (N, K) and label (N,)."""
        targets = nd.array(labels, ctx=self.device, dtype="float32")
        losses = self.loss(nd.array(logits, ctx=self.device), targets)
        found: NDArray[np.float32] = losses.asnumpy()  # device sync
        return found

    def state(self) -> State:
        """Return a copy of the state (device sync)."""
        self.sync()
        names, kinds = self._names(), slot_names(self.trainer._optimizer)
        slots: dict[str, dict[str, NDArray[Any]]] = {}
        for index, kept in self.trainer._updaters[0].states.items():
            for kind, array in zip(kinds, _arrays(kept), strict=True):
                slots.setdefault(kind, {})[names[index]] = array.asnumpy()
        counts = self.trainer._optimizer._index_update_count
        values = {name: p.data().asnumpy() for name, p in self._parameters().items()}
        averages = {name: average.asnumpy() for name, average in self._averages.items()}
        return State(
            values=values | averages,
            slots=slots,
            updates={names[index]: count for index, count in counts.items()},
            sums=self._sums.state(),
            raw={name: values[name] for name in averages},
        )

    def load(self, state: State, *, optimizer: bool) -> None:
        """Take over the values of a state, and with `optimizer` all else that training needs."""
        parameters = self._parameters()
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        state.check(shapes, slot_names(self.trainer._optimizer) if optimizer else None)
        self.sync()
        raw = state.raw if optimizer else {}
        self._averages = {
            name: nd.array(state.values[name], ctx=self.device, dtype=parameters[name].dtype)
            for name in raw
        }
        for name, parameter in parameters.items():
            # As an NDArray: after a prediction oneDNN holds weights in a layout of its own, and
            # NumPy's bytes are not accepted into it.
            value = raw.get(name, state.values[name])
            parameter.set_data(nd.array(value, dtype=parameter.dtype))
        if not optimizer:
            return
        rule, updater = self.trainer._optimizer, self.trainer._updaters[0]
        indices = {name: index for index, name in self._names().items()}
        for name, count in state.updates.items():
            index = indices[name]
            kept = rule.create_state_multi_precision(index, self.trainer._params[index].data())
            for kind, array in zip(slot_names(rule), _arrays(kept), strict=True):
                array[:] = state.slots[kind][name]
            updater.states[index], updater.states_synced[index] = kept, True
            rule._index_update_count[index] = count
        rule.num_update = max([rule.num_update, *state.updates.values()])
        self.reset(state.sums)

    def freeze(self, plan: FreezePlan) -> None:
        """Train as `plan` says when training begins."""
        freezing.apply(self.net, plan)

    def release(self, names: Collection[str]) -> None:
        """Train these frozen parameters, and move these frozen statistics, from now on."""
        freezing.release(self.net, names)
        self.start(self._behind)  # its block normalizes as the layers did when it was made

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """Return the sha256 of the value of each of these parameters (device sync)."""
        self.sync()
        parameters = self._parameters()
        values = (
            (name, self._averages.get(name, parameters[name].data()).asnumpy()) for name in names
        )
        return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values}

    def publish(self) -> None:
        """Wait for the values, which are the Gluon network's own (device sync)."""
        parameters = self._parameters()
        for name, average in self._averages.items():
            parameters[name].set_data(average)
        self._averages = {}
        self.sync()

    def _parameters(self) -> dict[str, gluon.Parameter]:
        """Return parameters and statistics by structural name, which no counter can change."""
        found: dict[str, gluon.Parameter] = self.net._collect_params_with_prefix()
        return found

    def _names(self) -> dict[int, str]:
        """Return the structural name of each of the trainer's parameters, by its index there."""
        structural = {id(p): name for name, p in self._parameters().items()}
        return {index: structural[id(p)] for index, p in enumerate(self.trainer._params)}


def _arrays(kept: Any) -> Iterator[nd.NDArray]:
    """Yield the arrays that an optimizer keeps of one parameter: none, one or a tuple."""
    for array in kept if isinstance(kept, (tuple, list)) else [kept]:
        if array is not None:
            yield array
