"""What one key may be: a choice, or a number from an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Choice:
    """One of `options`, each the text of an override; `ordered` where neighbours are alike."""

    options: tuple[str, ...]
    ordered: bool = False

    def text(self, value: Any) -> str:
        """Return the override's text of what Optuna chose."""
        return self.options[value] if self.ordered else str(value)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's counterpart."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        if self.ordered:
            return IntDistribution(0, len(self.options) - 1)
        return CategoricalDistribution(self.options)

    def example(self) -> str:
        """Return the override's text of any of them."""
        return self.options[0]

    def describe(self) -> str:
        """Return what it is, in words."""
        if not self.ordered:
            return f"one of {', '.join(self.options)}"
        first, *_, last = self.options * 2
        return f"{first} to {last} ({len(self.options)} values)"


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included; a whole one where these are.

    Attributes
    ----------
    step
        The distance of whole numbers.
    log
        Sampled evenly on a logarithmic scale.
    """

    low: float
    high: float
    step: int = 1
    log: bool = False

    @property
    def whole(self) -> bool:
        """Say whether it is a whole number."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self, value: Any) -> str:
        """Return the override's text of what Optuna chose; it reads as exactly the same number."""
        return repr(value)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's counterpart."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), step=self.step, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def example(self) -> str:
        """Return the override's text of any of them."""
        return repr(self.low)

    def describe(self) -> str:
        """Return what it is, in words."""
        kind = "a whole number from " if self.whole else ""
        step = f" in steps of {self.step}" if self.step > 1 else ""
        scale = " on a log scale" if self.log else ""
        return f"{kind}{self.low:.6g} to {self.high:.6g}{step}{scale}"


Dimension = Choice | Number
