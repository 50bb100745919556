"""The operators that a network from anywhere may ask MXNet to run, and with what attributes.

MXNet has operators whose attributes are machine addresses to call, which call Python, or which
open files, and many more that take places to read or write from their inputs without a look at
them. So those are named here which a classifier of images is made of, and which stay within their
arrays whatever the values are: each was run with a guard page behind every array, with hundreds of
attributes, shapes, types and values of all kinds. Everything else is refused.
"""

from __future__ import annotations

import math
import re
from typing import Final

from gluonexp.graph.graph import VARIABLE, Graph, Node, Output

# Names as MXNet 1.9.1 saves them; then, after a bar, other names for operators of the same line,
# which older versions saved and which it still takes.
_TABLE: Final = """
layers:
    Activation BatchNorm Convolution Deconvolution Dropout Embedding FullyConnected GroupNorm
    InstanceNorm L2Normalization LRN LayerNorm LeakyReLU Pooling RNN SoftmaxActivation
    UpSampling _contrib_AdaptiveAvgPooling2D _contrib_BatchNormWithReLU
    _contrib_BilinearResize2D _contrib_SyncBatchNorm _rnn_param_concat moments
    | _npi_rnn_param_concat _npx_activation _npx_batch_norm _npx_convolution _npx_deconvolution
      _npx_dropout _npx_embedding _npx_fully_connected _npx_layer_norm _npx_leaky_relu
      _npx_pooling _npx_rnn
layers of old networks:
    BatchNorm_v1 Crop Pooling_v1
heads:
    BlockGrad LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput MakeLoss
    SVMOutput SoftmaxOutput make_loss
    | Softmax stop_gradient
activations:
    _npx_relu _npx_sigmoid hard_sigmoid log_softmax relu sigmoid smooth_l1 softmax softmin
    softsign
    | _npx_log_softmax _npx_smooth_l1 _npx_softmax
one array, value by value:
    Cast _contrib_div_sqrt_dim _contrib_gradientmultiplier _contrib_quadratic
    _contrib_round_ste _contrib_sign_ste _copy _identity_with_attr_like_rhs _np_copy
    _npi_absolute _npi_arccos _npi_arccosh _npi_arcsin _npi_arcsinh _npi_arctan _npi_arctanh
    _npi_bitwise_not _npi_cbrt _npi_ceil _npi_cos _npi_cosh _npi_degrees _npi_exp _npi_expm1
    _npi_fix _npi_floor _npi_full_like _npi_isfinite _npi_isinf _npi_isnan _npi_isneginf
    _npi_isposinf _npi_log _npi_log10 _npi_log1p _npi_log2 _npi_logical_not _npi_nan_to_num
    _npi_negative _npi_radians _npi_reciprocal _npi_rint _npi_sign _npi_sin _npi_sinh _npi_sqrt
    _npi_square _npi_tan _npi_tanh _npi_trunc abs amp_cast arccos arccosh arcsin arcsinh arctan
    arctanh cbrt ceil clip cos cosh degrees erf erfinv exp expm1 fix floor gamma gammaln log
    log10 log1p log2 logical_not negative ones_like radians rcbrt reciprocal rint round rsqrt
    sign sin sinh sqrt square tan tanh trunc zeros_like
    | _npi_abs _npi_cast _npi_clip _npx_cast _npx_erf _npx_erfinv _npx_gamma _npx_gammaln cast
      identity
two arrays, value by value:
    _equal _grad_add _greater _greater_equal _hypot _lesser _lesser_equal _logical_and
    _logical_or _logical_xor _maximum _minimum _mod _not_equal _npi_add _npi_arctan2
    _npi_bitwise_and _npi_bitwise_or _npi_bitwise_xor _npi_copysign _npi_equal _npi_greater
    _npi_greater_equal _npi_hypot _npi_ldexp _npi_less _npi_less_equal _npi_mod _npi_multiply
    _npi_not_equal _npi_power _npi_subtract _npi_true_divide _power add_n broadcast_add
    broadcast_div broadcast_equal broadcast_greater broadcast_greater_equal broadcast_hypot
    broadcast_lesser broadcast_lesser_equal broadcast_logical_and broadcast_logical_or
    broadcast_logical_xor broadcast_maximum broadcast_minimum broadcast_mod broadcast_mul
    broadcast_not_equal broadcast_power broadcast_sub elemwise_add elemwise_div elemwise_mul
    elemwise_sub
    | ElementWiseSum _Div _Equal _Greater _Greater_Equal _Hypot _Lesser _Lesser_Equal
      _Logical_And _Logical_Or _Logical_Xor _Maximum _Minimum _Minus _Mod _Mul _Not_Equal _Plus
      _Power _add _div _minus _mul _npi_maximum _npi_minimum _plus _sub broadcast_minus
      broadcast_plus
an array and a number:
    _div_scalar _equal_scalar _greater_equal_scalar _greater_scalar _hypot_scalar
    _lesser_equal_scalar _lesser_scalar _logical_and_scalar _logical_or_scalar
    _logical_xor_scalar _maximum_scalar _minimum_scalar _minus_scalar _mod_scalar _mul_scalar
    _not_equal_scalar _npi_add_scalar _npi_arctan2_scalar _npi_bitwise_and_scalar
    _npi_bitwise_or_scalar _npi_bitwise_xor_scalar _npi_copysign_scalar _npi_equal_scalar
    _npi_greater_equal_scalar _npi_greater_scalar _npi_ldexp_scalar _npi_less_equal_scalar
    _npi_less_scalar _npi_mod_scalar _npi_multiply_scalar _npi_not_equal_scalar
    _npi_power_scalar _npi_rarctan2_scalar _npi_rcopysign_scalar _npi_rldexp_scalar
    _npi_rmod_scalar _npi_rpower_scalar _npi_rsubtract_scalar _npi_rtrue_divide_scalar
    _npi_subtract_scalar _npi_true_divide_scalar _plus_scalar _power_scalar _rdiv_scalar
    _rminus_scalar _rmod_scalar _rpower_scalar
    | _DivScalar _EqualScalar _GreaterEqualScalar _GreaterScalar _HypotScalar
      _LesserEqualScalar _LesserScalar _LogicalAndScalar _LogicalOrScalar _LogicalXorScalar
      _MaximumScalar _MinimumScalar _MinusScalar _ModScalar _MulScalar _NotEqualScalar
      _PlusScalar _PowerScalar _RDivScalar _RMinusScalar _RModScalar _RPowerScalar
      _npi_hypot_scalar _npi_maximum_scalar _npi_minimum_scalar
reductions:
    _np_all _np_any _np_cumsum _np_max _np_min _np_prod _np_sum _npi_argmax _npi_argmin
    _npi_mean argmax argmax_channel argmin max mean min nanprod nansum norm prod sum
    | _np_amax _np_amin _np_product _np_sometrue cumsum max_axis min_axis sum_axis
shapes:
    Concat Flatten Pad Reshape SliceChannel SwapAxis _np_atleast_1d _np_atleast_2d
    _np_atleast_3d _np_reshape _np_roll _np_squeeze _np_transpose _npi_broadcast_to
    _npi_column_stack _npi_concatenate _npi_dstack _npi_flip _npi_hstack _npi_pad _npi_rot90
    _npi_stack _npi_tril _npi_vstack _npx_reshape _split_v2 broadcast_axis broadcast_like
    broadcast_to depth_to_space diag expand_dims repeat reshape_like reverse slice slice_axis
    slice_like space_to_depth squeeze stack tile transpose
    | _np_repeat _npi_expand_dims _npi_reshape _npi_slice _npi_split _npi_swapaxes _npi_tile
      _npx_batch_flatten _npx_reshape_like _npx_slice broadcast_axes concat crop flatten flip
      pad reshape split swapaxes
sizes and arrays of one value or a sequence:
    _arange _contrib_arange_like _full _linspace _npi_arange _npi_ones _npi_zeros _ones _zeros
    shape_array size_array
    | _npi_full _npi_linspace _npx_arange_like _npx_shape_array
products:
    _linalg_gemm _linalg_gemm2 _linalg_syrk _np_dot _npi_einsum batch_dot dot
    | _npx_batch_dot linalg_gemm linalg_gemm2 linalg_syrk
choices, with indices that are checked or clipped:
    _npi_where _npi_where_lscalar _npi_where_rscalar _npi_where_scalar2 argsort gather_nd
    one_hot pick sort take topk where
    | _npi_argsort _npi_gather_nd _npi_sort _npi_take _npx_gather_nd _npx_one_hot _npx_pick
      _npx_topk choose_element_0index
images:
    _image_crop _image_flip_left_right _image_flip_top_bottom _image_normalize _image_resize
    | _npx__image_crop _npx__image_flip_left_right _npx__image_flip_top_bottom
      _npx__image_normalize _npx__image_resize
eight bits:
    _contrib_dequantize _contrib_quantize _contrib_quantize_v2 _contrib_quantized_act
    _contrib_quantized_batch_norm _contrib_quantized_concat _contrib_quantized_elemwise_add
    _contrib_quantized_elemwise_mul _contrib_quantized_flatten _contrib_quantized_pooling
    _contrib_requantize _sg_mkldnn_conv _sg_mkldnn_fully_connected
"""

_HEADINGS: Final = re.compile(r"^.*:$", re.MULTILINE)
SAFE: Final = frozenset(_HEADINGS.sub("", _TABLE).split()) - {"|"}

# Operators that divide a whole number by another, which ends the process where that is 0.
DIVIDING: Final = frozenset(
    {
        *("_DivScalar", "_RDivScalar", "_Div", "_div", "_div_scalar", "_rdiv_scalar"),
        *("_npi_mean", "broadcast_div", "elemwise_div", "mean", "moments", "norm"),
    }
)

_TRANSPOSING: Final = {"transpose", "_np_transpose"}
_PADDING: Final = {"Pad", "_npi_pad", "pad"}
_RESHAPING: Final = {"Reshape", "_np_reshape", "_npi_reshape", "_npx_reshape", "reshape"}
_SPLITTING: Final = {"_split_v2", "_npi_split"}

# MXNet's oneDNN operators: what they do is in a graph inside the node.
_FUSED: Final = {
    "_sg_mkldnn_conv": "Convolution",
    "_sg_mkldnn_fully_connected": "FullyConnected",
}
# Whether they have an activation, as MXNet 1.5 wrote it; it takes the old name before the new one.
_RENAMED: Final = {"with_relu": "with_act", "with_postsum_relu": "with_postsum_act"}
_ACTIVATIONS: Final = {"Activation", "LeakyReLU", "abs", "clip", "relu", "sigmoid", "sqrt"} | {
    *("exp", "square", "tanh")
}

# Attributes that are numbers of things, by their smallest value. MXNet divides by some of them.
_LEAST: Final = {
    **dict.fromkeys(("block_size", "dilate", "heads", "kernel", "num_args", "num_filter"), 1),
    **dict.fromkeys(("num_group", "num_groups", "num_hidden", "num_layers", "num_outputs"), 1),
    **dict.fromkeys(("repeat", "scale", "state_size", "stride"), 1),
    **dict.fromkeys(("adj", "pad", "target_shape"), 0),
}
_MOST: Final = 2**24
_MOST_ENTRIES: Final = 2**12  # inputs and outputs of one node; DenseNet concatenates 2

# Attributes some of whose values lead to code that trusts its inputs, or to other devices.
_CHOICES: Final = {
    "__storage_type__": {"-1", "0"},  # all others are sparse, with indices
    "ctx": {"", "None", "cpu(0)", "cpu"},
    "forward_stype": {"None", "default"},
    "projection_size": {"None"},
    "sample_type": {"nearest"},
    "use_length": {"False", "0", "false"},
    "use_sequence_length": {"False", "0", "false"},
}

# One number, or several between commas; nothing in it can be read in two ways.
_NUMBERS: Final = re.compile(r"[(\[]?\s*(-?[0-9]{1,9}L?\s*(,\s*-?[0-9]{1,9}L?\s*)*,?\s*)?[)\]]?")


def unknown(graph: Graph) -> list[str]:
    """Name the operators of a graph, those of graphs within it too, that are not safe."""
    return sorted({node.op for node in graph.walk()} - SAFE - {VARIABLE})


def flaw(node: Node) -> str | None:
    """Say which attribute of a node, whose operator is safe, is not; None if none is.

    Raises
    ------
    KeyError, IndexError, ValueError
        An attribute is missing, or holds something else than it should.
    """
    given = node.attrs
    for name, text in given.items():
        if name in _CHOICES and text not in _CHOICES[name]:
            return f"has {name}={text}, where only {sorted(_CHOICES[name])[-1]} is safe"
        if name in _LEAST and not _is_count(name, text):
            return f"has {name}={text}, which is no size"
    if node.op in _TRANSPOSING and not _is_order(given.get("axes", "()")):
        return f"has axes={given['axes']}, which are not all the axes"
    if node.op in _PADDING and given.get("mode", "constant") not in ("constant", "edge"):
        return f"has mode={given['mode']}, which may read beyond the array"
    shape = given.get("shape", given.get("newshape", "()"))
    if node.op in _RESHAPING and not _is_shape(shape):
        return f"has shape={shape}, which is none"
    if node.op in _SPLITTING:
        pieces = numbers(given.get("indices", "()")) or numbers(given.get("sections", "0"))
        if pieces in ([], [0]):
            return "splits into nothing"
    if node.op == "_contrib_quantized_concat" and min(numbers(given.get("dim", "1"))) < 0:
        return f"has dim={given['dim']}, counted from the end"
    if node.op in _FUSED:
        return _fused_flaw(node)
    return "has a graph inside, which only oneDNN's have" if node.subgraphs else None


def added_to(node: Node) -> int | None:
    """Return which input a oneDNN convolution adds to, in its place; None if it adds to none."""
    flags = _flags(node)
    if "with_sum" not in flags:
        return None
    # Behind it, the ranges of the input and of this.
    return len(node.inputs) - 1 - (4 if "quantized" in flags else 0)


def _flags(node: Node) -> set[str]:
    return {
        _RENAMED.get(name, name)
        for name, text in node.attrs.items()
        if text.lower() in ("true", "1")
    }


def _is_count(name: str, text: str) -> bool:
    if text == "None":
        return True
    if not _NUMBERS.fullmatch(text):
        return False
    most = _MOST_ENTRIES if name in ("num_args", "num_outputs") else _MOST
    return all(_LEAST[name] <= number <= most for number in numbers(text))


def _is_order(text: str) -> bool:
    axes = numbers(text)
    return text == "None" or sorted(axes) == [*range(len(axes))]


def _is_shape(text: str) -> bool:
    # Numbers below 1 have a meaning of their own each; where others overflow, MXNet divides by 0.
    sides = numbers(text)
    return min(sides, default=0) >= -6 and math.prod(max(side, 1) for side in sides) < 2**31


def numbers(text: str) -> list[int]:
    """Return the whole numbers in an attribute."""
    return [int(number) for number in re.findall(r"-?[0-9]+", text)]


def _fused_flaw(node: Node) -> str | None:
    """Say how the graph inside a oneDNN operator differs from its attributes, which it trusts.

    It must be a chain: the layer, then normalization, activation, a sum and another activation.
    """
    (inner,) = node.subgraphs
    flags = _flags(node)
    if _RENAMED.keys() & node.attrs.keys() and {*_RENAMED.values(), "with_eltwise"} & {
        *node.attrs
    }:
        return "says in two ways whether it has an activation"
    layer = _FUSED[node.op]
    links: list[set[str]] = [{layer}]
    links += [{"BatchNorm"}] * ("with_bn" in flags)
    links += [_ACTIVATIONS] * ("with_act" in flags or "with_eltwise" in flags)
    links += [{"elemwise_add"}] * ("with_sum" in flags)
    links += [_ACTIVATIONS] * ("with_postsum_act" in flags)
    variables = inner.variables
    chain = [(at, step) for at, step in enumerate(inner.nodes) if step.op != VARIABLE]
    fits = (
        len(chain) == len(links)
        and all(step.op in link for (_, step), link in zip(chain, links, strict=True))
        and inner.heads == (Output(chain[-1][0]),)
    )
    before: set[int] = set()
    for at, step in chain:
        sources = [source.node for source in step.inputs if source.node not in variables]
        fits &= len(sources) == len(before) and before <= set(sources)
        fits &= step.op not in _ACTIVATIONS or len(step.inputs) == 1
        before = {at}
    if not fits:
        return "is not the layers which it says it is"
    (_, first), *_ = chain
    if any(step.attrs.get("axis", "1") != "1" for _, step in chain if step.op == "BatchNorm"):
        return "normalizes another axis than the channels"
    if layer == "Convolution":
        if len(numbers(first.attrs["kernel"])) != 2:
            return "convolves in other than two dimensions"
        if first.attrs.get("layout", "NCHW") not in ("NCHW", "None"):
            return "has another layout than NCHW"
        ranges = 4 if "with_sum" in flags else 2
    else:
        ranges = 2
        if "quantized" in flags and "channel_wise_quantize" not in flags:
            return "has one range for all its weights, which is not read here"
    expected = len(variables) + ranges * ("quantized" in flags)
    if len(node.inputs) != expected:
        return f"has {len(node.inputs)} inputs, not {expected}"
    return None
