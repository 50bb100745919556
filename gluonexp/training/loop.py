"""The only epoch loop, and evaluation."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.base import seeds
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.data.augment import Augment
from gluonexp.data.batches import batches
from gluonexp.data.types import Batch, Split
from gluonexp.engines.mxnet.metrics import Meter
from gluonexp.tracking.statuses import FINISHED, Ending

# How many steps Python may be ahead of the device. Without a bound the whole epoch would be
# queued (memory, and a progress bar that lies); waiting for an old step leaves no gap.
RUN_AHEAD = 4


class StopFit(Exception):
    """Raised by a callback to end training after this epoch, early but in order.

    Parameters
    ----------
    reason
        One line for people.
    status
        FINISHED: what was reached is a result; PRUNED: it is not, better is known elsewhere.
    """

    def __init__(self, reason: str, status: str = FINISHED) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Step:
    """What one training step computed, on the device: reading any of it waits.

    Attributes
    ----------
    losses
        (N,), before the update.
    logits
        (N, K), before the update.
    targets
        (N,) labels, float32.
    grad_norm
        (1,), of the batch's mean gradient before it was clipped; None where nothing clips.
    """

    losses: nd.NDArray
    logits: nd.NDArray
    targets: nd.NDArray
    grad_norm: nd.NDArray | None


@dataclass(frozen=True)
class Learner:
    """A network with all that a training step needs, on one device.

    Attributes
    ----------
    clip_norm
        The longest the mean gradient of a batch may be (L2, all parameters together); it is
        shortened to that. None leaves it as it is.
    """

    net: nn.HybridBlock
    preprocess: nn.HybridBlock
    loss: gluon.loss.Loss
    trainer: gluon.Trainer
    schedule: Callable[[int], float]
    device: mx.Context
    clip_norm: float | None = None

    def put(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> tuple[nd.NDArray, nd.NDArray]:
        """Return the network's input (N, C, H, W) and the labels (N,) float32 on the device."""
        pixels = nd.array(images, ctx=self.device, dtype="uint8")
        return self.preprocess(pixels), nd.array(labels, ctx=self.device, dtype="float32")

    def step(self, batch: Batch, lr: float) -> Step:
        """Move the parameters once, at the learning rate `lr`; nothing here waits."""
        self.trainer.set_learning_rate(lr)
        inputs, targets = self.put(batch.images, batch.labels)
        share = None
        if batch.share is not None:
            share = nd.array(batch.share, ctx=self.device)
            others = nd.array(batch.others, ctx=self.device, dtype="float32")
        with autograd.record():
            logits = self.net(inputs)
            losses = self.loss(logits, targets)
            if share is not None:
                losses = share * losses + (1 - share) * self.loss(logits, others)
        losses.backward()
        norm = None if self.clip_norm is None else self._clip(self.clip_norm, len(batch))
        self.trainer.step(len(batch))  # the true size, also of a short last batch
        return Step(losses, logits, targets, norm)

    def _clip(self, longest: float, samples: int) -> nd.NDArray:
        """Shorten the gradients, sums over `samples`; return the mean's norm before, shape (1,).

        What is not finite in them stays so or becomes NaN: the next loss shows it.
        """
        gradients = [p.grad() for p in self.trainer._params if p.grad_req != "null"]
        flat = [gradient.reshape(-1) for gradient in gradients]
        # multi_sum_sq and norm add one by one in float32: of AlexNet's largest layer they lose 9 %
        # of the sum, where BLAS is 0.07 % off.
        norm = nd.add_n(*[nd.dot(vector, vector) for vector in flat]).sqrt() / samples
        scale = nd.minimum(longest / norm, 1)
        for gradient in gradients:
            gradient *= scale
        return norm


@dataclass
class Fit:
    """The state of training, shared with the callbacks.

    Attributes
    ----------
    epoch, step
        Both counted from 0; `step` over the whole run, the number of updates made.
    metrics
        Of the epoch that just ended, by `split/name`.
    history
        One such dict an epoch, with its `epoch`.
    ending
        Its `reason` says why a callback ended training early, if one did.
    """

    learner: Learner
    meter: Meter
    seed: int
    epochs: int
    steps_per_epoch: int
    samples: int
    workdir: Path
    epoch: int = 0
    step: int = 0
    lr: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    ending: Ending = field(default_factory=lambda: Ending(FINISHED))
    # What training that goes on from here must have in common with this one, by key.
    identity: Mapping[str, Any] = field(default_factory=dict)


class Callback:
    """Five hooks around the loop; `fit_end` is called however training ended."""

    def fit_start(self, fit: Fit) -> None:
        """Before the first epoch. May raise `StopFit`."""

    def epoch_start(self, fit: Fit) -> None:
        """Before the first batch of `fit.epoch`."""

    def batch_end(self, fit: Fit) -> None:
        """After an update was issued; reading anything here waits for the device."""

    def epoch_end(self, fit: Fit) -> None:
        """After `fit.metrics` are known and all updates are done. May raise `StopFit`."""

    def fit_end(self, fit: Fit) -> None:
        """In `finally`: release what `fit_start` acquired."""


def fit(
    learner: Learner,
    train: Split,
    evaluations: Mapping[str, Split],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    workdir: Path,
    callbacks: Sequence[Callback] = (),
    augment: Augment | None = None,
    history: Sequence[Mapping[str, float]] = (),
    identity: Mapping[str, Any] | None = None,
) -> Fit:
    """Train `learner` and evaluate it on each of `evaluations` after every epoch.

    An epoch's shuffling, augmentation and dropout depend only on (`seed`, epoch), so training
    that continues after the epochs of `history` equals training that was never interrupted.

    Returns
    -------
    Fit
        Its `history` holds `train/loss`, `train/acc`, `optim/lr`, `time/epoch_s`,
        `time/images_per_s` and the evaluations' metrics for each epoch; where gradients are
        clipped also `optim/grad_norm`, the mean of their norms before.
    """
    steps = -(-len(train) // batch_size)
    state = Fit(
        learner,
        Meter(learner.device),
        seed=seed,
        epochs=epochs,
        steps_per_epoch=steps,
        samples=len(train),
        workdir=workdir,
        epoch=max(len(history) - 1, 0),
        step=len(history) * steps,
        metrics={k: v for k, v in history[-1].items() if k != "epoch"} if history else {},
        history=[dict(row) for row in history],
        identity=identity or {},
    )
    with contextlib.suppress(StopFit), contextlib.ExitStack() as ended:
        for callback in callbacks:
            ended.callback(callback.fit_end, state)
        _each(callbacks, "fit_start", state)
        for state.epoch in range(len(history), epochs):
            _train_epoch(state, train, batch_size, callbacks, augment)
            for name, split in evaluations.items():
                scores = evaluate(learner, split, batch_size)
                state.metrics |= {f"{name}/{key}": value for key, value in scores.items()}
            state.history.append({"epoch": state.epoch, **state.metrics})
            _each(callbacks, "epoch_end", state)
    return state


def _train_epoch(
    state: Fit,
    train: Split,
    batch_size: int,
    callbacks: Sequence[Callback],
    augment: Augment | None,
) -> None:
    learner, issued = state.learner, deque[nd.NDArray]()
    norms = nd.zeros((1,), ctx=learner.device)
    rng = seeds.seed_everything(state.seed, state.epoch)
    state.meter.reset()
    _each(callbacks, "epoch_start", state)
    started = time.perf_counter()
    for batch in batches(train, batch_size, rng=rng, augment=augment):
        state.lr = learner.schedule(state.step)
        done = learner.step(batch, state.lr)
        state.meter.update(done.losses, done.logits, done.targets)
        if done.grad_norm is not None:
            norms += done.grad_norm
        state.step += 1
        issued.append(done.losses)
        if len(issued) > RUN_AHEAD:
            issued.popleft().wait_to_read()
        _each(callbacks, "batch_end", state)
    nd.waitall()  # device sync; a static graph shows stale BatchNorm statistics without it
    seconds = time.perf_counter() - started
    state.metrics = {f"train/{key}": value for key, value in state.meter.read().items()}
    state.metrics |= {
        "optim/lr": state.lr,
        "time/epoch_s": seconds,
        "time/images_per_s": state.samples / seconds,
    }
    if learner.clip_norm is not None:
        state.metrics["optim/grad_norm"] = float(norms.asscalar()) / state.steps_per_epoch


def evaluate(learner: Learner, split: Split, batch_size: int) -> dict[str, float]:
    """Return the mean `loss` and top-1 accuracy `acc` of `split`, in prediction mode."""
    meter = Meter(learner.device)
    for batch in batches(split, batch_size):
        inputs, targets = learner.put(batch.images, batch.labels)
        logits = learner.net(inputs)
        meter.update(learner.loss(logits, targets), logits, targets)
    return meter.read()  # device sync


def predict(learner: Learner, split: Split, batch_size: int) -> NDArray[np.float32]:
    """Return the logits (N, K) of `split` in data-set order."""
    parts = []
    for batch in batches(split, batch_size):
        inputs, _ = learner.put(batch.images, batch.labels)
        parts.append(learner.net(inputs).asnumpy())  # device sync
    return np.concatenate(parts)


def score(learner: Learner, logits: NDArray[np.float32], split: Split) -> dict[str, float]:
    """Return `loss` and `acc` of logits (N, K) that `predict` returned for `split`."""
    targets = nd.array(split.labels, ctx=learner.device, dtype="float32")
    losses = learner.loss(nd.array(logits, ctx=learner.device), targets)
    return {
        "loss": float(losses.asnumpy().astype(np.float64).mean()),  # device sync
        "acc": float((logits.argmax(axis=1) == split.labels).mean()),
    }


def _each(callbacks: Sequence[Callback], hook: str, state: Fit) -> None:
    """Call a hook of every callback; one that stops training does not cut off the others."""
    stops = []
    for callback in callbacks:
        try:
            getattr(callback, hook)(state)
        except StopFit as reason:
            stops.append(reason)
    if stops:
        # One that has come to its own end as well is a whole run.
        stop = min(stops, key=lambda stop: stop.status != FINISHED)
        state.ending = Ending(stop.status, reason=str(stop))
        raise stop
