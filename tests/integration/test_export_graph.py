"""The symbol that takes uint8 images, against the pipeline that the network was trained with."""

import numpy as np
import pytest

from gluonexp.assembly import networks
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.data.types import Spec
from gluonexp.export import symbol, uint8
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.verification import runtimes

CLASSES = ("a", "b", "c")
PLAIN = (0.0,), (1.0,)
THREE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# (H, W, C) at rest, (C, H, W) of the network, (mean, std)
PIPELINES = {
    "grey as it is": ((8, 9, 1), (1, 8, 9), PLAIN),
    "grey, normalized": ((8, 9, 1), (1, 8, 9), ((0.3,), (0.4,))),
    "colours as they are": ((8, 9, 3), (3, 8, 9), PLAIN),
    "colours by channel": ((8, 9, 3), (3, 8, 9), THREE),
    "colours by one number": ((8, 9, 3), (3, 8, 9), ((0.5,), (1e-3,))),
    "grey to colours, up": ((8, 9, 1), (3, 20, 31), THREE),
    "colours to grey, down": ((33, 28, 3), (1, 12, 10), ((0.3,), (0.4,))),
    "grey, up": ((8, 8, 1), (1, 28, 28), PLAIN),
    "colours, down": ((32, 32, 3), (3, 9, 11), THREE),
}


@pytest.fixture(params=PIPELINES)
def exported(request, tmp_path):
    """A network behind its preprocessing: (folder, images, logits)."""
    image, entry, (mean, std) = PIPELINES[request.param]
    steps = Preprocessing(entry[1], entry[2], entry[0], mean, std)
    block = networks.preprocess(steps, Spec(*image, CLASSES))
    images = np.random.default_rng(1).integers(0, 256, (5, *image), dtype=np.uint8)
    mx.random.seed(1)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        with net.name_scope():
            net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten())
            net.add(nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    logits = net(block(nd.array(images, dtype="uint8"))).asnumpy()
    symbol.export(net, tmp_path, Signature(image, steps, CLASSES))
    return tmp_path, images, logits


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_bytes_in_give_the_logits_of_training(exported):
    folder, images, logits = exported
    uint8.write(folder)
    run = runtimes.load(folder, "uint8")
    for count in (1, 5, 3):
        assert relative(run(images[:count]), logits[:count]) < 1e-5


def test_mxnet_reads_it_by_its_own_name(exported):
    folder, images, logits = exported
    uint8.write(folder)
    graph, arguments, statistics = mx.model.load_checkpoint(str(folder / "uint8"), 0)
    assert graph.list_arguments()[0] == "data"
    for dtype in ("uint8", "float32"):  # whoever binds it as usual gives the bytes as floats
        module = mx.mod.Module(graph, data_names=["data"], label_names=None)
        description = mx.io.DataDesc("data", images.shape, dtype)
        module.bind(for_training=False, data_shapes=[description])
        module.set_params(arguments, statistics)
        module.forward(mx.io.DataBatch([nd.array(images, dtype=dtype)]), is_train=False)
        assert relative(module.get_outputs()[0].asnumpy(), logits) < 1e-5
    block = gluon.SymbolBlock(graph, mx.sym.var("data", dtype="uint8"))
    block.collect_params().load(str(folder / "uint8-0000.params"), cast_dtype=True)
    assert relative(block(nd.array(images, dtype="uint8")).asnumpy(), logits) < 1e-5


def test_onnx_takes_bytes_too(exported):
    onnxruntime, openvino = map(pytest.importorskip, ("onnxruntime", "openvino"))
    folder, images, logits = exported
    uint8.write(folder, with_onnx=True)
    path = str(folder / "uint8.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape, entry.type) == (
        "data",
        ["batch", *images.shape[1:]],
        "tensor(uint8)",
    )
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", exact)
    for count in (1, 5):
        (found,) = session.run(None, {"data": images[:count]})
        assert relative(found, logits[:count]) < 1e-5
        assert relative(compiled([images[:count]])[0], logits[:count]) < 1e-5


def test_it_does_not_depend_on_what_the_process_made_before(exported):
    folder, _, _ = exported
    path = folder / "uint8-symbol.json"
    uint8.write(folder)
    first = path.read_bytes()
    uint8.write(folder)
    assert path.read_bytes() == first
    assert not list(folder.glob(".*"))
