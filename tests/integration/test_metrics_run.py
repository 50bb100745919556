"""Metrics beyond accuracy in a real run: measured, the objective, shown, and measured again."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, f1_score

from gluonexp import experiment
from gluonexp.base import metrics
from gluonexp.base.errors import GluonexpError
from gluonexp.cli import main
from gluonexp.run import compose as composed
from gluonexp.tracking import open_store
from gluonexp.tracking.artifacts import of_run

RUN = ("model=mlp", "model.hidden=[16]", "trainer.batch_size=64", "optim.lr=0.01", "device=cpu")
# A rate as high as that goes up and down, so that the best epoch need not be the last.
WILD = (*RUN, "trainer.epochs=4", "optim.lr=0.06", "seed=1")


class Measured:
    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/m.db"
        chosen = "metrics=full", "objective.metric=val/log_loss", "objective.mode=min"
        words = [
            *WILD,
            *chosen,
            "export.onnx=false",
            "export.mlflow_model=false",
            f"tracking.uri={self.uri}",
        ]
        self.said = Console(file=io.StringIO(), width=120)
        self.result = experiment.run(composed(*words), folder / "job", words, self.said)
        self.client = open_store(self.uri)
        self.run = self.client.get_run(self.result.run_id)
        self.files = of_run(self.client, self.result.run_id)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return Measured(tmp_path_factory.mktemp("measured"))


def test_each_epoch_has_them_and_the_test_split_at_the_end(ran):
    for row in ran.result.history:
        assert {f"val/{name}" for name in metrics.NAMES} <= row.keys()
        assert row["val/log_loss"] == pytest.approx(row["val/loss"], rel=1e-5)
        assert row["val/top5"] >= row["val/acc"]
    for name in metrics.NAMES:
        curve = ran.client.get_metric_history(ran.result.run_id, f"val/{name}")
        assert [point.value for point in curve] == [
            row[f"val/{name}"] for row in ran.result.history
        ]
    assert json.loads(ran.run.data.params["metrics.names"]) == list(metrics.NAMES)


def test_those_of_the_test_split_are_of_the_recorded_predictions(ran, tmp_path):
    table = pd.read_csv(ran.files.fetch("predictions/test.csv", tmp_path))
    found = ran.run.data.metrics
    assert found["test/macro_f1"] == f1_score(table.label, table.predicted, average="macro")
    assert found["test/balanced_acc"] == balanced_accuracy_score(table.label, table.predicted)
    assert found == {**found, **{k: v for k, v in ran.result.metrics.items() if "test/" in k}}


def test_the_best_checkpoint_is_the_best_by_the_objective(ran):
    values = [row["val/log_loss"] for row in ran.result.history]
    assert ran.result.objective == min(values) == ran.result.metrics["val/log_loss"]
    assert int(np.argmin(values)) < len(values) - 1  # or the last epoch would do as well
    said = ran.said.file.getvalue()
    assert f"Val log_loss {values[0]:.3f}" in said
    assert f"best epoch: {np.argmin(values)}" in said
    heading = next(line for line in said.splitlines() if line.startswith("split"))
    assert heading.split() == ["split", "loss", "accuracy", *metrics.NAMES]


def test_a_picture_shows_how_sure_it_is(ran, tmp_path):
    with Image.open(ran.files.fetch("plots/reliability.png", tmp_path)) as picture:
        assert picture.format == "PNG"


def test_evaluate_measures_the_same_again(ran):
    done = CliRunner().invoke(main, ["evaluate", "last", "--json", "--tracking-uri", ran.uri])
    assert done.exit_code == 0, done.output
    for name, value in json.loads(done.stdout)["metrics"].items():
        assert value == pytest.approx(ran.result.metrics[f"test/{name}"], abs=1e-6)


def test_tables_of_runs_are_by_the_objective(ran):
    def told(*command):
        done = CliRunner().invoke(main, [*command, "--tracking-uri", ran.uri])
        assert done.exit_code == 0, done.output
        return done.stdout

    best = f"{ran.result.objective:.4f}"
    assert best in told("runs") and "val/log_loss" in told("runs")
    assert json.loads(told("compare", ran.result.run_id, "--json"))["mode"] == "min"
    table = told("compare", ran.result.run_id)
    assert "val/log_loss" in table and best in table


@pytest.mark.parametrize("engine", ["mxnet", "torch"])
def test_other_metrics_change_no_number_and_none_are_measured_unasked(compose, tmp_path, engine):
    common = *RUN, "trainer.epochs=2", "tracking=none", "export=none", f"engine={engine}"
    plain = experiment.run(compose(*common), tmp_path / "plain")
    more = experiment.run(compose(*common, "metrics=full"), tmp_path / "more")
    extra = {f"{split}/{name}" for split in ("val", "test") for name in metrics.NAMES}
    assert not extra & {*plain.metrics, *plain.history[0]}
    assert not (tmp_path / "plain" / "artifacts" / "plots" / "reliability.png").exists()
    for before, after in zip(plain.history, more.history, strict=True):
        timeless = {name: value for name, value in before.items() if "time/" not in name}
        assert {**after, **timeless} == after
        assert after.keys() - before.keys() == {name for name in extra if "val/" in name}


def test_what_stopping_watches_is_measured_and_what_nobody_can_measure_refused(compose, tmp_path):
    watch = "callbacks=early_stopping", "callbacks.early_stopping.metric=val/balanced_acc"
    small = *RUN, "tracking=none", "export=none", "dataset=synthetic", "dataset.source.classes=2"
    words = *small, *watch, "callbacks.early_stopping.patience=1", "trainer.epochs=9"
    said = Console(file=io.StringIO(), width=120)
    result = experiment.run(compose(*words, "metrics=full"), tmp_path, console=said)
    assert "top5 is not measured: it says nothing of 2 classes" in said.file.getvalue()
    assert "val/top5" not in result.metrics
    assert "stopped early: val/balanced_acc has not improved" in said.file.getvalue()
    assert len(result.history) < 9
    alone = experiment.run(compose(*words), tmp_path / "alone")
    assert "val/balanced_acc" in alone.metrics and "val/ece" not in alone.metrics
    with pytest.raises(GluonexpError, match="val/top5 says nothing of 2 classes"):
        experiment.run(compose(*small, "objective.metric=val/top5"), tmp_path / "never")
    contradictory = "callbacks.early_stopping.metric=val/ece", "callbacks.early_stopping.mode=max"
    with pytest.raises(GluonexpError, match=r"callbacks\.early_stopping\.mode=max: of val/ece"):
        experiment.run(compose(*words, *contradictory), tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective.metric=val/f1"], r"objective\.metric=val/f1: choose one of train/loss"),
        (["objective.metric=train/macro_f1"], r"train/macro_f1: choose one of"),
        (["objective.metric=val/loss"], r"mode=max: of val/loss lower is better; type objective"),
        (["metrics.names=[ece,f1]"], r"metrics\.names=f1: choose of top5"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(compose, words, message):
    with pytest.raises(GluonexpError, match=message):
        compose(*words)
