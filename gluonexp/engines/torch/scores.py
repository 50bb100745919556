"""What PyTorch measures while it trains: a step's loss, sums over steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gluonexp.training.engine import Scores


class IssuedStep:
    """One training step, by the mean loss of its batch, on the device, from before the update."""

    def __init__(self, loss: torch.Tensor) -> None:
        self._loss = loss
        self._done: Any = None
        if loss.is_cuda:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> None:
        """Return once it is computed."""
        while self._done is not None and not self._done.query():
            time.sleep(1e-4)  # Python sees no signal while it synchronizes

    def loss(self) -> float:
        """Return the mean loss of its batch (device sync)."""
        if self._done is None:
            return float(self._loss)
        self.wait()
        with torch.cuda.stream(_beside(self._loss.device)):  # what was issued since goes on
            return float(self._loss)


@cache
def _beside(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Sums:
    """Loss and hits summed on the device and weighted by sample; nothing waits until `read`."""

    def __init__(
        self, device: torch.device, start: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        start = start or {}
        names = ("loss", "correct", "grad_norm")
        self._totals = {
            name: torch.tensor(start.get(name, np.zeros(1)), dtype=torch.float64, device=device)
            for name in names
        }
        self._samples, self._clipped = (int(start.get(n, 0)) for n in ("samples", "clipped_steps"))

    def add(
        self, scores: torch.Tensor, samples: int, grad_norm: torch.Tensor | None = None
    ) -> None:
        """Add one batch: the sum of its losses and its hits (2,), grad_norm ()."""
        self._totals["loss"] += scores[0]
        self._totals["correct"] += scores[1]
        self._samples += samples
        if grad_norm is not None:
            self._totals["grad_norm"] += grad_norm
            self._clipped += 1

    def read(self) -> Scores:
        """Return the scores so far (device sync)."""
        if not self._samples:
            return Scores(float("nan"), float("nan"), 0)
        loss, correct, norm = (float(total) for total in self._totals.values())
        return Scores(
            loss=loss / self._samples,
            acc=correct / self._samples,
            samples=self._samples,
            grad_norm=norm / self._clipped if self._clipped else None,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what `start` takes (device sync)."""
        totals = {name: total.cpu().numpy() for name, total in self._totals.items()}
        counts = {"samples": self._samples, "clipped_steps": self._clipped}
        return {**totals, **{name: np.array(count) for name, count in counts.items()}}


def scored(losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of losses (N,), and how many logits (N, K) hit their labels (N,): (2,)."""
    return torch.stack([losses.detach().sum(), (logits.argmax(dim=1) == labels).sum().float()])
