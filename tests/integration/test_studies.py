"""The studies' scripts: each CSV file is what a script beside it writes, from runs as they are."""

import csv
import re
import runpy
import sys
from pathlib import Path

import pytest

from gluonexp.tracking import ensure_experiment, open_store

STUDIES = Path(__file__).parents[2] / "experiments"
PARAMS = {
    **{"seed": "0", "optim.lr": "0.01", "trainer.epochs": "1", "dataset.resize": "64"},
    **{"engine.name": "torch", "engine.precision": "float32", "trainer.batch_size": "16"},
    **{"data.title": "digits", "data.train_images": "9", "model.weights": "none"},
}
METRICS = {
    **{f"{split}/{score}": 0.5 for split in ("train", "val", "test") for score in ("loss", "acc")},
    "time/images_per_s": 1234.5,
}
# How the runs in each experiment ended, one after the other. What is collected from exports is
# not there: those runs failed before they had any.
ENDED = {
    **{name: ("FAILED",) for name in ("export_families", "int8")},
    **{
        name: ("FINISHED", "FAILED", "FINISHED")
        for name in (
            *("bundled_alexnet", "cifar10_alexnet", "engines", "fashion_mnist_cnn", "lr_grid"),
            "cifar10_fast",
        )
    },
}
# How many rows come of that; a sweep of rates is one.
ROWS = {
    **{"bundled_alexnet": 2, "cifar10_alexnet": 2, "cifar10_fast": 2, "fashion_mnist_cnn": 2},
    "lr_search": 1,
}
# The fast recipe in miniature.
FAST = (
    *("dataset=synthetic", "dataset.source.size=20", "dataset.source.channels=3"),
    *("dataset.source.train=80", "dataset.val_fraction=0.2", "model.widths=[4]"),
    *("trainer.epochs=1", "trainer.batch_size=32"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder below which such runs are recorded, most of them as parts of a sweep."""
    from mlflow.entities import Metric, Param

    folder = tmp_path_factory.mktemp("studies")
    (folder / "mlruns").mkdir()
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    client = open_store(uri)
    for experiment, ended in ENDED.items():
        number = ensure_experiment(client, experiment, uri)
        tags = {}
        if experiment != "bundled_alexnet":
            sweep = client.create_run(number, tags={"gluonexp.kind": "sweep"}).info.run_id
            client.set_terminated(sweep)
            tags = {"mlflow.parentRunId": sweep}
        for status in ended:
            run = client.create_run(number, tags=tags).info.run_id
            metrics = [Metric(key, value, 0, 0) for key, value in METRICS.items()]
            params = [Param(key, value) for key, value in PARAMS.items()]
            client.log_batch(run, metrics, params)
            client.set_terminated(run, status)
    return folder


def writers(study):
    """Return which script of a study writes which file, as its run.sh says."""
    command = r'^python (?:"\$here/)?(\w+\.py)"?(?: --csv| >) (?:"\$here/)?(\w+\.csv)'
    return re.findall(command, (study / "run.sh").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(STUDIES.glob("*/*.csv")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_table_has_the_script_that_writes_it(path, store, tmp_path, monkeypatch, capsys):
    (script,) = (script for script, written in writers(path.parent) if written == path.name)
    small = {
        "bench.py": ["--only=cnn", "--rounds=1", "--images=512", f"--csv={tmp_path}/x.csv"],
        "pruners.py": ["2"],
        "seconds.py": ["mxnet", *FAST],
        "speed.py": ["--only=small", "--rounds=1", "--images=256", f"--csv={tmp_path}/x.csv"],
    }
    if path.parent.name == "reading":  # another study's script has the same name
        small[script] = ["--runs=250", "--rounds=1", "--stores=SQLite", "--commands=runs"]
    monkeypatch.chdir(store)
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script that it runs
    monkeypatch.setattr(sys, "argv", [script, *small.get(script, [])])
    runpy.run_path(str(path.parent / script), run_name="__main__")
    text = capsys.readouterr().out
    if script in ("bench.py", "speed.py"):
        text = (tmp_path / "x.csv").read_text()
    rows = list(csv.reader(text.splitlines()))
    recorded = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == recorded[0]
    assert {len(row) for row in rows} == {len(recorded[0])}
    if path.name == "results.csv" and (wanted := ROWS.get(path.parent.name)):
        assert len(rows) == 1 + wanted


def test_the_fast_recipe_is_trained_without_each_of_its_pieces(tmp_path, monkeypatch, capsys):
    study = STUDIES / "cifar10_fast"
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time nothing is left to do
        monkeypatch.setattr(sys, "argv", ["train.py", "1", *FAST, "engine.precision=float32"])
        runpy.run_path(str(study / "train.py"), run_name="__main__")
    capsys.readouterr()
    runpy.run_path(str(study / "collect.py"), run_name="__main__")
    rows = [*csv.DictReader(capsys.readouterr().out.splitlines())]
    recorded = [*csv.DictReader((study / "results.csv").read_text().splitlines())]
    assert {row["left_out"] for row in rows} == {row["left_out"] for row in recorded}
    assert len(rows) == 6
    # Each piece makes a difference: averaging only to what is tested.
    assert len({(row["train/loss"], row["test/loss"]) for row in rows}) == 6
