"""Optimizers by name, and what they may not decay."""

from __future__ import annotations

import math
from typing import Any

from gluonexp.base.mx import mx, nd, nn

_RENAMED = {
    "adagrad": {"epsilon": "eps"},
    "rmsprop": {"rho": "gamma1", "momentum": "gamma2"},
}


class AdamW(mx.optimizer.Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019, algorithm 2).

    MXNet 1.9.1 has an operator for it, but no optimizer. On a CPU that operator uses one thread;
    Adam's does the same after the decay in a third of its time.
    """

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def create_state(self, index: int, weight: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
        """Return the first and second moment, both zero."""
        return nd.zeros_like(weight), nd.zeros_like(weight)

    def update(
        self,
        index: int,
        weight: nd.NDArray,
        grad: nd.NDArray,
        state: tuple[nd.NDArray, nd.NDArray],
    ) -> None:
        """Take one step on `weight` in place."""
        self._update_count(index)
        count = self._index_update_count[index]
        lr, decay = self._get_lr(index), self._get_lr(index) * self._get_wd(index)
        correction = math.sqrt(1 - self.beta2**count) / (1 - self.beta1**count)
        if decay:
            weight *= 1 - decay
        nd.adam_update(
            weight,
            grad,
            *state,
            out=weight,
            lr=lr * correction,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            wd=0.0,
            rescale_grad=self.rescale_grad,
        )


def optimizer(
    name: str, *, lr: float, weight_decay: float, **options: Any
) -> mx.optimizer.Optimizer:
    """Return the optimizer `name`; options carry the field's usual names, not MXNet's."""
    arguments: dict[str, Any] = {"learning_rate": lr, "wd": weight_decay}
    renamed = _RENAMED.get(name, {})
    arguments |= {renamed.get(key, key): value for key, value in options.items()}
    return AdamW(**arguments) if name == "adamw" else mx.optimizer.create(name, **arguments)


def slot_names(optimizer: mx.optimizer.Optimizer) -> tuple[str, ...]:
    """Return what `optimizer` keeps of each parameter, in the order of its state's arrays."""
    match optimizer:
        case mx.optimizer.SGD() | mx.optimizer.NAG():
            return ("momentum",) if optimizer.momentum else ()
        case mx.optimizer.Adam() | AdamW():
            return ("mean", "var")
        case mx.optimizer.RMSProp():
            return ("square_mean", "mean", "momentum") if optimizer.centered else ("square_mean",)
        case mx.optimizer.AdaGrad():
            return ("square_sum",)
    raise TypeError(f"{type(optimizer).__name__}: what it keeps is not known")


def exempt_bias_and_norm(net: nn.HybridBlock) -> None:
    """Keep weight decay off every bias and off what normalisation layers scale and shift by.

    To pull those towards zero does not make a network simpler (He et al., 2019, "Bag of Tricks",
    section 3.1). A parameter's role is the name that its block has for it: ``bias``, ``gamma``,
    ``beta``, in recurrent layers ``l0_i2h_bias``. What is frozen is exempt too, so that it stays
    so when it is unfrozen later.
    """
    for name, parameter in net._collect_params_with_prefix().items():
        if name.rpartition(".")[2].rpartition("_")[2] in ("bias", "gamma", "beta"):
            parameter.wd_mult = 0.0
