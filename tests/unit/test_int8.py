"""The quantized copy: near the network, in integers, and never the network itself."""

import json
import platform

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.export import int8, symbol
from gluonexp.model_folder import names
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.verification import runtimes

WRITTEN = {"int8-0000.params", "int8-symbol.json", "int8.json"}

pytestmark = pytest.mark.skipif(int8.unsupported() is not None, reason="no oneDNN here")


def _network(*layers):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(*layers)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    return net


def _exported(net, folder, shape, classes):
    channels, height, width = shape
    net(nd.zeros((1, *shape)))
    steps = Preprocessing(height, width, channels, (0.0,), (1.0,))
    names = tuple(map(str, range(classes)))
    symbol.export(net, folder, Signature((height, width, channels), steps, names))
    return folder


def _digits_network():
    mx.random.seed(0)
    return _network(
        nn.Conv2D(16, 3, padding=1, use_bias=False),
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.MaxPool2D(),
        nn.Conv2D(24, 3, activation="relu"),
        nn.Flatten(),
        nn.Dense(32, activation="relu"),
        nn.Dropout(0.2),
        nn.Dense(10),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train on digits; return (network, folder, train, test images, test labels)."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    train, test = images[:1300], images[1300:]
    net = _digits_network()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.003})
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    for _ in range(6):
        for start in range(0, len(train), 50):
            batch = slice(start, start + 50)
            with autograd.record():
                value = loss(net(nd.array(train[batch])), nd.array(labels[:1300][batch]))
            value.backward()
            trainer.step(50)
    folder = tmp_path_factory.mktemp("run") / "export"
    return net, _exported(net, folder, (1, 8, 8), 10), train, test, labels[1300:]


@pytest.fixture(scope="module")
def quantized(trained):
    _, folder, train, _, _ = trained
    return int8.quantize(folder, train[:128])


@pytest.fixture
def copied(trained, tmp_path):
    """Return a copy of the export without what was quantized."""
    for path in trained[1].iterdir():
        if path.name not in WRITTEN:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _names(folder):
    return {path.name for path in folder.iterdir()}


def test_it_classifies_as_the_network_does(trained, quantized):
    net, folder, _, test, labels = trained
    exact = net(nd.array(test)).asnumpy()
    logits = runtimes.load(folder, "int8")(test)
    assert (exact.argmax(1) == labels).mean() > 0.95
    assert (logits.argmax(1) == exact.argmax(1)).mean() > 0.98
    assert abs((logits.argmax(1) == labels).mean() - (exact.argmax(1) == labels).mean()) < 0.01
    # In eight bits, and not the network once more:
    difference = np.abs(logits - exact).max() / np.abs(exact).max()
    assert 1e-3 < difference < 0.1


def test_what_was_done_is_said_and_recorded(trained, quantized):
    folder = trained[1]
    assert quantized.layers == 4
    assert quantized.kept_float == ()
    assert quantized.images == 128
    assert 0 < quantized.seconds < 60
    assert json.loads((folder / "int8.json").read_text()) == {
        "layers": 4,
        "kept_float": [],
        "images": 128,
        "seconds": quantized.seconds,
    }
    assert _names(folder) == {"model-symbol.json", "model-0000.params", "signature.json", *WRITTEN}


def test_mxnets_own_loaders_read_it(trained, quantized, recwarn):
    _, folder, _, test, _ = trained
    expected = runtimes.load(folder, "int8")(test[:7])
    graph, values = (str(path) for path in names.paths(folder, names.INT8))
    block = gluon.SymbolBlock.imports(graph, ["data"], values)
    np.testing.assert_array_equal(block(nd.array(test[:7])).asnumpy(), expected)
    loaded, arguments, statistics = mx.model.load_checkpoint(str(folder / "int8"), 0)
    assert set(loaded.list_arguments()) == {"data", *arguments}
    assert set(loaded.list_auxiliary_states()) == set(statistics)


def test_the_trained_network_is_not_touched(trained, quantized, copied):
    net, _, train, test, labels = trained
    before = {name: p.data().asnumpy() for name, p in net.collect_params().items()}
    logits = net(nd.array(test)).asnumpy()
    int8.quantize(copied, train[:32])
    np.testing.assert_array_equal(net(nd.array(test)).asnumpy(), logits)
    for name, parameter in net.collect_params().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name], err_msg=name)
    with autograd.record():
        value = gluon.loss.SoftmaxCrossEntropyLoss()(net(nd.array(test)), nd.array(labels))
    value.backward()
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != "null":
            assert np.abs(parameter.grad().asnumpy()).max() > 0, name


def test_the_files_do_not_depend_on_what_the_process_did_before(trained, quantized, copied):
    _, folder, train, _, _ = trained
    nn.HybridSequential().add(nn.Dense(3))
    int8.quantize(copied, train[:128])
    for name in ("int8-symbol.json", "int8-0000.params"):
        assert (copied / name).read_bytes() == (folder / name).read_bytes(), name


def test_more_calibration_images_than_a_batch_that_do_not_fill_the_last(trained, copied):
    _, _, train, test, _ = trained
    assert int8.quantize(copied, train[:33]).images == 33
    one = int8.quantize(copied, train[:1])  # overwrites
    assert one.images == 1
    assert runtimes.load(copied, "int8")(test[:3]).shape == (3, 10)


@pytest.mark.parametrize("smallest", [0.5, -1])
@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2D(16, 3), nn.Flatten()),
        lambda: (nn.Conv2D(16, 3, activation="relu"), nn.Conv2D(16, 3), nn.Flatten()),
        lambda: (nn.Conv2D(16, 3, activation="relu"), nn.Flatten(), nn.Dense(16)),
        lambda: (nn.Conv2D(8, 3, activation="relu"), nn.Flatten(), nn.Dense(16), nn.Dense(4)),
        lambda: (
            nn.Conv2D(8, 3),
            nn.BatchNorm(),
            nn.Activation("relu"),
            nn.Flatten(),
            nn.Dense(9),
        ),
        lambda: (nn.Conv2D(8, 3), nn.MaxPool2D(), nn.Flatten(), nn.Dense(16)),
    ],
    ids=["conv", "conv-conv", "conv-dense", "conv-dense-dense", "batchnorm", "pool"],
)
def test_large_sums_are_not_cut_off(tmp_path, layers, smallest):
    """Values and weights near the largest, of one sign: what 16 bits cannot add up."""
    random = np.random.default_rng(0)
    images = random.uniform(smallest, 1, size=(40, 6, 8, 8)).astype(np.float32)
    net = _network(*layers())
    net(nd.array(images))
    for weight in net.collect_params(".*weight").values():
        weight.set_data(nd.array(random.uniform(0.01, 0.05, size=weight.shape)))
    expected = net(nd.array(images)).asnumpy()
    folder = _exported(net, tmp_path, images.shape[1:], expected.shape[1])
    int8.quantize(folder, images)
    logits = runtimes.load(folder, "int8")(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_unsigned_values_take_seven_bits_and_signed_ones_eight(tmp_path):
    net = _network(
        nn.Conv2D(4, 1, use_bias=False), nn.Activation("relu"), nn.Conv2D(2, 1), nn.Flatten()
    )
    images = np.linspace(-1, 0.5, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    net(nd.array(images))
    net[0].weight.set_data(nd.array([-3, 2, 1, 1]).reshape((4, 1, 1, 1)))
    folder = _exported(net, tmp_path, (1, 8, 8), 128)
    int8.quantize(folder, images)
    nodes = json.loads((folder / "int8-symbol.json").read_text())["nodes"]
    ranges = [
        (float(attributes["min_calib_range"]), float(attributes["max_calib_range"]))
        for attributes in (node.get("attrs", {}) for node in nodes)
        if "max_calib_range" in attributes
    ]
    assert ranges[:2] == [(-1.0, 0.5), (0.0, 6.0)]  # largest values 0.5, and 3


def test_layers_that_cannot_be_quantized_stay_float_and_nothing_is_printed(tmp_path, capfd):
    mx.random.seed(0)
    net = _network(
        nn.Conv2D(8, 3, activation="sigmoid"),
        nn.Conv2DTranspose(4, 3, prefix="up_"),
        nn.Flatten(),
        nn.Dense(3, activation="tanh"),
    )
    folder = _exported(net, tmp_path, (3, 8, 8), 3)
    images = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    capfd.readouterr()
    done = int8.quantize(folder, images)
    assert capfd.readouterr() == ("", "")
    assert done.layers == 3
    assert done.kept_float == ("up_fwd", net[3].name + "_fwd")  # whose input has both signs
    expected = net(nd.array(images)).asnumpy()
    np.testing.assert_allclose(runtimes.load(folder, "int8")(images), expected, atol=0.1)


def test_swish_and_recurrent_layers_stay_float(tmp_path):
    mx.random.seed(0)
    net = _network(
        nn.Conv2D(4, 3),
        nn.Swish(),
        nn.HybridLambda(lambda F, x: F.reshape(x, (0, 0, -1))),
        gluon.rnn.LSTM(4, layout="NTC"),
        nn.Dense(3),
    )
    folder = _exported(net, tmp_path, (1, 8, 8), 3)
    images = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    done = int8.quantize(folder, images)
    assert done.kept_float == (net[4].name + "_fwd",)  # whose input has both signs
    expected = net(nd.array(images)).asnumpy()
    np.testing.assert_allclose(runtimes.load(folder, "int8")(images), expected, atol=0.02)


def test_what_is_constant_has_a_range_too(tmp_path):
    net = _network(nn.Conv2D(4, 3, activation="relu"), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Zero(), force_reinit=True)
    folder = _exported(net, tmp_path, (1, 6, 6), 3)
    images = np.zeros((8, 1, 6, 6), np.float32)
    int8.quantize(folder, images)
    np.testing.assert_array_equal(runtimes.load(folder, "int8")(images + 1), np.zeros((8, 3)))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 3, 8, 8), np.float32), r"\(4, 3, 8, 8\), where .* takes \[None, 1, 8, 8\]"),
        (np.zeros((0, 1, 8, 8), np.float32), r"\(0, 1, 8, 8\)"),
        (np.full((4, 1, 8, 8), np.nan, np.float32), "not finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(copied, images, said):
    before = _names(copied)
    with pytest.raises(GluonexpError, match=said):
        int8.quantize(copied, images)
    assert _names(copied) == before


def test_a_network_without_such_layers_is_refused(tmp_path):
    folder = _exported(_network(nn.Flatten()), tmp_path, (1, 2, 2), 4)
    before = _names(folder)
    with pytest.raises(GluonexpError, match="no layer with weights"):
        int8.quantize(folder, np.zeros((4, 1, 2, 2), np.float32))
    assert _names(folder) == before


def test_a_network_of_layers_that_stay_float_is_refused_and_they_are_named(tmp_path):
    net = _network(nn.Conv2DTranspose(2, 3, prefix="up_"), nn.GlobalAvgPool2D(), nn.Flatten())
    folder = _exported(net, tmp_path, (1, 4, 4), 2)
    before = _names(folder)
    with pytest.raises(GluonexpError, match=r"none of the 1 layers .*up_fwd"):
        int8.quantize(folder, np.ones((4, 1, 4, 4), np.float32))
    assert _names(folder) == before


def test_a_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(GluonexpError, match="no export here"):
        int8.quantize(tmp_path, np.zeros((1, 1, 8, 8), np.float32))


def test_another_processor_is_refused(copied, trained, monkeypatch):
    before = _names(copied)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(GluonexpError, match=r"export\.int8=true: .*x86_64 processor, not aarch64"):
        int8.quantize(copied, trained[2][:8])
    assert _names(copied) == before


def test_a_build_without_onednn_is_refused(copied, trained, monkeypatch):
    real = mx.runtime.Features.is_enabled
    monkeypatch.setattr(
        mx.runtime.Features, "is_enabled", lambda self, name: name != "MKLDNN" and real(self, name)
    )
    with pytest.raises(GluonexpError, match=r"needs oneDNN.*pip install 'gluonexp\[cpu\]'"):
        int8.quantize(copied, trained[2][:8])
