"""The main job as users start it: a process, a real store, real digits, what is in it after."""

import csv
import http.server
import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gluonexp import assembly, experiment
from gluonexp import run as app
from gluonexp.assembly import networks
from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import log, open_store, store

SMALL = [
    *("model=mlp", "model.hidden=[32]", "export=none"),
    *("trainer.epochs=3", "trainer.batch_size=64"),
]


SECRET = "5f4dcc3b5aa765d6"
# What a notebook hands down to what it starts; its backend is not installed here.
OF_NOTEBOOKS = "module://matplotlib_inline.backend_inline"


def _start(folder, *arguments, module="gluonexp.run", **more):
    not_users = ("MLFLOW_TRACKING_URI", "MATPLOTLIBRC")  # pictures have their full size
    environment = {k: v for k, v in os.environ.items() if k not in not_users}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment | {"COLUMNS": "120", "MPLBACKEND": OF_NOTEBOOKS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def _finished(folder, *arguments, **more):
    process = _start(folder, *arguments, **more)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def _store(folder):
    return open_store(f"sqlite:///{folder}/mlruns/mlflow.db")


def _runs(folder):
    client = _store(folder)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client, client.search_runs(experiments)


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """Give a command line to this process, in a new folder: its exit code and what it says."""

    def told(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        code = 0
        try:
            app.start()
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().err

    before = logging.getLogger().handlers[:]
    yield told
    logging.getLogger().handlers[:] = before  # Hydra's own write into this test's output


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """One finished run of the default model on digits; (folder, its output, client, run)."""
    folder = tmp_path_factory.mktemp("project")
    arguments = ["trainer.epochs=4", "trainer.batch_size=64", "tracking.run_name=first"]
    arguments += [f"+hydra.job.env_set.SERVICE_TOKEN={SECRET}"]
    code, out, err = _finished(folder, *arguments, "trainer.log_every=10")
    assert code == 0, err
    client, runs = _runs(folder)
    assert len(runs) == 1
    return folder, out, client, runs[0]


def _artifact(tracked, name):
    run = tracked[3]
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_it_ends_finished_and_says_so(tracked):
    _, out, _, run = tracked
    assert run.info.status == "FINISHED"
    assert f"run {run.info.run_id} FINISHED" in out
    epochs = re.findall(
        r"^Epoch (\d)\. Loss: 0?\d\.\d{3}, Train acc 0\.\d{3}, Val acc 0\.\d{3}$", out, re.M
    )
    assert epochs == ["0", "1", "2", "3"]


def test_nothing_but_mlruns_is_left_in_the_working_directory(tracked):
    folder = tracked[0]
    assert [path.name for path in folder.iterdir()] == ["mlruns"]
    jobs = list((folder / "mlruns" / "hydra").iterdir())
    assert len(jobs) == 1
    left = [".hydra", "checkpoints", "run.jsonl", "run.log", "run.sent"]
    assert sorted(path.name for path in jobs[0].iterdir()) == left


def test_no_secret_is_written(tracked):
    folder = tracked[0]
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    (saved,) = folder.glob("mlruns/hydra/*/.hydra/hydra.yaml")
    assert "SERVICE_TOKEN: '***'" in saved.read_text()


def test_metrics_are_those_of_the_epochs(tracked):
    _, _, client, run = tracked
    with _artifact(tracked, "metrics/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for key in ("train/loss", "train/acc", "val/loss", "val/acc", "optim/lr", "time/epoch_s"):
        history = client.get_metric_history(run.info.run_id, key)
        assert [point.step for point in history] == [0, 1, 2, 3]
        assert [point.value for point in history] == [float(row[key]) for row in rows]
    assert len(client.get_metric_history(run.info.run_id, "test/acc")) == 1
    assert len(client.get_metric_history(run.info.run_id, "batch/loss")) == 4 * 21 // 10
    assert run.data.metrics["test/acc"] > 0.8
    (startup,) = client.get_metric_history(run.info.run_id, "time/startup_s")
    assert startup.step == 0
    assert f"first batch after {startup.value:.1f} s" in tracked[1]


def test_predictions_are_in_order_and_are_the_reported_accuracy(tracked, compose):
    from gluonexp.data.digits import Digits

    run = tracked[3]
    with _artifact(tracked, "predictions/test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("index", "label", "predicted", "probability", "label_name", "predicted_name")
    ]
    test = Digits().load().test
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(run.data.metrics["test/acc"])


def test_parameters_tags_and_data_say_what_was_run(tracked, compose):
    run = tracked[3]
    params, tags = run.data.params, run.data.tags
    assert params["trainer.epochs"] == "4"
    assert params["optim.name"] == "adam"
    assert params["dataset.source._target_"] == "gluonexp.data.digits.Digits"
    config = compose()
    data = assembly.data(config, assembly.components(config).source)
    assert params["data.digest"] == data.digest
    for name, split in data.splits().items():
        assert params[f"data.{name}_images"] == str(len(split))
    assert tags["mlflow.runName"] == "first"
    assert "trainer.epochs=4" in tags["gluonexp.overrides"]
    assert tags["gluonexp.device"] == "cpu(0)"
    assert int(tags["gluonexp.pid"]) > 0
    contexts = {item.tags[0].value: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert set(contexts) == {"training", "validation", "testing"}
    assert set(contexts.values()) == {params["data.digest"][:36]}


def test_the_artifacts_are_there_and_real(tracked):
    for picture in (
        "data/samples.png",
        "plots/curves.png",
        "plots/confusion_matrix.png",
        "plots/worst_mistakes.png",
        "plots/prediction.png",
    ):
        with Image.open(_artifact(tracked, picture)) as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors(1 << 24)) > 10, picture
    resolved = yaml.safe_load(_artifact(tracked, "config/resolved.yaml").read_text())
    assert resolved["optim"]["lr"] == 0.001
    overrides = yaml.safe_load(_artifact(tracked, "config/overrides.yaml").read_text())
    assert "trainer.epochs=4" in overrides
    assert json.loads(_artifact(tracked, "config/environment.json").read_text())["versions"][
        "mxnet"
    ]
    with _artifact(tracked, "plan/layers.csv").open() as file:
        rows = {row["parameter"]: row for row in csv.DictReader(file)}
    assert rows["0.weight"]["shape"] == "20x1x5x5"
    assert rows["5.output.bias"]["state"] == "trained"
    exported = {path.name for path in _artifact(tracked, "export").iterdir()}
    needed = {"model-symbol.json", "model-0000.params", "signature.json"}
    with_onnx = {"model.onnx"} if importlib.util.find_spec("onnx") else set()
    proof = {"samples.safetensors", "certificate.json", "README.md"}
    assert exported == needed | proof | with_onnx
    # The logged model has the same file, not a copy of it.
    assert _artifact(tracked, "export/model-0000.params").stat().st_nlink == 2
    assert len(list(_artifact(tracked, "data/examples").glob("*/*.png"))) == 10


def test_artifacts_lie_beside_the_database(tracked):
    folder, _, _, run = tracked
    assert Path(run.info.artifact_uri).is_relative_to(folder / "mlruns" / "artifacts")


def test_predict_uses_the_export(tracked, tmp_path):
    folder = tracked[0]
    code, out, err = _finished(
        folder, "predict", "last", "--plot", str(tmp_path / "p.png"), module="gluonexp"
    )
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if ".png" in line and "/" in line]
    right = sum(row[1] == row[-1] for row in rows if len(row) == 4)
    assert right >= 8
    assert Image.open(tmp_path / "p.png").size[0] > 200


def test_the_gluon_parameters_load_as_gluon_parameters(tracked, compose):
    from gluonexp.base.mx import mx

    config = compose()
    plan = assembly.components(config)
    spec = plan.source.spec()
    net = networks.network(config, plan.model, spec, networks.preprocessing(config.dataset, spec))
    networks.initialize(config, net, spec, mx.cpu())
    net.load_parameters(str(_artifact(tracked, "checkpoint/model.params")))
    data = assembly.data(config, plan.source)
    inputs = mx.nd.array(data.test.images[:].transpose(0, 3, 1, 2) / 255)
    right = (net(inputs).asnumpy().argmax(1) == data.test.labels).mean()
    assert right == pytest.approx(tracked[3].data.metrics["test/acc"])


# Runs that do not end well


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_killed_and_keeps_what_it_measured(compose, tmp_path, signum):
    client = _store(tmp_path)
    endless = "model=mlp", "export=none", "trainer.epochs=100000"
    process = _start(tmp_path, *endless, start_new_session=True)
    for line in process.stdout:  # returns with the second epoch's line, so at least one is over
        if line.startswith("Epoch 1."):
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if signum == signal.SIGINT else 143)
    assert "Traceback" not in err
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history[:2]] == [0, 1]
    resume = re.search(r"trainer\.resume=(\S+)", out + err).group(1)
    done = len(history)
    more = f"trainer.resume={resume}", f"trainer.epochs={done + 2}"
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db"
    resumed = experiment.run(compose(*endless[:2], *more, uri), tmp_path / "resumed")
    again = client.get_metric_history(resumed.run_id, "train/loss")
    steps = [point.step for point in again]
    assert steps == list(range(done + 2))
    assert [point.value for point in again[:2]] == [point.value for point in history[:2]]


@pytest.mark.parametrize("more", [[], ["dataset.val_fraction=0"], ["~callbacks.checkpoint"]])
def test_what_the_last_update_broke_is_no_result(compose, tmp_path, more):
    """One batch an epoch: its loss is of before the update that makes the network NaN."""
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    one = ["trainer.epochs=1", "trainer.batch_size=2000", "optim=sgd", "optim.lr=1e38"]
    config = compose(*SMALL, *one, *more, f"tracking.uri={uri}")
    with pytest.raises(GluonexpError, match=r"training diverged: .*lower optim\.lr"):
        experiment.run(config, tmp_path / "job")
    _, (run,) = _runs(tmp_path)
    assert run.info.status == "FAILED"
    assert np.isfinite(run.data.metrics["train/loss"])


def test_an_exception_in_the_loop_fails_the_run_and_keeps_what_it_measured(compose, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    config = compose(*SMALL, "optim=sgd", "optim.lr=1e38", f"tracking.uri={uri}")
    with pytest.raises(GluonexpError, match="diverged"):
        experiment.run(config, tmp_path / "job")
    client, (run,) = _runs(tmp_path)
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["error"]
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 1
    assert client.list_artifacts(run.info.run_id, "error")[0].path == "error/traceback.txt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.resize=8"], "cnn cannot take 1x8x8 images"),
        (["model=mlp", "optim.lr=-1"], "optim.lr=-1"),
        (["model._target_=os.system"], "model._target_=os.system"),
        (["device=tpu"], "device=tpu"),
        (["callbacks.checkpoint.metric=val/f1"], "val/f1"),
        (["optim.lrr=1"], "lrr"),
        (["model=1.10"], "Could not find 'model/1.10'"),
        (["+trainer.epoch=5"], "did you mean trainer.epochs?"),
        (["+hydra.job.nam=x"], "did you mean hydra.job.name?"),
        (["optim=adma"], "adamw"),
    ],
)
def test_a_mistake_is_one_message_before_a_run_exists(told, tmp_path, overrides, message):
    code, err = told(*overrides)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_value_that_cannot_be_read_is_one_message(told):
    message, err = told("optim.lr=0.1(")
    assert message.endswith("type it as \"optim.lr='0.1('\"")
    assert err == ""


def test_a_mistake_is_one_message_of_a_process(tmp_path):
    code, out, err = _finished(tmp_path, "device=tpu")
    assert (code, out) == (1, "")
    assert "\ndevice=tpu is none of auto, cpu" in err
    assert "Traceback" not in err


class _Down(http.server.BaseHTTPRequestHandler):
    """A tracking server that is out of order after so many requests."""

    def do_GET(self):
        self.server.requests.append(self.path.partition("?")[0])
        if len(self.server.requests) > self.server.good:
            self.send_error(503)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("good", [0, 1])
def test_a_run_goes_on_without_a_server_that_is_out_of_order(told, tmp_path, monkeypatch, good):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with http.server.HTTPServer(("127.0.0.1", 0), _Down) as server:
        server.good, server.requests = good, []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        _down(told, tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert not any(path.endswith("runs/create") for path in server.requests)


@pytest.mark.parametrize("listens", [False, True])
def test_a_run_goes_on_without_a_server_that_does_not_answer(told, tmp_path, monkeypatch, listens):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    waiting = store.impatient
    monkeypatch.setattr(store, "impatient", lambda retries: waiting(retries, timeout_s=1))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listens:
            held.listen()
        _down(told, tmp_path, f"http://127.0.0.1:{held.getsockname()[1]}")


def _down(told, folder, address):
    """Run with a store that is down: all of it lies in the job's folder, and is told."""
    words = ("dataset=synthetic", "hydra.run.dir=job", f"tracking.uri={address}")
    code, err = told(*SMALL, *words)
    assert code == 0
    assert [path.name for path in folder.iterdir()] == ["job"]
    first, *_, last = log.records(folder / "job" / "run.jsonl")
    assert first["store"] == {"uri": address, "run_id": None}
    assert (last["kind"], last["status"]) == ("status", "FINISHED")
    assert f"gluonexp: run {first['run']} is offline: all of it lies in" in err
    assert f"`gluonexp push {folder / 'job'}` sends it" in err
    assert (folder / "job" / "artifacts" / "config" / "resolved.yaml").is_file()
    # A sweep keeps its account in the store.
    code, err = told("-m", *SMALL, *words[::2], "seed=0,1", "hydra.sweep.dir=sweep")
    assert code == 1
    assert f"cannot be opened in {address}" in err or f"uri={address}: this MLflow" in err
    assert "Traceback" not in err


def test_missing_data_are_named_and_fail_the_run(told, tmp_path):
    (tmp_path / "photos").mkdir()
    code, err = told("dataset=image_folder", "dataset.root=photos")
    assert code == 1
    assert "photos" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            r"hydra\.run\.dir=mlruns/hydra/\S+ cannot be made or written \(.*/mlruns is no folder",
        ),
        (["hydra.run.dir=mlruns"], r"hydra\.run\.dir=mlruns .* \(it is no folder\)"),
        (["-m", "seed=0,1"], r"hydra\.sweep\.dir=mlruns/hydra/\S+ .* is no folder"),
        (
            ["hydra.run.dir=/proc/job"],
            r"hydra\.run\.dir=/proc/job .* \(No such file or directory\)",
        ),
        (
            ["hydra.run.dir=job"],
            r"mlruns/mlflow\.db: the store cannot be made .*/mlruns is no folder",
        ),
    ],
)
def test_a_folder_that_cannot_be_made_is_told(told, tmp_path, words, message):
    (tmp_path / "mlruns").touch()
    code, err = told(*SMALL, *words)
    assert code == 1
    assert re.search(message, err)
    assert "Traceback" not in err and "Errno" not in err


def test_the_user_sees_warnings_and_the_log_keeps_them(told, tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    run = f"tracking.run_id={'e' * 32}"  # there is none
    code, err = told(*SMALL, "hydra.run.dir=job", run, "hydra/job_logging=none")
    assert code == 1
    assert err.count("warning: ") == err.count("MLflow's old file store") == 1
    assert "MLflow's old file store" in (tmp_path / "job" / "run.log").read_text()


def test_without_tracking_the_artifacts_stay_in_the_jobs_folder(compose, tmp_path):
    config = compose(*SMALL, "export=default", "tracking=none", "dataset.val_fraction=0")
    result = experiment.run(config, tmp_path)
    assert result.run_id is None
    assert result.objective is None  # val/acc was not measured
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifacts", "checkpoints"]
    assert (tmp_path / "artifacts" / "export" / "model-symbol.json").exists()
    assert "val/acc" not in result.metrics
    assert result.metrics["test/acc"] > 0.5


def test_the_objective_is_the_best_of_the_history(compose, tmp_path):
    config = compose(*SMALL, "tracking=none", "objective.metric=val/loss", "objective.mode=min")
    result = experiment.run(config, tmp_path)
    assert result.objective == min(row["val/loss"] for row in result.history)
    assert result.metrics["val/loss"] == result.objective


def test_a_reader_that_goes_away_does_not_end_the_run(compose, tmp_path, monkeypatch):
    """As with `| head -9`."""
    nobody_reads, pipe = os.pipe()
    os.close(nobody_reads)
    with os.fdopen(pipe, "w", buffering=1) as broken, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        result = experiment.run(compose(*SMALL, "tracking=none", "trainer.epochs=1"), tmp_path)
    assert result.ending.status == "FINISHED"


def test_two_runs_of_one_seed_are_the_same_but_for_their_names(compose, tmp_path):
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db"
    config = compose(*SMALL, uri)
    results = [experiment.run(config, tmp_path / job) for job in ("a", "b")]
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in result.history]
        for result in results
    ]
    assert timeless[0] == timeless[1]
    _, runs = _runs(tmp_path)
    assert len({run.info.run_name for run in runs}) == 2
    written = {Path(run.info.artifact_uri, "checkpoint/model.params").read_bytes() for run in runs}
    assert len(written) == 1


def test_a_wrong_key_is_answered_with_the_right_ones(told):
    code, err = told("model=mlp", "optim.lrr=1")
    assert code == 1
    assert err.rstrip().endswith(
        "optim.lrr: did you mean optim.lr? optim has name, lr, weight_decay, decay_bias_and_norm, "
        "clip_norm, beta1, beta2, epsilon"
    )


def test_options_may_stand_between_overrides(tmp_path):
    own = tmp_path / "my conf (a=1)" / "model" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: own.net")
    words = "model=own", "--cfg", "job", "--config-dir", "my conf (a=1)", "optim.lr=0.5"
    code, out, err = _finished(tmp_path, *words)
    assert code == 0, err
    assert "lr: 0.5" in out
    assert "own.net" in out


@pytest.mark.parametrize(
    "path",
    [
        *("artifacts/thesis.txt", "checkpoints/thesis.txt", "checkpoints/mine/meta.json"),
        *("checkpoints/best/notes.txt", "checkpoints/last/old/meta.json"),
    ],
)
def test_a_folder_that_is_not_ours_is_left_alone(compose, tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("years of work")
    name = path.partition("/")[0]
    with pytest.raises(GluonexpError, match=f"{name} holds something that no run wrote"):
        experiment.run(compose(*SMALL, "tracking=none"), tmp_path)
    assert (tmp_path / path).read_text() == "years of work"


def test_only_what_the_run_before_wrote_gives_way(compose, tmp_path):
    config = compose(*SMALL, "tracking=none", "export=none")
    experiment.run(config, tmp_path)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for mine in ("artifacts/plots/mine.png", "checkpoints/last/notes.txt", "checkpoints/old/a"):
        (tmp_path / mine).parent.mkdir(exist_ok=True)
        (tmp_path / mine).write_text("mine")
        with pytest.raises(GluonexpError, match="holds something that no run wrote"):
            experiment.run(config, tmp_path)
        (tmp_path / mine).unlink()
    (tmp_path / "checkpoints/old").rmdir()
    (tmp_path / "mine.txt").write_text("mine")
    experiment.run(config, tmp_path)
    again = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert again == sorted([*written, tmp_path / "mine.txt"])
