"""How a run ends whose network is hard to export: without ONNX, or failed with all else kept."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gluonexp import assembly, experiment
from gluonexp.assembly import networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import mx, nd, nn
from gluonexp.config.schema import ExportConfig
from gluonexp.data.digits import Digits
from gluonexp.export import formats, int8, symbol
from gluonexp.export.torch import convert as torch
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.models.mlp import mlp
from gluonexp.tracking import open_store
from gluonexp.verification import certificate, runtimes, verify

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
TINY = ["trainer.epochs=1", "trainer.batch_size=64", "dataset.source.size=8"]


class NoisyHead(nn.HybridBlock):
    """A linear classifier whose answers to images, but not to noise, are never the same twice."""

    def __init__(self, classes):
        super().__init__()
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(nn.Flatten(), nn.Dense(classes))

    def hybrid_forward(self, F, x):
        logits = self.body(x)
        drawn = F.Dropout(F.ones_like(logits), p=0.5, mode="always") - 1
        is_image = F.min(x, axis=(1, 2, 3)) >= 0
        return logits * (1 + F.broadcast_mul(drawn, F.expand_dims(is_image, axis=1)))


class Probabilities(nn.HybridBlock):
    """A classifier that ends where the loss begins."""

    def __init__(self, classes, kind="softmax"):
        super().__init__()
        self.kind = kind
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(nn.Flatten(), nn.Dense(classes))

    def hybrid_forward(self, F, x):
        return getattr(F, self.kind)(self.body(x))


class Reflected(nn.HybridBlock):
    """A classifier with padding that reads beyond small arrays."""

    def __init__(self, classes, mode="reflect"):
        super().__init__()
        self.mode = mode
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(nn.Flatten(), nn.Dense(classes))

    def hybrid_forward(self, F, x):
        if self.mode == "custom":
            return F.Correlation(x, x).flatten().slice_axis(axis=1, begin=0, end=10)
        return self.body(F.pad(x, mode=self.mode, pad_width=(0, 0, 0, 0, 1, 1, 1, 1)))


class OnlyTraining(Digits):
    """Digits without a test split."""

    def load(self):
        return replace(super().load(), test=None)


def own(name, *overrides):
    here = "tests.integration.test_export_run"
    return [
        *TINY,
        f"model._target_={here}.{name}",
        "~model.hidden",
        "build.allow=[tests]",
        *overrides,
    ]


@pytest.fixture
def exported(tmp_path):
    """Return the folder of an export that is not certified yet."""
    mx.random.seed(0)
    with mx.name.NameManager():
        net = mlp(3, hidden=[4])
    net.initialize(mx.init.Xavier())
    net.hybridize()
    steps = Preprocessing(4, 4, 1, (0.5,), (0.25,))
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    block = networks.preprocess(steps, assembly.Spec(4, 4, 1, ("a", "b", "c")))
    logits = net(block(nd.array(images, dtype="uint8"))).asnumpy()
    symbol.export(net, tmp_path, Signature((4, 4, 1), steps, ("a", "b", "c")))
    known = samples.ProofSamples(images, logits.argmax(1), logits, ("a", "b", "c"))
    samples.write(tmp_path, known)
    assert formats.write(tmp_path, ExportConfig(onnx=True, preprocess="graph"), None) == []
    return tmp_path


def no_layers(place):
    raise AssertionError("nothing differs")


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (names.ONNX, ["module", "symbolblock", "uint8"]),
        (names.UINT8_ONNX, ["module", "symbolblock", "onnx", "openvino", "uint8"]),
    ],
)
def test_what_no_runtime_can_load_is_left_out_and_said(exported, name, left):
    pytest.importorskip("openvino")
    model = onnx.load(exported / name)
    weight = next(each for each in model.graph.initializer if len(each.dims) == 2)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 7), np.float32), weight.name))
    onnx.save(model, exported / name)
    with verify.workers() as pool:
        proved = verify.certify(exported, pool=pool, reference=no_layers, drop_onnx=True)
    (dropped,) = proved.dropped
    assert dropped.startswith(f"no {name}")
    assert not (exported / name).exists()
    assert [each.runtime for each in proved.agreements] == left
    assert verify.check(exported).notes == ()


def test_a_network_that_cannot_be_loaded_is_no_export(exported):
    (exported / "model-0000.params").write_bytes(b"nothing")
    with verify.workers() as pool, pytest.raises(GluonexpError, match=r"model-0000\.params"):
        verify.certify(exported, pool=pool, reference=no_layers, drop_onnx=True)


def test_a_failed_export_loses_nothing_else(compose, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    config = compose("model=mlp", *own("NoisyHead"), f"tracking.uri={uri}")
    with pytest.raises(GluonexpError, match="is not the trained network: module differs"):
        experiment.run(config, tmp_path / "job")
    client = open_store(uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FAILED"
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept >= {"config", "plots", "predictions", "error"}
    assert "export" not in kept
    assert (tmp_path / "job/artifacts/export/model-symbol.json").is_file()
    assert (tmp_path / "job/checkpoints/best").is_dir()


def test_a_run_with_eight_bits_and_with_preprocessing_in_the_graph(compose, tmp_path, capsys):
    if why := int8.unsupported():
        pytest.skip(why)
    here = "tests.integration.test_export_run"
    config = compose(
        *("model=mlp", "trainer.epochs=2", "dataset.source.size=8", "dataset.val_fraction=0"),
        *(f"dataset.source._target_={here}.OnlyTraining", "build.allow=[tests]"),
        *("objective.metric=train/acc", "export.int8=true", "export.preprocess=graph"),
        *("export.images=60", "tracking=none", f"export.torch={str(torch.installed()).lower()}"),
    )
    experiment.run(config, tmp_path / "job")
    export = tmp_path / "job/artifacts/export"
    proved = certificate.read(export)
    found = {each.runtime: each for each in proved.agreements}
    absent = {"openvino", "torch"} - {*runtimes.available(export)}
    assert found.keys() == set(names.FILES) - absent
    assert found["int8"].images == 60 and found["int8"].argmax_equal >= 54
    assert all(found[name].argmax_equal == 60 for name in names.IMAGE_RUNTIMES)
    assert proved.split == "train"
    assert "on 60 images of the train split: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["softmax", "SoftmaxActivation"])
def test_probabilities_are_refused_before_a_run_exists(compose, tmp_path, kind):
    config = compose("model=mlp", *own("Probabilities", f"+model.kind={kind}"))
    with pytest.raises(GluonexpError, match=rf"ends in .*softmax.* \({kind}\), but the loss"):
        experiment.run(config, tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_logarithms_of_probabilities_are_logits(compose, tmp_path):
    config = compose(
        "model=mlp", *own("Probabilities", "+model.kind=log_softmax"), "tracking=none"
    )
    result = experiment.run(config, tmp_path / "job")
    assert result.metrics["test/loss"] < 2.3  # of chance


def test_pytorch_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(torch, "installed", lambda: False)
    formats.check(ExportConfig())
    with pytest.raises(GluonexpError, match=r"^export\.torch=true: .*'gluonexp\[torch\]'$"):
        formats.check(ExportConfig(torch=True))


@pytest.mark.parametrize(
    ("mode", "told"),
    [("custom", "operator Correlation is not among"), ("reflect", "mode=reflect, which may read")],
)
def test_what_no_file_may_hold_is_told_before_training(compose, tmp_path, mode, told):
    words = ["model=mlp", *own("Reflected", f"+model.mode={mode}"), "tracking=none"]
    with pytest.raises(GluonexpError, match=f"model: cannot be exported: .*{told}.*export=none"):
        experiment.run(compose(*words), tmp_path / "job")
    assert not (tmp_path / "job").exists()
    if mode == "reflect":
        experiment.run(compose(*words, "export=none"), tmp_path / "job")


@pytest.mark.parametrize(("wanted", "kept"), [("null", 24), ("6", 6)])
def test_the_proof_is_on_images_of_all_classes(compose, tmp_path, wanted, kept):
    """Of a folder, which is read class by class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 8)):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    config = compose(
        "dataset=image_folder",
        f"dataset.root={tmp_path / 'photos'}",
        "dataset.resize=8",
        "model=mlp",
        "trainer.epochs=1",
        "tracking=none",
        f"export.images={wanted}",
    )
    experiment.run(config, tmp_path / "job")
    export = tmp_path / "job" / "artifacts" / "export"
    known = samples.read(export)
    assert np.bincount(known.labels).tolist() == [kept // 3] * 3
    assert verify.check(export).images == kept
