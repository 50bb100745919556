"""Which value is better: the direction is declared, never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gluonexp.base.errors import GluonexpError


def best_of(curve: Sequence[tuple[int, float]], mode: str) -> tuple[int, float] | None:
    """Return the epoch and value of the best point of a curve, the earliest of equal ones."""
    known = [(epoch, value) for epoch, value in curve if math.isfinite(value)]
    if not known:
        return None
    sign = -1 if mode == "max" else 1
    return min(known, key=lambda point: (sign * point[1], point[0]))


class Better:
    """Remembers the best value of one metric; the direction is declared, never guessed."""

    def __init__(self, metric: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise GluonexpError(f"mode={mode}: choose min or max")
        self.metric = metric
        self._sign = 1 if mode == "max" else -1
        self._min_delta = min_delta
        self.value = -math.inf * self._sign

    def improved(self, metrics: dict[str, float]) -> bool:
        """Say whether `metrics` are better than all before them; NaN never is."""
        value = metrics[self.metric]
        if not (value - self.value) * self._sign > self._min_delta:
            return False
        self.value = value
        return True
