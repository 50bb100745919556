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
from gluonexp.assembly.targets import constructor
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import digits
from gluonexp.cli import main
from gluonexp.cli.settings import names_data, settings, trained_on
from gluonexp.data.digits import Digits
from gluonexp.inference.predict import Classifier
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
    drawn = "--plot", "confusion.png", "--reliability", "reliability.png"
    printed = evaluate("last", *drawn, "--runtime", "symbolblock")
    whole = json.loads(evaluate("last", "--json"))
    assert f"accuracy {whole['accuracy']:.4f}, loss {whole['loss']:.4f}" in printed
    assert printed.startswith("scikit-learn digits, test split: 359 of 1,797 images (")
    assert "note" not in printed  # these are the run's own
    assert "runtime symbolblock" in printed
    others = ", ".join(f"{name} {digits(value)}" for name, value in whole["metrics"].items())
    assert others.startswith("top5 ") and printed.splitlines()[2] == others
    assert printed.splitlines()[3].split() == ["class", "precision", "recall", "f1", "images"]
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"


def test_a_folder_is_as_good_as_its_run(trained, evaluate):
    wanted = evaluate("last", "--json")
    assert evaluate(str(trained.artifacts), "--json") == wanted
    assert evaluate(str(trained.artifacts / "export"), "--json") == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dataset=fashion_mnist"],
            "dataset=fashion_mnist is not what this model was trained for: of its 10 classes, "
            "'t-shirt/top', 'trouser', 'pullover', 'dress', 'coat' and 5 more are not among the "
            "model's 10: '0', '1', '2', '3', '4' and 5 more; it was trained on dataset=digits\n",
        ),
        (
            ["dataset.source.size=8"],
            "its images are 8x8 with 1 channel, but the model takes 9x9 with 1 channel; type "
            "dataset.source.size=9\n",
        ),
        (["dataset=synthetic"], "is not what this model was trained for"),
        (["dataset=nothing"], "Could not find 'dataset/nothing'"),
        (["dataset.source.sise=8"], "sise"),
        (["optim.lr=1"], "optim.lr=1: only dataset, loss and seed"),
        (["~dataset"], "keys cannot be deleted"),
        (["seed=1,2"], "seed=1,2"),
        (["dataset.val_fraction=2"], "dataset.val_fraction=2"),
        (
            ["dataset.val_fraction=0", "--split", "val"],
            "has no val split; choose --split train or test or all",
        ),
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


# --- data of one's own ---------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Write 12 of the digits of each of some classes as colour images, 18x18, into folders."""
    digits = Digits(size=9).load().train

    def write(root, **classes):
        for name, label in classes.items():
            (tmp_path / root / name).mkdir(parents=True)
            for index, image in enumerate(digits.images[digits.labels == label][:12]):
                large = Image.fromarray(image[..., 0]).resize((18, 18)).convert("RGB")
                large.save(tmp_path / root / name / f"{index:02d}.png")
        return ["dataset=image_folder", f"dataset.root={root}"]

    return write


def renamed(trained, folder, names):
    """Write a copy of the export whose classes have other names; nothing else is beside it."""
    folder.mkdir()
    for path in (trained.artifacts / "export").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    signature = json.loads((folder / "signature.json").read_text())
    (folder / "signature.json").write_text(json.dumps(signature | {"classes": names}))
    return folder.name


def test_a_folder_is_read_in_the_models_size_and_whole_if_asked(trained, evaluate, photos):
    own = photos("own", **{str(label): label for label in range(10)})
    whole = json.loads(evaluate("last", *own, "--split", "all", "--json"))
    config = settings(trained.recorded, own, (9, 9, 1))
    read = constructor(config.dataset.source, "dataset.source", ["gluonexp"])().load()
    images = np.concatenate([read.train.images, read.test.images])
    labels = np.concatenate([read.train.labels, read.test.labels])
    assert images.shape == (120, 9, 9, 1)
    said = Classifier(trained.artifacts / "export").logits(images).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, said), 1)
    assert whole["confusion"] == expected.tolist()
    assert (whole["images"], whole["total"], whole["notes"]) == (120, 120, [])
    assert whole["accuracy"] == pytest.approx((said == labels).mean())
    printed = evaluate("last", *own, "--split", "all")
    assert printed.startswith("own, all: 120 images (")
    assert "note" not in printed
    part = json.loads(evaluate("last", *own, "--json"))
    assert (part["split"], part["images"], part["total"]) == ("test", 20, 120)
    assert part["digest"] == whole["digest"]
    printed = evaluate("last", *own)
    assert printed.startswith("own, test split: 20 of 120 images (")
    assert printed.endswith(
        "  note: 20 of 120 images: the test split; --split all scores every one\n"
    )
    # Without a test split, what there is is named.
    told = evaluate("last", *own, "dataset.source.test_fraction=0", status=1)
    assert told == "Error: own has no test split; choose --split train or val or all\n"
    # A size that is typed counts.
    assert (
        "its images are 18x18 with 1 channel, but the model takes 9x9 with 1 channel; type "
        "dataset.resize=9\n"
    ) in evaluate("last", *own, "dataset.resize=18", status=1)
    assert evaluate("last", *own, "dataset.resize=18", "dataset.channels=3", status=1).endswith(
        "type dataset.resize=9 dataset.channels=1\n"
    )


def test_all_is_what_the_data_set_has(trained, evaluate):
    whole = json.loads(evaluate("last", "--split", "all", "--json"))
    assert (whole["split"], whole["images"], whole["total"]) == ("all", 1797, 1797)
    parts = [json.loads(evaluate("last", "--split", name, "--json")) for name in ("train", "val")]
    # As the run had them: half of what validation left was not trained on.
    assert [part["total"] for part in parts] == [359 + sum(part["images"] for part in parts)] * 2


def test_some_of_the_classes_are_scored_by_their_names(evaluate, photos):
    own = photos("own", **{str(label): label for label in range(10)})
    whole = np.array(json.loads(evaluate("last", *own, "--split", "all", "--json"))["confusion"])
    some = photos("some", **{"3": 3, "7": 7})
    found = json.loads(evaluate("last", *some, "--split", "all", "--json"))
    expected = np.zeros((10, 10), int)
    expected[[3, 7]] = whole[[3, 7]]
    assert found["confusion"] == expected.tolist()
    assert found["accuracy"] == pytest.approx(expected.trace() / 24)
    assert found["notes"] == ["classes are matched by name: 2 of the model's 10"]
    assert [row["support"] for row in found["classes"]] == [12 * (i in (3, 7)) for i in range(10)]
    lines = evaluate("last", *some, "--split", "all", "--plot", "confusion.png").splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["class", "3", "7"]
    assert lines[6:] == [
        "  note: classes are matched by name: 2 of the model's 10",
        "  note: not listed, for want of images: 0, 1, 2, 4, 5 and 3 more",
    ]
    assert len(list(csv.DictReader(io.StringIO(evaluate("last", *some, "--csv"))))) == 10


def test_classes_in_another_order_are_the_same_classes(trained, evaluate, tmp_path):
    backwards = renamed(trained, tmp_path / "backwards", [*"9876543210"])
    own = json.loads(evaluate("last", "loss=softmax_ce", "--json"))
    digits = ["dataset=digits", "dataset.source.size=9"]
    found = json.loads(evaluate(backwards, *digits, "--json"))
    # What was said of each image stays; what is right now is called so.
    assert found["confusion"] == own["confusion"][::-1]
    assert [row["name"] for row in found["classes"]] == [*"9876543210"]
    assert found["digest"] == own["digest"]
    assert found["notes"] == ["classes are matched by name: 10 of the model's 10"]


def test_a_class_is_known_by_the_name_of_its_folder(trained, evaluate, photos, tmp_path):
    names = [*("a/b", "a:b", "t-shirt/top", "x", "x"), *"56789"]
    renamed(trained, tmp_path / "odd", names)
    own = photos("own", **{"5": 5, "t-shirt_top": 2})
    found = json.loads(evaluate("odd", *own, "--split", "all", "--json"))
    assert [row["support"] for row in found["classes"]] == [0, 0, 12, 0, 0, 12, 0, 0, 0, 0]
    for name in ("a_b", "x"):  # either of two
        several = photos(f"with {name}", **{name: 0, "5": 5, "t-shirt_top": 2})
        several[1] = f"dataset.root='with {name}'"
        assert (
            f"of its 3 classes, '{name}' is not among the model's 10: 'a/b', 'a:b', 't-shirt/top'"
        ) in evaluate("odd", *several, status=1)


def test_what_a_run_was_trained_on_is_told_as_one_would_type_it(recorded):
    assert trained_on(None) is None
    assert trained_on(recorded("dataset=digits")) == "dataset=digits"
    path = recorded("dataset=image_folder", "dataset.root='/data/a b'")
    assert trained_on(path) == "dataset=image_folder dataset.root='/data/a b'"
    whole = yaml.safe_load(path.read_text())
    whole["dataset"] |= {"name": "\x1b[31m"}
    path.write_text(yaml.safe_dump(whole))
    assert trained_on(path) is None


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["dataset=digits"], True),
        (["++dataset.root=x"], True),
        (["experiment=cifar10_alexnet"], True),
        (["seed=1", "dataset.source.size=3"], True),
        (["dataset.val_fraction=0.2", "loss=softmax_ce", "seed=1"], False),
        ([], False),
    ],
    ids=str,
)
def test_when_data_are_named(overrides, named):
    assert names_data(overrides) is named


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


def test_where_images_are_kept_is_not_taken_from_a_record(recorded):
    path = recorded("dataset=image_folder", "features.folder=/elsewhere", "features.cache=off")
    source = settings(path, []).dataset.source
    assert (source["cache"], source["cache_folder"]) == ("auto", None)
    typed = settings(path, ["dataset.source.cache_folder=/here"]).dataset.source
    assert typed["cache_folder"] == "/here"


def test_only_images_of_any_size_get_that_of_the_model(recorded):
    shape = (9, 9, 1)
    fitted = settings(None, ["dataset=image_folder"], shape).dataset
    assert (fitted.source["size"], fitted.source["channels"]) == (9, 1)
    typed = settings(None, ["dataset=image_folder", "dataset.resize=64"], shape).dataset
    assert (typed.source["size"], typed.source["channels"]) == (64, 1)
    assert settings(None, ["dataset=image_folder"]).dataset.source["size"] == 224
    for name in ("digits", "cifar10_images", "fashion_mnist"):
        assert settings(None, [f"dataset={name}"], shape) == settings(None, [f"dataset={name}"])
    path = recorded("dataset=image_folder", "dataset.resize=9", "dataset.channels=1")
    assert settings(path, [], shape) == settings(path, [])


def test_a_recorded_environment_variable_is_not_read_again(recorded, monkeypatch):
    monkeypatch.setenv("GLUONEXP_DATA", "/data/then")
    path = recorded("dataset=fashion_mnist")
    monkeypatch.setenv("GLUONEXP_DATA", "/data/now")
    assert settings(path, []).dataset.source["root"] == "/data/then"
    assert settings(path, ["dataset=fashion_mnist"]).dataset.source["root"] == "/data/now"


def test_a_run_from_before_the_rooms_had_its_loss_elsewhere(recorded):
    old = {"_target_": "gluonexp.loss.softmax_cross_entropy", "label_smoothing": 0.1}
    found = settings(recorded(loss=old), [])
    assert found.loss["label_smoothing"] == 0.1


@pytest.mark.parametrize("text", ["", "[]", "dataset: 3", "{", "dataset: {}\nloss: {}\nseed: x"])
def test_a_damaged_record_is_told(tmp_path, text):
    path = tmp_path / "resolved.yaml"
    path.write_text(text)
    with pytest.raises(GluonexpError, match=r"resolved\.yaml: not the configuration of a run"):
        settings(path, [])
