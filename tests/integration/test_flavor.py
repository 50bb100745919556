"""An export as an MLflow model: saved, logged, registered, found again, served."""

import base64
import http.server
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import yaml
from mlflow.exceptions import MlflowException
from PIL import Image

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.config.schema import ObjectiveConfig
from gluonexp.data.digits import Digits
from gluonexp.data.idx import FashionMNIST
from gluonexp.export import symbol
from gluonexp.inference import flavor
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder import samples
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.tracking import logged_models, references, registry
from gluonexp.weights.find import find

ROOT = Path(__file__).parents[2]
CLASSES = FashionMNIST().spec().classes


@pytest.fixture(scope="module")
def digits():
    """Real images, (N, 28, 28, 1) uint8."""
    return Digits().load().test.images[:40]


@pytest.fixture(scope="module")
def export(digits, tmp_path_factory):
    """Export a network that was trained for a few steps, so that its answers differ."""
    folder = tmp_path_factory.mktemp("run") / "export"
    mx.random.seed(5)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        with net.name_scope():
            net.add(nn.Conv2D(4, 3, activation="relu"), nn.BatchNorm(), nn.MaxPool2D(4))
            net.add(nn.Flatten(), nn.Dense(len(CLASSES)))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    steps = Preprocessing(28, 28, 1, (0.5,), (0.25,))
    inputs = Preprocess(steps, (28, 28, 1))(nd.array(digits, dtype="uint8"))
    labels = np.arange(len(digits)) % len(CLASSES)
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01})
    for _ in range(20):
        with autograd.record():
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(inputs), nd.array(labels))
        loss.backward()
        trainer.step(len(digits))
    symbol.export(net, folder, Signature((28, 28, 1), steps, CLASSES))
    samples.write(folder, samples.ProofSamples(digits, labels, net(inputs).asnumpy(), CLASSES))
    assert len(set(Classifier(folder).probabilities(digits).argmax(1))) > 3
    return folder


class Store:
    """A store, and runs in it that measured something."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.client = tracking.open_store(self.uri)
        self.experiment = tracking.ensure_experiment(self.client, "clothes", self.uri)

    def run(self, *accuracies, experiment=None):
        """Return the id of a run with `val/acc` by epoch."""
        run_id = self.client.create_run(experiment or self.experiment).info.run_id
        self.client.log_param(run_id, "optim.lr", "0.1")
        for step, value in enumerate(accuracies):
            self.client.log_metric(run_id, "val/acc", value, step=step)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def register(self, name, value, mode="max", run_id=None, metric="val/acc"):
        run_id = run_id or self.run()
        source = self.client.get_run(run_id).info.artifact_uri + "/export"
        goal = ObjectiveConfig(metric, mode)
        return registry.register(self.client, run_id, name, source, value, goal)

    def champion(self, name):
        return str(self.client.get_model_version_by_alias(name, "champion").version)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def _no_global_store(tmp_path, monkeypatch):
    """Whatever needs MLflow's global store would make one here, which the test would find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    yield
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "mlruns").exists()
    assert mlflow.active_run() is None


# --- save, load, predict -------------------------------------------------------------------------


@pytest.fixture
def saved(export, tmp_path):
    """Return a model that was moved, its export being gone from where it was."""
    copy = shutil.copytree(export, tmp_path / "export")
    flavor.save_model(copy, tmp_path / "model")
    shutil.rmtree(copy)
    return (tmp_path / "model").rename(tmp_path / "moved")


def test_a_model_says_what_it_is(saved, export):
    model = yaml.safe_load((saved / "MLmodel").read_text())
    pyfunc = model["flavors"]["python_function"]
    assert pyfunc["loader_module"] == "gluonexp.inference.flavor"
    assert pyfunc["data"] == model["flavors"]["gluonexp"]["data"] == "data"
    assert model["flavors"]["gluonexp"]["classes"] == list(CLASSES)
    assert model["flavors"]["gluonexp"]["image"]["height"] == 28
    outputs = json.loads(model["signature"]["outputs"])
    assert [column["name"] for column in outputs] == ["class", "probability", "probabilities"]
    assert {path.name for path in (saved / "data").iterdir()} == {
        path.name for path in export.iterdir()
    }


def test_the_requirements_are_what_is_installed(saved):
    pinned = (saved / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in pinned] == [
        *("gluonexp", "mxnet", "mlflow", "numpy", "pandas", "pillow")
    ]
    assert all(
        line == f"{name}=={version(name)}" for line in pinned for name in [line.split("=")[0]]
    )
    conda = yaml.safe_load((saved / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": pinned}
    environment = yaml.safe_load((saved / "python_env.yaml").read_text())
    assert environment["dependencies"] == ["-r requirements.txt"]
    assert conda["dependencies"][0] == f"python={environment['python']}"


def test_the_input_example_is_a_real_image(saved, digits):
    example = json.loads((saved / "serving_input_example.json").read_text())
    np.testing.assert_array_equal(example["inputs"], digits[:1])


@pytest.mark.parametrize("config", [None, {"runtime": "symbolblock"}])
def test_what_was_saved_answers_as_the_export(saved, export, digits, config):
    expected = Classifier(export).probabilities(digits)
    answers = mlflow.pyfunc.load_model(str(saved), model_config=config).predict(digits)
    assert list(answers.columns) == ["class", "probability", "probabilities"]
    assert list(answers["class"]) == [CLASSES[index] for index in expected.argmax(1)]
    np.testing.assert_allclose(answers["probability"], expected.max(1), rtol=1e-5)
    table = [list(row.values()) for row in answers["probabilities"]]
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-7)
    assert all(tuple(row) == CLASSES for row in answers["probabilities"])
    np.testing.assert_allclose(flavor.load_model(str(saved)).probabilities(digits), expected)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


# The header of a bitmap of 30,000 x 30,000 pixels.
HUGE = base64.b64encode(
    b"BM" + struct.pack("<4I2i2H6I", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
).decode()


def test_images_may_come_in_many_forms(saved, digits):
    model = mlflow.pyfunc.load_model(str(saved))
    two = digits[:2]
    expected = model.predict(two)
    for given in (
        two[..., 0],
        two.astype(np.int64),
        {"images": two},
        {"images": np.array(two.tolist(), dtype=object)},  # as MLflow's server reads JSON
        np.array([png(image) for image in two], dtype=object),
        pd.DataFrame({"images": [png(image) for image in two]}),
    ):
        pd.testing.assert_frame_equal(model.predict(given), expected)
    raw = model._model_impl  # without MLflow's signature
    pd.testing.assert_frame_equal(raw.predict(two.tolist()), expected)
    assert raw.get_raw_model().classes == CLASSES


ALONE = "one image? wrap it in a list: [image]"
SCALED = "values from 0 to 1? multiply them by 255 and round them to whole numbers"
WANTED = "wanted are images of shape (N, 28, 28, 1) or (N, 28, 28) and type uint8"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.full((2, 28, 28, 1), 7.0), "these are of shape (2, 28, 28, 1) and type float64"),
        (np.full((2, 28, 28), 0.5), f"type float64; {SCALED}"),
        (np.zeros((2, 28, 28, 1), bool), "type bool"),
        (np.zeros((2, 1, 28, 28), np.uint8), "these are of shape (2, 1, 28, 28) and type uint8"),
        (np.zeros((28, 28), np.uint8), f"of shape (28, 28) and type uint8; {ALONE}"),
        (np.zeros((28, 28, 1), np.uint8), f"of shape (28, 28, 1) and type uint8; {ALONE}"),
        (np.zeros((28, 28)), f"type float64; {ALONE}; {SCALED}"),
        (np.array("a text"), f"of shape () and type <U6; {ALONE}"),
        (np.zeros((0, 28, 28), np.uint8), "of shape (0, 28, 28) and type uint8"),
        (np.full((1, 28, 28), 300), "type int64, from 300 to 300"),
        (np.full((1, 28, 28), -1), "from -1 to -1"),
        (np.array([[[1, 2], [3]]], dtype=object), "these have no common shape"),
        (np.array([[None] * 28] * 28, dtype=object), "type object"),
        (np.array([[["0"] * 28] * 28], dtype=object), "type <U1"),
        (np.array(["AAAA"], dtype=object), "must be a JPEG, PNG, WebP or BMP file in base64"),
        (np.array(["/etc/passwd"], dtype=object), "in base64"),
        (np.array([HUGE], dtype=object), "given in base64 has more than 200,000,000 pixels"),
    ],
)
def test_what_are_no_such_images_is_told(saved, given, told):
    model = mlflow.pyfunc.load_model(str(saved))
    with pytest.raises(MlflowException) as caught:
        model.predict(given)
    assert caught.value.get_http_status_code() == 400
    message = str(caught.value)
    assert message.endswith(told) or told == "type object"
    assert "base64" in told or message.startswith(WANTED)
    # MLflow's server would put whatever was sent before it.
    caught.value.message = "Failed to predict data '[[0, 0, 0..."
    sent = json.loads(caught.value.serialize_as_json())
    assert (sent["message"], sent["error_code"]) == (message, "INVALID_PARAMETER_VALUE")


def test_classes_of_one_name_are_told_apart(export, digits, tmp_path):
    copy = shutil.copytree(export, tmp_path / "export")
    signature = json.loads((copy / "signature.json").read_text())
    expected = Classifier(export).probabilities(digits)
    first, second = np.argsort(np.bincount(expected.argmax(1), minlength=10))[-2:]
    for index in (first, second):
        signature["classes"][index] = "crane"
    (copy / "signature.json").write_text(json.dumps(signature))
    flavor.save_model(copy, tmp_path / "model")
    answers = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(digits)
    names = [
        f"crane #{index}" if index in (first, second) else name
        for index, name in enumerate(CLASSES)
    ]
    table = pd.DataFrame(list(answers["probabilities"]))
    assert list(table.columns) == names
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-7)
    assert list(answers["class"]) == [names[index] for index in expected.argmax(1)]


def test_what_cannot_be_saved_leaves_nothing(export, tmp_path):
    with pytest.raises(GluonexpError, match="no export here"):
        flavor.save_model(tmp_path, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    with pytest.raises(GluonexpError, match="model exists: name a new folder"):
        flavor.save_model(export, tmp_path / "model")


def test_a_network_in_memory_is_sent_where_it_is_taken(tmp_path):
    net = nn.Dense(2)
    for call in (
        lambda: flavor.save_model(net, tmp_path / "m"),
        lambda: flavor.log_model(net, "m"),
    ):
        with pytest.raises(
            GluonexpError, match=r"is taken by save_model .* gluonexp\.mlflow_gluon"
        ):
            call()
    with pytest.raises(GluonexpError, match="name it, run_id="):
        flavor.log_model(tmp_path, "m")


# --- logged --------------------------------------------------------------------------------------


def test_a_run_logs_a_model(store, export, digits, tmp_path):
    run_id = store.run(0.5, 0.75, 0.625)
    source = shutil.copytree(export, tmp_path / "export")
    logged = flavor.log_model(str(source), store.client, run_id, name="cnn", step=1)
    assert (logged.name, logged.status, logged.source_run_id) == ("cnn", "READY", run_id)
    folder = Path(logged.artifact_location)
    assert [path.name for path in folder.parent.parent.glob(".new*")] == []
    # Nothing large was written: the files are the same.
    assert (folder / "data/model-0000.params").samefile(source / "model-0000.params")
    shutil.rmtree(source)
    (made,) = store.client.get_run(run_id).outputs.model_outputs
    assert (made.model_id, made.step) == (logged.model_id, 1)
    found = store.client.get_logged_model(logged.model_id)
    assert {metric.key: metric.value for metric in found.metrics} == {"val/acc": 0.75}
    assert found.params == {"optim.lr": "0.1"}
    # The run's own curve is what it was.
    history = store.client.get_metric_history(run_id, "val/acc")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.75), (2, 0.625)]
    assert store.client.list_artifacts(run_id) == []
    assert logged_models.logged_model(store.client, run_id).model_id == logged.model_id
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert (model["run_id"], model["model_id"]) == (run_id, logged.model_id)
    expected = Classifier(export).probabilities(digits)
    np.testing.assert_array_equal(flavor.load_model(str(folder)).probabilities(digits), expected)


def test_without_an_example_of_its_input_a_model_is_kept_and_it_is_noted(
    store, export, digits, monkeypatch, caplog
):
    monkeypatch.delattr("mlflow.models.utils._save_example")
    logged = flavor.log_model(export, store.client, store.run(0.5))
    assert logged.status == "READY"
    assert "the model is kept without an example of its input (ImportError: " in caplog.text
    folder = Path(logged.artifact_location)
    assert not list(folder.glob("input_example*"))
    answers = mlflow.pyfunc.load_model(str(folder)).predict(digits[:2])
    expected = Classifier(export).probabilities(digits[:2])
    np.testing.assert_array_equal(answers["probability"], expected.max(axis=1))


def test_a_model_that_could_not_be_kept_is_marked(store, export, tmp_path):
    experiment = tracking.ensure_experiment(store.client, "unlucky", store.uri)
    run_id = store.run(experiment=experiment)
    with pytest.raises(GluonexpError, match="no export here"):
        flavor.log_model(tmp_path, store.client, run_id)
    assert store.client.search_logged_models([experiment]) == []
    artifacts = Path(store.client.get_run(run_id).info.artifact_uri).parents[1]
    artifacts.mkdir(parents=True)
    (artifacts / "models").write_text("in the way")
    with pytest.raises(GluonexpError, match=f"the model of run {run_id} cannot be kept"):
        flavor.log_model(export, store.client, run_id)
    (failed,) = store.client.search_logged_models([experiment])
    assert failed.status == "FAILED"
    assert logged_models.logged_model(store.client, run_id) is None


# --- registered ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "values", "champions"),
    [
        ("max", [0.5, 0.25, 0.5, 0.75, 0.7499999999999999], "11144"),
        ("min", [0.5, 0.75, 0.5, 0.25, 0.25], "11144"),
        ("max", [None, float("nan"), -1.0, float("inf"), -0.5], "--335"),
    ],
)
def test_a_version_must_beat_the_champion(store, mode, values, champions):
    name = f"{mode}{values[0]}"
    for index, (value, champion) in enumerate(zip(values, champions, strict=True), start=1):
        registered = store.register(name, value, mode)
        assert registered.address == f"models:/{name}/{index}"
        assert registered.champion == (champion == str(index))
        aliases = store.client.get_registered_model(name).aliases
        assert str(aliases.get("champion", "-")) == champion
        tags = store.client.get_model_version(name, str(index)).tags
        assert (tags["gluonexp.metric"], tags["gluonexp.mode"]) == ("val/acc", mode)
        assert tags.get("gluonexp.value") == (None if value is None else repr(value))
        assert len(tags["gluonexp.run_id"]) == 32
    told = [store.register(name, value, mode).sentence for value in (0.0625, None)]
    assert told[0].startswith(f"version 6 of {name} is ")
    assert told[1] == f"version 7 of {name} has no value of val/acc, so it is not the champion"


def test_a_run_is_registered_once(store):
    run_id = store.run()
    first = store.register("once", 0.5, run_id=run_id)
    again = store.register("once", 0.5, run_id=run_id)
    assert (again.address, again.champion) == (first.address, True)
    assert again.sentence == "version 1 of once is the champion already"
    assert store.register("twice", 0.5, run_id=run_id).version == "1"


def test_a_champion_appointed_by_hand_is_measured_by_its_run(store):
    client = store.client
    client.create_registered_model("byhand")
    measured = client.create_model_version(
        "byhand", "somewhere", run_id=store.run(0.25, 0.75, 0.5)
    )
    client.set_registered_model_alias("byhand", "champion", measured.version)
    assert not store.register("byhand", 0.75).champion
    better = store.register("byhand", 0.8)
    assert better.sentence == (
        "version 3 of byhand is the champion now: val/acc 0.8 against 0.75 of version 1; whether "
        "they have the same classes is not known"
    )
    # Of another metric its tags say nothing, nor has its run measured it.
    told = store.register("byhand", 0.01, mode="min", metric="val/loss").sentence
    assert told == (
        "version 4 of byhand is not the champion: that is version 3, of which val/loss is not "
        "known"
    )
    # It may be that a worse one was wanted.
    client.set_registered_model_alias("byhand", "champion", measured.version)
    assert store.register("byhand", 0.76).champion


def test_a_name_that_the_store_refuses_is_told(store):
    with pytest.raises(GluonexpError, match=r"cannot be registered as a/b: .*cannot be empty|a/b"):
        store.register("a/b", 0.5)


REGISTER = """
import sys
from gluonexp import tracking
from gluonexp.config.schema import ObjectiveConfig
from gluonexp.tracking import registry
uri, run_id = sys.argv[1:]
client = tracking.open_store(uri)
print("ready", flush=True)
sys.stdin.readline()
registry.register(client, run_id, "race", "somewhere", 0.75, ObjectiveConfig())
"""


def test_a_process_that_registers_waits_for_another(store, monkeypatch):
    other = subprocess.Popen(
        [sys.executable, "-c", REGISTER, store.uri, store.run()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert other.stdout.readline() == "ready\n"
    judge = registry._judge

    def judge_late(*args):
        """Decide that 0.5 is the first, and take long to say so."""
        decision = judge(*args)
        other.stdin.write("\n")
        other.stdin.flush()
        with suppress(subprocess.TimeoutExpired):
            other.wait(timeout=3)
        return decision

    monkeypatch.setattr(registry, "_judge", judge_late)
    assert store.register("race", 0.5).champion
    other.communicate()
    assert other.returncode == 0
    assert store.champion("race") == "2"
    assert store.client.get_model_version("race", "2").tags["gluonexp.value"] == "0.75"


# --- found again ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(store, export):
    """Return a run that kept its export and logged it as a model, which is registered."""
    run_id = store.run(0.5)
    store.client.log_artifacts(run_id, str(export), "export")
    model = flavor.log_model(export, store.client, run_id, name="cnn")
    registry.register(store.client, run_id, "clothes", model.model_uri, 0.5, ObjectiveConfig())
    return run_id, model


@pytest.mark.parametrize(
    "ref",
    [
        *("RUN", "SHORT", "runs:/RUN", "runs:/RUN/export", "runs:/RUN/cnn"),
        *("models:/clothes@champion", "models:/clothes/1", "MODEL", "EXPORT", "FOLDER"),
    ],
)
def test_an_export_is_found_by_whatever_names_it(store, logged, export, ref, tmp_path):
    run_id, model = logged
    ref = {"EXPORT": str(export), "FOLDER": model.artifact_location, "SHORT": run_id[:12]}.get(
        ref, ref.replace("RUN", run_id).replace("MODEL", model.model_uri)
    )
    folder = references.fetch_export(store.client, ref, tmp_path / "copy")
    assert (folder / "model-0000.params").read_bytes() == (
        export / "model-0000.params"
    ).read_bytes()
    run = references.run_of(store.client, ref)
    assert (run is None) if ref.startswith("/") else (run.info.run_id == run_id)


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("models:/clothes", "write models:/NAME@ALIAS, models:/NAME/3 or models:/m-ID"),
        ("models:/clothes/9", "version 9 of model clothes cannot be found"),
        ("models:/clothes@winner", "version @winner of model clothes cannot be found"),
        (f"models:/m-{'0' * 32}", f"model m-{'0' * 32} cannot be found"),
        ("runs:/0123456", "no run id begins with 0123456"),
        ("some/folder", "some/folder: no such folder; name a run"),
    ],
)
def test_what_means_nothing_is_told(store, logged, ref, told, tmp_path):
    with pytest.raises(GluonexpError, match=told.replace("(", r"\(")):
        references.fetch_export(store.client, ref, tmp_path)


class Artifacts(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow's server does of the artifacts in a folder."""

    folder = None
    ROOT = "/api/2.0/mlflow-artifacts/artifacts"

    def do_GET(self):
        parts = urlsplit(self.path)
        if parts.query:
            folder = self.folder / parse_qs(parts.query)["path"][0].removeprefix("model").strip(
                "/"
            )
            held = folder.iterdir() if folder.is_dir() else []
            files = [{"path": file.name, "is_dir": file.is_dir()} for file in held]
            content = json.dumps({"files": files}).encode()
        else:
            content = (self.folder / parts.path.removeprefix(f"{self.ROOT}/model/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("runtime", ["module", "symbolblock"])
def test_a_model_that_is_elsewhere_leaves_no_copy(
    store, export, saved, digits, tmp_path, monkeypatch, runtime
):
    monkeypatch.setattr(Artifacts, "folder", saved)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Artifacts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}{Artifacts.ROOT}/model"
            name = f"away-{runtime}"
            store.client.create_registered_model(name)
            store.client.create_model_version(name, address)
            for ref in (f"models:/{name}/1", address):
                loaded = flavor.load_model(ref, runtime)
                assert list((tmp_path / "temporary").iterdir()) == []
                np.testing.assert_allclose(
                    loaded.probabilities(digits),
                    Classifier(export).probabilities(digits),
                    rtol=1e-5,
                )
        finally:
            server.shutdown()
            thread.join()


def test_a_local_model_is_loaded_from_where_it_lies(store, logged, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    _, model = logged
    for ref in ("models:/clothes@champion", "models:/clothes/latest", model.model_uri):
        assert flavor.load_model(ref).folder == Path(model.artifact_location, "data")
    with pytest.raises(GluonexpError, match="version 9 of model clothes cannot be found"):
        flavor.load_model("models:/clothes/9")


def hostile(folder):
    """Make a model whose loading, as MLflow does it, would leave a file behind."""
    (folder / "code").mkdir(parents=True)
    trace = folder.parent / "executed"
    (folder / "code" / "evil.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n_load_pyfunc = print\n"
    )
    pyfunc = {"loader_module": "evil", "code": "code", "python_version": "3.11.0"}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": pyfunc}}))
    return trace


def test_what_an_mlmodel_would_import_is_not(store, export, digits, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    trace = hostile(folder)
    run_id = store.run()
    store.client.log_artifacts(run_id, str(folder), "model")
    store.client.create_registered_model("evil")
    source = store.client.get_run(run_id).info.artifact_uri + "/model"
    store.client.create_model_version("evil", source, run_id=run_id)
    for ref in (str(folder), "models:/evil/1", f"runs:/{run_id}/model"):
        with pytest.raises(GluonexpError, match="an MLflow model of another flavor"):
            references.fetch_export(store.client, ref, tmp_path / "copy")
    with pytest.raises(GluonexpError, match="another flavor"):
        flavor.load_model(str(folder))
    # Beside an export it is not even read.
    shutil.copytree(export, folder / "data")
    found = references.fetch_export(store.client, str(folder), tmp_path / "copy")
    expected = Classifier(export).probabilities(digits)
    np.testing.assert_array_equal(Classifier(found).probabilities(digits), expected)
    np.testing.assert_array_equal(flavor.load_model(str(folder)).probabilities(digits), expected)
    assert not trace.exists() and "evil" not in sys.modules
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(MlflowException):
        mlflow.pyfunc.load_model(str(folder))  # MLflow itself would
    assert trace.exists()
    monkeypatch.delitem(sys.modules, "evil")


def test_a_registered_model_gives_its_weights(store, tmp_path):
    net = gluon.model_zoo.vision.squeezenet1_1(classes=10)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(nd.zeros((1, 3, 224, 224)))
    steps = Preprocessing(224, 224, 3, (0.0,), (1.0,))
    folder = tmp_path / "export"
    classes = tuple(f"c{index}" for index in range(10))
    symbol.export(net, folder, Signature((224, 224, 3), steps, classes))
    run_id = store.run(0.5)
    logged = flavor.log_model(folder, store.client, run_id)
    registry.register(store.client, run_id, "zoo", logged.model_uri, 1, ObjectiveConfig())
    first = net.features[0].weight.data().asnumpy()
    for choice, address in (
        ("models:/zoo@champion", "models:/zoo/1"),
        (logged.model_uri, logged.model_uri),
    ):
        found = find(choice, "squeezenet1.1", tracking_uri=store.uri)
        assert found.choice == address
        np.testing.assert_array_equal(found.arrays["features.0.weight"], first)


# --- served --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(store, logged, tmp_path_factory):
    """Start MLflow's server on the registered champion; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # uvicorn's
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    command = "-m mlflow models serve -m models:/clothes@champion --env-manager local -h 127.0.0.1"
    server = subprocess.Popen(
        [sys.executable, *command.split(), "-p", str(port)],
        cwd=tmp_path_factory.mktemp("server"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "Uvicorn running on" in line:
                break
        assert server.poll() is None, "".join(lines)
        yield f"http://127.0.0.1:{port}/invocations"
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate(timeout=30)  # until nobody is left who could write
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def same_answers(served, export, images):
    expected = Classifier(export).probabilities(images)
    reply = requests.post(served, json={"inputs": images.tolist()}, timeout=60)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["predictions"]
    assert [answer["class"] for answer in answers] == [CLASSES[i] for i in expected.argmax(1)]
    table = [[answer["probabilities"][name] for name in CLASSES] for answer in answers]
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose([answer["probability"] for answer in answers], expected.max(1))


def test_the_server_answers_as_predict_does(served, export, digits):
    same_answers(served, export, digits)
    same_answers(served, export, digits[:3])


def test_the_server_answers_for_fashion_mnist(served, export):
    root = os.environ.get("GLUONEXP_DATA")
    if not root or not Path(root, "fashion-mnist").is_dir():
        pytest.skip("GLUONEXP_DATA holds no fashion-mnist/")
    same_answers(served, export, FashionMNIST(root).load().test.images[:64])


def test_the_server_takes_files_in_base64(served, export, digits):
    split = {"columns": ["images"], "data": [[png(image)] for image in digits[:2]]}
    table = Classifier(export).probabilities(digits[:2])
    for body in ({"inputs": [png(image) for image in digits[:2]]}, {"dataframe_split": split}):
        reply = requests.post(served, json=body, timeout=60)
        answers = reply.json()["predictions"]
        assert [answer["class"] for answer in answers] == [CLASSES[i] for i in table.argmax(1)]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([[[0] * 27] * 28], "these are of shape (1, 28, 27) and type int64"),
        ([[[0.5] * 28] * 28], f"these are of shape (1, 28, 28) and type float64; {SCALED}"),
        ([[0] * 28] * 28, f"these are of shape (28, 28) and type int64; {ALONE}"),
        ([[[300] * 28] * 28], "type int64, from 300 to 300"),
        ([[[0, 1], [2]]], "these have no common shape"),
        ({"pixels": [[[0] * 28] * 28]}, "Model is missing inputs ['images']"),
        ("a cat", ALONE),
    ],
)
def test_the_server_says_what_is_wrong(served, inputs, told):
    reply = requests.post(served, json={"inputs": inputs}, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error_code"] in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    message = reply.json()["message"]
    assert told in message
    assert "pixels" in message or message.startswith(WANTED)  # MLflow itself misses an input
