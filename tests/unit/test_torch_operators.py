"""MXNet's operators by PyTorch: each against MXNet, values and gradients; networks and losses."""

import copy
import inspect
import re

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn, sym
from gluonexp.engines.torch import library
from gluonexp.export.onnx import exporter, translators
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph, Node, Output
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models import loss as losses

library.load()
import torch  # noqa: E402

from gluonexp.engines.torch.lowering import lower  # noqa: E402
from gluonexp.engines.torch.operators import OPERATORS  # noqa: E402

TOLERANCE = 2e-5  # of the largest value; MXNet's own fast exponentials are that far off


def numbers(*shape, seed=0, low=None, high=None):
    """Return numbers without ties: normal, or even between two."""
    generator = np.random.default_rng([seed, *shape])
    if low is None:
        return generator.standard_normal(shape).astype(np.float32)
    return generator.uniform(low, high, shape).astype(np.float32)


def of_one(op, attrs, count, index=0):
    """Return the graph of one operator of inputs ``in0`` and so on, and its output `index`."""
    nodes = [Node(VARIABLE, f"in{number}") for number in range(count)]
    taken = tuple(map(Output, range(count)))
    nodes.append(Node(op, "node", taken, {key: str(value) for key, value in attrs.items()}))
    return Graph(tuple(nodes), (Output(count, index),))


def by_mxnet(graph, inputs, whole=()):
    """Return the value, gradients (None of whole numbers) and statistics of a training step."""
    symbol = symbols.to_symbol(graph)
    arrays = {f"in{number}": nd.array(each) for number, each in enumerate(inputs)}
    aux = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
    grads = {name: nd.zeros_like(each) for name, each in arrays.items() if name not in whole}
    kinds = {name: "write" if name in grads else "null" for name in arrays}
    bound = symbol.bind(mx.cpu(), arrays, grads, kinds, aux_states=aux)
    (made,) = bound.forward(is_train=True)
    bound.backward(nd.array(numbers(*made.shape, seed=9)))
    nd.waitall()
    return [made.asnumpy(), *(each.asnumpy() for each in (*grads.values(), *aux.values()))], aux


def by_torch(graph, inputs, entries, aux, whole=()):
    """Return the same by PyTorch; what is behind the first `entries` inputs is a parameter."""
    names = [f"in{number}" for number in range(len(inputs))]
    kept = {
        name: torch.tensor(each) if name in aux else torch.nn.Parameter(torch.tensor(each))
        for name, each in zip(names, inputs, strict=True)
    }
    shapes = {name: kept[name].shape for name in names[:entries]}
    module = lower(graph, {name: kept[name] for name in names[entries:]}, shapes)
    made = module(*(kept[name] for name in shapes))
    if made.requires_grad:
        made.backward(torch.tensor(numbers(*made.shape, seed=9)))
    module.settle()
    grads = [kept[name] for name in names if name not in aux and name not in whole]
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in grads]
    return [each.detach().numpy() for each in (made, *grads, *(kept[name] for name in aux))]


def differences(op, inputs, attrs, *, entries=1, index=0, attrs_of_torch=None):
    """Return by how much value, gradients and statistics differ, of the largest of each."""
    whole = ("in0",) if op == "Embedding" else ()
    expected, aux = by_mxnet(of_one(op, attrs, len(inputs), index), inputs, whole)
    graph = of_one(op, attrs if attrs_of_torch is None else attrs_of_torch, len(inputs), index)
    found = by_torch(graph, inputs, entries, aux, whole)
    assert [each.shape for each in found] == [each.shape for each in expected]
    return [
        float(np.abs(a.astype(np.float64) - b).max() / max(1e-2, np.abs(a).max()))
        for a, b in zip(expected, found, strict=True)
    ]


def case(op, *shapes, entries=1, **attrs):
    CASES.append((op, shapes, entries, attrs))


CASES = []

IMAGES = (2, 4, 9, 8)
MATRIX = (2, 5)
for kernel, stride, pad in (
    ((3, 3), (2, 1), (1, 0)),
    ((1, 1), (2, 2), (0, 0)),
    ((2, 3), (1, 1), (1, 1)),
):
    window = {"kernel": kernel, "stride": stride, "pad": pad}
    case("Convolution", IMAGES, (6, 2, *kernel), (6,), num_filter=6, num_group=2, **window)
    case(
        "Convolution", IMAGES, (6, 4, *kernel), num_filter=6, no_bias=True, dilate=(2, 1), **window
    )
    case("Deconvolution", IMAGES, (4, 3, *kernel), num_filter=3, **window)
    for kind in ("max", "avg", "sum", "lp"):
        case("Pooling", IMAGES, pool_type=kind, p_value=2, **window)
    for rule in ("full", "valid"):
        settings = {"pooling_convention": rule, **window}
        case("Pooling", IMAGES, **settings)
        case("Pooling", IMAGES, pool_type="avg", **settings)
        if kernel != (1, 1):  # a window that is all padding is no average
            case("Pooling", IMAGES, pool_type="avg", count_include_pad=False, **settings)
case("Convolution", (2, 4, 9), (6, 4, 3), (6,), num_filter=6, kernel=(3,), stride=(2,), pad=(1,))
case("Convolution", (2, 4, 5, 4, 6), (6, 4, 3, 1, 2), (6,), num_filter=6, kernel=(3, 1, 2))
case(
    "Deconvolution",
    IMAGES,
    (4, 3, 3, 3),
    (3,),
    num_filter=3,
    kernel=(3, 3),
    stride=(2, 2),
    pad=(1, 1),
    adj=(1, 0),
    no_bias=False,
)
case(
    "Deconvolution", IMAGES, (4, 3, 2, 2), num_filter=6, num_group=2, kernel=(2, 2), stride=(2, 2)
)
case("Pooling", (2, 4, 8, 8), kernel=(2, 2), stride=(3, 3), pad=(1, 1), pooling_convention="full")
case(
    "Pooling",
    (2, 4, 8, 8),
    kernel=(2, 2),
    stride=(3, 3),
    pad=(1, 1),
    pooling_convention="full",
    pool_type="avg",
)
for kind in ("max", "avg", "sum"):
    case("Pooling", IMAGES, pool_type=kind, global_pool=True, kernel=(2, 2), pad=(1, 1))
case("Pooling", (2, 4, 9), pool_type="avg", kernel=(3,), stride=(2,), pad=(1,))
case("Pooling", (2, 4, 5, 4, 6), kernel=(3, 1, 2), stride=(1, 2, 1))
case("FullyConnected", IMAGES, (3, 288), (3,), num_hidden=3)
case("FullyConnected", IMAGES, (3, 8), num_hidden=3, flatten=False, no_bias=True)
case("FullyConnected", MATRIX, (3, 5), (3,), num_hidden=3)
for fixed in (True, False):
    for frozen in (True, False):
        case(
            "BatchNorm",
            IMAGES,
            (4,),
            (4,),
            (4,),
            (4,),
            fix_gamma=fixed,
            use_global_stats=frozen,
            eps=0.01,
            momentum=0.7,
        )
case("BatchNorm", IMAGES, (4,), (4,), (4,), (4,))
case("BatchNorm", MATRIX, (5,), (5,), (5,), (5,), fix_gamma=False)
case("BatchNorm", (1, 5), (5,), (5,), (5,), (5,), fix_gamma=False)
case("BatchNorm", IMAGES, (8,), (8,), (8,), (8,), fix_gamma=False, axis=-1)
case("_contrib_SyncBatchNorm", IMAGES, (4,), (4,), (4,), (4,), fix_gamma=False, key="k", ndev=1)
case("BatchNorm_v1", IMAGES, (4,), (4,), (4,), (4,), fix_gamma=False)
case("LayerNorm", IMAGES, (8,), (8,), eps=0.1)
case("LayerNorm", IMAGES, (4,), (4,), axis=1)
case("GroupNorm", IMAGES, (2,), (2,), num_groups=2, eps=0.1)
case("InstanceNorm", IMAGES, (4,), (4,))
case("LRN", IMAGES, nsize=3, alpha=0.5, beta=0.6, knorm=1.5)
case("LRN", IMAGES, nsize=5)
for mode in ("instance", "channel", "spatial"):
    case("L2Normalization", IMAGES, mode=mode, eps=0.1)
for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign"):
    case("Activation", IMAGES, act_type=kind)
for kind in ("leaky", "elu", "gelu"):
    case("LeakyReLU", IMAGES, act_type=kind, slope=0.4)
case("LeakyReLU", IMAGES)
case("LeakyReLU", IMAGES, (4,), act_type="prelu")
case("UpSampling", IMAGES, scale=2, sample_type="nearest", num_args=1)
case("UpSampling", IMAGES, (4, 1, 4, 4), scale=2, sample_type="bilinear", num_filter=4, num_args=2)
case("UpSampling", IMAGES, (4, 1, 5, 5), scale=3, sample_type="bilinear", num_filter=4, num_args=2)
for size in ("(3, 4)", "(3,)", "()", "2"):
    case("_contrib_AdaptiveAvgPooling2D", IMAGES, output_size=size)
case("_contrib_BilinearResize2D", IMAGES, height=13, width=5)
case("_contrib_BilinearResize2D", IMAGES, height=13, width=5, align_corners=False)
case("_contrib_BilinearResize2D", IMAGES, scale_height=2.0, scale_width=0.5, mode="odd_scale")
case("_image_normalize", (2, 3, 4, 5), mean=(0.1, 0.2, -0.4), std=(1.0, 2.0, 3e-1))
case("Embedding", (2, 3), (4, 5), input_dim=4, output_dim=5)
for mode, gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1)):
    for two in (False, True):
        ways, states = 1 + two, [(2 * (1 + two), 2, 3)] * (1 + (mode == "lstm"))
        size = ways * gates * 3 * ((5 + 3 + 2) + (3 * ways + 3 + 2))
        case(
            "RNN",
            (4, 2, 5),
            (size,),
            *states,
            mode=mode,
            state_size=3,
            num_layers=2,
            bidirectional=two,
            lstm_state_clip_min=None,
            lstm_state_clip_max=None,
            lstm_state_clip_nan=False,
        )
for op in ("softmax", "log_softmax", "softmin"):
    case(op, IMAGES, axis=1, temperature=2.0)
    case(op, MATRIX)
case("SoftmaxActivation", MATRIX)
case("SoftmaxActivation", IMAGES, mode="channel")
for op in ("sum", "mean", "max", "min", "prod", "nansum"):
    case(op, IMAGES, axis=(1, -1), keepdims=True)
    case(op, IMAGES, axis=1, exclude=True)
    case(op, IMAGES, axis=0, exclude=True)
    case(op, MATRIX)
    case(op, MATRIX, axis="()")
    case(op, MATRIX, axis="None")
for order in (1, 2):
    case("norm", IMAGES, ord=order, axis=(1, 2))
    case("norm", IMAGES, ord=order, axis=-1, keepdims=True)
    case("norm", MATRIX, ord=order)
for op in ("argmax", "argmin"):
    case(op, IMAGES, axis=1)
    case(op, IMAGES, axis=-1, keepdims=True)
    case(op, MATRIX)
for kind in ("indices", "value", "mask"):
    case("topk", IMAGES, axis=1, k=2, ret_typ=kind)
    case("topk", IMAGES, k=3, ret_typ=kind, is_ascend=True)
case("sort", IMAGES, axis=2, is_ascend=False)
case("sort", IMAGES, axis=-1)
case("argsort", IMAGES, axis=1)
case("argsort", IMAGES, is_ascend=False)
case("pick", MATRIX, (2,), entries=2)
case("pick", MATRIX, (2, 1), keepdims=True, entries=2)
case("pick", IMAGES, (2, 9, 8), axis=1, mode="wrap", entries=2)
case("one_hot", (2, 3), depth=3, on_value=2.0, off_value=-1.0)
case("take", IMAGES, (3, 2), axis=-1)
case("take", IMAGES, (3,), axis=1, mode="wrap")
case("dot", MATRIX, (5, 3))
case("dot", MATRIX, (3, 5), transpose_b=True)
case("dot", IMAGES, (8, 3, 2))
case("batch_dot", (2, 3, 4), (2, 4, 5), entries=2)
case("batch_dot", (2, 4, 3), (2, 5, 4), transpose_a=True, transpose_b=True, entries=2)
case("_linalg_gemm2", (2, 3, 4), (2, 5, 4), transpose_b=True, alpha=0.5, entries=2)
case("_contrib_interleaved_matmul_selfatt_qk", (3, 2, 24), heads=2)
case("_contrib_div_sqrt_dim", MATRIX)
case("_contrib_quadratic", MATRIX, a=1.5, b=2.0, c=3.0)
case("smooth_l1", MATRIX, scalar=2.0)
case("clip", MATRIX, a_min=-0.5, a_max=0.25)
case("hard_sigmoid", MATRIX, alpha=0.3, beta=0.4)
case("Cast", MATRIX, dtype="float32")
case("cumsum", IMAGES, axis=1)
case("Concat", IMAGES, (2, 3, 9, 8), num_args=2, entries=2)
case("Concat", IMAGES, IMAGES, dim=-1, num_args=2, entries=2)
case("stack", IMAGES, IMAGES, axis=-1, num_args=2, entries=2)
case("add_n", IMAGES, IMAGES, IMAGES, num_args=3, entries=3)
case("Flatten", IMAGES)
case("Reshape", IMAGES, shape=(0, -3, -2))
case("Reshape", IMAGES, shape=(-1, 8))
case("Reshape", IMAGES, shape=(0, -4, 2, -1, 0, 0))
case("Reshape", IMAGES, shape=(-1, 0), reverse=True)
case("reshape_like", IMAGES, (2, 36, 8), entries=2)
case(
    "reshape_like", IMAGES, (2, 6, 6, 3), lhs_begin=1, lhs_end=3, rhs_begin=1, rhs_end=3, entries=2
)
case("transpose", IMAGES)
case("transpose", IMAGES, axes=(0, 2, 3, 1))
case("SwapAxis", IMAGES, dim1=1, dim2=-1)
case("expand_dims", IMAGES, axis=-2)
case("squeeze", (2, 1, 3, 1), axis=(1, 3))
case("repeat", IMAGES, repeats=2, axis=-3)
case("repeat", MATRIX, repeats=2)
case("tile", IMAGES, reps=(1, 2, 3))
case("reverse", IMAGES, axis=(1, 3))
case("slice", IMAGES, begin=(None, 1, -5), end=(None, 3, -1))
case("slice", IMAGES, begin="(None, None, 7)", end="(None, None, 1)", step=(1, 1, -2))
case("slice", IMAGES, begin="(None, None, None)", end="(None, None, None)", step="(None, -1, 2)")
case("slice_axis", IMAGES, axis=-1, begin=-4, end="None")
case("slice_axis", IMAGES, axis=2, begin=1, end=-1)
case("slice_like", IMAGES, (2, 4, 3, 5), axes=(2, -1), entries=2)
case("slice_like", IMAGES, (2, 4, 3, 5), entries=2)
case("Crop", IMAGES, h_w=(4, 5), offset=(2, 1), num_args=1)
case("Crop", IMAGES, (2, 4, 4, 5), center_crop=True, num_args=2, entries=2)
case("Pad", IMAGES, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 3, 0), constant_value=1.5)
case("Pad", IMAGES, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 3, 0))
case("Pad", IMAGES, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 3, 0))
case("SliceChannel", IMAGES, num_outputs=2)
case("SliceChannel", IMAGES, num_outputs=4, squeeze_axis=True)
case("SliceChannel", IMAGES, num_outputs=1)
case("_split_v2", IMAGES, indices=(0, 2, 5), axis=2)
case("_split_v2", IMAGES, indices="(0,)", sections=4, squeeze_axis=True)
case("depth_to_space", IMAGES, block_size=2)
case("space_to_depth", (2, 3, 6, 4), block_size=2)
case("where", MATRIX, MATRIX, MATRIX, entries=3)
case("where", (2,), MATRIX, MATRIX, entries=3)
case("gather_nd", (3, 4, 5), (2, 6))
case("broadcast_to", (2, 1, 3), shape=(0, 4, 3))
case("broadcast_axis", (2, 1, 3), axis=1, size=4)
case("broadcast_like", (2, 1, 3), (2, 4, 3), entries=2)
case("SequenceMask", (4, 2, 3), (2,), use_sequence_length=True, value=-1.0)
case("SequenceMask", (2, 4, 3), (2,), use_sequence_length=True, axis=1, entries=2)
case("SequenceReverse", (4, 2, 3), (2,), use_sequence_length=True)
case("SequenceReverse", (4, 2, 3))
case("SequenceLast", (4, 2, 3), (2,), use_sequence_length=True)
case("SequenceLast", (4, 2, 3))
case("_contrib_arange_like", MATRIX, axis=1, start=2.0, step=0.5)
for kind in (
    {},
    {"normalization": "batch"},
    {"normalization": "valid", "use_ignore": True, "ignore_label": 1},
    {"smooth_alpha": 0.1, "grad_scale": 3.0},
):
    case("SoftmaxOutput", MATRIX, (2,), entries=2, **kind)
    case("SoftmaxOutput", IMAGES, (2, 9, 8), multi_output=True, entries=2, **kind)
for op in ("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"):
    case(op, MATRIX, MATRIX, grad_scale=2.0, entries=2)
for kind in ("null", "batch", "valid"):
    case("MakeLoss", MATRIX, grad_scale=2.0, normalization=kind)
case("make_loss", MATRIX)
case("_contrib_gradientmultiplier", MATRIX, scalar=0.3)
case("_contrib_sign_ste", MATRIX)
UNARY = [
    "abs",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "floor",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "square",
    "tan",
    "tanh",
    "trunc",
    "fix",
    "relu",
    "negative",
    "degrees",
    "radians",
    "softsign",
    "arctan",
    "arcsinh",
    "cbrt",
    "rint",
    "round",
    "logical_not",
    "ones_like",
    "zeros_like",
    "BlockGrad",
    "_copy",
]
POSITIVE = [
    "log",
    "log10",
    "log1p",
    "log2",
    "reciprocal",
    "rsqrt",
    "sqrt",
    "gammaln",
    "rcbrt",
    "arccos",
    "arcsin",
    "arctanh",
    "erfinv",
]
for op in (*UNARY, *POSITIVE, "arccosh"):
    case(op, MATRIX)
PAIRS = [
    "mod",
    "power",
    "hypot",
    "maximum",
    "minimum",
    "equal",
    "not_equal",
    "greater",
    "greater_equal",
    "lesser",
    "lesser_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
]
for op in PAIRS:
    case(f"_{op}", MATRIX, MATRIX, entries=2)
    case(f"_{op}_scalar", MATRIX, scalar=0.5)
    case(f"broadcast_{op}", IMAGES, (1, 4, 1, 1))
for op in ("add", "sub", "mul", "div"):
    case(f"elemwise_{op}", MATRIX, MATRIX, entries=2)
    case(f"broadcast_{op}", IMAGES, (1, 4, 1, 8))
    case(f"_{dict(add='plus', sub='minus').get(op, op)}_scalar", MATRIX, scalar=0.5)
for op in ("minus", "div", "mod", "power"):
    case(f"_r{op}_scalar", MATRIX, scalar=1.5)

INDEXED = {
    **dict.fromkeys(("pick", "take", "gather_nd", "SoftmaxOutput"), 1),
    **dict.fromkeys(("SequenceMask", "SequenceReverse", "SequenceLast"), 1),
    **dict.fromkeys(("Embedding", "one_hot"), 0),
}
NOT_NEGATIVE = {
    *(*POSITIVE, "_power", "broadcast_power", "_power_scalar", "elemwise_div", "broadcast_div"),
    *("_rdiv_scalar", "_rmod_scalar", "_rpower_scalar", "_mod", "broadcast_mod"),
}


def inputs_of(op, shapes):
    """Return inputs that the operator is defined for; some indices are out of range."""
    low, high = (
        (0.1, 0.9) if op in NOT_NEGATIVE else (1.1, 2.0) if op == "arccosh" else (None,) * 2
    )
    made = [numbers(*shape, seed=at, low=low, high=high) for at, shape in enumerate(shapes)]
    at = INDEXED.get(op, len(made))
    if at < len(made):
        lowest, highest = {"S": (1, 4), "g": (0, 3)}.get(op[0], (-2, 7))
        whole = np.random.default_rng(0).integers(lowest, highest, shapes[at])
        made[at] = whole.astype(np.float32)
    if "BatchNorm" in op:
        made[4] = np.abs(made[4]) + 0.5
    if "logical" in op or "equal" in op or op == "where":
        made = [np.round(each) for each in made]
    return made


@pytest.mark.parametrize(
    ("op", "shapes", "entries", "attrs"),
    CASES,
    ids=[f"{op}-{number}" for number, (op, *_) in enumerate(CASES)],
)
def test_an_operator_computes_what_mxnet_does(op, shapes, entries, attrs):
    found = differences(op, inputs_of(op, shapes), attrs, entries=entries)
    assert max(found) < TOLERANCE, found


def test_a_wrong_attribute_is_noticed():
    planted = [
        ("BatchNorm", (IMAGES, *[(4,)] * 4), {"eps": 0.01, "fix_gamma": False}, {"eps": 0.02}),
        ("BatchNorm", (IMAGES, *[(4,)] * 4), {"fix_gamma": False}, {"fix_gamma": True}),
        ("BatchNorm", (IMAGES, *[(4,)] * 4), {"fix_gamma": False}, {"momentum": 0.8}),
        ("Pooling", (IMAGES,), {"kernel": (2, 2), "pad": (1, 1)}, {"pool_type": "avg"}),
        ("LeakyReLU", (IMAGES,), {"slope": 0.25}, {"slope": 0.26}),
        ("SoftmaxOutput", (MATRIX, (2,)), {}, {"grad_scale": 1.01}),
    ]
    for op, shapes, attrs, other in planted:
        entries, inputs = 1 + (op == "SoftmaxOutput"), inputs_of(op, shapes)
        found = differences(op, inputs, attrs, entries=entries, attrs_of_torch={**attrs, **other})
        assert max(found) > 1e-3, op


def test_selu_has_its_derivative_which_mxnets_gradient_is_not():
    inputs, attrs = inputs_of("LeakyReLU", (IMAGES,)), {"act_type": "selu"}
    value, gradient = differences("LeakyReLU", inputs, attrs)
    assert value < TOLERANCE < gradient


CONVOLUTION = {"kernel": (3, 3), "num_filter": 6, "no_bias": True}


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "said"),
    [
        ("softmax", (MATRIX,), {"dtype": "float64"}, "dtype=float64 is not lowered"),
        ("Pooling", (IMAGES,), {"kernel": (2, 2), "stride": (9, 9), "pad": (1, 1)}, None),
        ("squeeze", ((1, 1, 3),), {}, "a batch of one"),
        ("_random_uniform_like", (MATRIX,), {}, "not in the engine's table"),
        ("SoftmaxActivation", (IMAGES,), {}, "gradient"),
        ("Reshape", (MATRIX,), {"shape": (5, 2)}, "number of images"),
        ("Convolution", (IMAGES, (6, 4, 3, 3)), {**CONVOLUTION, "layout": "NHWC"}, "images"),
    ],
)
def test_what_cannot_be_lowered_is_refused_by_node_and_operator(op, shapes, attrs, said):
    graph = of_one(op, attrs, len(shapes))
    values = {"in1": torch.ones(shapes[1])} if len(shapes) > 1 else {}
    if said is None:
        lower(graph, values, {"in0": shapes[0]})
        return
    with pytest.raises(GluonexpError, match=r"^engine=torch: .*; take engine=mxnet$") as refused:
        lower(graph, values, {"in0": shapes[0]})
    assert said in str(refused.value)
    assert "images" in said or f"layer node ({op})" in str(refused.value)


REFUSED = {
    *("ROIPooling", "_contrib_ROIAlign", "_contrib_box_decode", "_contrib_box_nms"),
    *("_random_normal", "_random_uniform", "_random_uniform_like", "_sample_multinomial"),
    "null",
}


def test_the_table_has_what_onnx_has():
    onnx = exporter.translated() | set(translators.TRANSLATORS)
    assert onnx - OPERATORS.keys() - REFUSED <= {"identity", "sum_axis"}  # other names


def parts_of(net, shape):
    """Return the lowered network, sharing no memory with Gluon's."""
    structural = {id(p): name for name, p in net._collect_params_with_prefix().items()}
    values, names = {}, {}
    for name, parameter in net.collect_params().items():
        value = torch.tensor(parameter.data().asnumpy())
        values[name] = torch.nn.Parameter(value) if parameter.grad_req != "null" else value
        names[name] = structural[id(parameter)]
    return lower(Graph.from_symbol(symbols.traced(net)), values, {"data": shape}, names)


# Of each family: its smallest network, and the smallest images that this takes.
FAMILIES = {
    **{"alexnet": 63, "densenet121": 224, "inceptionv3": 299, "mobilenet0.25": 32},
    **{"mobilenetv2_0.25": 32, "resnet18_v1": 32, "resnet18_v2": 32, "squeezenet1.1": 224},
    **{"vgg11": 32, "vgg11_bn": 32},
}
ZOO = re.findall(r"'([\w.]+)':", inspect.getsource(gluon.model_zoo.vision.get_model))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_the_zoo_answers_as_in_mxnet(name):
    net = gluon.model_zoo.vision.get_model(name, classes=7)
    net.initialize(mx.init.Uniform(0.1) if "vgg" in name else mx.init.Xavier())
    images = numbers(2, 3, FAMILIES[name], FAMILIES[name])
    expected = net(nd.array(images)).asnumpy()
    module = parts_of(net, images.shape).eval()
    with torch.no_grad():
        found = module(torch.tensor(images)).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert {*module.state_dict()} == {*net._collect_params_with_prefix()}


def test_the_whole_zoo_is_lowered():
    assert len(ZOO) == 34
    for name in ZOO:
        net = gluon.model_zoo.vision.get_model(name)
        graph = Graph.from_symbol(symbols.traced(net))
        shape = (1, 3, 299, 299) if "inception" in name else (1, 3, 224, 224)
        net.infer_shape(nd.zeros(shape))
        values = {key: torch.zeros(p.shape) for key, p in net.collect_params().items()}
        module = lower(graph, values, {"data": shape})
        assert len([*module.state_dict()]) == len(values)


LOSSES = {
    "sparse": (losses.softmax_cross_entropy(), (6,)),
    "smoothed": (losses.softmax_cross_entropy(0.1), (6,)),
    "dense": (gluon.loss.SoftmaxCELoss(sparse_label=False), (6, 5)),
    "sigmoid": (gluon.loss.SigmoidBCELoss(), (6, 5)),
    "probability": (gluon.loss.SigmoidBCELoss(from_sigmoid=True), (6, 5)),
    "l1": (gluon.loss.L1Loss(weight=2), (6, 5)),
    "l2": (gluon.loss.L2Loss(), (6, 5)),
    "kl": (gluon.loss.KLDivLoss(from_logits=False), (6, 5)),
    "huber": (gluon.loss.HuberLoss(rho=0.5), (6, 5)),
    "hinge": (gluon.loss.HingeLoss(), (6, 5)),
    "squared": (gluon.loss.SquaredHingeLoss(margin=2), (6, 5)),
    "logistic": (gluon.loss.LogisticLoss(), (6, 5)),
    "poisson": (gluon.loss.PoissonNLLLoss(), (6, 5)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_mxnets(name):
    loss, shape = LOSSES[name]
    logits, labels = numbers(6, 5, low=0.1, high=0.9), numbers(*shape, low=0.2, high=4.8)
    if len(shape) == 1:
        labels = labels.round()
    graph = Graph.from_symbol(loss(sym.var("data"), sym.var("label")))
    given = nd.array(logits)
    given.attach_grad()
    with autograd.record():
        expected = loss(given, nd.array(labels))
    expected.backward()
    module = lower(graph, {}, {"data": (1, 5), "label": (1, *shape[1:])})
    data = torch.tensor(logits, requires_grad=True)
    found = module(data, torch.tensor(labels))
    found.sum().backward()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach(), expected.asnumpy(), rtol=0, atol=2e-5)
    np.testing.assert_allclose(data.grad, given.grad.asnumpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("channels", "image"), [(1, (8, 8, 3)), (3, (8, 9, 1)), (3, (12, 16, 3))])
def test_images_are_prepared_as_by_mxnet(channels, image):
    steps = Preprocessing(12, 16, channels, (0.1, 0.2, 0.3)[:channels], (0.5, 0.6, 0.7)[:channels])
    block = Preprocess(steps, image)
    images = np.random.default_rng(0).integers(0, 256, (3, *image)).astype(np.uint8)
    graph = Graph.from_symbol(symbols.traced(block))
    module = lower(graph, {}, {"data": images.shape})
    expected, found = block.inputs(images), module(torch.tensor(images))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert copy.deepcopy(module).double()(torch.tensor(images)).dtype == torch.float64


class Twice(nn.HybridBlock):
    """One layer, called twice, behind and before others, with dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.HybridSequential()
        self.layer.add(nn.Conv2D(4, 3, padding=1, in_channels=4), nn.BatchNorm(in_channels=4))
        self.drop, self.out = nn.Dropout(0.5), nn.Dense(3, in_units=4 * 16)

    def hybrid_forward(self, F, x):
        """Return logits."""
        return self.out(self.drop(F.relu(self.layer(F.relu(self.layer(x))))))


@pytest.fixture
def twice():
    net = Twice()
    net.initialize(mx.init.Xavier())
    return net


def test_a_layer_that_is_called_twice_is_one(twice):
    images, head = numbers(5, 4, 4, 4), numbers(5, 3)
    module = parts_of(twice, images.shape)
    twice.drop._rate, module.drop = 0, False
    with autograd.record():
        made = twice(nd.array(images))
    made.backward(nd.array(head))
    found = module(torch.tensor(images))
    found.backward(torch.tensor(head))
    module.settle()
    nd.waitall()
    np.testing.assert_allclose(found.detach(), made.asnumpy(), rtol=0, atol=1e-5)
    for name, parameter in twice._collect_params_with_prefix().items():
        if parameter.grad_req == "null":
            np.testing.assert_allclose(
                module.state_dict()[name], parameter.data().asnumpy(), rtol=0, atol=1e-6
            )
        else:
            given = module.get_parameter(name).grad
            np.testing.assert_allclose(given, parameter.grad().asnumpy(), rtol=0, atol=1e-4)


def test_statistics_move_only_where_a_gradient_arrives(twice):
    module = parts_of(twice, (5, 4, 4, 4))
    module.layer.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.tensor(numbers(5, 4, 4, 4))).sum().backward()
    module.settle()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_it_is_copied_at_another_precision_traced_and_exported(twice):
    images = torch.tensor(numbers(5, 4, 4, 4))
    module = parts_of(twice, images.shape).eval()
    referee = copy.deepcopy(module).double()
    found = module(images)
    assert torch.allclose(referee(images.double()), found.double(), atol=1e-5)
    assert torch.equal(torch.fx.symbolic_trace(module)(images), found)
    assert torch.equal(torch.export.export(module, (images,)).module()(images), found)


def test_bfloat16_and_channels_last_are_kept():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, in_channels=4), nn.BatchNorm(in_channels=8), nn.Activation("relu"))
    net.add(nn.MaxPool2D(2), nn.Dropout(0.1), nn.AvgPool2D(2, ceil_mode=True))
    net.initialize(mx.init.Xavier())
    module = parts_of(net, (2, 4, 12, 12)).to(memory_format=torch.channels_last)
    images = torch.tensor(numbers(2, 4, 12, 12)).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        made = module(images)
    made.float().sum().backward()
    module.settle()
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    key = next(name for name in module.state_dict() if name.endswith("running_mean"))
    assert module.state_dict()[key].abs().sum() > 0
