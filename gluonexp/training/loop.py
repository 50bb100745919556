"""The only epoch loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from gluonexp.base.measures import measured
from gluonexp.base.seeds import seed_host
from gluonexp.data.augment import Augment
from gluonexp.data.batches import batches
from gluonexp.data.types import Split
from gluonexp.tracking.statuses import FINISHED, Ending
from gluonexp.training.engine import Engine, Pending
from gluonexp.training.schedules import Schedule
from gluonexp.training.team import ALONE, Team

# How many steps Python may be ahead of the device. Without a bound the whole epoch would be
# queued (memory, and a progress bar that lies); waiting for an old step leaves no gap.
RUN_AHEAD = 4

# A loss that is no number stays one: it is looked for every so many steps, in steps that are
# computed by then, so that nothing waits.
_LOOK_EVERY: Final = 16

# The hooks that may stop training.
_DECISIVE: Final = ("fit_start", "epoch_end")


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
class Settings:
    """How to train, but for what computes and what it learns from.

    Attributes
    ----------
    epochs
        In all, those of `history` included.
    workdir
        The job's folder, for callbacks that write files.
    augment
        Changes training images, a batch at a time.
    history
        The metrics of the epochs that are already trained, one row an epoch.
    extends
        These epochs were a whole run, which this one trains further.
    checkpoint_every_steps
        Within an epoch, training can resume after each so many of its steps: all random numbers
        are seeded anew there. 0: between epochs only.
    done
        So many steps of the epoch after those of `history` are trained, too; the engine has
        their running scores.
    identity
        What training that resumes from here must have in common with this one, by key.
    team
        The processes that train together. Where rank 0 stops after an epoch, all do.
    metrics
        What is measured of the evaluations besides loss and accuracy: of
        `gluonexp.base.metrics.NAMES`.
    """

    epochs: int
    batch_size: int
    seed: int
    schedule: Schedule
    workdir: Path
    augment: Augment | None = None
    history: Sequence[Mapping[str, float]] = ()
    extends: bool = False
    checkpoint_every_steps: int = 0
    done: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    team: Team = ALONE
    metrics: Sequence[str] = ()


@dataclass
class Fit:
    """The state of training, shared with the callbacks.

    Attributes
    ----------
    train, evaluations
        What is trained on, and evaluated after each epoch. A callback may put features in their
        place, once it has told the engine.
    epoch, step
        Both counted from 0; `step` over the whole run, the number of updates made.
    diverged
        The first step whose loss is not finite, where that is known: which update of the run it
        was (counted from 1), and its learning rate.
    metrics
        Of the epoch that just ended, by `split/name`.
    history
        One such dict an epoch, with its `epoch`.
    ending
        Its `reason` says why a callback ended training early, if one did.
    """

    engine: Engine
    settings: Settings
    train: Split
    evaluations: Mapping[str, Split]
    epoch: int = 0
    step: int = 0
    lr: float = 0.0
    diverged: tuple[int, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    ending: Ending = field(default_factory=lambda: Ending(FINISHED))

    @property
    def learner(self) -> Engine:
        """The engine, as callbacks called it before there was more than one."""
        return self.engine

    @property
    def samples(self) -> int:
        """How many are trained on in an epoch."""
        return len(self.train)

    @property
    def epochs(self) -> int:
        """How many there will be."""
        return self.settings.epochs

    @property
    def workdir(self) -> Path:
        """The job's folder."""
        return self.settings.workdir

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, a short last one included."""
        return -(-self.samples // self.settings.batch_size)

    @property
    def done(self) -> int:
        """Steps of this epoch that were made."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def resumable(self) -> bool:
        """Whether training can resume after the step just made, within the epoch."""
        every = self.settings.checkpoint_every_steps
        return bool(every) and self.done % every == 0 and 0 < self.done < self.steps_per_epoch


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
    engine: Engine,
    train: Split,
    evaluations: Mapping[str, Split],
    settings: Settings,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train by `engine`, and evaluate on each of `evaluations` after every epoch.

    An epoch's shuffling, augmentation and dropout depend only on (seed, epoch), so training that
    resumes after the epochs of the settings' history equals training that was never interrupted;
    so does training that resumes within an epoch where both are seeded anew by step.

    Returns
    -------
    Fit
        Its `history` holds `train/loss`, `train/acc`, `optim/lr`, `time/epoch_s`,
        `time/images_per_s` and the evaluations' metrics for each epoch; where gradients are
        clipped also `optim/grad_norm`, the mean of their norms before.
    """
    history = [dict(row) for row in settings.history]
    first = len(history)
    state = Fit(engine, settings, train, evaluations, max(len(history) - 1, 0), history=history)
    state.step = len(history) * state.steps_per_epoch + settings.done
    if history:
        state.metrics = {key: value for key, value in history[-1].items() if key != "epoch"}
    with contextlib.suppress(StopFit), contextlib.ExitStack() as ended:
        for callback in callbacks:
            ended.callback(callback.fit_end, state)
        _each(callbacks, "fit_start", state)
        for state.epoch in range(first, settings.epochs):
            _train_epoch(state, callbacks, settings.done if state.epoch == first else 0)
            for name, split in state.evaluations.items():
                state.metrics |= _evaluated(state, name, split)
            state.history.append({"epoch": state.epoch, **state.metrics})
            _each(callbacks, "epoch_end", state)
    return state


def _evaluated(state: Fit, name: str, split: Split) -> dict[str, float]:
    """Return the metrics of a split, ``name/loss`` and so on."""
    wanted = state.settings.metrics
    scores = state.engine.evaluate(split, state.settings.batch_size, keep_logits=bool(wanted))
    found = scores.named(name)
    if scores.logits is not None:
        extra = measured(wanted, scores.logits, split.labels)
        found |= {f"{name}/{metric}": value for metric, value in extra.items()}
    return found


def _train_epoch(state: Fit, callbacks: Sequence[Callback], done: int) -> None:
    """Train an epoch, or what is left of it after its first `done` steps."""
    engine, settings = state.engine, state.settings
    issued = list[tuple[int, float, Pending]]()
    _each(callbacks, "epoch_start", state)

    def seed(step: int) -> np.random.Generator:
        engine.seed(settings.seed, state.epoch, step)
        return seed_host(settings.seed, state.epoch, step)  # whatever a callback drew

    rng = seed(0)
    if not done:
        engine.reset()
    every = settings.checkpoint_every_steps
    started = time.perf_counter()
    for batch in batches(
        state.train,
        settings.batch_size,
        rng=rng,
        augment=settings.augment,
        reseed=seed,
        every=every,
        done=done,
        seed=settings.seed,
        epoch=state.epoch,
    ):
        state.lr = settings.schedule(state.step)
        pending = engine.step(batch, state.lr)
        state.step += 1
        issued.append((state.step, state.lr, pending))
        if len(issued) > RUN_AHEAD:
            issued[-1 - RUN_AHEAD][-1].wait()
        if len(issued) >= RUN_AHEAD + _LOOK_EVERY:
            _look(state, issued[:_LOOK_EVERY])
            del issued[:_LOOK_EVERY]
        _each(callbacks, "batch_end", state)
    engine.sync()
    _look(state, issued)
    seconds = time.perf_counter() - started
    scores = engine.running()
    trained = state.samples - done * settings.batch_size
    state.metrics = {
        **scores.named("train"),
        "optim/lr": state.lr,
        "time/epoch_s": seconds,
        "time/images_per_s": trained / seconds,
    }
    if scores.grad_norm is not None:
        state.metrics["optim/grad_norm"] = scores.grad_norm


def _look(state: Fit, computed: Sequence[tuple[int, float, Pending]]) -> None:
    """Note the first of some steps, which are computed, whose loss is not finite."""
    if math.isfinite(computed[-1][-1].loss()):
        return
    for step, lr, pending in computed:
        if not math.isfinite(pending.loss()):
            state.diverged = step, lr
            return


def _each(callbacks: Sequence[Callback], hook: str, state: Fit) -> None:
    """Call a hook of every callback; one that stops training does not cut off the others."""
    stops = []
    for callback in callbacks:
        try:
            getattr(callback, hook)(state)
        except StopFit as reason:
            stops.append(reason)
    # One that has come to its own end as well is a whole run.
    stop = min(stops, key=lambda stop: stop.status != FINISHED, default=None)
    ending = None if stop is None else Ending(stop.status, reason=str(stop))
    if hook in _DECISIVE:
        ending = state.settings.team.tell(ending)
    if ending is not None:
        state.ending = ending
        raise StopFit(ending.reason, ending.status)
