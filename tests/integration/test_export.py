"""The exported files, in every runtime, against the network that was trained."""

import json

import numpy as np
import pytest

from gluonexp import assembly
from gluonexp.assembly import networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import softmax
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.export import symbol
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.verification import runtimes

CLASSES = ("circle", "square", "t-shirt/top")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Train a network with BatchNorm for a few steps; return (folder, images, inputs, logits)."""
    mx.random.seed(3)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        with net.name_scope():
            net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(0.5))
            net.add(nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    images = np.random.default_rng(0).integers(0, 256, size=(40, 6, 6, 1), dtype=np.uint8)
    steps = Preprocessing(12, 12, 3, (0.5,), (0.25,))
    spec = assembly.Spec(6, 6, 1, CLASSES)
    inputs = networks.preprocess(steps, spec)(nd.array(images, dtype="uint8"))
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    for _ in range(3):
        with autograd.record():
            loss = net(inputs).square()
        loss.backward()
        trainer.step(len(images))
    folder = tmp_path_factory.mktemp("export")
    symbol.export(net, folder, Signature((6, 6, 1), steps, CLASSES))
    return folder, images, inputs.asnumpy(), net(inputs).asnumpy()


def _copied(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["module", "symbolblock"])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_any_batch_size(exported, name, count):
    folder, _, inputs, logits = exported
    run = runtimes.load(folder, name)
    for _ in range(2):  # also after another size
        np.testing.assert_allclose(run(inputs[:count]), logits[:count], rtol=1e-4, atol=1e-6)
        run(inputs[:3])


def test_the_tutorial_recipe_reads_our_files(exported):
    folder, _, inputs, logits = exported
    sym = mx.symbol.load(str(folder / "model-symbol.json"))
    saved = mx.nd.load(str(folder / "model-0000.params"))
    arg = {k[4:]: v for k, v in saved.items() if k.startswith("arg:")}
    aux = {k[4:]: v for k, v in saved.items() if k.startswith("aux:")}
    module = mx.mod.Module(symbol=sym, data_names=["data"], label_names=None)
    module.bind(for_training=False, data_shapes=[("data", (1, 3, 12, 12))])
    module.set_params(arg, aux)
    module.forward(mx.io.DataBatch([nd.array(inputs[:1])]), is_train=False)
    assert module.get_outputs()[0].asnumpy().argmax() == logits[0].argmax()


def test_the_signature_says_how_to_use_it(exported):
    signature = json.loads((exported[0] / "signature.json").read_text())
    assert signature["input"] == {
        "name": "data",
        "shape": [None, 3, 12, 12],
        "dtype": "float32",
        "layout": "NCHW",
    }
    assert signature["image"]["height"] == 6
    assert signature["classes"] == list(CLASSES)


@pytest.mark.parametrize("name", ["module", "symbolblock"])
def test_a_classifier_goes_from_bytes_to_the_same_probabilities(exported, name):
    folder, images, _, logits = exported
    table = Classifier(folder, name).probabilities(images)
    np.testing.assert_allclose(table, softmax(logits), atol=1e-5)
    np.testing.assert_allclose(table.sum(axis=1), 1)


@pytest.mark.parametrize("missing", ["signature.json", "model-symbol.json", "model-0000.params"])
def test_what_is_missing_or_broken_is_named(exported, tmp_path, missing):
    copy = _copied(exported[0], tmp_path)
    (copy / missing).unlink()
    with pytest.raises(GluonexpError, match=str(tmp_path)):
        Classifier(copy)
    (copy / missing).write_text("{ not what it should be")
    with pytest.raises(GluonexpError, match=str(tmp_path)):
        Classifier(copy)


def test_exports_do_not_depend_on_what_the_process_made_before(compose, tmp_path):
    def made(name):
        config = compose("model=cnn")
        plan = assembly.components(config)
        spec = plan.source.spec()
        steps = networks.preprocessing(config.dataset, spec)
        networks.seed(0)
        net = networks.network(config, plan.model, spec, steps)
        networks.initialize(config, net, spec, mx.cpu())
        net(nd.zeros((1, 1, 28, 28)))
        net.export(str(tmp_path / name))
        return [
            (tmp_path / f"{name}-{end}").read_bytes() for end in ("symbol.json", "0000.params")
        ]

    first = made("a")
    nn.HybridSequential().add(nn.Dense(3))
    assert made("b") == first
