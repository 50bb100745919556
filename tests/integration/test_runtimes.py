"""Every network that is trained here gives the same logits in every runtime."""

import ast
import ctypes
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors import numpy as safetensors

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn, threads
from gluonexp.data.digits import Digits
from gluonexp.export import symbol
from gluonexp.export.onnx import convert
from gluonexp.export.torch import convert as torch_convert
from gluonexp.graph.graph import VARIABLE, Graph, Output
from gluonexp.model_folder.names import MODEL
from gluonexp.model_folder.network import read_network
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.models.cnn import cnn
from gluonexp.models.finetune import alexnet_ft, zoo_ft
from gluonexp.models.mlp import mlp
from gluonexp.verification import runtimes

onnx_library = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

RUNTIMES = ["module", "symbolblock", "onnx", "openvino"]
CLASSES = 7


def zoo(name):
    return lambda: gluon.model_zoo.vision.get_model(name, classes=CLASSES)


def features(name, cut):
    """Return what makes a network of the zoo up to where it wants its images in one size."""
    return lambda: zoo_ft(CLASSES, name, cut=cut)


# Each with its input; sizes that are small and still leave something of an image.
NETWORKS = {
    "mlp": (lambda: mlp(CLASSES), (1, 8, 8)),
    "cnn": (lambda: cnn(CLASSES), (1, 28, 28)),
    "alexnet_ft": (lambda: alexnet_ft(CLASSES, head=[64]), (3, 224, 224)),
    "zoo_ft": (lambda: zoo_ft(CLASSES, "mobilenet0.25", cut=30, head=[32]), (3, 64, 64)),
    "resnet18_v1": (zoo("resnet18_v1"), (3, 64, 64)),
    "resnet18_v2": (zoo("resnet18_v2"), (3, 64, 64)),
    "vgg11_bn": (features("vgg11_bn", 29), (3, 32, 32)),
    "densenet121": (features("densenet121", 13), (3, 32, 32)),
    "squeezenet1.1": (zoo("squeezenet1.1"), (3, 224, 224)),
    "mobilenet0.25": (zoo("mobilenet0.25"), (3, 64, 64)),
    "mobilenetv2_0.25": (zoo("mobilenetv2_0.25"), (3, 64, 64)),
    "inceptionv3": (features("inceptionv3", 18), (3, 75, 75)),
}


def real_inputs(shape, count):
    """Return digits (N, C, H, W) as a network of that input sees them."""
    channels, height, width = shape
    images = Digits(8).load().test.images[:count]
    steps = Preprocessing(height, width, channels, (0.3,), (0.4,))
    return Preprocess(steps, images.shape[1:]).inputs(images)


def export(construct, shape, folder, count=3):
    """Export a network with random values everywhere; return inputs and logits."""
    mx.random.seed(5)
    rng = np.random.default_rng(5)
    with mx.name.NameManager():
        net = construct()
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.apply(forget)
    net.hybridize()
    inputs = real_inputs(shape, count)
    net(nd.array(inputs[:1]))
    randomize(net, rng, gamma=(0.5, 2), beta=(-0.2, 0.2), bias=(-0.1, 0.1))
    with autograd.record():
        loss = net(nd.array(inputs)).sum()
    loss.backward()  # running statistics are those of these images now, ...
    nd.waitall()
    randomize(net, rng, factor=True, running_mean=(0.9, 1.1), running_var=(0.8, 1.5))  # or nearly
    logits = net(nd.array(inputs)).asnumpy()
    channels, height, width = shape
    steps = Preprocessing(height, width, channels, (0.3,), (0.4,))
    classes = tuple(f"class {label}" for label in range(logits.shape[1]))
    symbol.export(net, folder, Signature((8, 8, 1), steps, classes))
    unfix(folder, rng)
    return inputs, logits


def forget(block):
    """Let running statistics be those of the last batch."""
    if isinstance(block, nn.BatchNorm):
        block._kwargs["momentum"] = 0


def randomize(net, rng, factor=False, **ranges):
    for name, parameter in net.collect_params().items():
        for kind, (low, high) in ranges.items():
            if name.endswith(kind):
                values = rng.uniform(low, high, parameter.shape)
                if factor:
                    values *= parameter.data().asnumpy()
                parameter.set_data(nd.array(values))


def unfix(folder, rng):
    """Store other scales than 1 where a BatchNorm has none; MXNet resets them as it computes."""
    nodes = json.loads((folder / "model-symbol.json").read_text())["nodes"]
    path = str(folder / "model-0000.params")
    params = nd.load(path)
    for node in nodes:
        if node["op"] == "BatchNorm" and node["attrs"]["fix_gamma"] == "True":
            gamma = params["arg:" + nodes[node["inputs"][1][0]]["name"]]
            gamma[:] = nd.array(rng.uniform(0.5, 2, gamma.shape))
    nd.save(path, params)


def write_onnx(folder):
    shape = Signature.read(folder).shape
    return convert.write(read_network(folder, MODEL, "data", shape), folder, shape[1:])


def write_torch(folder):
    """Write the files for PyTorch; return the text of the first."""
    signature = Signature.read(folder)
    network = read_network(folder, MODEL, signature.input, signature.shape)
    torch_convert.write(network, folder, signature)
    return (folder / "model.py").read_text()


def read(graph):
    return {name for node in graph.node for name in node.input}


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


class Layer(nn.HybridBlock):
    """A layer that is one function of (F, x)."""

    def __init__(self, function):
        super().__init__(prefix="")
        self.function = function

    def hybrid_forward(self, F, x):
        return self.function(F, x)


def small(*layers):
    """Return what makes a network of `layers` and a classifier."""

    def construct():
        net = nn.HybridSequential(prefix="")
        net.add(*layers, nn.Flatten(), nn.Dense(CLASSES))
        return net

    return construct


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small network with BatchNorm, exported in every format: (folder, inputs, logits)."""
    folder = tmp_path_factory.mktemp("export")
    layers = [nn.Conv2D(4, 3), nn.BatchNorm(scale=False), nn.Activation("relu"), nn.Dropout(0.5)]
    inputs, logits = export(small(*layers), (1, 8, 8), folder, count=9)
    write_onnx(folder)
    return folder, inputs, logits


class Twice(nn.HybridBlock):
    """One dense layer called twice, at the end of a network."""

    def __init__(self):
        super().__init__(prefix="")
        with self.name_scope():
            self.first, self.last = nn.Dense(CLASSES), nn.Dense(CLASSES)

    def hybrid_forward(self, F, x):
        return self.last(F.relu(self.last(F.relu(self.first(x)))))


def dense_after(*layers):
    """Return what makes a network in which nothing stands between `layers` and a dense layer."""

    def construct():
        net = nn.HybridSequential(prefix="")
        net.add(*layers, nn.Dense(5), nn.Dense(CLASSES))
        return net

    return construct


# A convolution down to 1x1 before a dense layer is what Module's fused layers fail at; see
# `graph.rewrite`.
DOWN_TO_ONE = {
    "lenet": [
        *(nn.Conv2D(6, 5, activation="tanh"), nn.MaxPool2D(), nn.Conv2D(16, 5), nn.MaxPool2D()),
        nn.Conv2D(12, 4),
    ],
    "with BatchNorm": [nn.Conv2D(8, 28), nn.BatchNorm(), nn.Activation("relu")],
    "by depth": [nn.Conv2D(8, 3, strides=2), nn.Conv2D(16, 13, groups=8), nn.BatchNorm()],
    "with dropout": [nn.Conv2D(8, 28), nn.Dropout(0.5)],
    "with PReLU": [nn.Conv2D(8, 28), nn.PReLU()],
    "along an axis": [
        *(nn.Conv2D(8, 28), Layer(lambda F, x: x**2)),
        nn.Dense(6, flatten=False, prefix="along_"),
    ],
}


@pytest.mark.parametrize("name", [*DOWN_TO_ONE, "called twice"])
def test_every_runtime_gives_the_same_at_every_call(name, tmp_path):
    construct = Twice if name == "called twice" else dense_after(*DOWN_TO_ONE[name])
    inputs, logits = export(construct, (1, 28, 28), tmp_path, count=4)
    write_onnx(tmp_path)
    for runtime in RUNTIMES:
        run = runtimes.load(tmp_path, runtime)
        for count in (1, 1, 3, 3, 4, 4, 1):
            assert relative(run(inputs[:count]), logits[:count]) < 1e-4, runtime


def test_what_others_exported_is_flattened_when_it_is_read(tmp_path):
    inputs, logits = export(dense_after(nn.Conv2D(8, 28)), (1, 28, 28), tmp_path)
    path = tmp_path / "model-symbol.json"
    graph = Graph.from_json(path.read_text())
    assert [node.op for node in graph.walk() if node.op != VARIABLE] == [
        *("Convolution", "Flatten", "FullyConnected", "FullyConnected")
    ]
    nodes = list(graph.nodes)
    (at,) = (at for at, node in enumerate(nodes) if node.op == "Flatten")
    after = next(index for index, node in enumerate(nodes) if Output(at) in node.inputs)
    direct = nodes[at].inputs + nodes[after].inputs[1:]
    nodes[after] = replace(nodes[after], inputs=direct)
    path.write_text(replace(graph, nodes=tuple(nodes)).prefix(*graph.heads).to_json())
    assert '"Flatten"' not in path.read_text()
    run = runtimes.load(tmp_path, "module")
    for _ in range(3):
        assert relative(run(inputs), logits) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_logits_in_every_runtime(name, tmp_path):
    construct, shape = NETWORKS[name]
    inputs, logits = export(construct, shape, tmp_path)
    write_onnx(tmp_path)
    assert relative(logits[1], logits[0]) > 1e-2  # it does tell images apart
    wanted = RUNTIMES
    if torch_convert.installed():
        write_torch(tmp_path)
        wanted = [*RUNTIMES, "torch"]
    assert runtimes.available(tmp_path) == wanted
    for runtime in wanted:
        found = runtimes.load(tmp_path, runtime)(inputs)
        assert found.dtype == np.float32
        assert relative(found, logits) < 1e-4, runtime
        np.testing.assert_array_equal(found.argmax(1), logits.argmax(1), err_msg=runtime)


PLAIN = """
import sys
sys.path.insert(0, ".")
import torch
from safetensors.torch import load_file
from model import CLASSES, Network, prepare

given = load_file("given")
network = Network()
network.load_state_dict(load_file("model.safetensors"))
network.eval()
with torch.no_grad():
    logits = network(prepare(given["images"]))
assert (logits - given["logits"]).abs().max() < 1e-5 * given["logits"].abs().max()
assert logits.shape[1] == len(CLASSES)

network.train()
inputs, labels = prepare(given["images"]), logits.argmax(1)
assert (network(inputs) != network(inputs)).any()  # dropout
norm = network["1"]
was = norm.running_mean.clone()
losses = []
for _ in range(9):
    loss = torch.nn.functional.cross_entropy(network(inputs), labels)
    network.zero_grad()
    loss.backward()
    with torch.no_grad():  # to load torch.optim takes seconds
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter -= 0.1 * parameter.grad
    losses.append(loss.item())
assert losses[-1] < losses[0]
assert (norm.running_mean != was).all() and (norm.weight == 1).all()
assert not {"mxnet", "gluonexp"} & sys.modules.keys()
"""


def test_the_file_for_pytorch_needs_nothing_else_and_trains_on(exported, tmp_path):
    pytest.importorskip("torch")
    folder, inputs, logits = exported
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_torch(tmp_path)
    images = Digits(8).load().test.images[: len(inputs)]
    safetensors.save_file({"images": images, "logits": logits}, tmp_path / "given")
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


LAYERS = [
    'self["0"] = nn.Conv2d(1, 4, 3)',
    'self["1"] = nn.BatchNorm2d(4, eps=1e-05, momentum=1)',
    'self["1"].weight.requires_grad_(False)  # it stays 1',
    "x = F.dropout(x, p=0.5, training=self.training)",
    "x = x.flatten(1)",
]


@pytest.fixture
def left(exported, tmp_path):
    """Return a copy of an export with the files for PyTorch, which the test may change."""
    pytest.importorskip("torch")
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_torch(tmp_path)
    return tmp_path


def test_the_file_for_pytorch_is_made_of_its_layers(left):
    text = (left / "model.py").read_text()
    for line in LAYERS:
        assert f"        {line}\n" in text
    values = safetensors.load_file(left / "model.safetensors")
    assert values.keys() == {
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"),
        *("5.weight", "5.bias"),
    }
    np.testing.assert_array_equal(values["1.weight"], np.ones(4))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: f"{text}open('here', 'w')\n", "was changed"),
        (lambda text: text.replace("flatten(1)", "flatten(1) * 2"), "was changed"),
        (lambda text: "open('here', 'w')\n", "was changed"),
        (lambda text: text.replace("PyTorch 2", "PyTorch 3", 1) + "\n", "another version wrote"),
    ],
    ids=["more", "other", "nothing", "version"],
)
def test_a_file_for_pytorch_that_is_not_the_network_is_not_run(left, change, match, monkeypatch):
    monkeypatch.chdir(left)
    path = left / "model.py"
    path.write_text(change(path.read_text()))
    with pytest.raises(GluonexpError, match=rf"model\.py .*{match}.*export --torch"):
        runtimes.load(left, "torch")
    assert not (left / "here").exists()


def test_a_file_that_says_another_version_wrote_it_is_run_if_it_is_the_same(left, exported):
    path = left / "model.py"
    path.write_text(path.read_text().replace("PyTorch 2", "PyTorch 3", 1))
    _, inputs, logits = exported
    assert relative(runtimes.load(left, "torch")(inputs), logits) < 1e-5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda values: values.pop("0.bias"), "'0.bias' is missing, or one too many"),
        (lambda values: values.update(more=np.ones(3)), "'more' is missing, or one too many"),
        (lambda values: values.update({"0.bias": np.ones(4)}), "0.bias is not float32"),
        (
            lambda values: values.update({"0.bias": np.ones((4, 1), np.float32)}),
            "0.bias is not float32",
        ),
        (
            lambda values: values.update({"0.bias": np.full(4, np.nan, np.float32)}),
            "0.bias holds values that are not finite",
        ),
    ],
    ids=["fewer", "more", "type", "shape", "nan"],
)
def test_values_for_pytorch_that_do_not_fit_are_one_error(left, change, match):
    path = left / "model.safetensors"
    values = safetensors.load_file(path)
    change(values)
    safetensors.save_file(values, path)
    with pytest.raises(GluonexpError, match=rf"model\.safetensors: {match}"):
        runtimes.load(left, "torch")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(GluonexpError, match=r"model\.safetensors cannot be read, or is damaged"):
        runtimes.load(left, "torch")


HOSTILE = [
    '"""); import os; os.abort(); ("""',
    "__class__",
    "a.b.forward",
    "\\",
    "keys",
    "{x}",
    "π",
]


def test_names_in_a_network_are_no_code_of_the_file_for_pytorch(left):
    path = left / "model-symbol.json"
    graph = Graph.from_json(path.read_text())
    names = iter(HOSTILE)
    nodes = [
        replace(node, attrs={**node.attrs, "__structure__": next(names, node.name)})
        if node.op == VARIABLE and node.name != "data"
        else node
        for node in graph.nodes
    ]
    path.write_text(replace(graph, nodes=tuple(nodes)).to_json())
    signature = replace(Signature.read(left), classes=tuple(HOSTILE))
    signature.write(left)
    text = write_torch(left)
    tree = ast.parse(text)
    assert {node.names[0].name for node in tree.body if isinstance(node, ast.Import)} == {"torch"}
    called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not any("abort" in name or "import" in name for name in called)
    space = {}
    exec(text, space)
    assert space["CLASSES"] == tuple(HOSTILE)
    runtimes.load(left, "torch")


def test_a_layer_called_twice_is_one_layer_of_pytorch(tmp_path):
    pytest.importorskip("torch")
    inputs, logits = export(Twice, (1, 1, 7), tmp_path)
    text = write_torch(tmp_path)
    assert text.count("nn.Linear(7, 7)") == 2
    assert text.count("self.last(x)") == 2
    assert relative(runtimes.load(tmp_path, "torch")(inputs), logits) < 1e-5


class Rows(nn.HybridBlock):
    """Reads an image row by row, with dropout between its layers."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.rows = gluon.rnn.LSTM(4, num_layers=2, layout="NTC", dropout=0.5, input_size=8)
            self.last = nn.Dense(CLASSES)

    def hybrid_forward(self, F, x):
        return self.last(self.rows(F.squeeze(x, axis=1)))


def test_what_recurrent_layers_drop_they_drop_in_training_only(tmp_path):
    pytest.importorskip("torch")
    inputs, logits = export(Rows, (1, 8, 8), tmp_path)
    assert "0.5, self.training" in write_torch(tmp_path)
    assert relative(runtimes.load(tmp_path, "torch")(inputs), logits) < 1e-5


class Own(nn.HybridBlock):
    """Parameters that no layer of PyTorch's has."""

    def __init__(self):
        super().__init__(prefix="own_")
        with self.name_scope():
            self.scale = self.params.get("scale", shape=(1, 1, 8, 8))
            self.norm = nn.BatchNorm(axis=1, use_global_stats=True)
            self.gain = nn.PReLU()
            self.w = self.params.get("w", shape=(CLASSES, 64))

    def hybrid_forward(self, F, x, scale, w):
        x = self.gain(self.norm(F.broadcast_mul(x, scale)))
        return F.FullyConnected(x, w, no_bias=True, num_hidden=CLASSES)


def test_what_no_layer_of_pytorch_has_is_a_parameter_under_its_name(tmp_path):
    pytest.importorskip("torch")
    inputs, logits = export(Own, (1, 8, 8), tmp_path)
    text = write_torch(tmp_path)
    assert "self.scale = nn.Parameter(torch.empty((1, 1, 8, 8)))" in text
    assert "F.linear(x, self.w" in text and "F.prelu(x, self.gain.alpha)" in text
    assert "trained with fixed statistics" in text
    assert relative(runtimes.load(tmp_path, "torch")(inputs), logits) < 1e-5


def test_without_structural_names_layers_have_those_of_the_graph(left, exported):
    path = left / "model-symbol.json"
    graph = Graph.from_json(path.read_text())
    nodes = (replace(n, attrs={}) if n.op == VARIABLE else n for n in graph.nodes)
    path.write_text(replace(graph, nodes=tuple(nodes)).to_json())
    assert re.search(r"self\.\w*conv\d+ = nn\.Conv2d\(1, 4, 3\)\n", write_torch(left))
    _, inputs, logits = exported
    assert relative(runtimes.load(left, "torch")(inputs), logits) < 1e-5


def test_what_pytorch_is_not_told_to_compute_is_named(tmp_path):
    pytest.importorskip("torch")
    export(small(Layer(lambda F, x: F.gamma(F.abs(x) + 1, name="odd"))), (1, 8, 8), tmp_path)
    with pytest.raises(torch_convert.Unwritable, match=r"^no model\.py: .*layer odd \(gamma\)"):
        write_torch(tmp_path)
    assert runtimes.available(tmp_path) == ["module", "symbolblock"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_any_number_of_images_in_turn(exported, name):
    folder, inputs, logits = exported
    run = runtimes.load(folder, name)
    first = run(inputs[:1])
    for count in (9, 2, 9):
        assert relative(run(inputs[:count]), logits[:count]) < 1e-5
    assert relative(first, logits[:1]) < 1e-5  # nor are earlier results written over


def test_the_runtimes_of_a_folder_are_those_with_files(exported, tmp_path):
    folder, inputs, logits = exported
    assert runtimes.available(tmp_path) == []
    for path in folder.iterdir():
        if path.suffix != ".onnx":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert runtimes.available(tmp_path) == ["module", "symbolblock"]
    with pytest.raises(GluonexpError, match=r"model\.onnx is missing, which runtime openvino"):
        runtimes.load(tmp_path, "openvino")
    for path in list(tmp_path.glob("model-*")):
        path.with_name(path.name.replace("model", "int8")).write_bytes(path.read_bytes())
    assert runtimes.available(tmp_path) == ["module", "symbolblock", "int8"]
    assert relative(runtimes.load(tmp_path, "int8")(inputs), logits) < 1e-6


def test_what_is_not_installed_is_named_with_its_remedy(exported, monkeypatch):
    monkeypatch.setattr(runtimes, "installed", lambda *packages: {})
    assert runtimes.versions("onnx") == {}
    assert runtimes.available(exported[0]) == ["module", "symbolblock"]
    with pytest.raises(GluonexpError, match=r"onnxruntime, .*pip install 'gluonexp\[onnx\]'"):
        runtimes.load(exported[0], "onnx")
    with pytest.raises(GluonexpError, match=r"torch, .*pip install 'gluonexp\[torch\]'"):
        runtimes.load(exported[0], "torch")
    with pytest.raises(GluonexpError, match="choose one of module symbolblock onnx openvino int8"):
        runtimes.load(exported[0], "tensorrt")


def test_versions_are_those_of_the_libraries():
    assert runtimes.versions("module") == {"mxnet": mx.__version__}
    assert runtimes.versions("onnx") == {"onnxruntime": onnxruntime.__version__}
    assert list(runtimes.versions("openvino")) == ["openvino"]


def test_as_many_threads_as_mxnet_takes(monkeypatch):
    assert threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1


@pytest.mark.parametrize("name", RUNTIMES)
def test_images_of_another_size_are_one_error(exported, name):
    run = runtimes.load(exported[0], name)
    for shape in ((2, 1, 9, 9), (1, 8, 8), (0, 1, 8, 8)):
        expected = rf"takes inputs \(N, 1, 8, 8\), not {re.escape(str(shape))}"
        with pytest.raises(GluonexpError, match=expected):
            run(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_damaged_onnx_file_is_one_error(exported, tmp_path, name, kept):
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(GluonexpError, match=r"model\.onnx"):
        runtimes.load(tmp_path, name)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_onnx_file_opens_no_other_file(exported, tmp_path, name):
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * CLASSES))
    model = onnx_library.load_model(str(tmp_path / "model.onnx"))
    tensor = next(each for each in model.graph.initializer if list(each.dims) == [CLASSES])
    tensor.ClearField("raw_data")
    tensor.data_location = onnx_library.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GluonexpError, match="in another file: refused"):
        runtimes.load(tmp_path, name)


def test_the_onnx_file_is_what_runtimes_like(exported):
    model = onnx_library.load_model(str(exported[0] / "model.onnx"))
    onnx_library.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    assert model.ir_version == 8
    assert {tensor.name for tensor in model.graph.initializer} < read(model.graph)
    session = onnxruntime.InferenceSession(
        str(exported[0] / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (entry,), (output,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape, entry.type) == ("data", ["batch", 1, 8, 8], "tensor(float)")
    assert (output.name, output.shape) == ("logits", ["batch", CLASSES])
    gammas = [
        onnx_library.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith("gamma")
    ]
    np.testing.assert_array_equal(gammas, np.ones((1, 4)))  # scale=False, whatever is stored


def test_writing_onnx_is_silent_and_leaves_the_libraries_as_they_were(exported, tmp_path, capfd):
    def state():
        names = set(vars(onnx_library))
        return vars(onnx_library).get("mapping"), names, list(logging.getLogger().handlers)

    network = read_network(exported[0], MODEL, "data", (1, 1, 8, 8))
    onnx_library.mapping = "another library's"
    before = state()
    convert.write(network, tmp_path, (1, 8, 8))
    assert state() == before
    del onnx_library.mapping
    before = state()
    convert.write(network, tmp_path, (1, 8, 8))
    assert state() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Layer(lambda F, x: F.erf(x) + F.cbrt(x)), "no operator cbrt, erf$"),
        (nn.BatchNorm(axis=3), r"operator BatchNorm \(.*batchnorm\d+_fwd\) .* axis != 1"),
        (
            Layer(lambda F, x: F.Dropout(x, mode="always")),
            r"operator Dropout \(.*dropout\d+\) .* mode",
        ),
    ],
    ids=["no translation", "another use", "another mode"],
)
def test_an_operator_that_onnx_cannot_have_is_named(layer, match, tmp_path):
    export(small(layer), (1, 8, 8), tmp_path)
    before = vars(onnx_library).get("mapping")
    with pytest.raises(convert.Unexportable, match=match):
        write_onnx(tmp_path)
    assert vars(onnx_library).get("mapping") is before
    assert runtimes.available(tmp_path) == ["module", "symbolblock"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "function",
    [
        lambda F, x: F._internal._rminus_scalar(x, scalar=3.0, name="plain"),
        lambda F, x: F._internal._rdiv_scalar(x + 9, scalar=3.0, name="plain"),
        lambda F, x: (1 - x) / 2 + 4 / (x + 9),
        lambda F, x: F.Activation(x, act_type="tanh", name="logits") * 3,
        lambda F, x: F.mean(F.relu(x), axis=(2, 3)),
        lambda F, x: F.contrib.BilinearResize2D(x, height=5, width=13, align_corners=True),
        lambda F, x: F.contrib.BilinearResize2D(x, height=5, width=13, align_corners=False),
        lambda F, x: F.image.normalize(
            F.concat(x, x, x, dim=1), mean=(0.1, 1e-6, -2), std=(0.5, 2.0, 1)
        ),
        lambda F, x: F.elemwise_add(*F.split(F.concat(x, x, dim=1), num_outputs=2, axis=1)),
        lambda F, x: F.dot(F.Flatten(x), F.ones((64, 5))),  # of which the exporter warns
    ],
    ids=[
        "minus",
        "over",
        "arithmetic",
        "name",
        "mean",
        "corners",
        "centres",
        "normalize",
        "split",
        "warning",
    ],
)
def test_operators_that_the_exporter_gets_wrong_by_itself(function, tmp_path, capfd, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's; without one a warning sets up a log
    inputs, logits = export(small(Layer(function)), (1, 8, 8), tmp_path)
    model = onnx_library.load_model(str(write_onnx(tmp_path)))
    assert root.handlers == []
    assert {tensor.name for tensor in model.graph.initializer} <= read(model.graph)
    for name in ("onnx", "openvino"):
        assert relative(runtimes.load(tmp_path, name)(inputs), logits) < 1e-5
    assert capfd.readouterr() == ("", "")


def test_the_c_predictor_reads_the_pair(exported):
    """MXNet's c_predict_api.h, which the predictors of other languages are made of."""
    folder, inputs, logits = exported
    library = mx.base._LIB
    graph = (folder / "model-symbol.json").read_bytes()
    params = (folder / "model-0000.params").read_bytes()
    shape = inputs.shape
    handle, name = ctypes.c_void_p(), (ctypes.c_char_p * 1)(b"data")
    bounds = (ctypes.c_uint32 * 2)(0, len(shape))
    sizes = (ctypes.c_uint32 * len(shape))(*shape)
    created = library.MXPredCreate(
        graph, params, len(params), 1, 0, 1, name, bounds, sizes, ctypes.byref(handle)
    )
    assert created == 0, library.MXGetLastError()
    try:
        found = np.empty_like(logits)
        pointers = [
            array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in (inputs, found)
        ]
        assert library.MXPredSetInput(handle, b"data", pointers[0], inputs.size) == 0
        assert library.MXPredForward(handle) == 0
        assert library.MXPredGetOutput(handle, 0, pointers[1], found.size) == 0
    finally:
        library.MXPredFree(handle)
    assert relative(found, logits) < 1e-5


def test_a_network_that_one_file_cannot_hold_is_told(tmp_path, monkeypatch):
    export(small(nn.Activation("relu")), (1, 8, 8), tmp_path)
    monkeypatch.setattr(convert, "LARGEST", 1000)  # the real limit is two thousand million
    with pytest.raises(convert.Unexportable, match=r"no ONNX: the parameters take 0\.00 GB"):
        write_onnx(tmp_path)


def test_batches_that_openvino_cannot_run_are_one_error():
    """A reshape that suits two images and no others: known only when three come."""
    helper, floats = onnx_library.helper, onnx_library.TensorProto.FLOAT
    shape = onnx_library.numpy_helper.from_array(np.array([2, 3]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["data", "shape"], ["made"])],
        "graph",
        [helper.make_tensor_value_info("data", floats, ["N", 3])],
        [helper.make_tensor_value_info("made", floats, [2, 3])],
        [shape],
    )
    opset = helper.make_opsetid("", 13)
    content = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    run = runtimes.stream_by_openvino(content, "float32")
    images = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = [made.copy() for made in run([images, images + 1])]
    np.testing.assert_array_equal(found, [images, images + 1])
    with pytest.raises(runtimes.CannotRun, match=r"^OpenVINO cannot run it: "):
        [*run([images, np.zeros((3, 3), np.float32)])]
    with pytest.raises(runtimes.CannotRun, match=r"^OpenVINO cannot load it: "):
        runtimes.stream_by_openvino(b"no model", "float32")
