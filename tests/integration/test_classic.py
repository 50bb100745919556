"""The recipes of MXNet's own tutorials, typed by hand, on the files of a real run."""

import ctypes

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from gluonexp import assembly, experiment
from gluonexp.assembly import networks
from gluonexp.inference.predict import Classifier


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the default network; return (config, artifacts, real images as inputs)."""
    from gluonexp.run import compose

    config = compose(
        *("model=cnn", "tracking=none", "export.onnx=false", "trainer.epochs=2", "optim.lr=0.003")
    )
    folder = tmp_path_factory.mktemp("run")
    experiment.run(config, folder)
    artifacts = folder / "artifacts"
    data = assembly.data(config, assembly.components(config).source)
    images = data.held_out()[1].images[:64]
    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255  # (N, 1, 28, 28)
    assert inputs.shape == (64, 1, 28, 28) and inputs.flags.c_contiguous
    return config, artifacts, images, inputs


@pytest.fixture(scope="module")
def network(run):
    """The network, built again, with the parameters that Gluon saved: `load_parameters`."""
    config, artifacts, _, _ = run
    plan = assembly.components(config)
    spec = plan.source.spec()
    net = networks.network(config, plan.model, spec, networks.preprocessing(config.dataset, spec))
    net.load_parameters(str(artifacts / "checkpoint" / "model.params"))
    return net


@pytest.fixture(scope="module")
def logits(run, network):
    values = network(nd.array(run[3])).asnumpy()
    assert values.shape == (64, 10)
    assert len(set(values.argmax(1))) > 4  # it has learnt to tell classes apart
    return values


def test_symbol_load_nd_load_module_bind_set_params_forward_argmax(run, logits):
    _, artifacts, _, inputs = run
    sym = mx.symbol.load(str(artifacts / "export" / "model-symbol.json"))
    save_dict = mx.nd.load(str(artifacts / "export" / "model-0000.params"))
    arg_params, aux_params = {}, {}
    for key, value in save_dict.items():
        kind, name = key.split(":", 1)
        if kind == "arg":
            arg_params[name] = value
        if kind == "aux":
            aux_params[name] = value
    mod = mx.mod.Module(symbol=sym, label_names=None)
    mod.bind(for_training=False, data_shapes=[("data", (1, 1, 28, 28))])
    mod.set_params(arg_params, aux_params)
    for image, expected in zip(inputs, logits, strict=True):
        mod.forward(mx.io.DataBatch([nd.array(image[np.newaxis])]))
        output = mod.get_outputs()[0].asnumpy()[0]
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
        assert np.argmax(output) == np.argmax(expected)


def test_load_checkpoint_and_predict(run, logits):
    _, artifacts, _, inputs = run
    sym, arg_params, aux_params = mx.model.load_checkpoint(str(artifacts / "export" / "model"), 0)
    mod = mx.mod.Module(sym, data_names=["data"], label_names=None)
    mod.bind(for_training=False, data_shapes=[("data", (16, 1, 28, 28))])
    mod.set_params(arg_params, aux_params)
    output = mod.predict(mx.io.NDArrayIter(inputs, batch_size=16)).asnumpy()
    np.testing.assert_allclose(output, logits, rtol=1e-4, atol=1e-5)


def test_module_load(run, logits):
    _, artifacts, _, inputs = run
    mod = mx.mod.Module.load(str(artifacts / "export" / "model"), 0, label_names=None)
    mod.bind(for_training=False, data_shapes=[("data", inputs.shape)])
    mod.forward(mx.io.DataBatch([nd.array(inputs)]))
    np.testing.assert_allclose(mod.get_outputs()[0].asnumpy(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Cannot decide type")
def test_symbolblock_imports(run, logits):
    _, artifacts, _, inputs = run
    net = gluon.SymbolBlock.imports(
        str(artifacts / "export" / "model-symbol.json"),
        ["data"],
        str(artifacts / "export" / "model-0000.params"),
    )
    np.testing.assert_allclose(net(nd.array(inputs)).asnumpy(), logits, rtol=1e-4, atol=1e-5)


def test_a_gluon_network_takes_the_exports_parameters(run, logits):
    """`collect_params().load` reads the pair's parameters, where the prefix is the same."""
    config, artifacts, _, inputs = run
    plan = assembly.components(config)
    spec = plan.source.spec()
    net = networks.network(config, plan.model, spec, networks.preprocessing(config.dataset, spec))
    saved = mx.nd.load(str(artifacts / "export" / "model-0000.params"))
    assert {f"arg:{name}" for name in net.collect_params()} == set(saved)
    net.collect_params().load(str(artifacts / "export" / "model-0000.params"))
    np.testing.assert_array_equal(net(nd.array(inputs)).asnumpy(), logits)


def test_the_c_predict_api(run, logits):
    """The pair as C, C++ and JVM programs load it: symbol's text, parameters' bytes, shapes."""
    _, artifacts, _, inputs = run
    library = ctypes.CDLL(mx.libinfo.find_lib_path()[0])
    library.MXGetLastError.restype = ctypes.c_char_p

    def call(name, *arguments):
        assert getattr(library, name)(*arguments) == 0, library.MXGetLastError()

    params = (artifacts / "export" / "model-0000.params").read_bytes()
    handle = ctypes.c_void_p()
    call(
        "MXPredCreate",
        (artifacts / "export" / "model-symbol.json").read_bytes(),
        params,
        ctypes.c_int(len(params)),
        *(ctypes.c_int(1), ctypes.c_int(0)),  # the CPU, its first
        *(ctypes.c_uint(1), (ctypes.c_char_p * 1)(b"data")),
        (ctypes.c_uint * 2)(0, inputs.ndim),
        (ctypes.c_uint * inputs.ndim)(*inputs.shape),
        ctypes.byref(handle),
    )
    numbers = ctypes.POINTER(ctypes.c_float)
    size = ctypes.c_uint(inputs.size)
    call("MXPredSetInput", handle, b"data", inputs.ctypes.data_as(numbers), size)
    call("MXPredForward", handle)
    output = np.empty_like(logits)
    size = ctypes.c_uint(output.size)
    call("MXPredGetOutput", handle, ctypes.c_uint(0), output.ctypes.data_as(numbers), size)
    call("MXPredFree", handle)
    np.testing.assert_allclose(output, logits, rtol=1e-4, atol=1e-5)


def test_by_hand_is_as_gluonexp_predicts(run, logits):
    _, artifacts, images, _ = run
    probabilities = Classifier(artifacts / "export").probabilities(images)
    assert (probabilities.argmax(1) == logits.argmax(1)).all()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    by_hand = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, by_hand, atol=1e-5)
