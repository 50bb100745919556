"""Operators that compute with numbers one by one, along axes, or as matrices."""

# An attribute's type is that of its default.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
import operator
from functools import partial, reduce
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gluonexp.engines.torch.layer import RUN, Entry, Function, refuse, target, within
from gluonexp.engines.torch.losses import Sloped

_COMPARED: Final = {
    "equal": "eq",
    "not_equal": "ne",
    "greater": "gt",
    "lesser": "lt",
    "greater_equal": "ge",
    "lesser_equal": "le",
}


def _truth(function: Function) -> Function:
    """Return a comparison that gives 1 and 0 of its first argument's type."""
    return lambda x, y: function(x, y).type_as(x)


def _number(function: Function) -> Function:
    """Return an operator of a tensor and the attribute `scalar`."""
    return lambda x, *, scalar=0.0: function(x, scalar)


def _swapped(function: Function) -> Function:
    return lambda x, *, scalar=0.0: function(scalar, x)


def rounded(x: Tensor) -> Tensor:
    """Round halves away from zero."""
    whole = x.trunc()
    return whole + x.sign() * ((x - whole).abs() >= 0.5)


def _smooth_l1(x, *, scalar=1.0):
    square = scalar**2
    return torch.where(x.abs() < 1 / square, 0.5 * square * x * x, x.abs() - 0.5 / square)


def _cast(x, *, dtype="float32", run=RUN):
    return x.to(run.dtype(dtype))


def _axes(rank: int, axis: tuple[int, ...], exclude: bool) -> tuple[int, ...]:
    """Return the axes that a reduction goes along: all if none is given."""
    axes = {each % rank for each in axis} or set(range(rank))
    return tuple(sorted(set(range(rank)) - axes if exclude and axis else axes))


def _reduced(function: Function) -> Function:
    """Return a sum or the like; MXNet's arrays have one dimension at least."""

    def reduction(x, *, axis=(), exclude=False, given=(), made=()):
        axes = _axes(len(given[0]), axis, exclude)
        return function(x, axes, True).reshape(target(made)) if axes else x

    return reduction


def _extreme(function: Function) -> Function:
    """Return a maximum or minimum, whose gradient each of several equals gets."""

    def extreme(x, *, axis=(), exclude=False, given=(), made=(), run=RUN):
        found = function(x, _axes(len(given[0]), axis, exclude), True)
        if run.training:
            found = Sloped.apply(x, found.detach(), (x == found).to(x.dtype), True)
        return found.reshape(target(made))

    return extreme


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return reduce(lambda made, axis: made.prod(axis, keep), axes, x)


def _norm(x, *, ord=2, axis=(), given=(), made=()):
    axes = _axes(len(given[0]), axis, False)
    return torch.linalg.vector_norm(x, ord, axes, True).reshape(target(made))


def _placed(function: Function) -> Function:
    """Return `argmax` or `argmin`, which give floating numbers."""

    def placed(x, *, axis="None", made=(), run=RUN):
        found = function(x) if axis == "None" else function(x, int(axis), True)
        return found.to(run.dtype("float32")).reshape(target(made))

    return placed


def _order(x, *, axis="-1", is_ascend=True, ret_typ="value", k=0, dtype="float32", run=RUN):
    """Put numbers in order: values, their places, both, or a mask of the first `k`."""
    along = 0 if axis == "None" else int(axis)
    refuse(axis == "None" and ret_typ == "mask", "ret_typ=mask without an axis")
    values, places = (x.flatten() if axis == "None" else x).sort(
        dim=along, descending=not is_ascend, stable=True
    )
    if k:
        values, places = values.narrow(along, 0, k), places.narrow(along, 0, k)
    if ret_typ == "mask":
        return torch.zeros_like(x).scatter(along, places, 1.0)
    found = {"value": values, "indices": places.to(run.dtype(dtype))}
    return tuple(found.values()) if ret_typ == "both" else found[ret_typ]


def _topk(x, *, axis="-1", is_ascend=False, ret_typ="indices", k=1, dtype="float32", run=RUN):
    refuse(k < 1, f"k={k}")
    settings: dict[str, Any] = {"axis": axis, "is_ascend": is_ascend, "dtype": dtype}
    return _order(x, ret_typ=ret_typ, k=k, run=run, **settings)


def _pick(x, index, *, axis=-1, keepdims=False, mode="clip", given=()):
    index = within(index, x.shape[axis], mode)
    if len(given[1]) != len(given[0]):
        index = index.unsqueeze(axis)
    return x.gather(axis, index) if keepdims else x.gather(axis, index).squeeze(axis)


def _one_hot(index, *, depth=0, on_value=1.0, off_value=0.0, dtype="float32", run=RUN):
    true = index.long().unsqueeze(-1) == torch.arange(depth, device=run.anchor.device)
    return true.to(run.dtype(dtype)) * (on_value - off_value) + off_value


def _softmax(function: Function, sign: float = 1.0) -> Function:
    def softmax(x, *, axis=-1, temperature="None"):
        factor = sign / (1.0 if temperature == "None" else float(temperature))
        return function(x if factor == 1 else x * factor, axis)

    return softmax


def _softmax_activation(x, *, mode="instance", given=()):
    refuse(mode != "channel" and len(given[0]) != 2, "MXNet's gradient is not that of a softmax")
    return F.softmax(x, 1)


def _dot(x, y, *, transpose_a=False, transpose_b=False, given=(), made=()):
    turned = [shape for shape, way in zip(given, (transpose_a, transpose_b), strict=True) if way]
    refuse(any(len(shape) != 2 for shape in turned), "what is transposed is no matrix")
    first, second = x.t() if transpose_a else x, y.t() if transpose_b else y
    return torch.tensordot(first, second, 1).reshape(target(made))


def _products(x, y, *, transpose_a=False, transpose_b=False, alpha=1.0):
    made = torch.matmul(x.mT if transpose_a else x, y.mT if transpose_b else y)
    return made if alpha == 1 else alpha * made


def _heads(x: Tensor, heads: int, part: int, width: int) -> Tensor:
    """Return queries, keys or values, (N * heads, length, width), of what is interleaved."""
    parts = x.reshape(*x.shape[:2], heads, 3, width)
    return parts[:, :, :, part].permute(1, 2, 0, 3).flatten(0, 1)


def _scores(x, *, heads=1, given=()):
    width = given[0][2] // (3 * heads)
    queries = _heads(x, heads, 0, width) / math.sqrt(width)
    return torch.matmul(queries, _heads(x, heads, 1, width).mT)


def _attended(x, scores, *, heads=1, given=()):
    made = torch.matmul(scores, _heads(x, heads, 2, given[0][2] // (3 * heads)))
    return made.reshape(-1, heads, *made.shape[1:]).permute(2, 0, 1, 3).flatten(2)


_UNARY: Final[dict[str, Function]] = {
    **{
        name: getattr(torch, name)
        for name in (
            *("abs", "ceil", "cos", "cosh", "erf", "erfinv", "exp", "expm1", "floor", "log"),
            *("log10", "log1p", "log2", "reciprocal", "relu", "rsqrt", "sigmoid", "sign", "sin"),
            *("sinh", "sqrt", "square", "tan", "tanh", "trunc"),
        )
    },
    **{
        f"arc{name}": getattr(torch, f"a{name}")
        for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")
    },
    **{"fix": torch.trunc, "negative": torch.neg, "gammaln": torch.lgamma},
    **{"degrees": torch.rad2deg, "radians": torch.deg2rad, "softsign": F.softsign},
    **{"ones_like": torch.ones_like, "zeros_like": torch.zeros_like},
    **{"BlockGrad": torch.detach, "_copy": lambda x: x},
}
_BINARY: Final[dict[str, Function]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "mod": lambda x, y: x - (x / y).floor() * y,
    "power": operator.pow,
    "hypot": lambda x, y: (x * x + y * y).sqrt(),
    "maximum": lambda x, y: torch.where(x >= y, x, y),  # of equals the first has the gradient
    "minimum": lambda x, y: torch.where(x <= y, x, y),
    **{name: _truth(getattr(operator, own)) for name, own in _COMPARED.items()},
    **{
        f"{name}_equal": _truth(getattr(operator, f"{name[0]}e")) for name in ("greater", "lesser")
    },
    "logical_and": _truth(lambda x, y: (x != 0) & (y != 0)),
    "logical_or": _truth(lambda x, y: (x != 0) | (y != 0)),
    "logical_xor": _truth(lambda x, y: (x != 0) ^ (y != 0)),
}
_WITH_NUMBERS: Final = {"add": "plus", "sub": "minus"}  # what MXNet calls them there

ARITHMETIC: Final[dict[str, Entry]] = {
    **_UNARY,
    **{f"broadcast_{name}": function for name, function in _BINARY.items()},
    **{f"_{name}": function for name, function in _BINARY.items()},
    **{f"elemwise_{name}": _BINARY[name] for name in ("add", "sub", "mul", "div")},
    **{f"_{_WITH_NUMBERS.get(name, name)}_scalar": _number(f) for name, f in _BINARY.items()},
    **{
        f"_r{_WITH_NUMBERS.get(name, name)}_scalar": _swapped(_BINARY[name])
        for name in ("sub", "div", "mod", "power")
    },
    "Cast": _cast,
    "SoftmaxActivation": _softmax_activation,
    "_contrib_div_sqrt_dim": lambda x: x / x.shape[-1] ** 0.5,
    "_contrib_interleaved_matmul_selfatt_qk": _scores,
    "_contrib_interleaved_matmul_selfatt_valatt": _attended,
    "_contrib_quadratic": lambda x, *, a=0.0, b=0.0, c=0.0: a * x * x + b * x + c,
    "_linalg_gemm2": (_products, "axis=-2"),
    "add_n": lambda *tensors: reduce(operator.add, tensors),
    "amp_cast": _cast,
    "argmax": (_placed(torch.argmax), "keepdims"),
    "argmin": (_placed(torch.argmin), "keepdims"),
    "argsort": partial(_order, ret_typ="indices"),
    "batch_dot": (_products, "forward_stype=None"),
    "cbrt": lambda x: x.sign() * x.abs().pow(1 / 3),
    "clip": lambda x, *, a_min=0.0, a_max=0.0: x.clamp(a_min, a_max),
    "dot": (_dot, "forward_stype=None"),
    "hard_sigmoid": lambda x, *, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "log_softmax": (_softmax(F.log_softmax), "dtype=None use_length=False"),
    "logical_not": lambda x: (x == 0).type_as(x),
    "max": (_extreme(torch.amax), "keepdims"),
    "mean": (_reduced(torch.mean), "keepdims"),
    "min": (_extreme(torch.amin), "keepdims"),
    "nansum": (_reduced(torch.nansum), "keepdims"),
    "norm": (_norm, "keepdims out_dtype=None"),
    "one_hot": _one_hot,
    "pick": _pick,
    "prod": (_reduced(_prod), "keepdims"),
    "rcbrt": lambda x: x.sign() * x.abs().pow(-1 / 3),
    "rint": lambda x: x.floor() + (x - x.floor() > x.ceil() - x),  # halves down
    "round": rounded,
    "smooth_l1": _smooth_l1,
    "softmax": (_softmax(F.softmax), "dtype=None use_length=False"),
    "softmin": (_softmax(F.softmax, -1.0), "dtype=None use_length=False"),
    "sort": _order,
    "sum": (_reduced(torch.sum), "keepdims"),
    "topk": _topk,
}
