"""``--json`` of each command: one document, which says what the text says."""

import csv
import io
import json
import os
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

import click
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from gluonexp import experiment
from gluonexp.base.arrays import ArrayCache
from gluonexp.base.plain import plain, write_json
from gluonexp.cli import main
from gluonexp.config.schema import TrackingConfig
from gluonexp.run import compose as composed
from gluonexp.tracking import ensure_experiment, open_store, owner, tracked_run

# Its words are Hydra's; what it did is told by `gluonexp runs --limit 1 --json`.
WITHOUT = {"run"}
TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "dataset.source.train=64"),
    *("trainer.epochs=1", "trainer.batch_size=16", "export.onnx=false"),
)


def leaves(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


class Recorded:
    """A store with a run, beside one that was recorded offline."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.run_id = self.train("job", f"tracking.uri={self.uri}").run_id

    def train(self, job, *words):
        console = Console(file=io.StringIO())
        return experiment.run(composed(*TINY, *words), self.folder / job, TINY, console)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return Recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def invoke(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorded.uri)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments, status=0, text=False):
        words = arguments if text else (*arguments, "--json")
        result = CliRunner().invoke(main, words)
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.stdout if text else json.loads(result.stdout)

    return invoke


# --- all of them ---------------------------------------------------------------------------------


def test_every_command_has_it():
    without = {
        " ".join(path)
        for path, command in leaves(main)
        if not any("--json" in option.opts for option in command.params)
    }
    assert without == WITHOUT
    said = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "--json lets a command print one JSON document" in said


def test_an_error_is_told_beside_it(invoke, recorded):
    for words in (["verify", "ffffff"], ["compare"], ["predict", "nowhere", "--json"]):
        result = CliRunner().invoke(main, [*words, "--json"])
        assert result.exit_code == (2 if words == ["compare"] else 1)
        assert result.stdout == "" and "Error: " in result.stderr


def test_values_have_the_forms_that_json_has():
    @dataclass
    class Pair:
        one: object
        other: object

    out = io.StringIO()
    time = datetime.fromisoformat("2026-01-02T03:04:05.678901+02:00")
    pair = Pair(np.float32(0.5), [np.int64(3), np.nan, float("inf")])
    write_json(out, {"pair": pair, "time": time, "path": PurePosixPath("a/b"), 1: ("ü", {2, 1})})
    assert json.loads(out.getvalue()) == {
        "pair": {"one": 0.5, "other": [3, None, None]},
        "time": "2026-01-02T01:04:05.678+00:00",
        "path": "a/b",
        "1": ["ü", [1, 2]],
    }
    assert plain(np.array([[1.5, -np.inf]])) == [[1.5, None]]
    with pytest.raises(TypeError, match="no form in JSON"):
        write_json(out, {"x": object()})
    assert out.getvalue().count("\n}") == 1  # nothing of what failed


# --- each ----------------------------------------------------------------------------------------


def test_runs_and_compare(invoke, recorded):
    (run,) = invoke("runs")
    assert run["run_id"] == recorded.run_id and run["status"] == "FINISHED"
    assert datetime.fromisoformat(run["start"]).utcoffset() == timedelta(0)
    assert run["seconds"] > 0
    whole = invoke("compare", "last", recorded.run_id[:8])
    assert [row["run_id"] for row in whole["runs"]] == [recorded.run_id]


def test_predict(invoke):
    whole = invoke("predict", "last")
    table = list(csv.DictReader(io.StringIO(invoke("predict", "last", "--csv", text=True))))
    assert len(whole["predictions"]) == len(table) > 0
    for answer, row in zip(whole["predictions"], table, strict=True):
        assert (answer["image"], answer["true"]) == (row["image"], row["true"])
        assert answer["predicted"] == row["predicted"] == next(iter(answer["probabilities"]))
        assert set(answer["probabilities"]) == set(whole["classes"])
        for name, probability in answer["probabilities"].items():
            assert probability == float(row[f"probability.{name}"])
    top = invoke("predict", "last", "--top", "2")["predictions"]
    assert {len(answer["probabilities"]) for answer in top} == {2}


def test_an_image_that_cannot_be_read_is_in_it(invoke, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    whole = invoke("predict", "last", "x.png", status=1)
    assert whole["predictions"] == [] and "x.png" in whole["unreadable"][0]


def test_evaluate(invoke):
    whole = invoke("evaluate", "last")
    text = invoke("evaluate", "last", text=True)
    assert f"accuracy {whole['accuracy']:.4f}, loss {whole['loss']:.4f}" in text
    assert sum(map(sum, whole["confusion"])) == whole["images"]


def test_verify(invoke, recorded, tmp_path):
    whole = invoke("verify", "last")
    assert whole["sentence"] in invoke("verify", "last", text=True)
    assert {"module", "symbolblock"} <= set(whole["runtimes"])
    assert whole["files"].keys() >= {"model-symbol.json"}


def test_replay(invoke, recorded):
    assert invoke("replay", "last") == {
        "equal": True,
        "epochs": 1,
        "difference": None,
        "compared": ["parameters", "predictions"],
    }


def test_download(invoke, tmp_path):
    listed = invoke("download", "last", "export", "--list")["files"]
    text = invoke("download", "last", "export", "--list", text=True)
    assert [f"{file['size']:,} {file['path']}".split() for file in listed] == [
        line.split() for line in text.splitlines()
    ]
    done = invoke("download", "last", "export", "--to", "there")
    assert done["folder"] == "there" and done["kept"] == []
    assert sorted(done["copied"]) == sorted(file["path"] for file in listed)
    assert done["size"] == sum(file["size"] for file in listed)


def test_export(invoke, tmp_path):
    whole = invoke("export", "last", "--to", "made")
    assert whole["folder"] == "made" and whole["changes"] == []
    recorded = json.loads((tmp_path / "made" / "certificate.json").read_text())
    assert whole["certificate"]["files"] == recorded["files"]


def test_push(invoke, recorded):
    offline = recorded.train("offline", "tracking=offline", f"tracking.uri={recorded.uri}")
    (would,) = invoke("push", str(offline.folder), "--dry-run")["runs"]
    assert would["run_id_there"] is None
    whole = invoke("push", str(offline.folder))
    (done,) = whole["runs"]
    assert (whole["dry_run"], whole["problems"]) == (False, [])
    assert done["run_id"] == offline.run_id
    assert done["records_sent"] == done["records"] == would["records"] > 0
    (run,) = (run for run in invoke("runs") if run["run_id"] != recorded.run_id)
    assert run["run_id"] == done["run_id_there"]
    open_store(recorded.uri).delete_run(run["run_id"])
    refused = invoke("push", str(offline.folder), "--to", "foo://host", status=1)
    assert refused["runs"] == [] and "foo" in refused["problems"][0]


def test_recover_and_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_store(uri)
    gone = {**owner.own_tags(), owner.PROCESS: f"{os.getpid()}@1"}
    lost = client.create_run(ensure_experiment(client, "unit", uri), tags=gone, run_name="long")

    def told(*words):
        done = CliRunner().invoke(main, [*words, "--json", "--tracking-uri", uri])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    (ended,) = told("recover")["runs"]
    assert ended.pop("reason").endswith("ended without closing it")
    only = {"run_id": lost.info.run_id, "name": "long", "status": "KILLED"}
    assert ended == {**only, "reached": None, "go_on": None}
    assert told("recover") == {"runs": [], "completed": []}
    with tracked_run(TrackingConfig(uri=uri, experiment="unit"), {}, tmp_path / "job") as tracker:
        (stops,) = told("stop", "last")["stops"]
        assert (stops["run_id"], stops["kind"]) == (tracker.run_id, "run")


def test_cache(tmp_path, monkeypatch):
    store = ArrayCache(tmp_path / "arrays", 1e9)

    def told(*words, status=0):
        done = CliRunner().invoke(main, ["cache", *words, "--json", "--folder", str(store.folder)])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    def fill(array):
        array[:] = 1
        return {"title": "photos"}

    folder = store.get("images", {}, (1000,), "uint8", fill, "makes it").folder
    whole = told("list")
    (array,) = whole["arrays"]
    assert (whole["count"], whole["size"]) == (1, array["size"]) and array["size"] > 1000
    assert (array["kind"], array["title"], array["folder"]) == ("images", "photos", str(folder))
    assert datetime.fromisoformat(array["made"]).utcoffset() == timedelta(0)
    assert told("verify")["damaged"] == []
    with (folder / "array.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\7")
    (damaged,) = told("verify", status=1)["damaged"]
    assert damaged["folder"] == str(folder) and damaged["damage"]
    cleared = told("clear", "--yes")
    assert [one["folder"] for one in cleared["removed"]] + [cleared["in_use"]] == [str(folder), 0]
    assert told("list")["count"] == told("clear")["count"] == 0


def test_doctor(invoke, tmp_path):
    whole = invoke("doctor")
    text = invoke("doctor", text=True)
    assert whole["usable"] is True
    assert [check["name"] in text for check in whole["checks"]] == [True] * len(whole["checks"])
    assert invoke("doctor", "--relocate") == {"mended": []}


def test_ui(recorded, monkeypatch):
    """The links are whole before the server is waited for."""
    from gluonexp.tracking import ui

    served = threading.Event()

    class Server:
        base = "http://127.0.0.1:5123"

        def __enter__(self):
            return self

        def __exit__(self, *raised):
            served.set()

        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(ui, "serving", lambda *of: Server())
    done = CliRunner().invoke(main, ["ui", "--json", "--tracking-uri", recorded.uri])
    assert done.exit_code == 0 and served.is_set()
    links = json.loads(done.stdout)
    assert list(links) == ["store", "last_run", "experiment"]
    assert recorded.run_id in links["last_run"] and links["last_run"].startswith(Server.base)
    assert Path(links["store"]).name == "mlflow.db"
