"""Logs that are sent to another store give the runs that they were, each thing once."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sha256
from gluonexp.cli import main
from gluonexp.tracking import find_run, open_store, push
from gluonexp.tracking.artifacts import of_run
from gluonexp.tracking.log import NAME, Log
from gluonexp.tracking.logs import below, named, read
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.replay import Replay

SWEEP, CHILD, ALONE = "a" * 32, "b" * 32, "c" * 32
PARENT = "mlflow.parentRunId"


def logged(
    folder: Path,
    run_id: str,
    *,
    parent: str | None = None,
    model: bool = False,
    end: str | None = "FINISHED",
) -> Path:
    """Write the log of a run, and the files that it names, into the folder of its job."""
    files = folder / "artifacts"
    (files / "config").mkdir(parents=True)
    (files / "config" / "resolved.yaml").write_text("seed: 1\n")
    (folder / "model").mkdir()
    Model().save(str(folder / "model" / "MLmodel"))
    log, start = Log(folder / NAME), 1001 if model else 1000
    tags = {"gluonexp.device": "cpu", "gluonexp.workdir": str(folder)}
    tags |= {PARENT: parent} if parent else {"gluonexp.kind": "sweep"} if not model else {}
    log.append(
        "open",
        run=run_id,
        store=None,
        experiment="e",
        name=f"n{run_id[0]}",
        tags=tags,
        start=start,
    )
    log.append("params", values={"seed": "1", "optim.lr": "0.1"})
    log.append(
        "metrics",
        points=[["train/loss", 0.1 + 0.2, 1100, 0], ["train/loss", "NaN", 1200, 1]],
    )
    log.append("metrics", points=[["val/acc", 1 / 3, 1200, 1]])
    log.append(
        "dataset",
        name="digits/train",
        digest="d" * 64,
        context="training",
        source="digits",
        rows=4,
        shape=[8, 8, 1],
        classes=["0", "1"],
    )
    log.append("artifacts", path=None, folder="artifacts", files=listed(files))
    if model:
        log.append("model", folder="model", step=1, files=listed(folder / "model"))
        goal = {"metric": "val/acc", "mode": "max"}
        log.append("register", name="digits", goal=goal, value=1 / 3)
    if end:
        log.append("status", status=end, end=2000, error=None)
    log.close()
    return folder / NAME


def listed(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "name": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def fields(client: MlflowClient, run_id: str, parents: dict[str, str]) -> dict[str, Any]:
    """Return all that a store has of a run, but what is the store's own: ids and places."""
    run = client.get_run(run_id)
    info, data = run.info, run.data
    of_the_store = ("gluonexp.run", "gluonexp.lease")
    tags = {key: text for key, text in data.tags.items() if key not in of_the_store}
    if PARENT in tags:
        tags[PARENT] = parents[tags[PARENT]]
    source = of_run(client, run_id)
    with tempfile.TemporaryDirectory() as here:
        place = Path(here)
        files = {each.path: sha256(source.fetch(each.path, place)) for each in source.files()}
    models = client.search_logged_models([info.experiment_id], f"source_run_id = '{run_id}'")
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    return {
        "named": (info.run_name, client.get_experiment(info.experiment_id).name),
        "ended": (info.status, info.start_time, info.end_time),
        "params": data.params,
        "tags": tags,
        "points": {
            key: [
                (point.step, point.timestamp, repr(point.value), point.model_id is None)
                for point in client.get_metric_history(run_id, key)
            ]
            for key in data.metrics
        },
        "inputs": [
            (one.dataset.to_dictionary(), [(tag.key, tag.value) for tag in one.tags])
            for one in run.inputs.dataset_inputs
        ],
        "files": files,
        "models": [
            (one.name, one.status, one.model_type, one.params, metrics(one)) for one in models
        ],
        "versions": [(one.name, one.tags["gluonexp.value"], one.aliases) for one in versions],
    }


def metrics(model: Any) -> list[tuple[str, float, int]]:
    return sorted((one.key, one.value, one.step) for one in model.metrics or [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the logs of a sweep, of its child, and of a run with a model."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    jobs = tmp_path / "mlruns" / "hydra"
    logged(jobs / "1", SWEEP)
    logged(jobs / "1" / "0", CHILD, parent=SWEEP)
    logged(jobs / "2", ALONE, model=True)
    return tmp_path


@pytest.fixture
def uri(home: Path) -> str:
    return f"sqlite:///{home}/server/mlflow.db"


def told(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(main, arguments)
    return ended.exit_code, ended.output


def original(uri: str, logs: dict[str, Path]) -> tuple[MlflowClient, dict[str, str]]:
    """Record the runs into a store as they would have been; return their ids by their own."""
    client = open_store(uri)
    experiment_id = client.create_experiment("e", artifact_location=f"{Path(uri[10:]).parent}/e")
    made: dict[str, str] = {}
    for own_id, file in logs.items():
        log = read(file)
        tags = {**log.tags, **({PARENT: made[log.parent]} if log.parent else {})}
        run = client.create_run(experiment_id, log.start, tags, log.name)
        made[own_id] = run.info.run_id
        Replay(file, client, run.info.run_id).send()
    return client, made


def test_a_pushed_run_is_the_original_in_every_field(home: Path, uri: str) -> None:
    files = {log.run_id: log.file for log in push.every(None)}
    assert list(files) == [SWEEP, ALONE, CHILD]
    here, mine = original(f"sqlite:///{home}/original/mlflow.db", files)
    code, out = told("push", "--all", "--to", uri)
    assert code == 0, out
    assert out.count("sent") == 3 and f"run {ALONE[:8]} (nc): sent 9 of 9 records" in out
    client = open_store(uri)
    theirs = {own: find_run(client, own).info.run_id for own in files}
    for own_id in files:
        before = fields(here, mine[own_id], {run_id: own for own, run_id in mine.items()})
        after = fields(client, theirs[own_id], {run_id: own for own, run_id in theirs.items()})
        assert after == before
        assert client.get_run(theirs[own_id]).data.tags["gluonexp.run"] == own_id
    code, out = told("push", "--all", "--to", uri)
    assert code == 0 and out.count("has all of it") == 3


def test_cut_off_anywhere_the_same_command_goes_on(
    home: Path,
) -> None:
    class CutOff:
        """A client whose store is gone after the n-th call."""

        def __init__(self, client: MlflowClient, at: int) -> None:
            self.client, self.left = client, at

        def __getattr__(self, name: str) -> Any:
            attribute = getattr(self.client, name)
            if not callable(attribute):
                return attribute

            def call(*arguments: Any, **options: Any) -> Any:
                self.left -= 1
                if self.left < 0:
                    raise MlflowException("gone")
                answer = attribute(*arguments, **options)
                if self.left == 0:
                    raise MlflowException("gone before it answered")
                return answer

            return call

    log = named(ALONE, None, below(None))
    notes = log.file.with_suffix(".sent")
    expected: dict[str, Any] = {}
    for at in (10_000, 1, 2, *range(5, 30, 4)):
        uri = f"sqlite:///{home}/server-{at}/mlflow.db"
        notes.unlink(missing_ok=True)
        store = push.Store(uri, [])
        client = store._client
        store._client = CutOff(client, at)  # type: ignore[assignment]
        try:
            store.push(log)
        except GluonexpError:
            assert told("push", ALONE, "--to", uri)[0] == 0
        runs = client.search_runs(["1"])
        assert len(runs) == 1, at
        found = fields(client, runs[0].info.run_id, {})
        expected = expected or found
        assert found == expected, at
    assert [model[1] for model in expected["models"]] == ["READY"]
    assert len(expected["versions"]) == 1


def test_a_child_takes_its_sweep_along(uri: str) -> None:
    code, out = told("push", CHILD[:8], "--to", uri)
    assert code == 0, out
    client = open_store(uri)
    child, parent = find_run(client, CHILD), find_run(client, SWEEP)
    assert child.data.tags[PARENT] == parent.info.run_id


def test_a_rehearsal_writes_nothing(home: Path, uri: str) -> None:
    open_store(uri)
    code, out = told("push", "last", "--to", uri, "--dry-run")
    assert code == 0 and "would send 9 of 9 records to a new run of" in out
    assert open_store(uri).search_experiments()[0].name == "Default"
    assert not list(home.rglob("*.sent"))


def test_a_run_whose_process_was_killed_does_not_stay_running(home: Path, uri: str) -> None:
    logged(home / "job", "d" * 32, end=None)
    code, out = told("push", str(home / "job"), "--to", uri)
    assert code == 0, out
    assert find_run(open_store(uri), "d" * 32).info.status == "KILLED"


@pytest.mark.parametrize("since", ["FINISHED", "RUNNING"])
@pytest.mark.parametrize("end", ["FAILED", None])
def test_an_earlier_log_changes_nothing_of_a_run_that_has_gone_on(
    home: Path, uri: str, since: str, end: str | None
) -> None:
    first = logged(home / "first", "d" * 32, end=None)
    log = Log(first)
    log.append("tags", values={"error": "the store does not answer", "gluonexp.device": "gpu"})
    log.append("metrics", points=[["val/acc", 0.5, 1300, 1], ["val/acc", 0.75, 1300, 2]])
    if end:
        log.append("status", status=end, end=read(first).last, error="Traceback")
    log.close()
    later = read(first).last + 2000
    at = datetime.fromtimestamp(later / 1000, timezone.utc).isoformat(timespec="seconds")
    client, runs = original(uri, {"d" * 32: logged(home / "second", "d" * 32, end=None)})
    (run_id,) = runs.values()
    client.set_tag(run_id, "gluonexp.run", "d" * 32)
    for key, value in {"host": "h", "pid": "7", "process": "7", "lease": at}.items():
        client.set_tag(run_id, f"gluonexp.{key}", value)
    if since == "FINISHED":
        client.set_terminated(run_id, since, later)
    before = fields(client, run_id, {})
    code, out = told("push", str(first), "--to", uri)
    assert code == 0, out
    assert f"that has gone on since (process 7 on h: {since}), so how this log ends is" in out
    before["points"]["val/acc"].append((2, 1300, "0.75", True))
    assert fields(client, run_id, {}) == before
    assert "has all of it" in told("push", str(first), "--to", uri)[1]
    assert client.get_run(run_id).info.status == since


def test_what_cannot_be_sent_is_named_and_the_rest_is_sent(home: Path, uri: str) -> None:
    jobs = home / "mlruns" / "hydra"
    (jobs / "2" / "artifacts" / "config" / "resolved.yaml").write_text("changed")
    damaged = jobs / "1" / "0" / NAME
    damaged.write_text("no log\n" * 2)
    writing = Log(jobs / "1" / NAME)
    code, out = told("push", "--all", "--to", uri)
    writing.close()
    assert code == 1
    assert "config/resolved.yaml: no longer in" in out
    assert f"{damaged}, line 1: damaged" in out
    assert f"run {SWEEP[:8]} is still being recorded" in out
    assert find_run(open_store(uri), ALONE).info.status == "FINISHED"


def test_a_run_that_is_deleted_there_is_not_made_again(uri: str) -> None:
    told("push", ALONE, "--to", uri)
    client = open_store(uri)
    client.delete_run(find_run(client, ALONE).info.run_id)
    code, out = told("push", ALONE, "--to", uri)
    assert code == 1 and "was deleted from sqlite" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to send: runs, or --all"),
        (["last", "--all"], "name what to send: runs, or --all"),
        (["123456"], "no log of such a run"),
        (["mlruns"], "mlruns/run.jsonl cannot be read"),
    ],
)
def test_what_names_no_log(home: Path, arguments: list[str], message: str) -> None:
    code, out = told("push", *arguments)
    assert code != 0 and message in out


def test_commands_take_a_runs_own_id_before_it_is_sent_and_after(home: Path) -> None:
    default = None
    code, out = told("compare", ALONE[:8], CHILD, "--json")
    assert code == 0, out
    shown = {run["run_id"]: run for run in json.loads(out)["runs"]}
    assert shown.keys() == {ALONE, CHILD}
    assert reader(default).fetch([ALONE[:8]])[0].params["optim.lr"] == "0.1"
    assert told("download", ALONE, "--list")[1].split()[-1] == "config/resolved.yaml"
    store = reader(default)
    store.fetch([ALONE])
    assert store.curves([ALONE], "val/acc") == {ALONE: [(1, 1 / 3)]}
    assert told("push", ALONE)[0] == 0
    (run,) = reader(default).fetch([ALONE])
    assert run.run_id != ALONE and run.tags["gluonexp.run"] == ALONE
    assert [run.run_id for run in reader(default).fetch([ALONE[:8]])] == [run.run_id]
    assert told("download", ALONE, "--list")[1].split()[-1] == "config/resolved.yaml"
    store = reader(default)
    runs = store.fetch([CHILD, ALONE])
    assert {one.run_id for one in runs} == {CHILD, run.run_id}
    assert store.curves([CHILD], "val/acc")[CHILD] == [(1, 1 / 3)]
