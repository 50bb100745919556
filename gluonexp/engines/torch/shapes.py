"""Operators that move numbers about without changing them, by shapes that are known before."""

# An attribute's type is that of its default.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from functools import partial
from itertools import zip_longest
from typing import Any, Final

import torch
from torch.nn import functional as F

from gluonexp.engines.torch.layer import RUN, Entry, Function, refuse, target, within


def _along(axis: int, part: Any) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, part)


def _slice(x, *, begin=(), end=(), step=(), given=()):
    """Cut along the first axes; PyTorch's slices go forwards."""
    for axis, (first, last, by) in enumerate(zip_longest(begin, end, step)):
        if by is not None and by < 0:
            refuse(given[0][axis] is None, "a slice of the images backwards")
            size, places = given[0][axis], range(given[0][axis])[first:last:by]
            x, by = x.flip(axis), -by
            first, last = size - 1 - places[0], size - places[-1]
        x = x[_along(axis, slice(first, last, by))]
    return x


def _slice_axis(x, *, axis=0, begin=0, end="None", given=()):
    part = slice(begin, None if end == "None" else int(end))
    return x[_along(axis % len(given[0]), part)]


def _slice_like(x, like, *, axes=(), given=()):
    for axis in axes or range(len(given[0])):
        x = x.narrow(axis, 0, like.shape[axis])
    return x


def _crop(x, *like, offset=(0, 0), center_crop=False, given=(), made=()):
    (high, wide), (height, width) = given[0][2:], made[0][2:]
    top, left = ((high - height) // 2, (wide - width) // 2) if center_crop else offset
    return x[:, :, top : top + height, left : left + width]


def _pad(x, *, mode="", pad_width=(), constant_value=0.0):
    widths = [n for at in range(len(pad_width) - 2, -1, -2) for n in pad_width[at : at + 2]]
    if mode == "constant":
        return F.pad(x, widths, value=constant_value)
    return F.pad(x, widths[:-4], {"edge": "replicate"}.get(mode, mode))


def _split(x, *, num_outputs=1, axis=1, squeeze_axis=False):
    parts = x.unbind(axis) if squeeze_axis else x.chunk(num_outputs, axis)
    return parts if num_outputs > 1 else parts[0]


def _split_at(x, *, indices=(), axis=1, squeeze_axis=False, sections=0, made=()):
    parts = x.tensor_split(sections or indices[1:], axis)
    if squeeze_axis:
        parts = [parts[at].squeeze(axis) for at in range(len(made))]
    return parts if len(made) > 1 else parts[0]


def _blocks(x, *, block_size=1, given=(), deep=False):
    """Turn channels into space, block by block, or with `deep` space into channels."""
    (_, channels, height, width), size = given[0], block_size
    if deep:
        parts = x.reshape(-1, channels, height // size, size, width // size, size)
        made = (-1, channels * size**2, height // size, width // size)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(made)
    parts = x.reshape(-1, size, size, channels // size**2, height, width)
    made = (-1, channels // size**2, height * size, width * size)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(made)


def _where(condition, x, y, *, given=()):
    true = condition != 0
    if len(given[0]) != len(given[1]):  # one for each row
        true = true.reshape([-1] + [1] * (len(given[1]) - 1))
    return torch.where(true, x, y)


def _reshape(x, *like, given=(), made=()):
    """Reshape to the outcome, so that none of MXNet's codes needs to be understood."""
    refuse(None in given[0] and None not in made[0], "it is made for one number of images")
    return x.reshape(target(made))


def _expanded(x, *like, made=()):
    return x.expand([-1 if size is None else size for size in made[0]])


def _full(value: float | None = None) -> Function:
    """Return an array of one number; along images, whose number is not known, it is broadcast."""

    def full(*like, value=0.0 if value is None else value, dtype="float32", made=(), run=RUN):
        return run.anchor.new_full([n or 1 for n in made[0]], value, dtype=run.dtype(dtype))

    return full


def _arange(*like, start=0.0, stop="", step=1.0, repeat=1, dtype="float32", made=(), run=RUN):
    refuse(None in made[0], "it counts images")
    start = 0.0 if stop == "None" else start  # a bound that is alone is the end
    count = torch.arange(math.prod(made[0]), device=run.anchor.device) // repeat
    return (start + step * count).to(run.dtype(dtype)).reshape(made[0])


def _shape_array(x, *, given=(), made=(), run=RUN):
    refuse(None in given[0], "it counts images")
    sizes = torch.tensor(given[0], device=run.anchor.device)
    return sizes if len(given[0]) == made[0][0] else sizes.prod().reshape(1)


def _sequence(kind: str) -> Function:
    """Return what masks, reverses or ends sequences, (T, N, ...), of given lengths or whole."""

    def sequence(x, *lengths, axis=0, value=0.0, use_sequence_length=False, given=()):
        if not use_sequence_length:
            whole = {"mask": x, "reverse": x.flip(axis), "last": x.select(axis, -1)}
            return whole[kind]
        shape: list[Any] = [1] * len(given[0])
        shape[1 - axis] = -1
        ends = lengths[0].reshape(shape)
        places = torch.ones_like(x).cumsum(axis) - 1
        if kind == "mask":
            return torch.where(places < ends, x, value)
        if kind == "reverse":
            return x.gather(axis, torch.where(places < ends, ends - 1 - places, places).long())
        return torch.where(places == ends - 1, x, 0.0).sum(axis)

    return sequence


def _repeat(x, *, repeats=1, axis="None"):
    return x.repeat_interleave(repeats, None if axis == "None" else int(axis))


def _squeeze(x, *, axis=(), made=()):
    refuse(not axis, "without an axis it would take away a batch of one")
    return x.reshape(target(made))


def _cumsum(x, *, axis="None"):
    return x.flatten().cumsum(0) if axis == "None" else x.cumsum(int(axis))


def _take(x, index, *, axis=0, mode="clip", given=()):
    return x[_along(axis % len(given[0]), within(index, x.shape[axis], mode))]


def _gather(x, index, *, given=()):
    refuse(given[1][0] is None, "it counts images")
    return x[tuple(index[at].long() for at in range(given[1][0]))]


def _transpose(x, *, axes=(), given=()):
    return x.permute(axes or (*range(len(given[0])),)[::-1])


def _flatten(x, *, given=()):
    return x.flatten(1) if len(given[0]) > 1 else x.unsqueeze(1)


_LHS: Final = "lhs_begin lhs_end rhs_begin rhs_end"

SHAPES: Final[dict[str, Entry]] = {
    "Concat": lambda *tensors, dim=1: torch.cat(tensors, dim),
    "Crop": (_crop, "h_w"),
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": (_reshape, "shape reverse keep_highest target_shape"),
    "SequenceLast": _sequence("last"),
    "SequenceMask": _sequence("mask"),
    "SequenceReverse": _sequence("reverse"),
    "SliceChannel": _split,
    "SwapAxis": lambda x, *, dim1=0, dim2=0: x.transpose(dim1, dim2),
    "_arange": (_arange, "ctx infer_range=False"),
    "_contrib_arange_like": (_arange, "axis ctx"),
    "_full": (_full(), "shape ctx"),
    "_ones": (_full(1.0), "shape ctx"),
    "_rnn_param_concat": lambda *tensors, dim=1: torch.cat(tensors, dim),
    "_split_v2": _split_at,
    "_zeros": (_full(0.0), "shape ctx"),
    "broadcast_axis": (_expanded, "axis size"),
    "broadcast_like": (lambda x, like: x.expand(like.shape), "lhs_axes=None rhs_axes=None"),
    "broadcast_to": (_expanded, "shape"),
    "cumsum": (_cumsum, "dtype=None"),
    "depth_to_space": _blocks,
    "expand_dims": lambda x, *, axis=0: x.unsqueeze(axis),
    "gather_nd": _gather,
    "repeat": _repeat,
    "reshape_like": (_reshape, _LHS),
    "reverse": lambda x, *, axis=(): x.flip(axis),
    "shape_array": _shape_array,
    "size_array": _shape_array,
    "slice": _slice,
    "slice_axis": _slice_axis,
    "slice_like": _slice_like,
    "space_to_depth": partial(_blocks, deep=True),
    "squeeze": _squeeze,
    "stack": lambda *tensors, axis=0: torch.stack(tensors, axis),
    "take": _take,
    "tile": lambda x, *, reps=(): x.tile(reps),
    "transpose": _transpose,
    "where": _where,
}
