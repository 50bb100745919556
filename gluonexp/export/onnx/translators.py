"""MXNet's operators in ONNX's operator set 13, one node at a time.

Most have a translation in MXNet's own exporter, which is taken as it is. Here are the others:
those that it gets wrong, or right for a part of what the operator can do only. What no runtime
computes as MXNet does is refused, and so is what could only be translated at length.

What a translator raises is told with the operator and the layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any, Final

import numpy as np

from gluonexp.export.onnx.exporter import theirs, translated
from gluonexp.export.onnx.layer import Layer, Step, Translation, fixed

Translator = Callable[[Layer], Translation]

# Where one rounds, another saturates and a third computes in float32 all the same.
_NARROW: Final = ("float16", "int8", "uint8")

# MXNet takes 1 for True, and writes into the symbol what it was given.
_FLAGS: Final = {
    *("align_corners", "bidirectional", "center_crop", "count_include_pad", "exclude", "flatten"),
    *("global_pool", "is_ascend", "keepdims", "multi_output", "no_bias", "reverse"),
    *("squeeze_axis", "state_outputs", "transpose_a", "transpose_b", "use_length"),
    "use_sequence_length",
}

# Of arguments that were not given; MXNet's exporter has others in mind.
_DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "Deconvolution": {"no_bias": "True"},
    "FullyConnected": {"flatten": "True"},
}


def missing(operators: Iterable[str]) -> list[str]:
    """Name those of `operators` for which there is no translation to ONNX."""
    return sorted(set(operators) - set(TRANSLATORS) - translated())


def translate(layer: Layer) -> Translation:
    """Translate any layer.

    Raises
    ------
    Exception
        Of any type, from MXNet's exporter too: there is no translation, and why.
    """
    given = {
        name: {"1": "True", "0": "False"}.get(value, value) if name in _FLAGS else value
        for name, value in layer.attrs.items()
    }
    if given.get("dtype") in _NARROW:
        raise NotImplementedError(f"runtimes differ in how they compute in {given['dtype']}")
    plain = replace(layer, attrs={**_DEFAULTS.get(layer.op, {}), **given})
    return TRANSLATORS.get(layer.op, theirs)(plain)


def _resize(layer: Layer) -> Translation:
    """Translate a bilinear resize; theirs takes every one for one of aligned corners."""
    nodes, dtypes = theirs(layer)
    if layer.attrs.get("align_corners", "True") != "True":
        for attribute in nodes[-1].attribute:
            if attribute.name == "coordinate_transformation_mode":
                attribute.s = b"half_pixel"
    return nodes, dtypes


def _normalize(layer: Layer) -> Translation:
    """Translate `image.normalize`: minus mean, over standard deviation, by channel."""
    steps: list[Step] = []
    for operator, key, default in (("Sub", "mean", "0"), ("Div", "std", "1")):
        written = re.findall(r"[-+.\de]+", layer.attrs.get(key, default))
        values = np.array(written, np.float32).reshape(-1, 1, 1)
        steps.append((operator, [None, layer.constant(key, values, np.float32)], {}))
    return layer.chain(*steps), None


def _reversed(operator: str) -> Translator:
    """Return the translator of number minus (or over) array; theirs goes by the node's name."""

    def translate(layer: Layer) -> Translation:
        scalar = layer.constant("scalar", float(layer.attrs["scalar"]), layer.inputs[0].dtype)
        return layer.chain((operator, [scalar, None], {})), None

    return translate


def _leaky(layer: Layer) -> Translation:
    """Translate LeakyReLU and its kin; ONNX lays a PReLU's slopes along the last axis."""
    data, *slopes = layer.given
    if layer.attrs.get("act_type") != "prelu" or slopes == [(1,)]:
        return theirs(layer)
    shape = layer.constant("shape", [-1] + [1] * (len(data) - 2))
    reshape: Step = ("Reshape", [None, shape], {})
    return layer.chain(reshape, ("PRelu", [layer.inputs[0].name, None], {}), entry=1), None


def _response(layer: Layer) -> Translation:
    """Translate LRN: x / (k + alpha / n * sum)**beta, for whole k; OpenVINO cuts off the rest.

    What is not whole is taken out of the brackets.
    """
    attrs, entry = layer.attrs, layer.inputs[0]
    k, alpha, beta = (
        float(attrs.get(key, default))
        for key, default in (("knorm", 2), ("alpha", 1e-4), ("beta", 0.75))
    )
    steps: list[Step] = []
    if not k.is_integer():
        factor = layer.constant("factor", k**-beta, entry.dtype)
        k, alpha, steps = 1.0, alpha / k, [("Mul", [None, factor], {})]
    window = {"size": int(attrs["nsize"]), "alpha": alpha, "beta": beta, "bias": k}
    return layer.chain(("LRN", [None], window), *steps), None


def _unit(layer: Layer) -> Translation:
    """Translate L2Normalization; ONNX's own has no epsilon."""
    entry, rank = layer.inputs[0], len(layer.given[0])
    mode = layer.attrs.get("mode", "instance")
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}[mode]
    reduced = layer.constant("axes", list(axes))
    eps = layer.constant("eps", float(layer.attrs.get("eps", 1e-10)), entry.dtype)
    steps: list[Step] = [
        ("Mul", [None, entry.name], {}),
        ("ReduceSum", [None, reduced], {"keepdims": 1}),
        ("Add", [None, eps], {}),
        ("Sqrt", [None], {}),
        ("Div", [entry.name, None], {}),
    ]
    return layer.chain(*steps), None


def _reduce(layer: Layer) -> Translation:
    """Translate a sum, mean or the like; theirs does not know `exclude`, nor an empty `axis`."""
    if layer.op == "norm" and layer.attrs.get("ord", "2") != "2":
        raise NotImplementedError("ord is not 2: OpenVINO does not load it")
    rank = len(layer.given[0])
    axes = {axis % rank for axis in layer.numbers("axis")} or set(range(rank))
    if layer.attrs.get("exclude") == "True" and layer.numbers("axis"):
        axes = set(range(rank)) - axes
    if len(axes) == rank and layer.attrs.get("keepdims") != "True":
        return theirs(layer.changed(axis=None))
    return theirs(layer.changed(axis=tuple(sorted(axes))))


def _pool(layer: Layer) -> Translation:
    """Translate a pooling; what ``full`` (rounding up) adds at the end is written out.

    ONNX's own way of rounding up gives other sizes in some cases, and runtimes disagree about
    whether what it adds counts in an average.
    """
    attrs = layer.attrs
    kind, everywhere = attrs.get("pool_type", "max"), attrs.get("global_pool") == "True"
    if kind == "lp" and (everywhere or attrs["p_value"] != "2"):
        raise NotImplementedError("pool_type lp is translated for p_value 2, and not globally")
    include = attrs.get("count_include_pad", "True") != "False"
    layer = layer.changed(count_include_pad=include)
    if everywhere or attrs.get("pooling_convention") != "full" or kind not in ("max", "avg"):
        return theirs(layer)
    sizes, kernel = fixed(layer.given[0][2:]), layer.numbers("kernel")
    stride = layer.numbers("stride") or [1] * len(kernel)
    pad = layer.numbers("pad") or [0] * len(kernel)
    starts = [
        np.arange(count) * step - before
        for count, step, before in zip(fixed(layer.made[0][2:]), stride, pad, strict=True)
    ]
    lasts = [int(each[-1]) for each in starts]
    if any(last >= size for last, size in zip(lasts, sizes, strict=True)):
        raise NotImplementedError("pooling_convention full has a window which is all padding")
    after = [last + k - size for last, k, size in zip(lasts, kernel, sizes, strict=True)]
    layer = layer.changed(pooling_convention="valid")
    if after == pad:
        return theirs(layer)
    shared: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if kind == "max":
        return layer.chain(("MaxPool", [None], {**shared, "pads": pad + after})), None
    # An average over all of the kernel, zeros included, then over what counts of it instead.
    margins = pad if include else [0] * len(pad)
    counts = [
        np.minimum(each + k, size + margin) - np.maximum(each, -margin)
        for each, k, size, margin in zip(starts, kernel, sizes, margins, strict=True)
    ]
    weights = prod(kernel) / reduce(np.multiply, np.ix_(*counts))
    pads = layer.constant("pads", [0, 0, *pad, 0, 0, *after])
    factor = layer.constant("factor", weights[None, None], np.float32)
    average: Step = ("AveragePool", [None], shared)
    return layer.chain(("Pad", [None, pads], {}), average, ("Mul", [None, factor], {})), None


def _reshape(layer: Layer) -> Translation:
    """Translate a reshape by its outcome, so that none of its codes need to be understood."""
    shape = layer.made[0]
    if shape.count(None) > 1:
        raise NotImplementedError("several dimensions depend on the number of images")
    if None in layer.given[0] and None not in shape:  # MXNet finds out when it runs
        raise NotImplementedError("it takes one number of images only")
    target = layer.constant("target", [-1 if each is None else each for each in shape])
    return layer.chain(("Reshape", [None, target], {})), None


def _flip(layer: Layer) -> Translation:
    """Translate a reversal; theirs fails when it runs."""
    axes = layer.numbers("axis")
    backwards = layer.constant("backwards", [-1] * len(axes))
    ends = layer.constant("ends", [np.iinfo(np.int64).min] * len(axes))
    where = layer.constant("axes", axes)
    return layer.chain(("Slice", [None, backwards, ends, where, backwards], {})), None


def _swap(layer: Layer) -> Translation:
    """Translate an exchange of two axes; theirs knows no axis that is counted from the end."""
    order = list(range(len(layer.given[0])))
    first, second = (int(layer.attrs.get(key, 0)) for key in ("dim1", "dim2"))
    order[first], order[second] = order[second], order[first]
    return layer.chain(("Transpose", [None], {"perm": order})), None


def _counted(layer: Layer) -> Translation:
    """Translate what theirs gets wrong for an axis that is counted from the end."""
    if axis := layer.numbers("axis"):
        layer = layer.changed(axis=axis[0] % len(layer.given[0]))
    return theirs(layer)


def _expand(layer: Layer) -> Translation:
    """Translate `broadcast_to`: where MXNet keeps a size for 0, ONNX does for 1."""
    return theirs(layer.changed(shape=[size or 1 for size in layer.numbers("shape")]))


def _cast(layer: Layer) -> Translation:
    """Translate a cast, but none to an integer: out of range, runtimes differ in what it gives."""
    before, after = (np.dtype(each) for each in (layer.inputs[0].dtype, layer.attrs["dtype"]))
    if before.kind == "f" and after.kind in "iu":
        raise NotImplementedError(f"runtimes differ in how they cast {before} to {after}")
    return theirs(layer)


def _look_up(layer: Layer) -> Translation:
    """Translate an embedding; MXNet takes an index that is out of range to the nearest row."""
    from onnx import TensorProto

    weights, (rows, _) = layer.inputs[1], fixed(layer.given[1])
    ends = [layer.constant(key, at) for key, at in (("first", 0), ("last", rows - 1))]
    steps: list[Step] = [
        ("Cast", [None], {"to": TensorProto.INT64}),
        ("Clip", [None, *ends], {}),
        ("Gather", [weights.name, None], {}),
    ]
    return layer.chain(*steps), (weights.dtype,)


def _one_hot(layer: Layer) -> Translation:
    """Translate `one_hot`; ONNX's counts a negative index from the end."""
    from onnx import TensorProto

    dtype = np.dtype(layer.attrs.get("dtype", "float32"))
    last = layer.constant("last", [-1])
    classes = layer.constant("classes", np.arange(int(layer.attrs["depth"])))
    values = [
        layer.constant(key, float(layer.attrs.get(key, default)), dtype)
        for key, default in (("on_value", 1), ("off_value", 0))
    ]
    steps: list[Step] = [
        ("Cast", [None], {"to": TensorProto.INT64}),
        ("Unsqueeze", [None, last], {}),
        ("Equal", [None, classes], {}),
        ("Where", [None, *values], {}),
    ]
    return layer.chain(*steps), (dtype,)


def _sized(layer: Layer) -> Translation:
    """Translate `shape_array` and `size_array`; theirs do not say that they give integers."""
    return theirs(layer)[0], (np.dtype("int64"),)


def _only(permitted: Callable[[Layer], bool], reason: str) -> Translator:
    """Return the translator that takes theirs where `permitted`."""

    def translate(layer: Layer) -> Translation:
        if not permitted(layer):
            raise NotImplementedError(reason)
        return theirs(layer)

    return translate


def _is_matrix_product(layer: Layer) -> bool:
    left, right = map(len, layer.given)
    return right == 2 and (left == 2 or (left > 2 and layer.attrs.get("transpose_a") != "True"))


def _is_of_equal_layers(layer: Layer) -> bool:
    return (
        layer.attrs.get("num_layers", "1") == "1"
        or str(layer.given[0][2]) == layer.attrs["state_size"]
    )


_AT_RANDOM: Final = _only(lambda layer: False, "it draws at random")
_DETECTION: Final = _only(lambda layer: False, "runtimes differ in how they choose and cut boxes")

TRANSLATORS: Final[dict[str, Translator]] = {
    **dict.fromkeys(("shape_array", "size_array"), _sized),
    **dict.fromkeys(
        ("_random_normal", "_random_uniform", "_random_uniform_like", "_sample_multinomial"),
        _AT_RANDOM,
    ),
    **dict.fromkeys(
        ("ROIPooling", "_contrib_ROIAlign", "_contrib_box_decode", "_contrib_box_nms"), _DETECTION
    ),
    **dict.fromkeys(("max", "mean", "min", "norm", "prod", "sum"), _reduce),
    **dict.fromkeys(
        ("BatchNorm", "LayerNorm", "_contrib_arange_like", "_split_v2", "repeat"), _counted
    ),
    "Cast": _cast,
    "Embedding": _look_up,
    "L2Normalization": _unit,
    "LRN": _response,
    "LeakyReLU": _leaky,
    "Pooling": _pool,
    "RNN": _only(_is_of_equal_layers, "the second layer's input is not as wide as the first's"),
    "Reshape": _reshape,
    "SequenceReverse": _only(lambda layer: len(layer.given[0]) == 3, "the input is not (T, N, C)"),
    "SoftmaxOutput": _only(
        lambda layer: layer.attrs.get("multi_output") != "True", "multi_output is not translated"
    ),
    "SwapAxis": _swap,
    "_contrib_BilinearResize2D": _resize,
    "_image_normalize": _normalize,
    "_rdiv_scalar": _reversed("Div"),
    "_rminus_scalar": _reversed("Sub"),
    "broadcast_to": _expand,
    "dot": _only(_is_matrix_product, "it is not a product with a matrix"),
    "one_hot": _one_hot,
    "reverse": _flip,
    "squeeze": _only(
        lambda layer: layer.attrs.get("axis", "None") != "None",
        "without an axis it would take away a batch of one",
    ),
    "topk": _only(lambda layer: int(layer.attrs.get("k", 1)) > 0, "k is not positive"),
}
