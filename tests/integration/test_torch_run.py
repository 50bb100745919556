"""Whole runs trained by PyTorch: they follow MXNet's, and end in the same exports and proofs."""

import os
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gluonexp import assembly, run, tracking
from gluonexp.assembly import engines, networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.seeds import seed_host
from gluonexp.data.batches import batches
from gluonexp.engines.torch import library
from gluonexp.experiment import run as train
from gluonexp.tracking.artifacts import of_run
from gluonexp.training import checkpoint
from gluonexp.verification import certificate

FOLLOWED = {
    "sgd with momentum and a schedule": (
        *("optim=sgd", "optim.lr=0.02", "optim.momentum=0.9", "optim.weight_decay=1e-4"),
        *("scheduler=step", "scheduler.milestones=[1]", "scheduler.warmup_epochs=0.5"),
    ),
    "adam": ("optim=adam", "optim.lr=0.001", "optim.weight_decay=1e-3"),
    "nag": ("optim=nag", "optim.lr=0.01", "optim.weight_decay=1e-3"),
}
TINY = (
    *("dataset=synthetic", "dataset.source.train=64", "model=mlp", "model.hidden=[8]"),
    *("optim=sgd", "optim.lr=0.05", "trainer.batch_size=16", "trainer.epochs=2", "device=cpu"),
)


@pytest.fixture(scope="module", params=["digits", "fashion_mnist"])
def data(request):
    """A data set's name and its data."""
    if request.param == "fashion_mnist":
        root = os.environ.get("GLUONEXP_DATA")
        if not root or not Path(root, "fashion-mnist").is_dir():
            pytest.skip("GLUONEXP_DATA holds no fashion-mnist/")
    config = run.compose(f"dataset={request.param}", "dataset.val_fraction=0.1")
    return request.param, assembly.data(config, assembly.components(config).source)


def losses(name, data, *overrides, steps=20):
    """Train the small network for some steps; return the loss of each."""
    dataset, found = data
    config = run.compose(
        *(f"engine={name}", f"dataset={dataset}", "model=cnn", "device=cpu"),
        *("trainer.batch_size=64", "trainer.epochs=3", *overrides),
    )
    parts = assembly.components(config)
    spec = parts.source.spec()
    device = engines.device(config)
    networks.seed(0)
    prepared = networks.preprocessing(config.dataset, spec)
    net = networks.network(config, parts.model, spec, prepared)
    networks.initialize(config, net, spec, device)
    engine = engines.engine(config, parts, net, prepared, spec, device)
    # Ten steps are an epoch, so that the schedule moves.
    schedule = assembly.schedule(config, parts, 640)
    engine.seed(0, 0)
    chosen = islice(batches(found.train, 64, rng=seed_host(0, 0)), steps)
    return [
        engine.step(batch, schedule(step)).loss()
        for step, batch in enumerate(batch for batch in chosen)
    ]


@pytest.mark.parametrize("overrides", FOLLOWED.values(), ids=FOLLOWED)
def test_it_follows_mxnet_step_by_step(data, overrides):
    theirs = losses("mxnet", data, *overrides)
    ours = losses("torch", data, *overrides)
    assert len(theirs) == 20
    assert theirs[-1] < theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def trained(uri, tmp_path_factory):
    """Train as typed, in a folder of its own."""

    def made(*overrides):
        words = [f"tracking.uri={uri}", *overrides]
        return train(run.compose(*words), tmp_path_factory.mktemp("job"), words)

    return made


@pytest.fixture(scope="module")
def whole(trained):
    """A run that is exported and proved."""
    words = [*TINY, "model=cnn", "~model.hidden", "dataset.source.size=12", "engine=torch"]
    return trained(*(word for word in words if not word.startswith(("model.h", "~"))))


def _tags(uri, result):
    return tracking.open_store(uri).get_run(result.run_id).data.tags


def test_it_is_recorded_and_proved_in_every_runtime(uri, whole, tmp_path):
    found = tracking.open_store(uri).get_run(whole.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["engine.name"] == "torch"
    assert found.data.tags["gluonexp.device"] == "cpu"
    gate = found.data.tags["gluonexp.engine.gate.gradients"]
    assert re.fullmatch(r"\de-\d+ \(MXNet \de-\d+\)", gate)
    client = tracking.open_store(uri)
    proved = certificate.read(of_run(client, whole.run_id).fetch("export", tmp_path))
    assert all(each.holds for each in proved.agreements)
    assert {each.runtime for each in proved.agreements} == {
        *("module", "symbolblock", "onnx", "openvino", "torch"),
    }


def test_a_run_gives_the_same_again_and_bfloat16_its_own(trained):
    words = [*TINY, "export=none", "engine=torch"]
    first, second = trained(*words), trained(*words)
    low = trained(*words, "engine.precision=bfloat16")
    values = [
        load_file(result.folder / "checkpoints" / "last" / checkpoint.PARAMETERS)
        for result in (first, second, low)
    ]
    for name, value in values[0].items():
        np.testing.assert_array_equal(values[1][name], value)
        assert values[2][name].dtype == np.float32
    assert any(not np.array_equal(values[2][name], value) for name, value in values[0].items())
    assert low.metrics["train/loss"] == pytest.approx(first.metrics["train/loss"], rel=0.05)


def test_another_engine_goes_on_by_name_only(uri, trained, capsys):
    first = trained(*TINY, "export=none", "tracking.run_name=by torch", "engine=torch")
    last = first.folder / "checkpoints" / "last"
    resumed = f"trainer.resume={last}"
    message = "engine=torch in float32 has trained it; go on with engine=torch, or let another"
    with pytest.raises(GluonexpError, match=message):
        trained(*TINY, "export=none", "trainer.epochs=3", resumed)
    capsys.readouterr()
    going = trained(*TINY, "export=none", "trainer.epochs=3", resumed, "engine=mxnet")
    assert len(going.history) == 3
    sentence = "engine=torch in float32 has trained so far, engine=mxnet in float32 goes on"
    assert sentence in capsys.readouterr().out
    assert _tags(uri, going)["gluonexp.engine.switch"] == sentence
    # By the run's id its own engine goes on, unasked.
    again = trained(f"trainer.resume={first.run_id}", "trainer.epochs=3")
    assert "gluonexp.engine.switch" not in _tags(uri, again)
    assert again.history[:2] == first.history
    assert tracking.open_store(uri).get_run(again.run_id).data.params["engine.name"] == "torch"


def test_a_network_that_fits_its_images_perfectly_goes_on_by_another_engine(uri, trained):
    words = [*TINY, "export=none", "dataset.source.classes=2", "model.hidden=[]", "optim.lr=10"]
    first = trained(*words, "engine=mxnet")
    last = first.folder / "checkpoints" / "last"
    assert abs(first.history[-1]["train/loss"]) < 1e-5
    going = trained(*words, "trainer.epochs=3", f"trainer.resume={last}", "engine=torch")
    tags = _tags(uri, going)
    assert tags["gluonexp.engine.gate.layers"] == "each alone as in MXNet"
    assert re.fullmatch(r"\de[+-]\d+ \(MXNet \de-\d+\)", tags["gluonexp.engine.gate.loss"])


def test_features_and_a_learning_rate_search_go_by_it_too(trained):
    words = [
        *("dataset=synthetic", "dataset.source.size=8", "dataset.source.train=200"),
        *("model=zoo_ft", "model.backbone=resnet18_v1", "model.weights=none"),
        *("dataset.resize=32", "tracking=none", "export=none", "device=cpu", "engine=torch"),
        *("features.engine=mxnet", "optim=sgd", "optim.lr=0.05", "trainer.batch_size=32"),
        *("trainer.epochs=2", "dataset.source.test=20"),
    ]
    cached, live = trained(*words, "features.cache=on"), trained(*words, "features.cache=off")
    for one, other in zip(cached.history, live.history, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    found = trained(*TINY, "export=none", "engine=torch", "trainer=lr_find", "trainer.epochs=1")
    assert 1e-6 < found.metrics["lr_find/suggestion"] < 10


def test_without_torch_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "gluonexp.engines.torch.device", raising=False)
    config = run.compose("engine=torch")
    with pytest.raises(GluonexpError, match=r"pip install 'gluonexp\[torch\]', or engine=mxnet"):
        engines.device(config)


def test_its_settings_are_not_mxnets():
    for word in ("precision=bfloat16", "compile=true", "deterministic=true", "tf32=true"):
        with pytest.raises(GluonexpError, match=r"are of engine=torch"):
            run.compose(f"engine.{word}")


def test_its_threads_are_as_many_as_mxnets():
    from gluonexp.base.mx import threads

    library.load()
    import torch

    assert torch.get_num_threads() == threads()
