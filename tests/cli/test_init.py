"""`gluonexp init`: a project whose parts run at once, or nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gluonexp.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["init", *words])


def call(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_project_runs_at_once_and_passes_its_tests(invoke, tmp_path):
    done = invoke("forms")
    assert done.exit_code == 0, done.output
    assert done.output.endswith("made: forms; to train:  cd forms && python -m forms\n")
    project = tmp_path / "forms"
    assert [path.name for path in tmp_path.iterdir()] == ["forms"]
    call("ruff", "check", "--no-cache", ".", cwd=project)
    call("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    for path in project.rglob("*"):
        assert path.is_dir() or not {"{{", "{%"} & set(path.read_text().split())
    call("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    few = ("trainer.epochs=1", "dataset.source.train=60", "export.onnx=false")
    said = call("forms", *few, cwd=project)
    assert "FINISHED" in said and (project / "mlruns" / "mlflow.db").is_file()
    # A record may not name code that is imported; the project's own may be.
    again = f"trainer.resume={re.findall('run ([0-9a-f]{32}) FINISHED', said)[0]}"
    assert "FINISHED" in call("forms", again, "trainer.epochs=2", "export=none", cwd=project)
    runs = json.loads(call("gluonexp", "runs", "--json", cwd=project))
    for run, epochs in zip(runs, ("2", "1"), strict=True):
        assert run["experiment"] == "forms" and run["params"]["trainer.epochs"] == epochs
        assert run["params"]["model._target_"] == "forms.models.small"
    # The longer way is the same, and what is typed wins.
    longer = call(
        *("gluonexp.run", "--config-dir", "conf", "experiment=first", "optim.lr=0.5"),
        *("--cfg", "job"),
        cwd=project,
    )
    assert "_target_: forms.data.Shapes" in longer and "lr: 0.5" in longer


def test_the_document_names_the_files(invoke, tmp_path):
    done = invoke("forms", "--json")
    whole = json.loads(done.stdout)
    files = {p.relative_to(tmp_path / "forms") for p in tmp_path.rglob("*") if p.is_file()}
    assert set(map(Path, whole["files"])) == files
    assert (whole["folder"], whole["run"]) == (str(tmp_path / "forms"), "python -m forms")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my-nets", "no name for a package"),
        ("1st", "no name for a package"),
        ("../nets", "no name for a package"),
        ("class", "no name for a package"),
        ("_nets", "no name for a package"),
        ("größe", "no name for a package"),
        ("json", "Python has a module of this name"),
        ("numpy", "Python has a module of this name"),
        ("gluonexp", "this name is taken"),
        ("conf", "this name is taken"),
    ],
)
def test_a_name_that_is_none_is_refused(invoke, tmp_path, name, said):
    done = invoke(name)
    assert done.exit_code == 1 and said in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_stays(invoke, tmp_path, kind):
    place = tmp_path / "forms"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to("nowhere")
    assert "forms exists already" in invoke("forms").output
    assert [path.name for path in tmp_path.iterdir()] == ["forms"]


def test_nothing_half_written_is_left(invoke, tmp_path, monkeypatch):
    write = Path.write_text

    def full(path, *arguments, **more):
        if path.name == "first.yaml":
            raise OSError(28, "No space left on device", str(path))
        return write(path, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", full)
    done = invoke("forms")
    assert done.exit_code == 1 and "the disk is full" in done.output
    assert list(tmp_path.iterdir()) == []
