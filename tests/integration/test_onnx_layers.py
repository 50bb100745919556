"""A layer gives in ONNX's runtimes what it gives in MXNet, or is refused by its name."""

import numpy as np
import pytest

from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.export import symbol
from gluonexp.export.onnx import convert
from gluonexp.model_folder import names
from gluonexp.model_folder.network import Network, read_params
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.verification import runtimes

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SHAPE = (3, 11, 9)  # (C, H, W), none of which divides another
CLASSES = 5


class Layer(nn.HybridBlock):
    """A layer that is one function of (F, x), and of a weight if it has a shape for one."""

    def __init__(self, function, shape=None):
        super().__init__()
        self.function = function
        if shape:
            with self.name_scope():
                self.weight = self.params.get("weight", shape=shape)

    def hybrid_forward(self, F, x, **weights):
        return self.function(F, x, *weights.values())


class Sequence(nn.HybridBlock):
    """A recurrent layer over channels as time steps."""

    def __init__(self, kind, **settings):
        super().__init__()
        with self.name_scope():
            self.inner = kind(99, layout="NTC", **settings)

    def hybrid_forward(self, F, x):
        return self.inner(sequence(F, x))


def sequence(F, x):
    return F.reshape(x, shape=(0, 0, -1))  # (N, 4, 99)


def pooling(**settings):
    return lambda F, x: F.Pooling(x, **settings)


def attention(F, x):
    """Return what interleaved projections (T, N, 96) of four heads attend to."""
    parts = F.slice_axis(sequence(F, x), axis=2, begin=0, end=96).transpose((1, 0, 2))
    scores = F.contrib.interleaved_matmul_selfatt_qk(parts, heads=4)
    values = F.contrib.interleaved_matmul_selfatt_valatt(parts, F.softmax(scores), heads=4)
    return values.transpose((1, 0, 2))


def likenesses(F, x):
    return F.dot(F.Flatten(x), F.Flatten(x), transpose_b=True)  # (N, N)


def shuffle(F, x):
    parts = F.reshape(x, shape=(0, -4, 2, -1, -2))
    return F.reshape(F.swapaxes(parts, 1, -4), shape=(0, -3, -2))


# A function of (F, x), where x is (N, 4, 11, 9), or of nothing: it makes a layer, or several.
AGREE = {
    "prelu": lambda: nn.PReLU(in_channels=4),
    "prelu, one slope": lambda: nn.PReLU(),
    "prelu of features": lambda: (nn.Flatten(), nn.PReLU(in_channels=396)),
    "prelu (N, C, L)": lambda: (Layer(sequence), nn.PReLU(in_channels=4)),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "elu": lambda: nn.ELU(0.7),
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "swish": lambda: nn.Swish(1.5),
    "hard sigmoid": lambda F, x: F.hard_sigmoid(x, alpha=0.3, beta=0.4),
    "lrn": lambda F, x: F.LRN(x, nsize=3),
    "lrn, wide": lambda F, x: F.LRN(x * 5, nsize=9, alpha=0.5, beta=0.9, knorm=1),
    "lrn, knorm 0.5": lambda F, x: F.LRN(x, nsize=3, alpha=0.3, knorm=0.5),
    "lrn, knorm 2.5": lambda F, x: F.LRN(x, nsize=5, alpha=0.3, knorm=2.5),
    "flip": lambda F, x: F.flip(x, axis=3),
    "flip twice": lambda F, x: F.reverse(x, axis=(1, 2)),
    "flip of images": lambda F, x: F.reverse(x, axis=0),
    "broadcast_to": lambda F, x: F.broadcast_to(
        F.mean(x, axis=1, keepdims=True), shape=(0, 4, 0, 0)
    ),
    "broadcast_axis": lambda F, x: F.broadcast_axis(
        F.mean(x, axis=(1, 2), keepdims=True), axis=(1, 2), size=(3, 2)
    ),
    "broadcast_like": lambda F, x: F.broadcast_like(
        F.mean(x, axis=3, keepdims=True), x, lhs_axes=(-1,), rhs_axes=(-2,)
    ),
    "all images": lambda F, x: F.broadcast_add(x, F.mean(x, axis=(), keepdims=True)),
    "norm": lambda F, x: F.norm(x, axis=(2, -1)),
    "l2, channel": lambda F, x: F.L2Normalization(F.relu(x - 2), mode="channel", eps=0.5),
    "l2, instance": lambda F, x: F.L2Normalization(x),
    "l2, spatial": lambda F, x: F.L2Normalization(x, mode="spatial"),
    "max pool, full": pooling(kernel=(3, 2), stride=(2, 2), pad=(1, 0), pooling_convention="full"),
    "average pool, pad counts": lambda: nn.AvgPool2D(4, 3, 1, ceil_mode=True),
    "average pool, pad does not count": lambda: nn.AvgPool2D(
        4, 3, 1, ceil_mode=True, count_include_pad=False
    ),
    "average pool, full fits": lambda: nn.AvgPool2D((3, 5), 2, 1, ceil_mode=True),
    "average pool, written 1": pooling(
        kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=1
    ),
    "average pool (N, C, D, H, W)": lambda F, x: F.Pooling(
        F.expand_dims(x, axis=2),
        kernel=(1, 4, 2),
        stride=(1, 2, 2),
        pool_type="avg",
        pooling_convention="full",
    ),
    "lp pool": pooling(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="lp", p_value=2),
    "global pool, written 1": pooling(global_pool=1, pool_type="avg"),
    "pad, edge": lambda F, x: F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 3, 1)),
    "pad, reflect": lambda F, x: F.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 3, 1)),
    "pad, constant": lambda F, x: F.pad(
        x, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 3, 1), constant_value=2
    ),
    "reshape -2": lambda F, x: F.reshape(x, shape=(0, 0, -2)),
    "reshape -3": lambda F, x: F.reshape(x, shape=(0, -3, -2)),
    "reshape -3 of images": lambda F, x: F.reshape(x, shape=(-3, -3)).reshape((-1, 396)),
    "reshape -4": shuffle,
    "reshape reversed": lambda F, x: F.reshape(x, shape=(-1, 44, 0), reverse=1).reshape((-1, 396)),
    "reshape, written 0": lambda F, x: F.reshape(x, shape=(0, -1), reverse=0),
    "squeeze": lambda F, x: F.squeeze(F.mean(x, axis=(1, 3), keepdims=True), axis=(-1, 1)),
    "transpose": lambda F, x: F.transpose(F.transpose(x)),
    "repeat": lambda F, x: F.repeat(x, repeats=2, axis=-2),
    "split": lambda F, x: F.split(x, 4, axis=-3, squeeze_axis=1)[2],
    "split at": lambda F, x: F.split_v2(x, (1, 3), axis=-1)[1],
    "stack": lambda F, x: F.stack(x, x * 2, axis=-2),
    "expand_dims": lambda F, x: F.expand_dims(x, axis=-2),
    "concat": lambda F, x: F.concat(x, x * 2, dim=-2),
    "slice_axis": lambda F, x: F.slice_axis(x, axis=-2, begin=-5, end=-1),
    "arange_like": lambda F, x: F.broadcast_add(x, F.contrib.arange_like(x, axis=-1)),
    "softmax": lambda F, x: F.softmax(x, axis=2, temperature=0.5),
    "log_softmax": lambda F, x: F.log_softmax(x, axis=1),
    "clip": lambda F, x: F.clip(x, -0.1, 0.2),
    "argmax": lambda F, x: F.argmax(x, axis=1, keepdims=True),
    "topk": lambda F, x: F.topk(x, k=2, axis=-2, ret_typ="value"),
    "dropout": lambda: nn.Dropout(0.5, axes=(2, 3)),
    "batch norm": lambda: nn.BatchNorm(axis=-3),
    "batch norm of features": lambda: (nn.Flatten(), nn.BatchNorm(axis=-1)),
    "instance norm": nn.InstanceNorm,
    "layer norm": lambda: nn.LayerNorm(axis=-2),
    "layer norm of channels": lambda: nn.LayerNorm(axis=1, epsilon=0.1),
    "upsampling": lambda F, x: F.UpSampling(x, scale=3, sample_type="nearest"),
    "deconvolution": lambda: nn.Conv2DTranspose(6, 3, strides=2, output_padding=(0, 1)),
    "deconvolution, by itself": lambda: Layer(
        lambda F, x, w: F.Deconvolution(x, w, kernel=(3, 3), stride=(2, 2), num_filter=4),
        (4, 4, 3, 3),
    ),
    "convolution, written 1": lambda: Layer(
        lambda F, x, w: F.Convolution(x, w, kernel=(3, 3), num_filter=4, no_bias=1), (4, 4, 3, 3)
    ),
    "dense, by itself": lambda: Layer(
        lambda F, x, w: F.FullyConnected(x, w, num_hidden=7, no_bias=True), (7, 396)
    ),
    "dense, last axis": lambda: nn.Dense(5, flatten=False),
    "dot": lambda: Layer(lambda F, x, w: F.dot(x, w, transpose_b=True), (5, 9)),
    "batch_dot": lambda F, x: F.batch_dot(sequence(F, x), sequence(F, x), transpose_b=1),
    "gemm2": lambda F, x: F.linalg.gemm2(sequence(F, x), sequence(F, x), transpose_a=True),
    "attention": attention,
    "where": lambda F, x: F.where(F.sum(x, axis=(1, 2, 3)) > 0, x, x * 2),
    "embedding": lambda: Layer(
        lambda F, x, w: F.Embedding(x * 20, w, input_dim=4, output_dim=3), (4, 3)
    ),
    "one_hot": lambda F, x: F.one_hot(F.floor(x * 5), 4, on_value=2, off_value=-1),
    "shape": lambda F, x: F.broadcast_mul(
        x, F.reshape(F.cast(F.shape_array(x), "float32"), (1, 4, 1, 1))
    ),
    "float64": lambda F, x: F.cast(F.cast(x, "float64"), "float32"),
    "lstm": lambda: Sequence(gluon.rnn.LSTM, num_layers=2),
    "lstm, both ways": lambda: Sequence(gluon.rnn.LSTM, bidirectional=True),
    "gru": lambda: Sequence(gluon.rnn.GRU, num_layers=2),
    **{
        f"{name}, others": lambda F, x, name=name: getattr(F, name)(
            x, axis=(0, -2), exclude=True, keepdims=True
        )
        for name in ("mean", "sum", "max", "min", "prod")
    },
    "mean of each": lambda F, x: F.reshape(F.mean(x, axis=0, exclude=1), (-1, 1)),
}

REFUSED = {
    "int cast": (lambda F, x: F.cast(F.cast(x * 9, "int32"), "float32"), "Cast", "to int32"),
    "uint8": (lambda F, x: F.cast(F.cast(x * 9, "uint8"), "float32"), "Cast", "in uint8"),
    "float16": (lambda F, x: F.cast(F.cast(x, "float16"), "float32"), "Cast", "in float16"),
    "float16 softmax": (
        lambda F, x: F.cast(F.softmax(x, dtype="float16"), "float32"),
        "softmax",
        "in float16",
    ),
    "int8 ones": (
        lambda F, x: F.broadcast_add(x, F.cast(F.ones((1, 1, 1, 1), dtype="int8"), "float32")),
        "_ones",
        "in int8",
    ),
    "norm": (lambda F, x: F.norm(x, ord=1, axis=1), "norm", "OpenVINO"),
    "global lp pool": (
        pooling(global_pool=True, pool_type="lp", p_value=2),
        "Pooling",
        "not globally",
    ),
    "lp pool": (pooling(kernel=(3, 3), pool_type="lp", p_value=1), "Pooling", "p_value 2"),
    "sum pool": (pooling(kernel=(3, 3), pool_type="sum"), "Pooling", "sum"),
    "empty window": (
        pooling(kernel=(2, 2), stride=(3, 3), pool_type="avg", pooling_convention="full"),
        "Pooling",
        "all padding",
    ),
    "box_nms": (
        lambda F, x: F.contrib.box_nms(F.reshape(x, (0, -1, 6))),
        "_contrib_box_nms",
        "boxes",
    ),
    "box_decode": (
        lambda F, x: F.contrib.box_decode(F.reshape(x, (0, -1, 4)), F.ones((1, 99, 4))),
        "_contrib_box_decode",
        "boxes",
    ),
    "random": (
        lambda F, x: F.broadcast_add(x, F.random.normal(shape=(1, 1, 1, 1))),
        "_random_normal",
        "at random",
    ),
    "dot": (
        lambda: Layer(lambda F, x, w: F.dot(x, w), (9, 5, 2)),
        "dot",
        "product with a matrix",
    ),
    "topk": (lambda F, x: F.topk(x, k=0, axis=1, ret_typ="value"), "topk", "not positive"),
    "softmax output": (
        lambda F, x: F.SoftmaxOutput(x, F.zeros_like(x), multi_output=True),
        "SoftmaxOutput",
        "multi_output",
    ),
    "reversed sequence": (
        lambda F, x: F.transpose(F.SequenceReverse(F.transpose(x, (1, 0, 2, 3))), (1, 0, 2, 3)),
        "SequenceReverse",
        "T, N, C",
    ),
    "two layers": (
        lambda: (nn.MaxPool2D(2), Sequence(gluon.rnn.GRU, num_layers=2)),
        "RNN",
        "not as wide",
    ),
    "squeeze": (
        lambda F, x: F.broadcast_add(x, F.reshape(F.squeeze(F.mean(x, axis=1)), (-1, 1, 11, 9))),
        "squeeze",
        "batch of one",
    ),
    "several sizes": (
        lambda F, x: F.reshape(
            F.sum(F.reshape(likenesses(F, x), shape=(-4, 1, -1, 0)), axis=(0, 1)), shape=(-1, 1)
        ),
        "Reshape",
        "several dimensions",
    ),
    "one image": (
        lambda F, x: F.reshape(x, shape=(1, 4, 99)),
        "Reshape",
        "one number of images",
    ),
    "adaptive pool": (
        lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=3),
        "_contrib_AdaptiveAvgPooling2D",
        "output_size != 1 not yet implemented",
    ),
}


def layers(made):
    """Return the layers that an entry above stands for."""
    code = getattr(made, "__code__", None)
    if code and code.co_varnames[:2] == ("F", "x"):
        return [Layer(made)]
    blocks = made()
    return blocks if isinstance(blocks, tuple) else [blocks]


def export(made, folder):
    """Export a network of the layers, with random values everywhere; return it and images."""
    mx.random.seed(3)
    rng = np.random.default_rng(3)
    with mx.name.NameManager():
        net = nn.HybridSequential(prefix="net_")
        with net.name_scope():
            net.add(nn.Conv2D(4, 3, padding=1), *layers(made), nn.Dense(CLASSES))
    net.initialize(mx.init.Uniform(0.3))
    net.hybridize()
    images = nd.array(rng.normal(size=(3, *SHAPE)))
    net(images[:1]).wait_to_read()
    for name, parameter in net.collect_params().items():
        if name.endswith(("gamma", "beta", "mean", "var", "bias", "alpha")):
            parameter.set_data(nd.array(rng.uniform(0.2, 1.5, parameter.shape)))
    channels, height, width = SHAPE
    steps = Preprocessing(height, width, channels, (0.0,), (1.0,))
    classes = tuple(f"class {label}" for label in range(CLASSES))
    symbol.export(net, folder, Signature((height, width, channels), steps, classes))
    return net, images


def write(folder):
    """Write the ONNX file, also of what would not be read from a folder that anybody made."""
    graph, params = names.paths(folder, names.MODEL)
    network = Network(mx.sym.load(str(graph)), read_params(params))
    convert.write(network, folder, SHAPE)


@pytest.mark.parametrize("name", AGREE)
def test_a_layer_gives_the_same_in_every_runtime(name, tmp_path):
    net, images = export(AGREE[name], tmp_path)
    write(tmp_path)
    for runtime in ("onnx", "openvino"):
        run = runtimes.load(tmp_path, runtime)
        for count in (1, 3):
            expected = net(images[:count]).asnumpy()
            found = run(images[:count].asnumpy())
            assert found.shape == expected.shape == (count, CLASSES)
            difference = np.abs(found - expected).max() / np.abs(expected).max()
            assert difference < 1e-4, (runtime, count)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_would_not_is_refused_by_its_name(name, tmp_path):
    made, operator, reason = REFUSED[name]
    export(made, tmp_path)
    expected = rf"^no ONNX: operator {operator} \(net_\w+\) cannot be translated: .*{reason}"
    with pytest.raises(convert.Unexportable, match=expected):
        write(tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_network_for_one_image_at_a_time_is_refused(tmp_path, capfd):
    export(lambda F, x: F.elemwise_add(x, F.ones((1, 4, 11, 9))), tmp_path)
    with pytest.raises(convert.Unexportable, match="does not take every number of images: "):
        write(tmp_path)
    assert capfd.readouterr() == ("", "")
