"""A network of one output as a classifier of two classes."""

from __future__ import annotations

from typing import Any

from gluonexp.base.mx import nn

_LEAST = 1e-7  # probability, of which the logarithm is still taken


class TwoClasses(nn.HybridBlock):
    """Logits (N, 2) of a network that gives one value x an image: (0, x).

    Softmax of them is (1 - p, p), where p is the sigmoid of x.

    Parameters
    ----------
    net
        Gives (N, 1).
    probability
        Whether its values are p already: then the logits are (log(1 - p), log(p)).
    """

    def __init__(self, net: nn.HybridBlock, probability: bool) -> None:
        super().__init__(prefix="")
        self.net = net
        self._probability = probability

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return the logits."""
        one = self.net(x)
        if not self._probability:
            return F.concat(F.zeros_like(one), one, dim=1)
        p = F.clip(one, _LEAST, 1 - _LEAST)
        return F.log(F.concat(1 - p, p, dim=1))

    @property
    def note(self) -> str:
        """What was done, for people."""
        made = "(log(1 - p), log(p)) of its p" if self._probability else "(0, x) of its x"
        return f"the model's one output is taken for two classes: the logits are {made}"
