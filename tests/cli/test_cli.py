"""The `gluonexp` command: what it says when there is nothing to say it of, and completion."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gluonexp.cli import main


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_help_names_every_command(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("run", "runs", "compare", "ui", "predict", "doctor"):
        assert f"\n  {command} " in result.output


@pytest.mark.parametrize("command", [["ui"], ["predict", "last"], ["predict", "0123456789"]])
def test_without_runs_nothing_is_made_and_the_remedy_is_told(invoke, tmp_path, command):
    result = invoke(*command)
    assert result.exit_code == 1
    assert "there is no store at" in result.output
    assert "gluonexp.run" in result.output
    assert list(tmp_path.iterdir()) == []


def test_predict_says_what_is_no_export(invoke, tmp_path):
    (tmp_path / "empty").mkdir()
    result = invoke("predict", "empty", "x.png")
    assert result.exit_code == 1
    assert "signature.json is missing" in result.output


def test_doctor_reports_a_machine_that_can_train(invoke, tmp_path):
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for name in ("Python", "NumPy", "MXNet", "MLflow", "store"):
        assert name in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("optim=", {"optim=adam", "optim=sgd"}),
        ("optim.", {"optim.lr=", "optim.beta1="}),
        ("trainer.epo", {"trainer.epochs="}),
        ("optim=sgd optim.mo", {"optim.momentum="}),
    ],
)
def test_run_completes_groups_choices_and_keys(typed, offered):
    words = f"gluonexp run {typed}"
    asked = {
        "_GLUONEXP_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-m", "gluonexp"]
    done = subprocess.run(
        command, env=os.environ | asked, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    completions = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert offered <= completions, done.stdout


def test_run_finds_a_package_in_the_working_directory(tmp_path):
    (tmp_path / "mynets.py").write_text("def net(classes):\n    raise ValueError('reached')\n")
    command = [sys.executable, "-P", "-m", "gluonexp", "run"]
    if sys.version_info < (3, 11):  # no -P: a console script does not put the folder on the path
        pytest.skip("needs python -P to start as a console script does")
    done = subprocess.run(
        [*command, "model._target_=mynets.net", "build.allow=[mynets]", "~model.channels"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "model.hidden: mynets.net takes no such argument" in done.stderr
