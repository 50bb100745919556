"""MXNet 1.9.1's rules of moving parameters, by the kernels that PyTorch has.

`torch.optim` follows other rules: MXNet has the learning rate inside the momentum, so that after
the rate drops the weights part by half of what they moved, and adds epsilon in other places. The
formulas are those of MXNet's `optimizer_op-inl.h` without clipping; ``g`` is the gradient of the
mean loss. They round in another order: after 200 steps weights differ by some in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gluonexp.config.optimizers import OptimConfig

Tensors: TypeAlias = list[Tensor]
Move: TypeAlias = Callable[..., None]

_PIECE = 1 << 17  # values for a thread at a time: a cache holds what the next operation needs


class Rule:
    """How an optimizer moves parameters.

    Attributes
    ----------
    slots
        What it keeps of each, by the names of `gluonexp.engines.mxnet.optimizers.slot_names`.
    """

    def __init__(self, slots: tuple[str, ...], move: Move, config: OptimConfig) -> None:
        self.slots, self._move, self._config = slots, move, config

    @torch.no_grad()
    def update(
        self,
        weights: Tensors,
        grads: Tensors,
        slots: dict[str, Tensors],
        counts: Sequence[int],
        lr: Sequence[float],
        wd: Sequence[float],
        rescale: float,
    ) -> None:
        """Move parameters once, in place.

        Parameters
        ----------
        weights, grads
            Dense, their axes in any order in memory. The gradients may be overwritten.
        slots
            By name, a tensor for each weight, laid out in memory as that is (`zeros_like`).
        counts
            How often each parameter was updated, this time included.
        lr, wd
            Learning rate and weight decay of each.
        rescale
            What the gradients are multiplied by: 1 / the batch's size, if they are sums over it.
        """
        groups: dict[tuple[float, float, int], list[list[Tensor]]] = {}
        kept = [slots[name] for name in self.slots]
        for key, weight, grad, *own in zip(
            zip(lr, wd, counts, strict=True), weights, grads, *kept, strict=True
        ):
            if _layout(grad) != _layout(weight):
                grad = torch.empty_like(weight).copy_(grad)
            flat = [each.as_strided((each.numel(),), (1,)) for each in (weight, grad, *own)]
            groups.setdefault(key, []).append(flat)
        for (rate, decay, count), members in groups.items():
            self._move(self._config, members, rate, decay, count, rescale)


def rule(config: OptimConfig) -> Rule:
    """Return the rule of an optimizer."""
    of: Any = config
    match config.name:
        case "sgd" | "nag" if not of.momentum:
            return Rule((), _sgd, config)
        case "sgd" | "nag":
            return Rule(("momentum",), _sgd if config.name == "sgd" else _nag, config)
        case "adam" | "adamw":
            return Rule(("mean", "var"), _adam, config)
        case "rmsprop" if of.centered:
            return Rule(("square_mean", "mean", "momentum"), _rmsprop_centered, config)
        case "rmsprop":
            return Rule(("square_mean",), _rmsprop, config)
        case "adagrad":
            return Rule(("square_sum",), _adagrad, config)
    raise ValueError(f"{config.name}: its rule is not known")


def _layout(tensor: Tensor) -> list[int]:
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _rounded(decay: float) -> float:
    """Return a decay as MXNet's kernels have it: 1 - 0.999 is 1.3e-5 off in float32."""
    return float(np.float32(decay))


def _pieces(members: Sequence[Tensors]) -> Iterator[list[Tensors]]:
    """Yield [weights, grads, *slots]: on a GPU all at once, else a part of a tensor at a time."""
    if members[0][0].device.type != "cpu":
        yield [*map(list, zip(*members, strict=True))]
        return
    most = _PIECE * torch.get_num_threads()
    for member in members:
        for part in zip(*(torch.split(tensor, most) for tensor in member), strict=True):
            yield [[each] for each in part]


def _sgd(of: Any, members: Any, lr: float, wd: float, count: int, rescale: float) -> None:
    """``m = mu m - lr wd w - lr g; w += m``.

    The kernel computes ``d = g + wd w; m = mu m + (1 - dampening) d; w -= lr m``.
    """
    weights, grads, *slots = map(list, zip(*members, strict=True))
    rate = lr * rescale
    torch._fused_sgd_(
        weights,
        grads,
        slots[0] if slots else [],
        weight_decay=wd / rescale,
        momentum=of.momentum,
        lr=-1.0 if slots else rate,
        dampening=1 + rate if slots else 0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _nag(of: Any, members: Any, lr: float, wd: float, count: int, rescale: float) -> None:
    """``m = mu m; w' = w - m + (mu + 1)(m - lr (g + wd w)); m -= lr (g + wd w')``.

    MXNet has written the weight when it computes the momentum, which decays by the new one. Here
    ``m -= lr g`` comes first, and a weight moves in one addition: two round small ones away.
    """
    mu = of.momentum
    for w, g, m in _pieces(members):
        torch._foreach_mul_(g, lr * rescale)
        torch._foreach_mul_(m, mu)
        torch._foreach_sub_(m, g)
        if wd:
            torch._foreach_add_(g, w, alpha=(1 + mu) * lr * wd)
        torch._foreach_add_(g, m, alpha=-mu)
        torch._foreach_sub_(w, g)
        if wd:
            torch._foreach_add_(m, w, alpha=-lr * wd)


def _adam(of: Any, members: Any, lr: float, wd: float, count: int, rescale: float) -> None:
    """``w -= lr c m / (sqrt(v) + eps)`` with ``c = sqrt(1 - beta2^t) / (1 - beta1^t)``.

    The kernel applies its own correction, to epsilon as well: at step infinity it is 1.
    """
    weights, grads, means, variances = map(list, zip(*members, strict=True))
    device = weights[0].device
    correction = math.sqrt(1 - of.beta2**count) / (1 - of.beta1**count)
    decoupled = of.name == "adamw"
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(
        weights,
        grads,
        means,
        variances,
        [],
        [torch.full((), math.inf, device=device)] * len(weights),
        lr=lr * correction,
        beta1=_rounded(of.beta1),
        beta2=_rounded(of.beta2),
        weight_decay=wd / correction if decoupled else wd,  # the kernel: w *= 1 - lr wd
        eps=of.epsilon,
        amsgrad=False,
        maximize=False,
        grad_scale=None if rescale == 1 else torch.full((), 1 / rescale, device=device),
    )


def _rmsprop(of: Any, members: Any, lr: float, wd: float, count: int, rescale: float) -> None:
    """``n = rho n + (1 - rho) g^2; w -= lr g / sqrt(n + eps)``, g with wd w."""
    rho, rest = _rounded(of.rho), 1 - _rounded(of.rho)
    for w, g, n in _pieces(members):
        by = _decayed(g, w, wd, rescale)
        torch._foreach_mul_(n, rho)
        torch._foreach_addcmul_(n, g, g, value=rest * by * by)
        torch._foreach_addcdiv_(w, g, _root(n, of.epsilon), value=-lr * by)


def _rmsprop_centered(
    of: Any, members: Any, lr: float, wd: float, count: int, rescale: float
) -> None:
    """``n, a``: means of g^2 and g; ``d = mu d - lr g / sqrt(n - a^2 + eps); w += d``.

    Here the difference makes much of a last bit: everything in MXNet's order.
    """
    rho, rest = _rounded(of.rho), 1 - _rounded(of.rho)
    for w, g, n, a, d in _pieces(members):
        torch._foreach_mul_(g, _decayed(g, w, wd, rescale))
        part = torch._foreach_mul(g, rest)
        torch._foreach_mul_(a, rho)
        torch._foreach_add_(a, part)
        torch._foreach_mul_(part, g)
        torch._foreach_mul_(n, rho)
        torch._foreach_add_(n, part)
        root = _root(torch._foreach_sub(n, torch._foreach_mul(a, a)), of.epsilon)
        torch._foreach_mul_(d, of.momentum)
        torch._foreach_addcdiv_(d, g, root, value=-lr)
        torch._foreach_add_(w, d)


def _adagrad(of: Any, members: Any, lr: float, wd: float, count: int, rescale: float) -> None:
    """``h += g^2; w -= lr (g / sqrt(h + eps) + wd w)``."""
    for w, g, h in _pieces(members):
        torch._foreach_addcmul_(h, g, g, value=rescale * rescale)
        root = _root(h, of.epsilon)
        if wd:
            torch._foreach_div_(g, root)
            torch._foreach_add_(g, w, alpha=wd / rescale)
            torch._foreach_add_(w, g, alpha=-lr * rescale)
        else:
            torch._foreach_addcdiv_(w, g, root, value=-lr * rescale)


def _decayed(g: Tensors, w: Tensors, wd: float, rescale: float) -> float:
    """Add the decay to a gradient, if any; return what to multiply it by from here on."""
    if not wd:
        return rescale
    torch._foreach_mul_(g, rescale)
    torch._foreach_add_(g, w, alpha=wd)
    return 1.0


def _root(squares: Tensors | tuple[Tensor, ...], epsilon: float) -> Tensors:
    root = [*torch._foreach_add(squares, epsilon)]
    torch._foreach_sqrt_(root)
    return root
