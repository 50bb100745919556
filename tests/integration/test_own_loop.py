"""A training loop of one's own, recorded by `gx.track` as a run of ours."""

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import gluonexp.api as gx
from gluonexp import experiment, tracking
from gluonexp.base.errors import GluonexpError, Stopped
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.cli import main
from gluonexp.data.digits import Digits
from gluonexp.experiment import own_data
from gluonexp.run import compose
from gluonexp.tracking import lease, recovery
from gluonexp.tracking.log import NAME, records
from gluonexp.tracking.read.runs import reader
from gluonexp.verification import card

SAMPLES = Digits().load()
TRAIN, TEST = SAMPLES.train.select(np.arange(400)), SAMPLES.test.select(np.arange(60))
CLASSES = Digits().spec().classes
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Record in a store of each test's own; nothing global may stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = [signal.getsignal(signum) for signum in ENDING]
    yield
    assert [signal.getsignal(signum) for signum in ENDING] == before
    assert mlflow.active_run() is None


@pytest.fixture(scope="module")
def net():
    """Return a network of images that was called once."""
    made = nn.HybridSequential()
    made.add(nn.Conv2D(4, 3, activation="relu"), nn.Flatten(), nn.Dense(10))
    made.initialize(mx.init.Xavier())
    made(nd.zeros((1, 1, 28, 28)))
    return made


def gluonexp(*words, code=0):
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def stored(ref="last"):
    """Return the run that the store of this folder has."""
    store = reader(None)
    if ref != "last":
        return store.fetch([ref])[0]
    return store.newest(1, offline=True)[0]


def artifacts(run):
    return Path("mlruns/artifacts") / run.experiment / run.run_id / "artifacts"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def logged():
    (log,) = Path("mlruns/hydra").glob(f"*/{NAME}")
    return list(records(log))


def test_a_loop_becomes_a_run_like_ours(net, capsys):
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01})
    labelled = gluon.data.ArrayDataset(nd.array(TRAIN.images[:], dtype="uint8"), TRAIN.labels)
    to_tensor = gluon.data.vision.transforms.ToTensor()
    loader = gluon.data.DataLoader(labelled.transform_first(to_tensor), 100, shuffle=True)
    args = argparse.Namespace(lr=0.01, net={"width": 4, "hf_token": "abc"}, where=Path("x"))
    data = {"train": labelled, "test": (TEST.images[:], TEST.labels)}
    goal = {"objective": "train/loss", "mode": "min"}
    with gx.track("mine", args, data, experiment="own", **goal) as run:
        for epoch in range(2):
            total = 0
            for images, labels in loader:
                with autograd.record():
                    loss = loss_function(net(images), labels)
                loss.backward()
                trainer.step(len(images))
                total = total + loss.mean()
            rate = np.float32(0.5)
            run.log({"train/loss": total / len(loader), "optim/lr": rate}, step=epoch)
            run.checkpoint(net)
        run.log({"test/acc": 0.5})
        run.image("digits/first", TRAIN.images[0])
        run.image("digits/second.png", nd.array(TRAIN.images[1]).transpose((2, 0, 1)) / 255)
        run.export(net, (TEST.images[:], TEST.labels), CLASSES, register="digits")
        run_id = run.id
    said = capsys.readouterr().out
    assert f"run {run_id} FINISHED" in said and f"gluonexp predict {run_id[:8]}" in said
    assert "equal the trained network on the 60 inputs" in said
    assert "version 1 of digits" in said and "champion" in said

    found = stored()
    assert (found.run_id, found.name, found.experiment) == (run_id, "mine", "own")
    assert found.status == "FINISHED"
    expected = {"lr": "0.01", "net.width": "4", "net.hf_token": "***", "where": "x"}
    expected |= {"data.title": "mine", "data.train_images": "400", "data.test_images": "60"}
    expected |= {"objective.metric": "train/loss", "objective.mode": "min"}
    assert expected.items() <= found.params.items()
    assert found.metrics.keys() == {"train/loss", "optim/lr", "test/acc"}
    assert found.tags["gluonexp.git_commit"] and "gluonexp.code" in found.tags
    assert files(artifacts(found)) >= {
        *("config/environment.json", "config/params.json", "data/samples.png"),
        *("checkpoint/model.params", "checkpoint/meta.json", "metrics/history.csv"),
        *("plots/curves.png", "plots/digits/first.png", "plots/digits/second.png"),
        *("export/model-symbol.json", "export/model-0000.params", "export/signature.json"),
        *("export/certificate.json", "export/samples.safetensors"),
    }
    kept = (artifacts(found) / "export/README.md").read_text()
    data, came = kept.split("## Data\n")[1].split("## Origin\n")
    assert "title: mine" in data and "train: 400 images" in data and "test: 60 images" in data
    assert found.params["data.digest"] in data
    assert run_id in came and found.tags["gluonexp.git_commit"] in came and "```sh" in came
    version = tracking.open_store(None).get_model_version("digits", "1")
    assert version.description == card.description(kept)
    history = pd.read_csv(artifacts(found) / "metrics/history.csv")
    assert list(history["step"]) == [0, 1, 2]
    assert history["train/loss"].count() == 2 and history["test/acc"][2] == 0.5
    meta = json.loads((artifacts(found) / "checkpoint/meta.json").read_text())
    assert meta["step"] == 1 and meta["metrics"]["optim/lr"] == 0.5
    known = json.loads((artifacts(found) / "config/environment.json").read_text())
    assert known["command"] and "sources" in known and "hf_token" not in known["command"]
    (inputs,) = [each for each in logged() if each["kind"] == "dataset"][:1]
    assert (inputs["name"], inputs["context"]) == ("mine/train", "training")
    assert inputs["digest"] == found.params["data.digest"]
    assert not Path(found.workdir, "artifacts").exists()  # the store has them

    # The commands for runs of ours.
    assert run_id[:8] in gluonexp("runs") and "train/loss" in gluonexp("runs")
    assert "60/60" in gluonexp("verify", "last")
    picture = next((artifacts(found) / "data/examples/3").glob("*.png"))
    assert "3/" in gluonexp("predict", run_id, picture)
    assert "accuracy" in gluonexp("evaluate", "models:/digits@champion", "dataset=digits")
    assert "only its script can train again" in gluonexp("replay", "last", code=1)
    gluonexp("download", "last", "checkpoint", "--to", "there")
    again = nn.HybridSequential()
    again.add(nn.Conv2D(4, 3, activation="relu"), nn.Flatten(), nn.Dense(10))
    again.load_parameters("there/checkpoint/model.params")
    inputs = nd.array(TEST.images[:4]).transpose((0, 3, 1, 2)) / 255
    np.testing.assert_array_equal(again(inputs).asnumpy(), net(inputs).asnumpy())


def test_a_loop_that_fails_keeps_what_it_measured(net):
    with pytest.raises(ZeroDivisionError), gx.track("bad") as run:
        run.log({"loss": 1.5})
        run.log({"loss": 0.5})
        run.log({"loss": 1 / 0})
    found = stored()
    assert (
        found.status == "FAILED" and found.tags["error"] == "ZeroDivisionError: division by zero"
    )
    assert "1 / 0" in (artifacts(found) / "error/traceback.txt").read_text()
    history = pd.read_csv(artifacts(found) / "metrics/history.csv")
    assert history.to_dict("list") == {"step": [0, 1], "loss": [1.5, 0.5]}


@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_a_loop_killed(signum, raised):
    with pytest.raises(raised), gx.track("cut") as run:
        run.log({"loss": 1.5})
        for name in "ab":  # the second waits to be recorded with others
            run.image(name, np.zeros((2, 2), np.uint8))
        os.kill(os.getpid(), signum)
        run.log({"loss": 0.5})
    found = stored()
    assert found.status == "KILLED" and found.metrics == {"loss": 1.5}
    assert files(artifacts(found)) >= {"plots/a.png", "plots/b.png"}
    with gx.track("next") as run:  # nothing is left that would hinder another
        run.log({"loss": 0.25})
    assert stored().status == "FINISHED"


LOST = """
import os, signal
import gluonexp.api as gx
with gx.track("lost") as run:
    run.log({"loss": 1.5})
    run.image("seen", [[0, 255]])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_loop_whose_process_is_killed_is_lost_and_recovered():
    script = Path("script.py")
    script.write_text(LOST)
    home = str(Path(experiment.__file__).parents[2])
    done = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": home})
    assert done.returncode == -signal.SIGKILL
    assert "lost" in gluonexp("runs")
    assert "KILLED" in gluonexp("recover")
    found = stored()
    assert found.status == "KILLED" and found.metrics == {"loss": 1.5}
    assert "plots/seen.png" in files(artifacts(found))
    known = json.loads((artifacts(found) / "config/environment.json").read_text())
    assert known["command"].endswith("script.py")


@pytest.mark.parametrize("asks", [False, True])
def test_gluonexp_stop_ends_a_loop_in_order(asks, net, monkeypatch, capsys):
    monkeypatch.setattr(lease, "_GLANCE_S", 0.0)
    steps = 0
    with gx.track("long") as run:
        run.log({"loss": 1.0})
        recovery.stop(None, run.id)
        while steps < 1000 and not (asks and run.stopping):
            steps += 1
            run.log({"loss": 1.0})
        if asks:
            run.export(net, TEST.images[:8], CLASSES)
    assert 0 < steps < 1000 or asks
    found = stored()
    assert found.status == "FINISHED" and not found.lost
    assert ("export/certificate.json" in files(artifacts(found))) == asks
    assert ("stopped early" in capsys.readouterr().out) == (not asks)


def test_a_stop_of_one_run_does_not_end_another_around_it():
    with pytest.raises(Stopped), gx.track("outer"), gx.track("inner"):
        raise Stopped("0" * 32, "somebody")
    assert {run.status for run in reader(None).newest()} == {"FAILED"}


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (0, "FINISHED", None),
        (None, "FINISHED", None),
        ("no data left", "FAILED", "no data left"),
        (3, "FAILED", "sys.exit(3)"),
    ],
)
def test_a_script_that_exits_within_the_block_ends_the_run_accordingly(code, status, error):
    with pytest.raises(SystemExit) as left, gx.track("leaves", offline=True) as run:
        run.log({"loss": 1.5})
        sys.exit(code)
    assert left.value.code == code
    said = [each["values"].get("error") for each in logged() if each["kind"] == "tags"]
    assert logged()[-1]["status"] == status and said == ([error] if error else [])


def test_a_generator_that_is_closed_within_the_block_says_so():
    def losses():
        with gx.track("steps", offline=True) as run:
            for step in range(9):
                yield run.log({"loss": 1.0}, step)

    for _ in (steps := losses()):
        break
    steps.close()
    assert logged()[-1]["status"] == "KILLED"
    (said,) = [each["values"]["error"] for each in logged() if each["kind"] == "tags"]
    assert "generator" in said


def test_blocks_that_overlap_leave_nothing_behind():
    before = dict(os.environ)
    first, second = (gx.track(name, offline=True) for name in ("first", "second"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" in os.environ
    second.__exit__(None, None, None)
    assert dict(os.environ) == before  # and the handlers, see `_elsewhere`


FORKS = """
import os, sys
import gluonexp.api as gx
with gx.track("forks", offline=True, notify=["tee", "-a", "told"]) as run:
    run.log({"loss": 1.5})
    for way in range(3):
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        try:
            run.log({"loss": 0.5})
        except gx.GluonexpError as error:
            print(error, file=sys.stderr)
        if way:
            sys.exit(way - 1)
        raise ValueError("the child's")
"""


def test_a_fork_records_nothing_and_ends_nothing():
    home = str(Path(experiment.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": home, "GLUONEXP_DEBUG": "0"}
    words = [sys.executable, "-c", FORKS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("was forked from the run's") == 3
    assert done.stdout.count("FINISHED") == done.stderr.count("gluonexp push") == 1
    kinds = [each["kind"] for each in logged()]
    assert kinds.count("metrics") == kinds.count("status") == 1
    assert json.loads(Path("told").read_text())["status"] == "FINISHED"


def test_what_was_recorded_offline_is_pushed():
    with gx.track("away", {"lr": 0.1}, offline=True) as run:
        run.log({"loss": 0.5})
        run_id = run.id
        assert run.url is None
    assert not Path("mlruns/mlflow.db").exists()
    gluonexp("push", run_id)
    found = stored()
    assert (found.name, found.status, found.params["lr"]) == ("away", "FINISHED", "0.1")
    assert found.metrics == {"loss": 0.5} and "metrics/history.csv" in files(artifacts(found))


def test_a_store_that_is_down_costs_a_sentence(capsys, caplog):
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with gx.track("down", uri=uri) as run:
            run.log({"loss": 0.5})
    assert "gluonexp push" in capsys.readouterr().err
    assert logged()[-1]["status"] == "FINISHED"


def test_runs_within_and_after_each_other(net, tmp_path):
    words = ("model=mlp", "trainer.epochs=1", "export=none", "dataset.train_fraction=0.2")
    experiment.run(compose(*words), tmp_path / "job")
    with gx.track("outer") as outer:
        with gx.track("inner") as inner:
            inner.log({"loss": 1})
        outer.log({"loss": 2})
        experiment.run(compose(*words), tmp_path / "another")
        outer.log({"loss": 3})
    found = {run.name: run for run in reader(None).newest()}
    assert found["outer"].metrics == {"loss": 3} and found["inner"].metrics == {"loss": 1}
    assert {run.status for run in found.values()} == {"FINISHED"} and len(found) == 4


def test_what_is_not_finite_is_recorded_and_told_once(capsys):
    with gx.track("diverges") as run:
        run.log({"loss": nd.array([math.nan])}, step=4)
        run.log({"loss": math.inf}, step=5)
    assert capsys.readouterr().out.count("loss is nan at step 4") == 1
    found = stored()
    assert found.tags["diverged.first"] == "loss at step 4"
    assert math.isnan(found.metrics["loss"])
    assert (artifacts(found) / "plots/curves.png").exists()


def test_a_network_of_vectors_is_kept_and_an_export_replaced(net):
    vectors = nn.HybridSequential()
    vectors.add(nn.Dense(3))
    vectors.initialize()
    with gx.track("both") as run:
        run.export(net, TEST.images[:8])
        run.export(vectors, nd.ones((4, 5)), ["a", "b", "c"])
    kept = artifacts(stored()) / "export"
    assert json.loads((kept / "signature.json").read_text())["classes"] == ["a", "b", "c"]
    assert "4/4" in gluonexp("verify", "last")


def test_an_export_that_fails_leaves_nothing_of_it(net):
    with pytest.raises(GluonexpError, match="9 classes are named"), gx.track("worse") as run:
        run.log({"loss": 1.0})
        run.export(net, TEST.images[:8], CLASSES[:9])
    found = stored()
    assert found.status == "FAILED"
    assert not any(name.startswith("export") for name in files(artifacts(found)))


def deferred(dtype="float32"):
    """Return a layer that was not called yet."""
    layer = nn.Dense(3, dtype=dtype)
    layer.initialize()
    return layer


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.log({"loss": "0.3"}), "metric loss is a str '0.3'"),
        (lambda run: run.log({"loss": nd.ones(3)}), r"metric loss is a NDArray \(3,\)"),
        (lambda run: run.log({"loss": None}), "metric loss is a NoneType"),
        (lambda run: run.log({"loss": {"train": 1.0}}), "metric loss is a dict"),
        (lambda run: run.log(0.3), "takes a mapping of names to numbers, not a float"),
        (lambda run: run.log({"loss": 1.0}, step=0.5), r"step=0\.5"),
        (lambda run: run.log({"loss": 1.0}, step=-1), "step=-1"),
        (lambda run: run.log({"loss": 1.0}, step=True), "step=True"),
        (lambda run: run.log({"loss": 1.0}, step=2**63), r"to 2\*\*63 - 1"),
        (lambda run: run.log({"loss": 10**400}), "metric loss is larger than"),
        (lambda run: run.log({"/a": 1, "a/": 2}), "'/a' and 'a/' would both be recorded as 'a'"),
        (lambda run: [run.log({name: 1}) for name in ("a*", "a?")], r"'a\*' and 'a\?' would"),
        (lambda run: run.image(3, np.zeros((2, 2))), "3 is no name for a picture"),
        (lambda run: run.image("x" * 300, np.zeros((2, 2))), "too long a name"),
        (
            lambda run: [run.image(name, np.zeros((2, 2))) for name in ("a", "a.png/b")],
            "cannot be the folder",
        ),
        (lambda run: run.image("a", np.zeros((2, 2, 7))), r"\(2, 2, 7\) is no picture"),
        (lambda run: run.image("a", np.full((2, 2), 3.0)), "values from 0 to 1, this one from 3"),
        (lambda run: run.image("..", np.zeros((2, 2))), "is no name for a picture"),
        (lambda run: run.checkpoint("net"), "a str cannot be saved"),
        (lambda run: run.checkpoint(nn.Dense(3, in_units=2)), "a Dense cannot be saved"),
        (lambda run: run.export(nn.Sequential(), TEST.images[:2]), "must be a HybridBlock"),
        (lambda run: run.checkpoint(deferred()), r"once it has been called, net\(batch\)"),
        (lambda run: run.export(nn.Dense(3), {"a": 1}), "samples is a dict"),
        (lambda run: run.export(nn.Dense(3), "x.png"), "some inputs of the network"),
        (lambda run: run.export(nn.Dense(3), TEST.images[:0]), r"the shape \(0, 28, 28, 1\)"),
        (lambda run: run.export(nn.Dense(3), (nd.ones((2, 3)),) * 2), "of one input only"),
        (lambda run: run.export(deferred("float64"), nd.ones((2, 3))), "computes in float64"),
        (lambda run: run.export(deferred(), nd.ones((2, 3)), "abc"), "give a list"),
        (lambda run: run.export(deferred(), nd.ones((2, 3)), list("aab")), "of several outputs"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(call, said):
    with gx.track("wrong", offline=True) as run:
        with pytest.raises(GluonexpError, match=said):
            call(run)
        run.log({"loss": 1.0})  # it can go on
    assert logged()[-1]["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"params": [1]}, "params is a list"),
        ({"params": {"a.b": 1, "a": {"b": 2}}}, r"params: two values .* as 'a\.b'"),
        ({"params": {1: 2, "1": 3}}, "params: 1 and '1'"),
        ({"params": {"loss*": 1, "loss?": 3}}, r"'loss\*' and 'loss\?'"),
        *(({"name": name}, "name=") for name in (None, 3, "", "\0", "a\nb")),
        *(({key: 3}, f"{key}=3") for key in ("uri", "experiment")),
        ({"data": TRAIN.images[:]}, r"data\['train'\] is a ndarray"),
        ({"data": {}}, "data is empty"),
        ({"data": {"val": (TRAIN.images[:3], TRAIN.labels[:2])}}, r"data\['val'\]: inputs are"),
        ({"data": (np.array(["a"]), np.array([1]))}, "of <U1"),
        ({"data": gluon.data.SimpleDataset([1, 2])}, "not all pairs"),
    ],
)
def test_what_a_run_is_given_is_checked_before_there_is_one(given, said):
    with pytest.raises(GluonexpError, match=said), gx.track(**{"name": "never", **given}):
        raise AssertionError
    assert not Path("mlruns").exists()


def test_parameters_that_are_not_utf8_are_escaped():
    with gx.track("named \ud800", {"c": "\ud800"}, offline=True) as run:
        run.log({"loss": 1.0})
    (params,) = [each["values"] for each in logged() if each["kind"] == "params"]
    assert params == {"c": "\\ud800"}
    (kept,) = Path("mlruns/hydra").glob("*/artifacts/config/params.json")
    assert json.loads(kept.read_text())["c"] == "\ud800"


def test_a_run_is_open_in_its_block_only():
    run = gx.track("once", offline=True)
    with pytest.raises(GluonexpError, match=r"has not begun; .* `with gx\.track\('once'\)"):
        run.log({"loss": 1.0})
    with pytest.raises(GluonexpError, match="has not begun"):
        _ = run.id
    with run:
        began = run.id
    assert (run.id, run.url) == (began, None)  # what it is called, it stays
    for call in (
        *(lambda: run.log({"loss": 1.0}), lambda: run.image("a", np.zeros((2, 2)))),
        *(lambda: run.checkpoint(None), lambda: run.export(None, None), lambda: run.stopping),
    ):
        with pytest.raises(GluonexpError, match="the run has ended"):
            call()
    with pytest.raises(GluonexpError, match="has been used"), run:
        raise AssertionError
    with pytest.raises(GluonexpError, match="whether 'min' or 'max'"):
        gx.track("x", objective="val/acc")


def test_a_notebook_shows_the_run_of_a_loop():
    loop = gx.track("shown <1>")
    assert "not begun" in repr(loop) and "&lt;1&gt;" in loop._repr_html_()
    with loop as run:
        run.log({"loss": 0.5})
        assert "open" in repr(run) and "RUNNING" in run._repr_html_()
    assert loop._repr_html_() == gx.Run(loop.id)._repr_html_() and "0.5000" in loop._repr_html_()
    assert "metrics by step, steps: 1" in loop._repr_html_()  # the panels are its own metrics
    assert repr(loop) == f"<TrackedLoop 'shown <1>': {loop.id[:8]}, ended>"
    with gx.track("away", offline=True) as run:
        pass
    assert "away" in run._repr_html_()


def test_a_digest_is_of_the_samples_however_they_are_given():
    images, labels = TRAIN.images[:20], TRAIN.labels[:20]
    arrays = gluon.data.ArrayDataset(nd.array(images, dtype="uint8"), labels.astype("float32"))
    flip = arrays.transform_first(lambda image: image[::-1])
    looped = gluon.data.SimpleDataset(list(zip(images, labels, strict=True)))
    same = [(images, labels), arrays, flip, arrays.take(None), looped, {"train": arrays}]
    digests = {own_data.read(given, "x").digest for given in same}
    assert len(digests) == 1
    others = [
        *(arrays.take(19), {"test": arrays}, (images[::-1], labels)),
        *((images, labels + 0.5), (images, labels + 0.25), (images, np.roll(labels, 1))),
    ]
    assert len({own_data.read(given, "x").digest for given in others} | digests) == 7
    assert own_data.read("photos", "x") == own_data.OwnData("photos")
    assert own_data.read(None, "x") is None


def test_samples_are_spread_over_the_classes_where_they_are_known():
    ordered = np.argsort(TRAIN.labels, kind="stable")
    images, labels = TRAIN.images[ordered], TRAIN.labels[ordered]
    chosen = own_data.inputs((images, labels), most=10)
    expected = [images[np.flatnonzero(labels == label)[0]] for label in range(10)]
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(own_data.inputs(images, most=3), images[:3])


def test_pictures_of_all_kinds_are_kept():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([1, 2])
    gray = np.linspace(0, 1, 12).reshape(3, 4)
    with gx.track("pictures") as run:
        run.image("figure", figure)
        run.image("pil", Image.new("RGB", (4, 3)))
        for name, image in (("a", gray), ("b", gray[..., None]), ("c", np.stack([gray] * 3))):
            run.image(name, image)
    folder = artifacts(stored()) / "plots"
    assert files(folder) == {f"{name}.png" for name in ("figure", "pil", "a", "b", "c")}
    for name, mode in (("a", "L"), ("b", "L"), ("c", "RGB")):
        with Image.open(folder / f"{name}.png") as kept:
            assert (kept.size, kept.mode) == ((4, 3), mode)
            assert np.asarray(kept).max() == 255
    assert tracking.OWN_LOOP in stored().tags
