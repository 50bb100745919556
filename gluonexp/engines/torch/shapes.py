"""Operators that move numbers about without changing them, by shapes that are known before."""

from __future__ import annotations

import torch

from gluonexp.engines.torch.layer import Function, Layer, Refused


def reduced(layer: Layer) -> tuple[int, ...]:
    """Return the axes that a reduction goes along: all if none is given; see `exclude`."""
    axes = {axis % layer.rank for axis in layer.numbers("axis")} or set(range(layer.rank))
    if layer.flag("exclude") and layer.numbers("axis"):
        axes = set(range(layer.rank)) - axes
    return tuple(sorted(axes))


def reshape(layer: Layer) -> Function:
    """Return a reshape to its outcome, so that none of its codes need to be understood."""
    (shape,) = layer.made
    (
        layer.text("shape"),
        layer.flag("reverse"),
        layer.text("keep_highest"),
        layer.text("target_shape"),
    )
    if shape.count(None) > 1 or (None in layer.given[0] and None not in shape):
        raise Refused("it is made for one number of images")
    target = [-1 if size is None else size for size in shape]
    return lambda x: x.reshape(target)


def concat(layer: Layer) -> Function:
    """Return a concatenation along `dim`."""
    axis = layer.axis("dim", 1)
    return lambda *tensors: torch.cat(tensors, axis)


def split(layer: Layer) -> Function:
    """Return a split into equal parts."""
    axis, count, squeeze = (
        layer.axis(default=1),
        layer.integer("num_outputs"),
        layer.flag("squeeze_axis"),
    )
    if squeeze:
        return lambda x: x.unbind(axis) if count > 1 else x.squeeze(axis)
    return lambda x: x.chunk(count, axis) if count > 1 else x


def transpose(layer: Layer) -> Function:
    """Return an exchange of axes: all in reverse if none are given."""
    axes = layer.numbers("axes", range(layer.rank)[::-1])
    return lambda x: x.permute(axes)


def repeat(layer: Layer) -> Function:
    """Return each element several times."""
    times = layer.integer("repeats")
    axis = None if layer.text("axis") == "None" else layer.axis()
    return lambda x: x.repeat_interleave(times, axis)
