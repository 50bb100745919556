"""The model card of a run that was offline: sent, registered, downloaded, exported again."""

import io
import json
import shutil

import pytest
from click.testing import CliRunner
from rich.console import Console

from gluonexp import experiment
from gluonexp.base.files import sha256
from gluonexp.cli import main
from gluonexp.run import compose
from gluonexp.tracking import open_store
from gluonexp.verification import card

SECRET = "hf_" + "a1B2" * 9


class Registered:
    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/store/m.db"
        words = [
            *("model=mlp", "model.hidden=[16]", "trainer.epochs=2", "optim.lr=0.01", "device=cpu"),
            *("metrics.names=[macro_f1]", "export.register=digits", "export.images=40"),
            *(f"tracking.run_name={SECRET}", "tracking=offline", f"tracking.uri={self.uri}"),
        ]
        quiet = Console(file=io.StringIO())
        self.result = experiment.run(compose(*words), folder / "job", words, quiet)
        (log,) = folder.glob("**/run.jsonl")
        (folder / "store").mkdir()
        sent = CliRunner().invoke(main, ["push", str(log.parent), "--to", self.uri])
        assert sent.exit_code == 0, sent.output
        self.client = open_store(self.uri)
        (self.run,) = self.client.search_runs(["1"])
        self.export = next((folder / "store").glob("**/artifacts/export"))
        self.text = (self.export / "README.md").read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return Registered(tmp_path_factory.mktemp("registered"))


@pytest.fixture
def told(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def told(*command, status=0):
        done = CliRunner().invoke(main, [*command, "--tracking-uri", ran.uri])
        assert done.exit_code == status, done.output
        return done.output

    return told


def test_it_says_what_the_run_found(ran):
    metrics, words = ran.result.metrics, " ".join(ran.text.split())
    assert f"accuracy | {metrics['test/acc']:.4f}" in words
    assert f"macro F1 | {metrics['test/macro_f1']:.4f}" in words
    assert f"`{ran.run.data.params['data.digest']}`" in ran.text and ran.result.run_id in ran.text
    assert "equal the trained network on 40 images of the test split" in words
    assert "train: 1,293 images" in ran.text
    assert "python -m gluonexp.run model=mlp model.hidden='[16]'" in ran.text
    assert SECRET not in ran.text and "tracking.run_name='***'" in ran.text
    assert "engine: mxnet, float32" in ran.text


def test_the_certificate_has_its_digest(ran, told):
    recorded = json.loads((ran.export / "certificate.json").read_text())
    assert recorded["files"]["README.md"] == sha256(ran.export / "README.md")
    assert "README.md" not in told("verify", "last")


def test_it_is_the_description_of_the_version_and_travels_with_the_model(ran, told, tmp_path):
    version = ran.client.get_model_version("digits", "1")
    assert version.description == card.description(ran.text)
    assert "# Image classifier: scikit-learn digits" in version.description
    told("download", "models:/digits@champion", "--to", "model")
    assert (tmp_path / "model" / "data" / "README.md").read_text() == ran.text


def test_it_is_downloaded_and_a_changed_one_is_found_out(ran, told, tmp_path):
    told("download", "last", "export", "--to", "there")
    place = tmp_path / "there" / "export"
    assert (place / "README.md").read_text() == ran.text
    (place / "README.md").write_text(ran.text.replace("0.9", "1.0"))
    assert "README.md changed since" in told("verify", str(place), status=1)
    (place / "README.md").unlink()
    assert "README.md was certified, and is gone" in told("verify", str(place), status=1)


def test_exported_again_it_keeps_what_the_run_said(ran, told, tmp_path):
    told("export", "last", "--to", "again")
    text = (tmp_path / "again" / "README.md").read_text()
    assert ran.result.run_id in text and card.body(text) != card.body(ran.text)  # no ONNX there
    assert text.split("## By class")[1] == ran.text.split("## By class")[1]
    assert "not recorded here" not in text and "on these data alone" in " ".join(text.split())
    told("verify", "again")
    told("export", "again", "--to", "and-again")
    assert (tmp_path / "and-again" / "README.md").read_text() == text


def test_an_older_export_needs_none_and_gets_one_of_what_its_run_recorded(ran, told, tmp_path):
    shutil.copytree(ran.export.parent, tmp_path / "old")
    place = tmp_path / "old" / "export"
    (place / "README.md").unlink()
    recorded = json.loads((place / "certificate.json").read_text())
    del recorded["files"]["README.md"]
    (place / "certificate.json").write_text(json.dumps(recorded))
    assert "equal the trained network" in told("verify", "old")
    (place / "README.md").write_text("my own")
    assert "README.md is not in the certificate" in told("verify", "old")
    told("export", "old", "--to", "new")
    text = (tmp_path / "new" / "README.md").read_text()
    assert "my own" not in text and "engine: mxnet" in text
    assert text.split("## By class")[1] == ran.text.split("## By class")[1]
    assert f"{ran.result.metrics['test/acc']:.4f}" in text.split("## Limits")[0]
