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


def _warmed(
    schedule: Schedule, base_lr: float, steps_per_epoch: int, warmup_epochs: float
) -> Schedule:
    """Let the learning rate rise linearly to `base_lr` before `schedule` takes over."""
    if warmup_epochs < 0:
        raise GluonexpError(f"scheduler.warmup_epochs={warmup_epochs:g}: must be at least 0")
    steps = round(warmup_epochs * steps_per_epoch)
    return lambda step: base_lr * (step + 1) / steps if step < steps else schedule(step)
