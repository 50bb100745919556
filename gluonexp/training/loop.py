"""The only epoch loop."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

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
    identity
        What training that resumes from here must have in common with this one, by key.
    team
        The processes that train together. Where rank 0 stops after an epoch, all do.
    """

    epochs: int
    batch_size: int
    seed: int
    schedule: Schedule
    workdir: Path
    augment: Augment | None = None
    history: Sequence[Mapping[str, float]] = ()
    extends: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)
    team: Team = ALONE


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
    resumes after the epochs of the settings' history equals training that was never interrupted.

    Returns
    -------
    Fit
        Its `history` holds `train/loss`, `train/acc`, `optim/lr`, `time/epoch_s`,
        `time/images_per_s` and the evaluations' metrics for each epoch; where gradients are
        clipped also `optim/grad_norm`, the mean of their norms before.
    """
    history = [dict(row) for row in settings.history]
    state = Fit(engine, settings, train, evaluations, max(len(history) - 1, 0), history=history)
    state.step = len(history) * state.steps_per_epoch
    if history:
        state.metrics = {key: value for key, value in history[-1].items() if key != "epoch"}
    with contextlib.suppress(StopFit), contextlib.ExitStack() as ended:
        for callback in callbacks:
            ended.callback(callback.fit_end, state)
        _each(callbacks, "fit_start", state)
        for state.epoch in range(len(history), settings.epochs):
            _train_epoch(state, callbacks)
            for name, split in state.evaluations.items():
                state.metrics |= engine.evaluate(split, settings.batch_size).named(name)
            state.history.append({"epoch": state.epoch, **state.metrics})
            _each(callbacks, "epoch_end", state)
    return state


def _train_epoch(state: Fit, callbacks: Sequence[Callback]) -> None:
    engine, settings, issued = state.engine, state.settings, deque[Pending]()
    _each(callbacks, "epoch_start", state)
    rng = seed_host(settings.seed, state.epoch)  # whatever a callback drew
    engine.seed(settings.seed, state.epoch)
    engine.reset()
    started = time.perf_counter()
    for batch in batches(state.train, settings.batch_size, rng=rng, augment=settings.augment):
        state.lr = settings.schedule(state.step)
        issued.append(engine.step(batch, state.lr))
        state.step += 1
        if len(issued) > RUN_AHEAD:
            issued.popleft().wait()
        _each(callbacks, "batch_end", state)
    engine.sync()
    seconds = time.perf_counter() - started
    scores = engine.running()
    state.metrics = {
        **scores.named("train"),
        "optim/lr": state.lr,
        "time/epoch_s": seconds,
        "time/images_per_s": state.samples / seconds,
    }
    if scores.grad_norm is not None:
        state.metrics["optim/grad_norm"] = scores.grad_norm


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
