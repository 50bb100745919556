"""Learning rates by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gluonexp.base.errors import GluonexpError

Schedule = Callable[[int], float]
"""Step (counted from 0 over the whole run) to learning rate."""


def constant(
    *, base_lr: float, steps_per_epoch: int, epochs: int, warmup_epochs: float = 0
) -> Schedule:
    """Return a schedule that stays at `base_lr` (after the warm-up)."""
    return _warmed(lambda step: base_lr, base_lr, steps_per_epoch, warmup_epochs)


def step(
    *,
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    milestones: Sequence[float],
    factor: float = 0.1,
    warmup_epochs: float = 0,
) -> Schedule:
    """Return a schedule multiplied by `factor` at each of the epochs in `milestones`."""
    drops = [round(epoch * steps_per_epoch) for epoch in milestones]
    return _warmed(
        lambda step: base_lr * factor ** sum(step >= drop for drop in drops),
        base_lr,
        steps_per_epoch,
        warmup_epochs,
    )


def cosine(
    *,
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    final_fraction: float = 0.0,
    warmup_epochs: float = 0,
) -> Schedule:
    """Return half a cosine from `base_lr` down to `final_fraction` of it (Loshchilov & Hutter)."""
    start = round(warmup_epochs * steps_per_epoch)
    length = max(epochs * steps_per_epoch - start, 1)
    final = base_lr * final_fraction

    def at(step: int) -> float:
        progress = min((step - start) / length, 1.0)
        return final + (base_lr - final) * (1 + math.cos(math.pi * progress)) / 2

    return _warmed(at, base_lr, steps_per_epoch, warmup_epochs)


def linear(
    *,
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    final_fraction: float = 0.0,
    warmup_epochs: float = 0,
) -> Schedule:
    """Return a straight line from `base_lr` down to `final_fraction` of it."""
    _check_fraction("final_fraction", final_fraction)
    start = round(warmup_epochs * steps_per_epoch)
    length = max(epochs * steps_per_epoch - start, 1)

    def at(step: int) -> float:
        progress = min((step - start) / length, 1.0)
        return base_lr * (1 + (final_fraction - 1) * progress)

    return _warmed(at, base_lr, steps_per_epoch, warmup_epochs)


def onecycle(
    *,
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    rise: float = 0.3,
    initial_fraction: float = 0.04,
    final_fraction: float = 0.0,
) -> Schedule:
    """Return half a cosine up to `base_lr`, and one down again (Smith & Topin, 2018).

    The momentum stays as it is, where the paper lets it fall while the learning rate rises.

    Parameters
    ----------
    rise
        The share of all steps that it rises for, above 0 and below 1.
    initial_fraction, final_fraction
        Of `base_lr`, at the first step and at the last one.

    Raises
    ------
    GluonexpError
        A share is out of its range.
    """
    if not 0 < rise < 1:
        raise GluonexpError(f"scheduler.rise={rise:g}: must be above 0 and below 1")
    _check_fraction("initial_fraction", initial_fraction)
    _check_fraction("final_fraction", final_fraction)
    last = epochs * steps_per_epoch - 1
    # Before the first step where there are few: then it falls only.
    peak = rise * (last + 1) - 1

    def at(step: int) -> float:
        if step < peak:
            return base_lr * _eased(initial_fraction, 1.0, step / peak)
        if last <= peak:
            return base_lr
        return base_lr * _eased(1.0, final_fraction, min((step - peak) / (last - peak), 1.0))

    return at


def _eased(start: float, end: float, progress: float) -> float:
    """Return what half a cosine leads to from `start`, after this part of the way to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise GluonexpError(f"scheduler.{name}={value:g}: must be in [0, 1]")


def _warmed(
    schedule: Schedule, base_lr: float, steps_per_epoch: int, warmup_epochs: float
) -> Schedule:
    """Let the learning rate rise linearly to `base_lr` before `schedule` takes over."""
    if warmup_epochs < 0:
        raise GluonexpError(f"scheduler.warmup_epochs={warmup_epochs:g}: must be at least 0")
    steps = round(warmup_epochs * steps_per_epoch)
    return lambda step: base_lr * (step + 1) / steps if step < steps else schedule(step)
