"""Fine-tuning as users run it: weights found, features frozen and proved so, runs gone on from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gluonexp import assembly, experiment, tracking
from gluonexp.assembly import engines, networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import softmax
from gluonexp.base.mx import mx
from gluonexp.inference.predict import Classifier
from gluonexp.run import compose as composed
from gluonexp.weights.find import BUNDLED

# 120 images of 64 pixels, of which the published split to test is small too.
FEW = [
    *("dataset=synthetic", "dataset.source.train=100", "dataset.source.test=20"),
    *("dataset.source.size=16", "dataset.resize=64"),
]

# AlexNet on them: everything of the real thing but its size.
SMALL = [
    "model=alexnet_ft",
    "model.head=[16]",
    *FEW,
    "optim=sgd",
    "trainer.epochs=2",
    "export=none",
]

# BatchNorm, whose statistics move.
NORMALIZED = [
    "model=zoo_ft",
    "model.backbone=mobilenet0.25",
    "model.weights=none",
    "freeze=none",
    *FEW,
    "trainer.epochs=2",
]


@pytest.fixture(scope="module", autouse=True)
def _machine(tmp_path_factory):
    """A machine of its own, without a network."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLUONEXP_OFFLINE", "1")
        patch.setenv("MXNET_HOME", str(home / "mxnet"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield


@pytest.fixture
def store(tmp_path):
    return f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="module")
def one_epoch(_machine, tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("one")
    experiment.run(composed(*SMALL, "tracking=none", "trainer.epochs=1"), folder)
    return folder


@pytest.fixture
def train(compose, store, tmp_path):
    """Run what the overrides say; return the result and the MLflow run."""

    def run(*overrides, name="job"):
        result = experiment.run(compose(store, *overrides), tmp_path / name, list(overrides))
        client = tracking.open_store(store.partition("=")[2])
        return result, client.get_run(result.run_id)

    return run


def artifact(run, name):
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_the_headline_command_uses_the_bundled_weights_offline_and_says_so(train, capsys):
    _, run = train(*SMALL)
    out = capsys.readouterr().out
    assert run.info.status == "FINISHED"
    assert "warning: no ImageNet weights of alexnet are cached" in out
    assert "weights: AlexNet's convolutions, trained by gluonexp on CIFAR-10 (JPEG)" in out
    parameters = run.data.params
    assert parameters["weights.choice"] == parameters["model.weights"] == "bundled"
    assert parameters["weights.taken"] == "backbone"
    assert len(parameters["weights.sha256"]) == 64
    assert parameters["weights.sha256"] == parameters["model.sha256"]
    sentence = "clean: 10 frozen parameters and statistics are unchanged"
    assert f"freeze audit {sentence}" in out
    assert run.data.tags["gluonexp.freeze.audit"] == sentence

    plan = pd.read_csv(artifact(run, "plan/layers.csv"))
    states = dict(zip(plan["parameter"], plan["state"], strict=True))
    assert {state for name, state in states.items() if name.startswith("backbone.")} == {"frozen"}
    assert {state for name, state in states.items() if name.startswith("head.")} == {"trained"}
    assert plan["flops_share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("settings", [SMALL, NORMALIZED], ids=["alexnet", "mobilenet"])
def test_a_run_goes_on_from_an_earlier_one_with_the_same_logits(settings, train, compose, store):
    _, earlier = train(*settings, "export=default")
    run_id = earlier.info.run_id
    config = compose(store, *settings, f"model.weights=runs:/{run_id[:8]}", "seed=7")
    plan = assembly.components(config)
    spec = plan.source.spec()
    steps = networks.preprocessing(config.dataset, spec)
    net = networks.network(config, plan.model, spec, steps)
    pretrained = networks.initialize(config, net, spec, mx.cpu())
    assert pretrained.choice == f"runs:/{run_id}/checkpoint/model.params"
    assert pretrained.taken == "backbone and head"

    data = assembly.data(config, plan.source)
    split = data.test
    logits = engines.engine(config, plan, net, steps, spec, mx.cpu()).logits(split, 32)
    ended = pd.read_csv(artifact(earlier, "predictions/test.csv"))
    assert (ended["predicted"] == logits.argmax(axis=1)).all()
    np.testing.assert_allclose(softmax(logits).max(axis=1), ended["probability"], atol=1e-6)
    exported = Classifier(artifact(earlier, "export")).probabilities(split.images[:32])
    np.testing.assert_allclose(softmax(logits[:32]), exported, atol=1e-6)


def test_going_on_takes_what_auto_came_to_before(compose, tmp_path):
    before = compose(*SMALL, "model.weights=none", "trainer.epochs=1", "tracking=none")
    experiment.run(before, tmp_path / "one")
    folder = tmp_path / "one" / "checkpoints" / "last"
    # Here and now, auto alone would come to the bundled weights.
    after = compose(*SMALL, "tracking=none", f"trainer.resume={folder}")
    assert after.model["weights"] == "auto"
    experiment.run(after, tmp_path / "two")
    meta = json.loads((tmp_path / "two" / "checkpoints" / "last" / "meta.json").read_text())
    assert meta["epoch"] == 1
    assert meta["identity"]["pretrained"]["choice"] == "none"
    # Asked for by name, other weights than then are refused.
    other = compose(*SMALL, "tracking=none", f"trainer.resume={folder}", "model.weights=bundled")
    with pytest.raises(GluonexpError, match=r"model\.weights was none there and is bundled now"):
        experiment.run(other, tmp_path / "three")


def test_going_on_does_not_warn_of_what_is_behind_it(compose, one_epoch, tmp_path, capsys):
    resume = f"trainer.resume={one_epoch}/checkpoints/last"
    experiment.run(compose(*SMALL, "tracking=none", resume), tmp_path)
    out = capsys.readouterr().out
    assert "warning" not in out
    assert "weights: AlexNet's convolutions" in out


def test_going_on_needs_no_weights_but_the_checkpoint(compose, tmp_path):
    source = tmp_path / "conv.safetensors"
    shutil.copyfile(BUNDLED["alexnet"], source)
    given = [*SMALL, f"model.weights={source}", "tracking=none"]
    whole = experiment.run(compose(*given), tmp_path / "whole").metrics
    experiment.run(compose(*given, "trainer.epochs=1"), tmp_path / "one")
    source.unlink()
    folder = tmp_path / "one" / "checkpoints" / "last"
    parted = experiment.run(compose(*given, f"trainer.resume={folder}"), tmp_path / "two").metrics
    measured = [key for key in whole if not key.startswith("time/")]
    assert {key: parted[key] for key in measured} == {key: whole[key] for key in measured}


@pytest.mark.parametrize(
    "other",
    ["optim.weight_decay=0.1", "scheduler=cosine", "dataset.mean=[0.5]", "freeze=last_block"],
)
def test_going_on_with_other_settings_is_refused_before_anything_is_removed(
    other, compose, one_epoch, tmp_path
):
    used = shutil.copytree(one_epoch, tmp_path / "one")
    resume = f"trainer.resume={used}/checkpoints/last"
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(GluonexpError, match=r"trainer\.resume=.* was .* there and is .* now"):
        experiment.run(compose(*SMALL, "tracking=none", resume, other), used)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_what_moves_although_it_is_frozen_fails_the_run(train, tmp_path, monkeypatch, store):
    (tmp_path / "vandal.py").write_text(
        "from gluonexp.training.loop import Callback\n"
        "class Vandal(Callback):\n"
        "    def epoch_end(self, fit):\n"
        "        weight = fit.engine.net.backbone[6].bias\n"
        "        weight.set_data(weight.data() + 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(GluonexpError, match=r"frozen, but changed .*: backbone\.6\.bias;"):
        train(*SMALL, "build.allow=[vandal]", "+callbacks.vandal._target_=vandal.Vandal")
    client = tracking.open_store(store.partition("=")[2])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FAILED"]
    # Gone on from, it is still measured by its start.
    folder = tmp_path / "job" / "checkpoints" / "last"
    with pytest.raises(GluonexpError, match=r"frozen, but changed .*: backbone\.6\.bias;"):
        train(*SMALL, f"trainer.resume={folder}", name="again")


def test_gradual_unfreezing_trains_each_block_from_its_epoch_on(train):
    _, run = train(*SMALL, "freeze=gradual", "trainer.epochs=3")
    assert run.info.status == "FINISHED"
    plan = pd.read_csv(artifact(run, "plan/layers.csv")).set_index("parameter")
    due = plan["unfreeze_epoch"]
    assert due[["backbone.6.weight", "backbone.5.weight", "backbone.0.bias"]].tolist() == [1, 2, 4]
    # Of five blocks, the topmost two are released in three epochs; three are still audited.
    assert run.data.tags["gluonexp.freeze.audit"].startswith("clean: 6 frozen parameters")


def test_a_learning_rate_is_searched_instead_of_trained(train, capsys):
    result, run = train(*SMALL, "trainer=lr_find", "trainer.lr_find.steps=50")
    assert run.info.status == "FINISHED"
    lr = result.metrics["lr_find/suggestion"]
    assert run.data.metrics["lr_find/suggestion"] == lr
    assert run.data.metrics["time/startup_s"] > 0
    assert f"optim.lr={lr:.3g}" in capsys.readouterr().out
    curve = pd.read_csv(artifact(run, "lr_find/curve.csv"))
    assert curve["lr"].is_monotonic_increasing
    assert artifact(run, "plots/lr_find.png").stat().st_size > 10_000
    assert not artifact(run, "export").exists()
    assert not artifact(run, "checkpoint").exists()
    assert "test/acc" not in run.data.metrics


def test_other_weights_than_asked_for_end_before_there_is_a_run(train, store):
    with pytest.raises(GluonexpError, match=r"model\.sha256"):
        train(*SMALL, "model.weights=bundled", f"model.sha256={'0' * 64}")
    client = tracking.open_store(store.partition("=")[2])
    assert [e for e in client.search_experiments() if e.name == "gluonexp"] == []
