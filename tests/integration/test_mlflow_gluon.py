"""Networks in memory as MLflow models: what `mlflow.gluon` did until MLflow removed it."""

import json
import os
import re
import sys
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.pyfunc import scoring_server
from mlflow.types import Schema, TensorSpec
from PIL import Image

from gluonexp import mlflow_gluon, tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.cli import main
from gluonexp.inference import flavor
from gluonexp.inference.predict import Classifier, predict_samples
from gluonexp.mlflow_gluon.autologging import _Seen
from gluonexp.model_folder.names import CARD
from gluonexp.model_folder.signature import ArraySignature, Signature, read
from gluonexp.verification import card, certificate, verify

RNG = np.random.default_rng(3)
ROWS = RNG.random((5, 12), dtype=np.float32)


def dense(outputs=3, **more):
    """Return a network of vectors, initialized and never called."""
    net = nn.HybridSequential()
    net.add(nn.Dense(8, activation="relu"), nn.Dense(outputs, **more))
    net.initialize(mx.init.Xavier())
    return net


def outputs(net, inputs=ROWS):
    return net(nd.array(inputs)).asnumpy()


@pytest.fixture(scope="module")
def net():
    """Return a network of vectors (N, 12) that was called once, as trained ones were."""
    made = dense()
    made(nd.array(ROWS))
    return made


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """Make MLflow's present store a new one; return its client."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    client = tracking.open_store(uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_EXPERIMENT_ID", tracking.ensure_experiment(client, "vectors", uri))
        yield client
    assert mlflow.active_run() is None


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- saved and logged ----------------------------------------------------------------------------


def test_a_saved_network_is_loaded_as_a_block_and_as_pyfunc(net, tmp_path):
    mlflow_gluon.save_model(net, tmp_path / "model")
    expected = outputs(net)
    block = mlflow_gluon.load_model(tmp_path / "model", mx.cpu())
    np.testing.assert_array_equal(outputs(block), expected)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    table = loaded.predict(pd.DataFrame(ROWS, index=list("abcde")))
    assert list(table.index) == list("abcde")
    np.testing.assert_allclose(table.to_numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(loaded.predict(ROWS.astype(float)), expected, rtol=1e-5)
    assert Model.load(str(tmp_path / "model")).signature is None


@pytest.mark.parametrize("given", [None, infer_signature(ROWS)], ids=["inferred", "given"])
@pytest.mark.parametrize("example", [None, ROWS[:3]], ids=["no example", "example"])
def test_the_signature_is_the_given_one_or_that_of_the_example(net, tmp_path, given, example):
    mlflow_gluon.save_model(net, tmp_path / "m", signature=given, input_example=example)
    kept = Model.load(str(tmp_path / "m"))
    if example is not None:
        np.testing.assert_array_equal(kept.load_input_example(str(tmp_path / "m")), example)
    else:
        assert kept.saved_input_example_info is None
    wanted = given
    if given is None and example is not None:
        wanted = infer_signature(example, outputs(net, example))
    assert kept.signature == wanted
    sides = None if given is None and example is None else (12,)
    assert read(tmp_path / "m/data") == ArraySignature(sides)


def test_a_logged_network_is_found_by_its_run_and_by_its_own_address(net, store):
    with mlflow.start_run() as run:
        info = mlflow_gluon.log_model(net, "model", tags={"team": "a"})
    assert store.get_logged_model(info.model_id).source_run_id == run.info.run_id
    assert store.get_logged_model(info.model_id).status == "READY"
    for uri in (f"runs:/{run.info.run_id}/model", info.model_uri):
        np.testing.assert_array_equal(outputs(mlflow_gluon.load_model(uri)), outputs(net))
        np.testing.assert_allclose(
            mlflow.pyfunc.load_model(uri).predict(ROWS), outputs(net), rtol=1e-5
        )


def test_a_network_is_logged_to_the_run_that_is_given_and_registered(net, store):
    run_id = store.create_run(os.environ["MLFLOW_EXPERIMENT_ID"]).info.run_id
    info = mlflow_gluon.log_model(
        net, name="net", run_id=run_id, registered_model_name="vectors", metadata={"why": "test"}
    )
    assert mlflow.active_run() is None
    assert info.registered_model_version == 1
    assert info.metadata == {"why": "test"}
    (made,) = store.get_run(run_id).outputs.model_outputs
    assert made.model_id == info.model_id
    block = mlflow_gluon.load_model("models:/vectors/1")
    np.testing.assert_array_equal(outputs(block), outputs(net))


@pytest.mark.parametrize("example", [None, ROWS[:3]], ids=["no example", "example"])
def test_a_registered_version_is_described_by_its_card(net, store, example):
    with mlflow.start_run() as run:
        data = mlflow.data.from_numpy(ROWS, name="my | rows")
        mlflow.log_input(data, context="training")
        info = mlflow_gluon.log_model(
            net, "model", input_example=example, registered_model_name="told"
        )
    folder = Path(store.get_logged_model(info.model_id).artifact_location) / "data"
    kept = card.read(folder)
    version = store.get_model_version("told", str(info.registered_model_version))
    assert version.description == card.description(kept)
    said, came = kept.split("## Data\n")[1].split("## Origin\n")
    assert "rows" in said and data.digest in said and "my |" not in said
    assert run.info.run_id in came and "```sh" in came
    assert ("Nothing was proved" in kept) == (example is None)
    if example is not None:
        assert CARD in certificate.read(folder).files


def test_where_nothing_can_be_written_is_told(net, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GluonexpError, match="file/model: cannot be written: "):
        mlflow_gluon.save_model(net, tmp_path / "file" / "model")


def test_the_folder_of_an_export_is_copied(sequences, tmp_path):
    mlflow_gluon.save_model(sequences[1] / "data", tmp_path / "m")
    names = {path.name for path in (sequences[1] / "data").iterdir()}
    assert {path.name for path in (tmp_path / "m/data").iterdir()} == names
    copy = tmp_path / "m/data/model-0000.params"
    assert not copy.samefile(sequences[1] / "data/model-0000.params")


def test_a_name_is_given_once(net):
    with pytest.raises(GluonexpError, match="artifact_path and name are the same thing"):
        mlflow_gluon.log_model(net, "model", name="net")


# --- the environment -----------------------------------------------------------------------------


def pinned(folder):
    return (folder / "requirements.txt").read_text().splitlines()


def env_of(folder):
    said = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]["env"]
    assert (folder / said["virtualenv"]).is_file()
    return yaml.safe_load((folder / said["conda"]).read_text())


CONDA = {
    "name": "mine",
    "channels": ["conda-forge"],
    "dependencies": ["python=3.11", "pip", {"pip": ["mlflow==3.17.2", "pytest"]}],
}


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "dict"])
@pytest.mark.parametrize("logged", [True, False], ids=["logged", "saved"])
def test_a_conda_environment_is_kept_as_given(net, tmp_path, as_file, logged):
    given = CONDA
    if as_file:
        given = str(tmp_path / "env.yaml")
        Path(given).write_text(yaml.safe_dump(CONDA))
    folder = tmp_path / "model"
    if logged:
        info = mlflow_gluon.log_model(net, "model", conda_env=given)
        folder = Path(mlflow.get_logged_model(info.model_id).artifact_location)
    else:
        mlflow_gluon.save_model(net, folder, conda_env=given)
    assert env_of(folder) == CONDA
    assert pinned(folder) == ["mlflow==3.17.2", "pytest"]


@pytest.mark.parametrize(
    ("given", "extra", "constraints"),
    [
        ("FILE", ["a"], None),
        (["-r FILE", "b"], ["a", "b"], None),
        (["-c FILE", "b"], ["b", "-c constraints.txt"], "a\n"),
    ],
)
@pytest.mark.parametrize("key", ["pip_requirements", "extra_pip_requirements"])
def test_requirements_replace_or_extend_its_own(net, tmp_path, key, given, extra, constraints):
    file = tmp_path / "file.txt"
    file.write_text("a")
    named = (
        given.replace("FILE", str(file))
        if isinstance(given, str)
        else [line.replace("FILE", str(file)) for line in given]
    )
    folder = tmp_path / "model"
    mlflow_gluon.save_model(net, folder, **{key: named})
    own = mlflow_gluon.get_default_pip_requirements()
    if key == "pip_requirements":
        own = [f"mlflow=={mlflow.__version__}"]
    assert pinned(folder) == [*own, *extra]
    assert env_of(folder)["dependencies"][-1] == {"pip": [*own, *extra]}
    if constraints:
        assert (folder / "constraints.txt").read_text() == constraints


def test_its_own_environment_is_the_default(net, tmp_path):
    mlflow_gluon.save_model(net, tmp_path / "model")
    assert env_of(tmp_path / "model") == mlflow_gluon.get_default_conda_env()
    assert pinned(tmp_path / "model") == mlflow_gluon.get_default_pip_requirements()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"conda_env": CONDA, "pip_requirements": ["a"]}, "conda_env and pip_requirements: give"),
        ({"conda_env": "no/such.yaml"}, "conda_env=no/such.yaml: cannot be read: No such file"),
        ({"conda_env": 7}, "conda_env=7: Expected a string path to a conda env"),
    ],
)
def test_an_environment_that_cannot_be_leaves_nothing(net, tmp_path, given, told):
    with pytest.raises(GluonexpError, match=re.escape(told)):
        mlflow_gluon.save_model(net, tmp_path / "model", **given)
    assert list(tmp_path.iterdir()) == []


def test_code_is_kept_for_pyfunc_and_not_imported_by_us(net, tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')\n")
    folder = tmp_path / "model"
    mlflow_gluon.save_model(net, folder, code_paths=[str(tmp_path / "beside.py")])
    kept = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]
    assert kept["gluonexp"]["code"] == kept["python_function"]["code"] == "code"
    assert (folder / "code/beside.py").is_file()
    monkeypatch.setattr(sys, "path", list(sys.path))
    mlflow_gluon.load_model(folder)
    assert str(folder / "code") not in sys.path
    mlflow.pyfunc.load_model(str(folder))
    assert str(folder / "code") in sys.path


# --- certified and served ------------------------------------------------------------------------


class Sequences(gluon.HybridBlock):
    """Word numbers (N, T) to 4 values for each: an embedding, an LSTM, a layer."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.words = nn.Embedding(20, 6)
            self.lstm = gluon.rnn.LSTM(5, layout="NTC")
            self.out = nn.Dense(4, flatten=False)

    def hybrid_forward(self, F, x):
        return self.out(self.lstm(self.words(x)))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Return a network of sequences of any length, the model that was saved of it, an example."""
    net = Sequences()
    net.initialize(mx.init.Xavier())
    words = RNG.integers(0, 20, (3, 7))
    folder = tmp_path_factory.mktemp("sequences") / "model"
    mlflow_gluon.save_model(net, folder, input_example=words, input_shape=(None,))
    return net, folder, words


def test_a_network_of_sequences_is_certified_on_its_example(sequences):
    _, folder, words = sequences
    assert read(folder / "data") == ArraySignature((None,), whole=True)
    proved = certificate.read(folder / "data")
    assert [each.runtime for each in proved.agreements] == ["module", "symbolblock"]
    assert proved.sentence().startswith(
        "module and symbolblock equal the trained network on the 3 inputs of its example: "
        "outputs within "
    )
    assert [row[3] for row in proved.rows()[1:]] == ["-", "-"]  # nobody knows what is right
    assert verify.check(folder / "data").images == len(words)


def test_a_network_of_sequences_serves_those_of_other_lengths(sequences):
    net, folder, _ = sequences
    loaded = mlflow.pyfunc.load_model(str(folder))
    for length in (2, 9, 7):
        words = RNG.integers(0, 20, (70, length))
        answers = loaded.predict(words)
        assert answers.shape == (70, length, 4)
        np.testing.assert_allclose(answers, outputs(net, words), rtol=1e-4, atol=1e-6)


def served(model, body):
    """Return what MLflow's server answers, as a Python object."""
    schema = model.metadata.get_input_schema()
    told = scoring_server.invocations(json.dumps(body), "application/json", model, schema)
    assert told.status == 200, told.response
    return json.loads(told.response)["predictions"]


def test_word_numbers_are_not_rounded_by_the_server(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Embedding(10, 4), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    words = RNG.integers(0, 10, (4, 5))
    mlflow_gluon.save_model(net, tmp_path / "m", input_example=words)
    model = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    np.testing.assert_allclose(
        served(model, {"inputs": words.tolist()}), outputs(net, words), rtol=1e-5
    )
    told = r"arrays \(N, 5\) of whole numbers; among these is 1\.7"
    with pytest.raises(MlflowException, match=told):
        served(model, {"inputs": [[0, 1.7, 2, 3, 4]]})
    assert model.metadata.signature.inputs.inputs[0].type == np.dtype(object)


def test_sides_of_any_length_are_in_the_signature(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Conv1D(2, 2), nn.GlobalMaxPool1D(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    mlflow_gluon.save_model(
        net, tmp_path / "m", input_example=RNG.random((2, 4, 6)), input_shape=(4, None)
    )
    model = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    assert model.metadata.signature.inputs == Schema(
        [TensorSpec(np.dtype(np.float64), (-1, 4, -1))]
    )
    for length in (6, 3):
        rows = RNG.random((3, 4, length))
        np.testing.assert_allclose(model.predict(rows), outputs(net, rows), rtol=1e-4)
    told = infer_signature(ROWS[:, :5])
    with pytest.raises(GluonexpError, match=r"input_example is \(5, 12\), but arrays \(N, 5\) "):
        mlflow_gluon.save_model(dense(), tmp_path / "n", input_example=ROWS, signature=told)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Return a network of vectors with named outputs, and the model that was saved of it."""
    net = dense()
    folder = tmp_path_factory.mktemp("vectors") / "model"
    mlflow_gluon.save_model(net, folder, input_example=nd.array(ROWS), classes=["a", "b", "c"])
    return net, folder


def test_the_network_that_is_kept_stays_as_it_is(vectors):
    net, _ = vectors
    assert not net._active  # not hybridized
    assert outputs(net).shape == (5, 3)


def test_the_server_answers_for_vectors(vectors):
    net, folder = vectors
    model = mlflow.pyfunc.load_model(str(folder))
    table = pd.DataFrame(ROWS).to_dict("split")
    del table["index"]
    for body in ({"inputs": ROWS.tolist()}, {"dataframe_split": table}):
        for _ in range(3):
            np.testing.assert_allclose(served(model, body), outputs(net), rtol=1e-5)
    with pytest.raises(MlflowException, match="shape"):
        served(model, {"inputs": [[1.0, 2.0]]})


def test_outputs_with_names_are_the_columns_of_a_table(vectors):
    net, folder = vectors
    raw = mlflow.pyfunc.load_model(str(folder))._model_impl
    table = raw.predict(pd.DataFrame(ROWS))
    assert list(table.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(table.to_numpy(), outputs(net), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([[1.0, 2.0]], "these are of shape (1, 2) and type float64"),
        ([[1.0], [2.0, 3.0]], "these have no common shape"),
        ([["x"] * 12], "these are of shape (1, 12) and type <U1"),
        (np.zeros((0, 12)), "these are of shape (0, 12) and type float64"),
    ],
)
def test_what_are_no_such_arrays_is_told(vectors, given, told):
    raw = mlflow.pyfunc.load_model(str(vectors[1]))._model_impl
    with pytest.raises(MlflowException) as caught:
        raw.predict(given)
    assert str(caught.value) == f"wanted are arrays (N, 12) of float32; {told}"
    assert caught.value.get_http_status_code() == 400


def test_without_an_example_the_network_itself_says_what_it_takes(net, tmp_path):
    mlflow_gluon.save_model(net, tmp_path / "model")
    raw = mlflow.pyfunc.load_model(str(tmp_path / "model"))._model_impl
    with pytest.raises(MlflowException, match=r"does not take \(2, 5\): .*weight is \(8, 12\)"):
        raw.predict(np.ones((2, 5)))
    np.testing.assert_allclose(raw.predict(ROWS), outputs(net), rtol=1e-5)
    with pytest.raises(GluonexpError, match="not certified"):
        verify.check(tmp_path / "model/data")


def test_a_layer_that_is_applied_twice_is_certified(tmp_path):
    class Twice(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.first, self.again = nn.Dense(6), nn.Dense(6)

        def hybrid_forward(self, F, x):
            return self.again(F.relu(self.again(F.relu(self.first(x)))))

    net = Twice()
    net.initialize(mx.init.Xavier())
    mlflow_gluon.save_model(net, tmp_path / "m", input_example=ROWS)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    for _ in range(3):
        np.testing.assert_allclose(loaded.predict(ROWS), outputs(net), rtol=1e-4)


def test_a_network_of_numpy_arrays_is_kept_and_served(tmp_path):
    with mx.util.np_shape(True), mx.util.np_array(True):  # as mx.npx.set_np() has them
        net = nn.HybridSequential()
        net.add(nn.Dense(6, activation="relu"), nn.LayerNorm(), nn.Dense(3))
        net.initialize(mx.init.Xavier())
        mlflow_gluon.save_model(net, tmp_path / "m", input_example=mx.np.array(ROWS))
        expected = net(mx.np.array(ROWS)).asnumpy()
        loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
        np.testing.assert_allclose(loaded.predict(ROWS), expected, rtol=1e-4)
        block = mlflow_gluon.load_model(tmp_path / "m")
        np.testing.assert_array_equal(block(mx.np.array(ROWS)).asnumpy(), expected)
        assert mx.util.is_np_array() and mx.util.is_np_shape()
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    np.testing.assert_allclose(loaded.predict(ROWS), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "command",
    [["predict", "MODEL", "image.png"], ["evaluate", "MODEL", "dataset=digits"]],
    ids=lambda command: command[0],
)
def test_a_network_that_takes_no_images_is_not_given_any(vectors, tmp_path, command):
    Image.new("L", (4, 3)).save(tmp_path / "image.png")
    words = [str(vectors[1]) if word == "MODEL" else word for word in command]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "its network takes arrays (N, 12) of float32, no images" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("by", ["folder", "run"])
def test_verify_takes_it_as_any_other(vectors, by):
    ref = str(vectors[1])
    if by == "run":
        with mlflow.start_run() as run:
            mlflow_gluon.log_model(vectors[1] / "data", "model")
        ref = run.info.run_id
    done = CliRunner().invoke(main, ["verify", ref])
    assert done.exit_code == 0, done.output
    assert "module and symbolblock equal the trained network" in " ".join(done.output.split())


# --- images --------------------------------------------------------------------------------------

IMAGES = RNG.integers(0, 256, (4, 10, 8, 3), dtype=np.uint8)


def convolutions():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    return net


def normalized(images):
    """Return what `ToTensor` and `Normalize` make of images."""
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return (scaled - np.reshape([0.5, 0.4, 0.3], (3, 1, 1)).astype(np.float32)) / np.float32(0.2)


@pytest.mark.parametrize("example", [IMAGES, normalized(IMAGES)], ids=["images", "inputs"])
def test_a_network_of_images_classifies_image_files(tmp_path, example):
    net, moments = convolutions(), {"mean": (0.5, 0.4, 0.3), "std": 0.2}
    mlflow_gluon.save_model(
        net, tmp_path / "m", input_example=example, classes=["x", "y", "z"], **moments
    )
    expected = outputs(net, normalized(IMAGES))
    found = Classifier(tmp_path / "m/data")
    assert found.classes == ("x", "y", "z")
    np.testing.assert_allclose(found.logits(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert certificate.read(tmp_path / "m/data").images == 4
    assert flavor.load_model(str(tmp_path / "m")).shape == (10, 8, 3)
    answers = mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(IMAGES)
    assert list(answers["class"]) == ["xyz"[index] for index in expected.argmax(axis=1)]
    block = mlflow_gluon.load_model(tmp_path / "m")
    np.testing.assert_allclose(outputs(block, normalized(IMAGES)), expected, rtol=1e-4, atol=1e-5)
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "m"), "image.png", "--csv"])
    assert done.exit_code == 0, done.output
    assert "xyz"[expected[0].argmax()] in done.output
    # Nobody said of what class the images of the example are.
    answers = predict_samples(tmp_path / "m/data").answers
    assert [answer.true_name for answer in answers] == [None] * 4


@pytest.mark.parametrize(("outputs_", "op"), [(3, "softmax"), (1, "sigmoid")])
def test_probabilities_of_a_network_of_images_stay_as_they_are(tmp_path, outputs_, op):
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(outputs_), nn.HybridLambda(op))
    net.initialize(mx.init.Xavier())
    mlflow_gluon.save_model(net, tmp_path / "m", input_example=IMAGES)
    given = IMAGES.transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected = outputs(net, given)
    if op == "sigmoid":
        expected = np.hstack([1 - expected, expected])
    found = Classifier(tmp_path / "m/data").probabilities(IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    changes = Signature.read(tmp_path / "m/data").adopted["changes"]
    assert "at the end is cut off: the output is logits" in changes[0]


def test_what_a_network_of_images_takes_itself_needs_no_preprocessing(tmp_path):
    net = convolutions()
    mlflow_gluon.save_model(net, tmp_path / "m", input_example=normalized(IMAGES)[:2])
    assert read(tmp_path / "m/data") == ArraySignature((3, 10, 8))
    with pytest.raises(GluonexpError, match=r"takes arrays \(N, 3, 10, 8\) of float32, no images"):
        Signature.read(tmp_path / "m/data")


# --- what cannot be kept -------------------------------------------------------------------------


class Pair(gluon.HybridBlock):
    """Two outputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(2)

    def hybrid_forward(self, F, x):
        return self.inner(x), x


class Centred(gluon.HybridBlock):
    """Answers that depend on the others of the batch."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(2)

    def hybrid_forward(self, F, x):
        made = self.inner(x)
        return F.broadcast_sub(made, F.mean(made, axis=0, keepdims=True))


class Noisy(gluon.HybridBlock):
    """Answers that are drawn."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(2)

    def hybrid_forward(self, F, x):
        return F.Dropout(self.inner(x), p=0.5, mode="always")


class Shaped(gluon.HybridBlock):
    """What only arrays can."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(2)

    def hybrid_forward(self, F, x):
        return self.inner(x.reshape((x.shape[0], -1)))


class Added(gluon.HybridBlock):
    """Two inputs."""

    def hybrid_forward(self, F, x, y):
        return x + y


def ready(net, cast=None):
    net.initialize(mx.init.Xavier())
    if cast:
        net.cast(cast)
    return net


def spoilt():
    net = dense(in_units=8)
    net(nd.array(ROWS))
    net[1].bias.set_data(nd.array([1, np.nan, 2]))
    return net


def uninitialized():
    net = nn.HybridSequential(prefix="bare_")
    net.add(nn.Dense(2, in_units=12, prefix="bare_dense_"))
    return net


def twice():
    net = nn.HybridSequential()
    net.add(nn.Dense(2, prefix="twice_"), nn.Dense(2, prefix="twice_"))
    return net


@pytest.mark.parametrize(
    ("make", "example", "told"),
    [
        (lambda: ready(nn.Sequential()), None, "Sequential cannot be kept: it must be a HybridB"),
        (lambda: "no/such", None, "no/such: no export here"),
        (uninitialized, None, "HybridSequential is not initialized (bare_dense_weight): net.init"),
        (twice, None, "HybridSequential cannot be kept: Cannot update self with"),
        (dense, None, "is not known yet: give input_example, or call the network once"),
        (
            lambda: ready(nn.Dense(2, in_units=12), "float16"),
            None,
            "computes in float16, an export in float32: net.cast('float3",
        ),
        (spoilt, None, "_bias holds numbers that are not finite"),
        (lambda: ready(Pair()), ROWS, "Pair has 2 outputs, not one: wrap it in a HybridBlock"),
        (
            lambda: ready(Centred()),
            ROWS,
            "Centred: its answer for an input depends on the other inputs that it is given with, "
            "from layer centred0_mean0 (mean) on",
        ),
        (lambda: ready(Centred()), ROWS[:1], "Centred: its answer for an input depends on"),
        (lambda: ready(Noisy()), ROWS, "Noisy: its answer changes from call to call: a layer d"),
        (lambda: ready(Shaped()), ROWS, "written as a graph of one input: 'Symbol' object has no"),
        (lambda: ready(Added()), ROWS, "Added has no parameters: nothing to keep"),
        (lambda: ready(gluon.rnn.LSTM(3)), ROWS.reshape(5, 4, 3), "the first axis of input_exam"),
        (dense, {"a": ROWS}, "input_example is a dict, but the network takes one array"),
        (dense, [[1.0], [2.0, 3.0]], "the inputs in input_example are of unequal shapes"),
        (dense, np.array(["x"]), "input_example is <U1 (1,), but must hold numbers, (N, ...)"),
        (dense, np.array([[2**24 + 1]]), "whole numbers above 16777216 are not exact in float32"),
        (convolutions, ROWS, "HybridSequential cannot be run on input_example, float32 (5, 12)"),
    ],
)
def test_what_cannot_be_kept_is_told_in_a_sentence(tmp_path, make, example, told):
    with pytest.raises(GluonexpError) as caught:
        mlflow_gluon.save_model(make(), tmp_path / "model", input_example=example)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "given", "told"),
    [
        (ROWS, {"mean": 0.5}, "mean and std are of images, but input_example is float32 (5, 12)"),
        (None, {"std": 0.5}, "mean and std are of images: give some of them as input_example"),
        (IMAGES, {"std": 0}, "std [0.0]: must be above 0"),
        (IMAGES, {"mean": [1, 2]}, "mean [1.0, 2.0]: give 1 number, or 3"),
        (normalized(IMAGES), {"mean": 0, "std": 1}, "before these steps it was from -2.48 to 3.5"),
        (IMAGES, {"classes": ["a"]}, "1 classes are named, but the network makes (4, 3) of 4 inp"),
    ],
)
def test_what_is_said_of_images_must_fit_them(tmp_path, example, given, told):
    with pytest.raises(GluonexpError, match=re.escape(told)):
        mlflow_gluon.save_model(convolutions(), tmp_path / "m", input_example=example, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_images_with_one_output_is_no_classifier(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(1))
    net.initialize()
    with pytest.raises(GluonexpError, match="so it is no classifier of images"):
        mlflow_gluon.save_model(net, tmp_path / "m", input_example=IMAGES)
    mlflow_gluon.save_model(net, tmp_path / "m", input_example=normalized(IMAGES))
    assert (tmp_path / "m/data/certificate.json").is_file()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["input"].update(shape=[None, 0]), "a size is not a positive number"),
        (lambda s: s["input"].update(shape=[3, 12]), "a size is not a positive number"),
        (lambda s: s["input"].update(shape=[None, 2**13, 2**13]), "its input is too large"),
        (lambda s: s["input"].update(shape=7), "TypeError"),
        (lambda s: s["input"].update(shape=[]), "ValueError"),
        (lambda s: s["input"].update(dtype="int64"), "input.dtype is 'int64', not 'float32'"),
        (lambda s: s["input"].update(whole=1), "input.whole is neither true nor false"),
        (lambda s: s.update(classes=["a\x1b"]), "a name holds characters that command a terminal"),
        (lambda s: s.pop("classes"), "KeyError"),
    ],
)
def test_a_damaged_signature_of_arrays_is_told(tmp_path, change, told):
    ArraySignature((12,), ("a",)).write(tmp_path)
    fields = json.loads((tmp_path / "signature.json").read_text())
    change(fields)
    (tmp_path / "signature.json").write_text(json.dumps(fields))
    with pytest.raises(GluonexpError, match=rf"signature.json: damaged \({told}"):
        read(tmp_path)


# --- models of MLflow's own, of before 2.20 ------------------------------------------------------


@pytest.fixture
def former(net, tmp_path):
    """Return a folder as `mlflow.gluon.save_model` of MLflow 2.19 left it."""
    folder = tmp_path / "old model"
    (folder / "data").mkdir(parents=True)
    net.hybridize()
    net(nd.array(ROWS))
    net.export(str(folder / "data/net"))
    flavors = {
        "gluon": {"code": None, "mxnet_version": "1.9.1"},
        "python_function": {
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.gluon",
            "python_version": "3.8.13",
        },
    }
    content = {"flavors": flavors, "mlflow_version": "2.19.0"}
    (folder / "MLmodel").write_text(yaml.safe_dump(content))
    return folder


def test_a_model_of_the_former_flavor_is_loaded(net, former):
    np.testing.assert_array_equal(outputs(mlflow_gluon.load_model(former)), outputs(net))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = mlflow.pyfunc.load_model(str(former))
    np.testing.assert_allclose(loaded.predict(ROWS), outputs(net), rtol=1e-5)
    table = loaded.predict(pd.DataFrame(ROWS))
    np.testing.assert_allclose(table.to_numpy(), outputs(net), rtol=1e-5)


def test_a_logged_model_of_the_former_flavor_is_loaded(net, former, store):
    run_id = store.create_run(os.environ["MLFLOW_EXPERIMENT_ID"]).info.run_id
    store.log_artifacts(run_id, str(former), "model")
    found = mlflow_gluon.load_model(f"runs:/{run_id}/model")
    np.testing.assert_array_equal(outputs(found), outputs(net))
    with pytest.raises(GluonexpError) as caught:
        flavor.load_model(f"runs:/{run_id}/model")
    folder = Path(store.get_run(run_id).info.artifact_uri, "model")
    assert f"gluonexp export --symbol {folder}/data/net-symbol.json --params" in str(caught.value)


@pytest.mark.parametrize("command", ["predict", "evaluate", "verify"])
def test_the_command_that_adopts_a_former_model_is_offered(former, command):
    done = CliRunner().invoke(main, [command, str(former)])
    assert done.exit_code == 1
    data = former / "data"
    assert (
        f"gluonexp export --symbol '{data}/net-symbol.json' --params '{data}/net-0000.params' "
        "--input CxHxW --to NEW"
    ) in done.output


def test_a_former_model_is_kept_anew(net, former, tmp_path):
    mlflow_gluon.save_model(mlflow_gluon.load_model(former), tmp_path / "m", input_example=ROWS)
    np.testing.assert_allclose(
        mlflow.pyfunc.load_model(str(tmp_path / "m")).predict(ROWS), outputs(net), rtol=1e-5
    )


def test_the_offered_command_makes_an_export(tmp_path):
    net = convolutions()
    net.hybridize()
    net(nd.array(normalized(IMAGES)))
    (tmp_path / "old/data").mkdir(parents=True)
    net.export(str(tmp_path / "old/data/net"))
    with pytest.raises(GluonexpError) as caught:
        flavor.load_model(str(tmp_path / "old"))
    (offered,) = re.findall("`gluonexp (.*?)`", str(caught.value))
    words = offered.replace("CxHxW", "3x10x8").split()
    done = CliRunner().invoke(main, [*words, "--mean", "0.5,0.4,0.3", "--std", "0.2"])
    assert done.exit_code == 0, done.output
    found = Classifier(tmp_path / "NEW").logits(IMAGES)
    np.testing.assert_allclose(found, outputs(net, normalized(IMAGES)), rtol=1e-3, atol=1e-4)


def test_the_name_that_mlflow_had_is_ours():
    import mlflow.gluon

    assert mlflow.gluon is mlflow_gluon


# --- autolog -------------------------------------------------------------------------------------


@pytest.fixture
def recorded():
    """Record nothing any more after the test."""
    yield
    mlflow_gluon.autolog(disable=True)


def estimator():
    net = dense(in_units=8)
    rule = {"learning_rate": 0.001, "epsilon": 1e-07}
    trainer = gluon.Trainer(net.collect_params(), "adam", rule)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = gluon.contrib.estimator.Estimator(
            net, loss, trainer=trainer, train_metrics=mx.metric.Accuracy()
        )
    made.logger.handlers.clear()
    return made


def loader(length=4):
    rows = RNG.random((20, 3, length), dtype=np.float32)
    labels = RNG.integers(0, 3, 20).astype(np.float32)
    return gluon.data.DataLoader(gluon.data.ArrayDataset(rows, labels), batch_size=10)


def fit(*args, net=None, **kwargs):
    """Train an estimator in a run; return the run as it was recorded, and the estimator."""
    made = net or estimator()
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(*args, **kwargs)
        assert mlflow.active_run().info.run_id == run.info.run_id  # it stays open
    return mlflow.get_run(run.info.run_id), made


def runs():
    return len(mlflow.search_runs())


def test_parameters_and_metrics_have_the_names_that_they_had(recorded):
    mlflow_gluon.autolog(log_models=False)
    run, made = fit(loader(), loader(), epochs=2)
    assert run.data.params == {
        "num_layers": "2",
        "epochs": "2",
        "optimizer_name": "Adam",
        "learning_rate": "0.001",
        "epsilon": "1e-07",
    }
    last = dict(each.get() for each in (*made.train_metrics, *made.val_metrics))
    assert set(run.data.metrics) == {"training accuracy", "validation accuracy"} <= set(last)
    assert all(run.data.metrics[name] == last[name] for name in run.data.metrics)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "training accuracy")
    assert [point.step for point in history] == [0, 1]
    assert run.outputs.model_outputs == []


def test_without_held_out_data_there_are_no_metrics_of_them(recorded):
    mlflow_gluon.autolog(log_models=False)
    run, _ = fit(loader(), batches=3)
    assert set(run.data.metrics) == {"training accuracy"}
    assert run.data.params["batches"] == "3"
    assert "epochs" not in run.data.params


def test_the_trained_network_is_logged_registered_and_loads(recorded, store):
    mlflow_gluon.autolog(registered_model_name="trained")
    run, made = fit(loader(), epochs=1)
    uri = f"runs:/{run.info.run_id}/model"
    rows = RNG.random((100, 3, 4), dtype=np.float32)
    np.testing.assert_array_equal(
        outputs(mlflow_gluon.load_model(uri), rows), outputs(made.net, rows)
    )
    (version,) = store.search_model_versions("name = 'trained'")
    assert version.run_id == run.info.run_id
    (model,) = run.outputs.model_outputs
    folder = Path(store.get_logged_model(model.model_id).artifact_location)
    assert certificate.read(folder / "data").images == 8
    assert read(folder / "data") == ArraySignature((3, 4))


def test_a_run_of_its_own_ends_with_the_training(recorded):
    mlflow_gluon.autolog(log_models=False)
    before = runs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator().fit(loader(), epochs=1)
    assert mlflow.active_run() is None
    assert runs() == before + 1
    newest = mlflow.search_runs(max_results=1).iloc[0]
    assert newest["status"] == "FINISHED"
    assert newest["metrics.training accuracy"] >= 0


def test_a_training_that_fails_fails_as_before(recorded):
    mlflow_gluon.autolog(log_models=False)
    with pytest.raises(ValueError, match="Fit only support exactly one type of iteration"):
        estimator().fit(loader())
    assert mlflow.active_run() is None
    assert mlflow.search_runs(max_results=1).iloc[0]["status"] == "FAILED"


def test_nothing_is_recorded_any_more_where_that_is_wanted(recorded):
    mlflow_gluon.autolog(log_models=False)
    mlflow_gluon.autolog(disable=True)
    run, _ = fit(loader(), epochs=1)
    assert run.data.params == run.data.metrics == {}
    mlflow_gluon.autolog(log_models=False, exclusive=True)
    run, _ = fit(loader(), epochs=1)
    assert run.data.params == run.data.metrics == {}


@pytest.mark.parametrize("by_position", [True, False])
def test_the_handlers_of_the_user_are_called_and_their_list_stays(recorded, by_position):
    class Counting(gluon.contrib.estimator.EpochEnd):
        epochs = 0

        def epoch_end(self, estimator, *args, **kwargs):
            self.epochs += 1

    mlflow_gluon.autolog(log_models=False)
    own = [Counting()]
    if by_position:
        run, _ = fit(loader(), None, 2, own)
    else:
        run, _ = fit(loader(), epochs=2, event_handlers=own)
    assert (len(own), own[0].epochs) == (1, 2)
    assert run.data.params["epochs"] == "2"


def test_a_network_whose_layers_cannot_be_counted_has_the_other_parameters(recorded):
    mlflow_gluon.autolog(log_models=False)
    made = estimator()
    made.net = made.val_net = nn.Dense(3)
    made.net.initialize()
    made.trainer = gluon.Trainer(made.net.collect_params(), "sgd", {"learning_rate": 0.5})
    run, _ = fit(loader(), epochs=1, net=made)
    assert run.data.params == {"epochs": "1", "optimizer_name": "SGD", "learning_rate": "0.5"}


def test_lengths_that_change_from_batch_to_batch_are_of_any_length():
    seen = _Seen()
    seen.batch(None)
    assert seen.shape is None
    for length in (7, 5, 9):
        seen.batch([nd.zeros((10, length, 2)), nd.zeros(10)])
    assert seen.shape == (None, 2)
    assert seen.example.shape == (8, 7, 2)
