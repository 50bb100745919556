"""Averages of what learns, and how they take its place for a while."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch


class Averages:
    """Exponential moving averages of some of the tensors `values`.

    Attributes
    ----------
    kept
        By the names of `values`; of what is not there, its value is its average.
    """

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self._values = values
        self.kept: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def move(self, names: Collection[str], decay: float) -> None:
        """Move an average of each of these values towards it, or begin it as the value is."""
        for name in names:
            if name in self.kept:
                self.kept[name].lerp_(self._values[name], 1 - decay)
            else:
                self.kept[name] = self._values[name].detach().clone()

    def of(self, name: str) -> torch.Tensor:
        """Return the average of a value."""
        return self.kept.get(name, self._values[name])

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have the averages in the place of the values inside."""
        raw = {name: self._values[name].detach().clone() for name in self.kept}
        try:
            self.put(self.kept)
            yield
        finally:
            self.put(raw)

    @torch.no_grad()
    def put(self, given: Mapping[str, torch.Tensor]) -> None:
        """Copy what is given into the values."""
        for name, value in given.items():
            self._values[name].copy_(value)
