"""Layers: convolution, pooling, normalization, dropout and their kin, as PyTorch computes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gluonexp.engines.torch.layer import Function, Layer, Refused, Run

_CONVOLUTIONS: Final[tuple[Function, ...]] = (F.conv1d, F.conv2d, F.conv3d)


def convolution(layer: Layer) -> Function:
    """Return a convolution; weights (O, I / groups, ...) as in MXNet."""
    kernel = layer.numbers("kernel")
    side = len(kernel)
    layer.only(layout=("None", "NCW", "NCHW", "NCDHW"))
    layer.flag("no_bias"), layer.text("num_filter")  # said by the inputs
    settings = {
        "stride": layer.numbers("stride", [1] * side),
        "padding": layer.numbers("pad", [0] * side),
        "dilation": layer.numbers("dilate", [1] * side),
        "groups": layer.integer("num_group", 1),
    }
    return partial(_CONVOLUTIONS[side - 1], **settings)


def dense(layer: Layer) -> Function:
    """Return a matrix product with weights (O, I)."""
    layer.flag("no_bias"), layer.text("num_hidden")  # said by the inputs
    if layer.flag("flatten", True) and layer.rank != 2:
        return lambda x, *weights: F.linear(x.flatten(1), *weights)
    return F.linear


ACTIVATIONS: Final[dict[str, Function]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softrelu": partial(F.softplus, threshold=30.0),  # beyond it both are the identity
    "softsign": F.softsign,
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
}


def activation(layer: Layer) -> Function:
    """Return what `act_type` says."""
    kind = layer.text("act_type")
    if kind not in ACTIVATIONS:
        raise Refused(f"act_type={kind}")
    return ACTIVATIONS[kind]


def pooling(layer: Layer) -> Function:
    """Return a pooling; windows of MXNet's ``full`` may lie in the padding as a whole."""
    kind, side = layer.text("pool_type", "max"), layer.rank - 2
    layer.only(layout=("None", "NCW", "NCHW", "NCDHW"))
    include = layer.flag("count_include_pad", True)
    full = layer.text("pooling_convention", "valid")
    kernel = layer.numbers("kernel")
    stride, pad = layer.numbers("stride", [1] * side), layer.numbers("pad", [0] * side)
    if kind not in ("max", "avg") or full not in ("valid", "full"):
        raise Refused(f"pool_type={kind}, pooling_convention={full}")
    functions: dict[str, Callable[..., Tensor]] = vars(F)
    if layer.flag("global_pool"):
        pool = functions[f"adaptive_{kind}_pool{side}d"]
        return lambda x: pool(x, (1,) * side)
    pool = functions[f"{kind}_pool{side}d"]
    settings: dict[str, Any] = {"ceil_mode": full == "full"}
    if kind == "avg":
        settings["count_include_pad"] = include
    return lambda x: pool(x, kernel, stride, pad, **settings)


def batch_norm(layer: Layer) -> Function:
    """Return a normalization by the batch, or by moving statistics.

    MXNet keeps the batch's biased variance, PyTorch the unbiased one: its kernel writes into
    buffers that are thrown away, which costs no pass over the data.
    """
    axis, eps, momentum = (
        layer.axis(default=1),
        layer.number("eps", 1e-3),
        layer.number("momentum", 0.9),
    )
    fixed, frozen = layer.flag("fix_gamma", True), layer.flag("use_global_stats")
    layer.only(output_mean_var="False")
    if axis != 1:
        raise Refused(f"axis={axis}")
    layer.moded = True

    def normalize(
        run: Run, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor:
        weight = None if fixed else gamma
        if frozen or not run.training:
            return F.batch_norm(x, mean, variance, weight, beta, False, 0.0, eps)
        found, unbiased = torch.zeros_like(mean), torch.zeros_like(variance)
        made = torch.batch_norm(x, weight, beta, found, unbiased, True, 1.0, eps, False)
        if torch.is_grad_enabled() and any(each.requires_grad for each in (x, gamma, beta)):
            count = x.numel() // x.shape[1]
            run.moves.append((mean, found, 1.0, momentum))
            run.moves.append((variance, unbiased, (count - 1) / count, momentum))
        return made

    return normalize


def dropout(layer: Layer) -> Function:
    """Return a dropout; along `axes` all share one draw."""
    rate, axes = layer.number("p", 0.5), layer.numbers("axes")
    always = layer.text("mode", "training") == "always"
    layer.moded = True

    def drop(run: Run, x: Tensor) -> Tensor:
        if not run.drop or not (always or run.training):
            return x
        if not axes:
            return F.dropout(x, rate)
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return x * F.dropout(x.new_ones(shape), rate)

    return drop
