"""`gluonexp evaluate`: the run's own numbers again, from what it exported; and other data."""

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from gluonexp import experiment
from gluonexp.cli import main
from gluonexp.cli.settings import settings
from gluonexp.errors import GluonexpError
from gluonexp.run import compose as composed
from gluonexp.tracking import open_store

# Each of these changes a number if it is forgotten.
OVERRIDES = [
    *("model=mlp", "trainer.epochs=1", "seed=3", "dataset.source.size=9"),
    *("dataset.val_fraction=0.25", "dataset.train_fraction=0.5", "loss.label_smoothing=0.2"),
]


class Trained:
    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        config = composed(*OVERRIDES, f"tracking.uri={self.uri}")
        console = Console(file=io.StringIO())
        self.result = experiment.run(config, folder / "job", OVERRIDES, console)
        self.artifacts = next((folder / "mlruns/artifacts").glob("*/*/artifacts"))
        self.recorded = self.artifacts / "config" / "resolved.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def evaluate(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)

    def evaluate(*arguments, status=0):
        result = CliRunner().invoke(main, ["evaluate", *arguments])
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.stderr

    return evaluate


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_runs_own_numbers_come_out(trained, evaluate, split):
    found = json.loads(evaluate("last", "--split", split, "--json"))
    metrics = trained.result.metrics
    assert found["accuracy"] == metrics[f"{split}/acc"]
    assert found["loss"] == pytest.approx(metrics[f"{split}/loss"], rel=1e-5)
    assert (found["split"], found["runtime"]) == (split, "module")


def test_train_is_what_was_trained_on(trained, evaluate):
    found = json.loads(evaluate("last", "--split", "train", "--json"))
    client = open_store(trained.uri)
    recorded = client.get_run(trained.result.run_id).data.params
    assert found["images"] == int(recorded["data.train_images"])
    assert found["digest"] == recorded["data.digest"]


def test_data_typed_or_recorded_are_the_same(evaluate):
    typed = evaluate(
        "last", "dataset=digits", "dataset.source.size=9", "loss.label_smoothing=0", "--json"
    )
    recorded = evaluate("last", "loss=softmax_ce", "--json")
    assert json.loads(typed) == json.loads(recorded)
    assert json.loads(typed)["loss"] != json.loads(evaluate("last", "--json"))["loss"]


def test_every_class_has_its_shares(evaluate):
    whole = json.loads(evaluate("last", "--json"))
    counts = np.array(whole["confusion"])
    assert counts.sum() == whole["images"] == 359
    assert counts.trace() / counts.sum() == pytest.approx(whole["accuracy"])
    for index, row in enumerate(whole["classes"]):
        hit, said, true = counts[index, index], counts[:, index].sum(), counts[index].sum()
        precision, recall = hit / said if said else 0, hit / true
        assert row["name"] == str(index)
        assert row["support"] == true
        assert row["recall"] == pytest.approx(recall)
        assert row["precision"] == pytest.approx(precision)
        both = precision + recall
        assert row["f1"] == pytest.approx(2 * precision * recall / both if both else 0)
    table = list(csv.DictReader(io.StringIO(evaluate("last", "--csv"))))
    assert [float(row["recall"]) for row in table] == [row["recall"] for row in whole["classes"]]
    assert list(table[0]) == ["class", "precision", "recall", "f1", "support"]


def test_people_get_a_table_and_a_picture(evaluate, tmp_path):
    printed = evaluate("last", "--plot", "confusion.png", "--runtime", "symbolblock")
    whole = json.loads(evaluate("last", "--json"))
    assert f"accuracy {whole['accuracy']:.4f}, loss {whole['loss']:.4f}" in printed
    assert "359 images" in printed
    assert "runtime symbolblock" in printed
    assert printed.splitlines()[2].split() == ["class", "precision", "recall", "f1", "images"]
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_a_folder_is_as_good_as_its_run(trained, evaluate):
    wanted = evaluate("last", "--json")
    assert evaluate(str(trained.artifacts), "--json") == wanted
    assert evaluate(str(trained.artifacts / "export"), "--json") == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=fashion_mnist"], "it has 't-shirt/top' as class 0, the model '0'"),
        (["dataset.source.size=8"], "its images are 8x8 with 1 channel, but the model takes 9x9"),
        (["dataset=synthetic"], "is not what this model was trained for"),
        (["dataset=nothing"], "Could not find 'dataset/nothing'"),
        (["dataset.source.sise=8"], "sise"),
        (["optim.lr=1"], "optim.lr=1: the model is what it is"),
        (["~dataset"], "nothing can be taken away"),
        (["seed=1,2"], "seed=1,2"),
        (["dataset.val_fraction=2"], "dataset.val_fraction=2"),
        (["dataset.val_fraction=0", "--split", "val"], "choose --split train or test"),
        (["--plot", "table.txt"], "table.txt: name a picture"),
        (["="], "="),
    ],
)
def test_what_is_wrong_is_told(evaluate, tmp_path, arguments, message):
    told = evaluate("last", *arguments, status=1)
    assert message in told
    assert told.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


def test_where_no_data_are_recorded_some_must_be_named(trained, evaluate, tmp_path):
    (tmp_path / "lonely").mkdir()
    for path in (trained.artifacts / "export").iterdir():
        (tmp_path / "lonely" / path.name).write_bytes(path.read_bytes())
    assert "name the data, as in dataset=" in evaluate("lonely", status=1)
    found = json.loads(evaluate("lonely", "dataset=digits", "dataset.source.size=9", "--json"))
    assert found["accuracy"] == trained.result.metrics["test/acc"]


# --- the configuration ---------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """Write a recorded configuration, changed; return its path."""

    def write(*overrides, **changed):
        whole = asdict(composed(*overrides)) | changed
        path = tmp_path / "resolved.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


def test_what_was_recorded_counts(recorded):
    overrides = ["dataset=image_folder", "dataset.root='/data/a b'", "dataset.resize=32", "seed=7"]
    overrides += ["dataset.mean=[0.1,0.2,0.3]", "dataset.channels=1", "loss.label_smoothing=0.1"]
    before = composed(*overrides, "optim.lr=0.5")
    found = settings(recorded(*overrides, "optim.lr=0.5"), [])
    assert found.dataset == before.dataset
    assert found.loss == before.loss
    assert found.seed == 7
    assert found.optim.lr == composed().optim.lr  # nothing else of it


def test_what_is_typed_reaches_what_refers_to_it(recorded):
    path = recorded("dataset=image_folder", "dataset.root=/data/a", "dataset.resize=32")
    found = settings(path, ["dataset.root=/data/b", "dataset.resize=64", "seed=1"])
    assert found.dataset.source["root"] == "/data/b"
    assert found.dataset.source["size"] == 64
    assert found.seed == 1
    assert settings(path, []).dataset.source["size"] == 32


def test_a_recorded_environment_variable_is_not_read_again(recorded, monkeypatch):
    monkeypatch.setenv("GLUONEXP_DATA", "/data/then")
    path = recorded("dataset=fashion_mnist")
    monkeypatch.setenv("GLUONEXP_DATA", "/data/now")
    assert settings(path, []).dataset.source["root"] == "/data/then"
    assert settings(path, ["dataset=fashion_mnist"]).dataset.source["root"] == "/data/now"


@pytest.mark.parametrize("text", ["", "[]", "dataset: 3", "{", "dataset: {}\nloss: {}\nseed: x"])
def test_a_damaged_record_is_told(tmp_path, text):
    path = tmp_path / "resolved.yaml"
    path.write_text(text)
    with pytest.raises(GluonexpError, match=r"resolved\.yaml: not the configuration of a run"):
        settings(path, [])
