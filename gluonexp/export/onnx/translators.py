"""MXNet's operators in ONNX's operator set 13, one node at a time.

Most have a translation in MXNet's own exporter, which is taken as it is. Here are the others:
those that it gets wrong, or right for a part of what the operator can do only. What no runtime
computes as MXNet does is refused, and so is what could only be translated at length.

A translator takes a node and its `settings` (see `nodes`). It returns ONNX's nodes, of which the
last one's output has the node's name, and the types of the outputs, or None, which is the type of
the first input. What it raises is told with the operator and the node's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any, Final

import numpy as np

from gluonexp.export.onnx.nodes import (
    Node,
    Shape,
    Step,
    chain,
    changed,
    constant,
    numbers,
    source,
    theirs,
    variable,
)

Translator = Callable[..., Any]

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


def translate(node: Node, **settings: Any) -> Any:
    """Translate any node.

    Raises
    ------
    Exception
        Of any type, from MXNet's exporter too: there is no translation, and why.
    """
    given = {
        name: {"1": "True", "0": "False"}.get(value, value) if name in _FLAGS else value
        for name, value in node.get("attrs", {}).items()
    }
    plain = {**node, "attrs": {**_DEFAULTS.get(node["op"], {}), **given}}
    if given.get("dtype") in _NARROW:
        raise NotImplementedError(f"runtimes differ in how they compute in {given['dtype']}")
    translator: Translator = TRANSLATORS.get(node["op"], theirs)
    return translator(plain, **settings)


def _resize(node: Node, **settings: Any) -> Any:
    """Translate a bilinear resize; theirs takes every one for one of aligned corners."""
    nodes, dtypes = theirs(node, **settings)
    if node["attrs"].get("align_corners", "True") != "True":
        for attribute in nodes[-1].attribute:
            if attribute.name == "coordinate_transformation_mode":
                attribute.s = b"half_pixel"
    return nodes, dtypes


def _normalize(node: Node, **settings: Any) -> Any:
    """Translate `image.normalize`: minus mean, over standard deviation, by channel."""
    moments = {}
    for key, default in (("mean", "0"), ("std", "1")):
        written = re.findall(r"[-+.\de]+", node["attrs"].get(key, default))
        values = np.array(written, np.float32).reshape(-1, 1, 1)
        moments[key] = constant(node, settings, key, values, np.float32)
    steps: list[Step] = [("Sub", [moments["mean"]], {}), ("Div", [moments["std"]], {})]
    return chain(node, source(node, settings).name, *steps), None


def _reversed(operator: str) -> Translator:
    """Return the translator of number minus (or over) array; theirs goes by the node's name."""

    def translate(node: Node, **settings: Any) -> Any:
        from onnx.helper import make_node

        entry = source(node, settings)
        number = float(node["attrs"]["scalar"])
        scalar = constant(node, settings, "scalar", number, entry.dtype)
        return [make_node(operator, [scalar, entry.name], [node["name"]])], None

    return translate


def _leaky(node: Node, **settings: Any) -> Any:
    """Translate LeakyReLU and its kin; ONNX lays a PReLU's slopes along the last axis."""
    from onnx.helper import make_node

    (data, *slopes), name = settings["given"], node["name"]
    if node["attrs"].get("act_type") != "prelu" or slopes == [(1,)]:
        return theirs(node, **settings)
    shape = constant(node, settings, "shape", [-1] + [1] * (len(data) - 2))
    nodes = [
        make_node("Reshape", [source(node, settings, 1).name, shape], [f"{name}_slopes"]),
        make_node("PRelu", [source(node, settings).name, f"{name}_slopes"], [name]),
    ]
    return nodes, None


def _response(node: Node, **settings: Any) -> Any:
    """Translate LRN: x / (k + alpha / n * sum)**beta, for whole k; OpenVINO cuts off the rest.

    What is not whole is taken out of the brackets.
    """
    attrs, entry = node["attrs"], source(node, settings)
    k, alpha, beta = (
        float(attrs.get(key, default))
        for key, default in (("knorm", 2), ("alpha", 1e-4), ("beta", 0.75))
    )
    steps: list[Step] = []
    if not k.is_integer():
        factor = constant(node, settings, "factor", k**-beta, entry.dtype)
        k, alpha, steps = 1.0, alpha / k, [("Mul", [factor], {})]
    window = {"size": int(attrs["nsize"]), "alpha": alpha, "beta": beta, "bias": k}
    return chain(node, entry.name, ("LRN", [], window), *steps), None


def _unit(node: Node, **settings: Any) -> Any:
    """Translate L2Normalization; ONNX's own has no epsilon."""
    from onnx.helper import make_node

    name, entry = node["name"], source(node, settings)
    rank = len(settings["given"][0])
    mode = node["attrs"].get("mode", "instance")
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}[mode]
    reduced = constant(node, settings, "axes", list(axes))
    eps = constant(node, settings, "eps", float(node["attrs"].get("eps", 1e-10)), entry.dtype)
    nodes = [
        make_node("Mul", [entry.name, entry.name], [f"{name}_square"]),
        make_node("ReduceSum", [f"{name}_square", reduced], [f"{name}_sum"], keepdims=1),
        make_node("Add", [f"{name}_sum", eps], [f"{name}_positive"]),
        make_node("Sqrt", [f"{name}_positive"], [f"{name}_norm"]),
        make_node("Div", [entry.name, f"{name}_norm"], [name]),
    ]
    return nodes, None


def _reduce(node: Node, **settings: Any) -> Any:
    """Translate a sum, mean or the like; theirs does not know `exclude`, nor an empty `axis`."""
    if node["op"] == "norm" and node["attrs"].get("ord", "2") != "2":
        raise NotImplementedError("ord is not 2: OpenVINO does not load it")
    rank = len(settings["given"][0])
    axes = {axis % rank for axis in numbers(node, "axis")} or set(range(rank))
    if node["attrs"].get("exclude") == "True" and numbers(node, "axis"):
        axes = set(range(rank)) - axes
    if len(axes) == rank and node["attrs"].get("keepdims") != "True":
        return theirs(changed(node, axis=None), **settings)
    return theirs(changed(node, axis=tuple(sorted(axes))), **settings)


def _pool(node: Node, **settings: Any) -> Any:
    """Translate a pooling; what ``full`` (rounding up) adds at the end is written out.

    ONNX's own way of rounding up gives other sizes in some cases, and runtimes disagree about
    whether what it adds counts in an average.
    """
    attrs = node["attrs"]
    kind, everywhere = attrs.get("pool_type", "max"), attrs.get("global_pool") == "True"
    if kind == "lp" and (everywhere or attrs["p_value"] != "2"):
        raise NotImplementedError("pool_type lp is translated for p_value 2, and not globally")
    include = attrs.get("count_include_pad", "True") != "False"
    node = changed(node, count_include_pad=include)
    if everywhere or attrs.get("pooling_convention") != "full" or kind not in ("max", "avg"):
        return theirs(node, **settings)
    sizes, kernel = settings["given"][0][2:], numbers(node, "kernel")
    stride = numbers(node, "stride") or [1] * len(kernel)
    pad = numbers(node, "pad") or [0] * len(kernel)
    starts = [
        np.arange(count) * step - before
        for count, step, before in zip(settings["made"][0][2:], stride, pad, strict=True)
    ]
    lasts = [int(each[-1]) for each in starts]
    if any(last >= size for last, size in zip(lasts, sizes, strict=True)):
        raise NotImplementedError("pooling_convention full has a window which is all padding")
    after = [last + k - size for last, k, size in zip(lasts, kernel, sizes, strict=True)]
    node = changed(node, pooling_convention="valid")
    if after == pad:
        return theirs(node, **settings)
    entry = source(node, settings).name
    shared: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if kind == "max":
        return chain(node, entry, ("MaxPool", [], {**shared, "pads": pad + after})), None
    # An average over all of the kernel, zeros included, then over what counts of it instead.
    margins = pad if include else [0] * len(pad)
    counts = [
        np.minimum(each + k, size + margin) - np.maximum(each, -margin)
        for each, k, size, margin in zip(starts, kernel, sizes, margins, strict=True)
    ]
    weights = prod(kernel) / reduce(np.multiply, np.ix_(*counts))
    pads = constant(node, settings, "pads", [0, 0, *pad, 0, 0, *after])
    factor = constant(node, settings, "factor", weights[None, None], np.float32)
    steps: list[Step] = [("Pad", [pads], {}), ("AveragePool", [], shared), ("Mul", [factor], {})]
    return chain(node, entry, *steps), None


def _reshape(node: Node, **settings: Any) -> Any:
    """Translate a reshape by its outcome, so that none of its codes need to be understood."""
    shape = settings["made"][0]
    if shape.count(None) > 1:
        raise NotImplementedError("several dimensions depend on the number of images")
    if None in settings["given"][0] and None not in shape:  # MXNet finds out when it runs
        raise NotImplementedError("it takes one number of images only")
    target = constant(node, settings, "target", [-1 if each is None else each for each in shape])
    return chain(node, source(node, settings).name, ("Reshape", [target], {})), None


def _flip(node: Node, **settings: Any) -> Any:
    """Translate a reversal; theirs fails when it runs."""
    axes = numbers(node, "axis")
    backwards = constant(node, settings, "backwards", [-1] * len(axes))
    ends = constant(node, settings, "ends", [np.iinfo(np.int64).min] * len(axes))
    where = constant(node, settings, "axes", axes)
    step: Step = ("Slice", [backwards, ends, where, backwards], {})
    return chain(node, source(node, settings).name, step), None


def _swap(node: Node, **settings: Any) -> Any:
    """Translate an exchange of two axes; theirs knows no axis that is counted from the end."""
    order = list(range(len(settings["given"][0])))
    first, second = (int(node["attrs"].get(key, 0)) for key in ("dim1", "dim2"))
    order[first], order[second] = order[second], order[first]
    return chain(node, source(node, settings).name, ("Transpose", [], {"perm": order})), None


def _counted(node: Node, **settings: Any) -> Any:
    """Translate what theirs gets wrong for an axis that is counted from the end."""
    if axis := numbers(node, "axis"):
        node = changed(node, axis=axis[0] % len(settings["given"][0]))
    return theirs(node, **settings)


def _expand(node: Node, **settings: Any) -> Any:
    """Translate `broadcast_to`: where MXNet keeps a size for 0, ONNX does for 1."""
    return theirs(changed(node, shape=[size or 1 for size in numbers(node, "shape")]), **settings)


def _cast(node: Node, **settings: Any) -> Any:
    """Translate a cast, but none to an integer: out of range, runtimes differ in what it gives."""
    before, after = (
        np.dtype(each) for each in (source(node, settings).dtype, node["attrs"]["dtype"])
    )
    if before.kind == "f" and after.kind in "iu":
        raise NotImplementedError(f"runtimes differ in how they cast {before} to {after}")
    return theirs(node, **settings)


def _look_up(node: Node, **settings: Any) -> Any:
    """Translate an embedding; MXNet takes an index that is out of range to the nearest row."""
    from onnx import TensorProto
    from onnx.helper import make_node

    name, rows = node["name"], settings["given"][1][0]
    ends = [constant(node, settings, key, at) for key, at in (("first", 0), ("last", rows - 1))]
    nodes = [
        make_node("Cast", [source(node, settings).name], [f"{name}_whole"], to=TensorProto.INT64),
        make_node("Clip", [f"{name}_whole", *ends], [f"{name}_index"]),
        make_node("Gather", [source(node, settings, 1).name, f"{name}_index"], [name]),
    ]
    return nodes, (source(node, settings, 1).dtype,)


def _one_hot(node: Node, **settings: Any) -> Any:
    """Translate `one_hot`; ONNX's counts a negative index from the end."""
    from onnx import TensorProto
    from onnx.helper import make_node

    name, attrs = node["name"], node["attrs"]
    dtype = np.dtype(attrs.get("dtype", "float32"))
    last = constant(node, settings, "last", [-1])
    classes = constant(node, settings, "classes", np.arange(int(attrs["depth"])))
    values = [
        constant(node, settings, key, float(attrs.get(key, default)), dtype)
        for key, default in (("on_value", 1), ("off_value", 0))
    ]
    nodes = [
        make_node("Cast", [source(node, settings).name], [f"{name}_whole"], to=TensorProto.INT64),
        make_node("Unsqueeze", [f"{name}_whole", last], [f"{name}_column"]),
        make_node("Equal", [f"{name}_column", classes], [f"{name}_hot"]),
        make_node("Where", [f"{name}_hot", *values], [name]),
    ]
    return nodes, (dtype,)


def _sized(node: Node, **settings: Any) -> Any:
    """Translate `shape_array` and `size_array`; theirs do not say that they give integers."""
    return theirs(node, **settings)[0], (np.dtype("int64"),)


def _only(permitted: Callable[..., bool], reason: str) -> Translator:
    """Return the translator that takes theirs where `permitted`, of attributes and shapes."""

    def translate(node: Node, **settings: Any) -> Any:
        if not permitted(node["attrs"], *settings["given"]):
            raise NotImplementedError(reason)
        return theirs(node, **settings)

    return translate


def _is_matrix_product(attrs: dict[str, str], left: Shape, right: Shape) -> bool:
    return len(right) == 2 and (
        len(left) == 2 or (len(left) > 2 and attrs.get("transpose_a") != "True")
    )


def _is_of_equal_layers(attrs: dict[str, str], data: Shape, *_: Shape) -> bool:
    return attrs.get("num_layers", "1") == "1" or str(data[2]) == attrs["state_size"]


_AT_RANDOM: Final = _only(lambda *_: False, "it draws at random")
_DETECTION: Final = _only(lambda *_: False, "runtimes differ in how they choose and cut boxes")

TRANSLATORS: Final[dict[str, Translator]] = {
    "null": variable,
    "BatchNorm": _counted,
    "Cast": _cast,
    "Embedding": _look_up,
    "L2Normalization": _unit,
    "LRN": _response,
    "LayerNorm": _counted,
    "LeakyReLU": _leaky,
    "Pooling": _pool,
    "RNN": _only(_is_of_equal_layers, "the second layer's input is not as wide as the first's"),
    "ROIPooling": _DETECTION,
    "Reshape": _reshape,
    "SequenceReverse": _only(lambda _, data, *__: len(data) == 3, "the input is not (T, N, C)"),
    "SoftmaxOutput": _only(
        lambda attrs, *_: attrs.get("multi_output") != "True", "multi_output is not translated"
    ),
    "SwapAxis": _swap,
    "_contrib_BilinearResize2D": _resize,
    "_contrib_ROIAlign": _DETECTION,
    "_contrib_arange_like": _counted,
    "_contrib_box_decode": _DETECTION,
    "_contrib_box_nms": _DETECTION,
    "_image_normalize": _normalize,
    "_random_normal": _AT_RANDOM,
    "_random_uniform": _AT_RANDOM,
    "_random_uniform_like": _AT_RANDOM,
    "_rdiv_scalar": _reversed("Div"),
    "_rminus_scalar": _reversed("Sub"),
    "_sample_multinomial": _AT_RANDOM,
    "_split_v2": _counted,
    "broadcast_to": _expand,
    "dot": _only(_is_matrix_product, "it is not a product with a matrix"),
    "max": _reduce,
    "mean": _reduce,
    "min": _reduce,
    "norm": _reduce,
    "one_hot": _one_hot,
    "prod": _reduce,
    "repeat": _counted,
    "reverse": _flip,
    "shape_array": _sized,
    "size_array": _sized,
    "squeeze": _only(
        lambda attrs, *_: attrs.get("axis", "None") != "None",
        "without an axis it would take away a batch of one",
    ),
    "sum": _reduce,
    "topk": _only(lambda attrs, *_: int(attrs.get("k", 1)) > 0, "k is not positive"),
}
