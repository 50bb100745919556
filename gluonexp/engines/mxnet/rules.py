"""The update rules that NumPy carries out faster on a CPU than MXNet's kernels.

MXNet computes a gradient into memory, then its kernel reads it again. A rule here takes a part of
a parameter at a time and has its gradient computed to where it is needed: that of SGD straight
into the weights, or the momentum. The formulas are those of MXNet 1.9.1, without clipping.

Of AlexNet's largest layer on two cores, MXNet's kernels for Adam and RMSProp move 14 to 16 GB/s,
which NumPy in chunks does not reach (8); for SGD 7, for AdaGrad 0.6. With them a faster product
alone gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from gluonexp.base.mx import mx
from gluonexp.engines.mxnet.blas import Floats


class Gradient(Protocol):
    """The gradient of a part of a parameter, summed over the batch."""

    def __call__(self, out: Floats, alpha: float, beta: float) -> None:
        """Compute ``out = alpha * gradient + beta * out``."""


@dataclass(frozen=True)
class Part:
    """Some rows of a parameter, and what is the same for all of them.

    Attributes
    ----------
    weight, kept
        Its values and those that the optimizer keeps, of the same shape: changed in place.
    gradient
        Its gradient.
    spare
        Two arrays of that shape to compute in.
    lr, wd
        Learning rate and weight decay of this parameter.
    scale
        Makes the gradient of the mean loss of that of the sum.
    """

    weight: Floats
    kept: tuple[Floats, ...]
    gradient: Gradient
    spare: tuple[Floats, Floats]
    lr: float
    wd: float
    scale: float


Rule: TypeAlias = Callable[[Any, Part], None]


def rule(optimizer: mx.optimizer.Optimizer) -> Rule | None:
    """Return the rule of an optimizer; None: MXNet's kernels are to be used."""
    if optimizer.clip_gradient is not None:
        return None
    rules: dict[type, Rule] = {mx.optimizer.SGD: _sgd, mx.optimizer.AdaGrad: _adagrad}
    return rules.get(type(optimizer))


def _sgd(of: mx.optimizer.SGD, part: Part) -> None:
    rate, decay = -part.lr * part.scale, part.lr * part.wd
    if not part.kept:
        part.gradient(part.weight, rate, 1 - decay)
        return
    (momentum,) = part.kept
    part.gradient(momentum, rate, of.momentum)
    if decay:
        np.subtract(momentum, np.multiply(part.weight, decay, out=part.spare[0]), out=momentum)
    np.add(part.weight, momentum, out=part.weight)


def _adagrad(of: mx.optimizer.AdaGrad, part: Part) -> None:
    (squares,), (move, root) = part.kept, part.spare
    part.gradient(move, part.scale, 0.0)
    squares += np.square(move, out=root)
    np.sqrt(np.add(squares, of.float_stable_eps, out=root), out=root)
    move /= root
    if part.wd:
        move += np.multiply(part.weight, part.wd, out=root)
    move *= part.lr
    np.subtract(part.weight, move, out=part.weight)
