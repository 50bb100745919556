"""Operators whose gradient is not their derivative: MXNet's losses as layers, and the like."""

# An attribute's type is that of its default.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gluonexp.engines.torch.layer import RUN, Entry, Function, refuse, within


class Sloped(torch.autograd.Function):
    """Gives `made`; back goes ``slope`` times the gradient, or `slope` alone: MXNet's losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor, slope: Any, heeds: bool) -> Tensor:
        """Keep what `backward` needs."""
        ctx.slope, ctx.heeds = slope, heeds
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient of `x`."""
        return gradients[0] * ctx.slope if ctx.heeds else ctx.slope, None, None, None


def _through(function: Function) -> Function:
    """Return what passes the gradient on, times `scalar`."""

    def through(x, *, scalar=1.0, run=RUN):
        return Sloped.apply(x, function(x.detach()), scalar, True) if run.training else function(x)

    return through


def _regression(made: Function, slope: Function) -> Function:
    """Return a layer whose gradient is `slope` of outputs and labels, over outputs an image."""

    def regression(x, labels, *, grad_scale=1.0, run=RUN):
        found = made(x)
        if not run.training:
            return found
        found = found.detach()
        scale = grad_scale / found[0].numel()
        return Sloped.apply(x, found, slope(found, labels.reshape(found.shape)) * scale, False)

    return regression


def _make_loss(x, *, grad_scale=1.0, normalization="null", valid_thresh=0.0, run=RUN):
    if not run.training:
        return x
    counts = {"null": 1, "batch": len(x), "valid": (x > valid_thresh).sum().clamp(min=1)}
    slope = torch.full_like(x, grad_scale) / counts[normalization]
    return Sloped.apply(x, x.detach(), slope, False)


def _softmax_output(
    x, labels, *, grad_scale=1.0, smooth_alpha=0.0, normalization="null", ignore_label=-1.0,
    use_ignore=False, multi_output=False, preserve_shape=False, given=(), run=RUN,
):  # fmt: skip
    rank = len(given[0])
    refuse(len(given[1]) == rank, "labels that are no class numbers")
    refuse(rank != 2 and not (multi_output or preserve_shape), "classes of several dimensions")
    axis = 1 if multi_output else -1
    found = F.softmax(x, axis)
    if not run.training:
        return found
    found, classes = found.detach(), given[0][axis]
    true = F.one_hot(within(labels, classes), classes).movedim(-1, axis)
    smooth_alpha = 0.0 if multi_output else smooth_alpha  # as in MXNet
    other = smooth_alpha / (classes - 1)
    valid = (labels != ignore_label) if use_ignore else torch.ones_like(labels)
    slope = (found - true * (1 - smooth_alpha - other) - other) * grad_scale
    if multi_output and normalization != "valid":
        slope = slope / found[0][0].numel()
    slope = slope * valid.unsqueeze(axis)
    counts = {"null": 1, "batch": len(x), "valid": valid.sum().clamp(min=1)}
    return Sloped.apply(x, found, slope / counts[normalization], False)


LOSSES: Final[dict[str, Entry]] = {
    "LinearRegressionOutput": _regression(lambda x: x, torch.sub),
    "LogisticRegressionOutput": _regression(torch.sigmoid, torch.sub),
    "MAERegressionOutput": _regression(lambda x: x, lambda x, y: torch.sign(x - y)),
    "MakeLoss": _make_loss,
    "SoftmaxOutput": (_softmax_output, "out_grad=False"),
    "_contrib_gradientmultiplier": _through(lambda x: x),
    "_contrib_sign_ste": _through(torch.sign),
    "make_loss": _make_loss,
}
