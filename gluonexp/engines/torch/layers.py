"""Layers: convolution, pooling, normalization, dropout and their kin, as PyTorch computes them."""

# An attribute's type is that of its default.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from functools import partial
from math import prod
from typing import Final

import torch
from torch.nn import functional as F

from gluonexp.engines.torch.layer import RUN, Entry, Function, refuse, within

_FUNCTIONS: Final[dict[str, Function]] = vars(F)
_ACTIVATIONS: Final[dict[str, Function]] = {
    **{"relu": torch.relu, "sigmoid": torch.sigmoid},
    "tanh": torch.tanh,
    "softrelu": partial(F.softplus, threshold=40.0),  # beyond it both are the identity
    "softsign": F.softsign,
}


def _convolution(x, weight, bias=None, *, kernel=(), stride=(), pad=(), dilate=(), num_group=1):
    convolve = _FUNCTIONS[f"conv{len(kernel)}d"]
    return convolve(x, weight, bias, stride or 1, pad or 0, dilate or 1, num_group)


def _deconvolution(
    x, weight, bias=None, *, kernel=(), stride=(), pad=(), adj=(), dilate=(), num_group=1
):
    convolve = _FUNCTIONS[f"conv_transpose{len(kernel)}d"]
    return convolve(x, weight, bias, stride or 1, pad or 0, adj or 0, num_group, dilate or 1)


def _dense(x, *weights, flatten=True, given=()):
    return F.linear(x.flatten(1) if flatten and len(given[0]) != 2 else x, *weights)


def _leaky(
    x, *weights, act_type="leaky", slope=0.25, lower_bound=0.125, upper_bound=0.334, run=RUN
):
    if act_type == "rrelu":
        return F.rrelu(x, lower_bound, upper_bound, run.training and run.drop)
    if act_type in ("leaky", "elu"):
        return F.leaky_relu(x, slope) if act_type == "leaky" else F.elu(x, slope)
    # Of selu MXNet's gradient is wrong by up to a tenth below zero; this one is the derivative.
    others: dict[str, Function] = {"selu": F.selu, "gelu": F.gelu, "prelu": F.prelu}
    return others[act_type](x, *weights)


def _pooling(
    x, *, kernel=(), stride=(), pad=(), pool_type="max", global_pool=False, p_value="2",
    pooling_convention="valid", count_include_pad="None", given=(), made=(),
):  # fmt: skip
    """Pool; PyTorch leaves out a last window of ``full`` that starts in the padding."""
    side, full = len(given[0]) - 2, pooling_convention == "full" and not global_pool
    refuse(not full and pooling_convention == "same", "pooling_convention=same")
    if global_pool and pool_type == "avg":  # this one keeps channels-last
        return _FUNCTIONS[f"adaptive_avg_pool{side}d"](x, 1)
    stride, pad = stride or (1,) * side, pad or (0,) * side
    if global_pool:
        kernel, stride, pad = given[0][2:], (1,) * side, (0,) * side
    starts = zip(given[0][2:], made[0][2:], stride, pad, strict=True)
    beyond = [full and (count - 1) * step - before >= size for size, count, step, before in starts]
    ends = [number for each in beyond[::-1] for number in (0, int(each))]
    if pool_type == "max":
        found = _FUNCTIONS[f"max_pool{side}d"](x, kernel, stride, pad, ceil_mode=full)
        return F.pad(found, ends, value=-3.4028234663852886e38) if any(ends) else found
    include = count_include_pad in ("None", "True", "1") or pool_type != "avg"
    refuse(any(ends) and not include, "pooling_convention=full with a window that is all padding")
    refuse(full and pool_type != "avg", f"pooling_convention=full with pool_type={pool_type}")
    average = _FUNCTIONS[f"avg_pool{side}d"]
    if pool_type == "lp":
        refuse(p_value != "2", f"p_value={p_value}")
        x = x * x
    found = average(x, kernel, stride, pad, ceil_mode=full, count_include_pad=include)
    if any(ends):
        return F.pad(found, ends)
    if pool_type != "avg":
        found = found * prod(kernel)
    return found.clamp(min=1e-38).sqrt() if pool_type == "lp" else found


def _batch_norm(
    x, gamma, beta, mean, variance, *, eps=1e-3, momentum=0.9, fix_gamma=True, axis=1,
    use_global_stats=False, given=(), run=RUN,
):  # fmt: skip
    """Normalize by the batch, or by moving statistics.

    MXNet keeps the batch's biased variance, PyTorch the unbiased one: its kernel writes into
    buffers that are thrown away, which costs no pass over the data.
    """
    weight, moved = None if fix_gamma else gamma, axis % len(given[0]) != 1
    if moved:
        x = x.movedim(axis, 1)
    if use_global_stats or not run.training:
        made = F.batch_norm(x, mean, variance, weight, beta, False, 0.0, eps)
    else:
        found, unbiased = torch.zeros_like(mean), torch.zeros_like(variance)
        made = torch.batch_norm(x, weight, beta, found, unbiased, True, 1.0, eps, False)
        if torch.is_grad_enabled() and any(each.requires_grad for each in (x, gamma, beta)):
            count = x.numel() // x.shape[1]
            run.moves.append((mean, found, 1.0, momentum))
            if count == 1:  # of one number PyTorch has no variance
                unbiased = torch.zeros_like(variance)
            run.moves.append((variance, unbiased, (count - 1) / count, momentum))
    return made.movedim(1, axis) if moved else made


def _layer_norm(x, gamma, beta, *, axis=-1, eps=1e-5, given=()):
    last = axis % len(given[0]) == len(given[0]) - 1
    made = F.layer_norm(x if last else x.movedim(axis, -1), given[1], gamma, beta, eps)
    return made if last else made.movedim(-1, axis)


def _group_norm(x, gamma, beta, *, num_groups=1, eps=1e-5, given=()):
    """Normalize by groups; MXNet has one factor for each."""
    gamma, beta = (each.repeat_interleave(given[0][1] // num_groups) for each in (gamma, beta))
    return F.group_norm(x, num_groups, gamma, beta, eps)


def _instance_norm(x, gamma, beta, *, eps=1e-3):
    return torch.instance_norm(x, gamma, beta, None, None, True, 0.0, eps, False)


def _unit(x, *, eps=1e-10, mode="instance", given=()):
    rank = len(given[0])
    axes = {"instance": range(1, rank), "channel": (1,), "spatial": range(2, rank)}[mode]
    return x / ((x * x).sum(tuple(axes), keepdim=True) + eps).sqrt()


def _dropout(x, *, p=0.5, axes=(), mode="training", given=(), run=RUN):
    """Drop; along `axes` all share one draw."""
    if not run.drop or not (mode == "always" or run.training):
        return x
    if not axes:
        return F.dropout(x, p)
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return x * F.dropout(x.new_ones(shape), p)


def _upsampling(x, weight=None, *, scale=1, sample_type="nearest", given=()):
    """Enlarge; bilinear is a convolution with weights that may be learnt."""
    refuse(len(given) != (2 if sample_type == "bilinear" else 1), "several inputs")
    if sample_type == "nearest":
        return F.interpolate(x, scale_factor=scale, mode="nearest")
    return F.conv_transpose2d(x, weight, None, scale, scale // 2, 0, given[0][1])


def _adaptive(x, *, output_size=()):
    return F.adaptive_avg_pool2d(
        x, output_size if len(output_size) == 2 else (output_size or (1,))[0]
    )


def _resize(x, *like, align_corners=True, made=()):
    return F.interpolate(x, made[0][2:], mode="bilinear", align_corners=align_corners)


def _recurrent(
    x, packed, *states, mode="lstm", state_size=1, num_layers=1, bidirectional=False, p=0.0,
    state_outputs=False, given=(), made=(), run=RUN,
):  # fmt: skip
    """Run RNN, LSTM or GRU over (T, N, C); MXNet packs all weights, then all biases, into one."""
    rows, ways = {"lstm": 4, "gru": 3}.get(mode, 1) * state_size, 1 + bidirectional
    sizes = [given[0][2]] + [state_size * ways] * (num_layers - 1)
    shapes = [(rows, width) for size in sizes for width in (size, state_size) * ways]
    shapes += [(rows, 1)] * len(shapes)
    parts = packed.split([prod(shape) for shape in shapes])
    half = len(shapes) // 2
    weights = [parts[at].reshape(shape) for at, shape in enumerate(shapes[:half])]
    weights += parts[half:]
    order = [at + step for at in range(0, half, 2) for step in (0, 1, half, half + 1)]
    begun = [each.expand(-1, x.shape[1], -1).contiguous() for each in states]
    found = getattr(torch, mode)(
        x, begun if mode == "lstm" else begun[0], [weights[at] for at in order],
        True, num_layers, p if run.drop else 0.0, run.training, bidirectional, False,
    )  # fmt: skip
    return tuple(found[at] for at in range(len(made))) if state_outputs else found[0]


_LAYOUTS: Final = " layout=None layout=NCW layout=NCHW layout=NCDHW"
_UNCLIPPED: Final = " lstm_state_clip_min=None lstm_state_clip_max=None lstm_state_clip_nan=False"
_CALIBRATED: Final = " min_calib_range=None max_calib_range=None output_mean_var=False"

LAYERS: Final[dict[str, Entry]] = {
    "Activation": lambda x, *, act_type="": _ACTIVATIONS[act_type](x),
    "BatchNorm": (_batch_norm, _CALIBRATED),
    "BatchNorm_v1": (_batch_norm, _CALIBRATED),
    "Convolution": (_convolution, "num_filter" + _LAYOUTS),
    "Convolution_v1": (_convolution, "num_filter" + _LAYOUTS),
    "Deconvolution": (_deconvolution, "num_filter target_shape=()" + _LAYOUTS),
    "Dropout": _dropout,
    "Embedding": (
        lambda index, weight, *, input_dim=0: F.embedding(within(index, input_dim), weight),
        "output_dim dtype=float32 sparse_grad=False",
    ),
    "FullyConnected": (_dense, "num_hidden"),
    "GroupNorm": (_group_norm, _CALIBRATED),
    "InstanceNorm": _instance_norm,
    "L2Normalization": _unit,
    "LRN": lambda x, *, nsize=0, alpha=1e-4, beta=0.75, knorm=2.0: F.local_response_norm(
        x, nsize, alpha, beta, knorm
    ),
    "LayerNorm": (_layer_norm, _CALIBRATED),
    "LeakyReLU": _leaky,
    "Pooling": (_pooling, _LAYOUTS),
    "RNN": (_recurrent, "projection_size=None use_sequence_length=False" + _UNCLIPPED),
    "UpSampling": (_upsampling, "num_filter multi_input_mode"),
    "_contrib_AdaptiveAvgPooling2D": _adaptive,
    "_contrib_BilinearResize2D": (_resize, "height width scale_height scale_width mode"),
    "_contrib_SyncBatchNorm": (_batch_norm, "key ndev" + _CALIBRATED),
    "_image_normalize": lambda x, mean=[0.0], std=[1.0]: (x - mean) / std,
}
