"""MXNet's operators as functions on PyTorch's tensors, one node at a time.

The list is that of `gluonexp.export.onnx.translators` where PyTorch can train what they do.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gluonexp.engines.torch import layers, shapes
from gluonexp.engines.torch.layer import Function, Layer, Refused

Lowering = Callable[[Layer], Function]


def lowered(layer: Layer) -> Function:
    """Return what computes a layer.

    Raises
    ------
    Refused
        Nothing of PyTorch does.
    """
    if layer.op not in OPERATORS:
        raise Refused("PyTorch is not told how to compute it")
    function = OPERATORS[layer.op](layer)
    if left := layer.unread():
        raise Refused(f"{', '.join(left)} is not lowered")
    return function


def _plain(function: Any) -> Lowering:
    return lambda layer: function


def _scalar(function: Function) -> Lowering:
    """Return the lowering of an operator with a number."""

    def lower(layer: Layer) -> Function:
        scalar = layer.number("scalar")
        layer.text("is_int")
        return lambda x: function(x, scalar)

    return lower


def _cast(layer: Layer) -> Function:
    dtype = getattr(torch, layer.text("dtype"), None)
    if dtype is None:
        raise Refused(f"dtype={layer.text('dtype')}")
    layer.moded = True
    return lambda run, x: x.to(run.floating if dtype is torch.float32 else dtype)


def _clip(layer: Layer) -> Function:
    low, high = layer.number("a_min"), layer.number("a_max")
    return lambda x: x.clamp(low, high)


def _softmax(function: Function, sign: float = 1) -> Lowering:
    def lower(layer: Layer) -> Function:
        axis, factor = layer.axis(), sign
        if (text := layer.text("temperature")) != "None":
            factor /= float(text)
        layer.only(use_length="False", dtype="None")
        if factor == 1:
            return lambda x: function(x, axis)
        return lambda x: function(x * factor, axis)

    return lower


def _pick(layer: Layer) -> Function:
    axis, keep = layer.axis(), layer.flag("keepdims")
    size = layer.given[0][axis]
    layer.only(mode="clip")
    inserted = len(layer.given[1]) != layer.rank
    if size is None:
        raise Refused("it picks along the images")

    def pick(x: Tensor, index: Tensor) -> Tensor:
        index = index.long().clamp(0, size - 1)
        found = x.gather(axis, index.unsqueeze(axis) if inserted else index)
        return found if keep else found.squeeze(axis)

    return pick


def _mean(layer: Layer) -> Function:
    axes = shapes.reduced(layer)
    keep = layer.flag("keepdims")
    if not axes:
        return lambda x: x
    return lambda x: x.mean(axes, keepdim=keep)


def _leaky(layer: Layer) -> Function:
    kind, slope = layer.text("act_type", "leaky"), layer.number("slope", 0.25)
    kinds: dict[str, Function] = {
        "leaky": lambda x: F.leaky_relu(x, slope),
        "elu": lambda x: F.elu(x, slope),
        "selu": F.selu,
        "gelu": F.gelu,
        "prelu": F.prelu,
    }
    if kind not in kinds:
        raise Refused(f"act_type={kind}")
    return kinds[kind]


def _normalize(layer: Layer) -> Function:
    """Lower `image.normalize`: minus mean, over standard deviation, by channel."""
    for key, default in (("mean", "0"), ("std", "1")):
        written = re.findall(r"[-+.\de]+", layer.text(key, default))
        layer.hold([[[float(number)]] for number in written])
    return lambda x, mean, std: (x - mean) / std


def _resize(layer: Layer) -> Function:
    aligned = layer.flag("align_corners", True)
    layer.only(mode="size")
    size = layer.integer("height", 1), layer.integer("width", 1)
    return lambda x: F.interpolate(x, size, mode="bilinear", align_corners=aligned)


def _sum(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors)


OPERATORS: Final[dict[str, Lowering]] = {
    "Activation": layers.activation,
    "BatchNorm": layers.batch_norm,
    "Cast": _cast,
    "Concat": shapes.concat,
    "Convolution": layers.convolution,
    "Dropout": layers.dropout,
    "Flatten": _plain(lambda x: x.flatten(1)),
    "FullyConnected": layers.dense,
    "LeakyReLU": _leaky,
    "Pooling": layers.pooling,
    "Reshape": shapes.reshape,
    "SliceChannel": shapes.split,
    "_contrib_BilinearResize2D": _resize,
    "_copy": _plain(lambda x: x),
    "_image_normalize": _normalize,
    "add_n": _plain(_sum),
    "clip": _clip,
    "log_softmax": _softmax(F.log_softmax),
    "mean": _mean,
    "pick": _pick,
    "repeat": shapes.repeat,
    "softmax": _softmax(F.softmax),
    "softmin": _softmax(F.softmax, -1),
    "transpose": shapes.transpose,
    **{
        name: _plain(function)
        for name, function in {
            "elemwise_add": torch.add,
            "elemwise_sub": torch.sub,
            "elemwise_mul": torch.mul,
            "elemwise_div": torch.div,
            "broadcast_add": torch.add,
            "broadcast_sub": torch.sub,
            "broadcast_mul": torch.mul,
            "broadcast_div": torch.div,
            "relu": torch.relu,
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "square": torch.square,
            "abs": torch.abs,
            "exp": torch.exp,
            "log": torch.log,
            "negative": torch.neg,
        }.items()
    },
    "_plus_scalar": _scalar(operator.add),
    "_minus_scalar": _scalar(operator.sub),
    "_rminus_scalar": _scalar(lambda x, scalar: scalar - x),
    "_mul_scalar": _scalar(operator.mul),
    "_div_scalar": _scalar(operator.truediv),
    "_rdiv_scalar": _scalar(lambda x, scalar: scalar / x),
}
