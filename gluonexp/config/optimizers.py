"""The typed part of the configuration that is an optimizer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from omegaconf import MISSING

from gluonexp.config.fields import chosen, ranged


@dataclass
class OptimConfig:
    """What every optimizer has."""

    # The rule; its file sets it.
    name: str = chosen(MISSING, "sgd", "nag", "adam", "adamw", "rmsprop", "adagrad")
    # The learning rate, which the scheduler starts from.
    lr: float = ranged(low=0, above=True)
    # Pulls parameters towards 0; how, is the optimizer's.
    weight_decay: float = ranged(0.0, low=0)
    # MXNet decays every parameter; false exempts biases and BatchNorm's gamma and beta.
    decay_bias_and_norm: bool = True
    # The longest the batch's mean gradient, of all parameters together, may be; null: any length.
    clip_norm: float | None = ranged(None, low=0, above=True)


@dataclass
class MomentumConfig(OptimConfig):
    """SGD and Nesterov's accelerated gradient."""

    # The share of the last step that is taken again.
    momentum: float = ranged(0.9, low=0, below=1)


@dataclass
class AdamConfig(OptimConfig):
    """Adam and AdamW."""

    # Decays the mean of gradients.
    beta1: float = ranged(0.9, low=0, below=1)
    # Decays the mean of their squares.
    beta2: float = ranged(0.999, low=0, below=1)
    # Added to the root of the mean square.
    epsilon: float = ranged(1e-8, low=0, above=True)


@dataclass
class RmspropConfig(OptimConfig):
    """RMSProp: `rho` decays the mean square, `momentum` is used only when `centered`."""

    # Decays the mean square of gradients.
    rho: float = ranged(0.9, low=0, below=1)
    # The share of the last step that is taken again; used only when `centered`.
    momentum: float = ranged(0.9, low=0, below=1)
    # Added to the mean square.
    epsilon: float = ranged(1e-8, low=0, above=True)
    # Subtract the squared mean of gradients from their mean square (Graves, 2013).
    centered: bool = False


@dataclass
class AdagradConfig(OptimConfig):
    """AdaGrad: `epsilon` is added to the sum of squares, under the root."""

    # Added to the sum of squares, under the root.
    epsilon: float = ranged(1e-7, low=0, above=True)


OPTIMIZERS: Final[dict[str, type[OptimConfig]]] = {
    "sgd": MomentumConfig,
    "nag": MomentumConfig,
    "adam": AdamConfig,
    "adamw": AdamConfig,
    "rmsprop": RmspropConfig,
    "adagrad": AdagradConfig,
}
