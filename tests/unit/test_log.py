"""A run's own log, whatever becomes of the file, and what its replay makes of a store."""

import json
import math
import os
import zlib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sha256
from gluonexp.tracking import ensure_experiment, logs, open_store
from gluonexp.tracking.log import NAME, Log, in_use, note_sent, records, sent, waits
from gluonexp.tracking.replay import Replay


def written(file: Path, *kinds: str) -> bytes:
    """Write a log with a record of each kind; return its bytes."""
    log = Log(file)
    for kind in kinds:
        log.append(kind, values={"größe": "1\n"})
    log.sync()
    log.close()
    return file.read_bytes()


def kinds(file: Path) -> list[str]:
    return [record["kind"] for record in records(file)]


# --- the file ------------------------------------------------------------------------------------


def test_a_record_is_a_line_with_its_checksum(tmp_path: Path) -> None:
    line, rest = written(tmp_path / NAME, "params", "tags").splitlines()
    whole = json.loads(line)
    record = whole["record"]
    assert list(record) == ["n", "at", "kind", "values"]
    assert (record["n"], record["kind"], record["values"]) == (1, "params", {"größe": "1\n"})
    body = line[line.index(b'"record":') + len(b'"record":') : -1]
    assert f"{zlib.crc32(body):08x}" == whole["crc32"]
    assert json.loads(rest)["record"]["n"] == 2


@given(st.integers(0), st.binary(max_size=30))
@settings(max_examples=25)
def test_a_last_line_that_was_cut_off_is_removed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    file = tmp_path_factory.mktemp("log") / NAME
    whole = written(file, "open", "tags", "metrics")
    last = len(b"".join(whole.splitlines(keepends=True)[:2]))
    kept = last + cut % (len(whole) - last)
    file.write_bytes(whole[:kept] + garbage.replace(b"\n", b""))
    assert kinds(file) == ["open", "tags"]
    log = Log(file)
    assert log.append("status") == 3
    log.close()
    assert kinds(file) == ["open", "tags", "status"]


@pytest.mark.parametrize("tail", [b"\0" * 5000, b'{"crc32":"00000000","record":{"n":4}}\n', b"\n"])
def test_what_a_power_cut_leaves_at_the_end_is_no_record(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / NAME
    whole = written(file, "open", "tags", "metrics")
    file.write_bytes(whole + tail)
    Log(file).close()
    assert file.read_bytes() == whole


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / NAME
    one, two, three = written(file, "open", "tags", "metrics").splitlines(keepends=True)
    for damaged in (one + two.replace(b"tags", b"tabs") + three, one + three + two):
        file.write_bytes(damaged)
        with pytest.raises(GluonexpError, match=rf"{NAME}, line 2: damaged; put a copy"):
            list(records(file))
        with pytest.raises(GluonexpError, match=rf"{NAME}, line 2: damaged"):
            Log(file)
        assert file.read_bytes() == damaged


def lines(changed: bytes) -> bytes:
    """Return the log that has the records of a list in JSON, each with the checksum it needs."""
    try:
        entries = json.loads(changed)
    except (ValueError, RecursionError):
        return changed
    bodies = [json.dumps(each).encode() for each in entries] if isinstance(entries, list) else []
    return b"".join(
        b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(each), each) for each in bodies
    )


RECORDS = [
    {
        "kind": "open",
        "run": "0" * 32,
        "store": {"uri": "sqlite:///mlflow.db", "run_id": "1" * 32},
        "experiment": "digits",
        "name": None,
        "tags": {"device": "cpu"},
        "start": 1,
    },
    {"kind": "params", "values": {"seed": "0"}},
    {"kind": "tags", "values": {"kept": "1", "deleted": None}},
    {"kind": "metrics", "points": [["loss", 0.5, 1, 0], ["loss", "NaN", 2, 1]]},
    {
        "kind": "dataset",
        "name": "digits",
        "digest": "abcd",
        "context": "training",
        "source": "scikit-learn",
        "rows": 10,
        "shape": [8, 8, 1],
        "classes": ["0", "1"],
    },
    {
        "kind": "artifacts",
        "path": "plots",
        "folder": "artifacts",
        "files": [{"name": "a.txt", "size": 1, "sha256": "0" * 64}],
    },
    {"kind": "status", "status": "FINISHED", "end": 2, "error": None},
]


class Taking:
    """A store's client that takes all that it is sent."""

    tracking_uri = "sqlite:///mlflow.db"

    def __getattr__(self, name: str) -> Any:
        run = SimpleNamespace(data=SimpleNamespace(tags={}))
        return lambda *arguments, **options: run


@pytest.mark.fuzz
def test_any_damage_to_a_log_is_continued_or_refused(fuzz: Any) -> None:
    """Whatever its records are, too, when their checksums are right."""
    entries = [{"n": n, "at": 1, **entry} for n, entry in enumerate(RECORDS, 1)]
    sound = json.dumps(entries)

    def read(file: Path) -> None:
        before, whole = file.read_bytes(), 0
        try:
            whole = len(list(records(file)))
            logs.read(file)
            Replay(file, Taking(), "1" * 32).send()  # type: ignore[arg-type]
        finally:
            try:
                log = Log(file)
            except GluonexpError:
                assert file.read_bytes() == before
                raise
            assert log.append("status") == whole + 1
            log.close()
            assert len(list(records(file))) == whole + 1

    fuzz(read, fuzz.damaged(lines(sound.encode())) | fuzz.changed(sound).map(lines), NAME)


def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(GluonexpError, match=f"{NAME} is no log of a run: move it away"):
        Log(tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    with pytest.raises(GluonexpError, match="cannot be read: No such file or directory; a run"):
        list(records(tmp_path / "none"))


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    file = tmp_path / NAME
    assert not in_use(file)
    log = Log(file)
    log.append("open")
    assert in_use(file)
    with pytest.raises(GluonexpError, match="another process writes it; give the job a folder"):
        Log(file)
    assert kinds(file) == ["open"]  # it may be read meanwhile
    log.close()
    assert not in_use(file)


def test_without_room_nothing_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / NAME)
    log.append("open")
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        write(descriptor, bytes(data)[:7])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(GluonexpError, match="cannot be written: No space left on device;"):
            log.append("tags")
    assert log.append("status") == 2
    log.close()
    assert kinds(tmp_path / NAME) == ["open", "status"]


def test_a_signal_after_a_record_was_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / NAME)
    write = os.write

    def struck(descriptor: int, data: Any) -> int:
        write(descriptor, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", struck)
        with pytest.raises(KeyboardInterrupt):
            log.append("tags")
    assert log.append("status") == 2
    log.close()
    assert kinds(tmp_path / NAME) == ["tags", "status"]


def test_what_a_store_has_is_noted(tmp_path: Path) -> None:
    file = tmp_path / NAME
    written(file, "open", "status")
    assert sent(file, "http://a") is None and waits(file)
    note_sent(file, "http://me:secret@a", "1" * 32, 1)
    note_sent(file, "http://b", "2" * 32, 1)
    assert waits(file)
    note_sent(file, "http://me:secret@a", "1" * 32, 2)
    with file.with_suffix(".sent").open("a") as notes:
        assert "secret" not in file.with_suffix(".sent").read_text()
        notes.write('{"uri": "http://b", "run_')  # cut off
    assert sent(file, "http://me:secret@a") == ("1" * 32, 2)
    assert sent(file, "http://b") == ("2" * 32, 1)
    assert not waits(file)


# --- the replay ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_store(uri)


@pytest.fixture
def run_id(client: MlflowClient, uri: str) -> str:
    return str(client.create_run(ensure_experiment(client, "log", uri)).info.run_id)


def listed(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "name": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The log of a run with something of every kind."""
    (tmp_path / "artifacts" / "plots").mkdir(parents=True)
    (tmp_path / "artifacts" / "plots" / "a.txt").write_text("a")
    (tmp_path / "artifacts" / "later.txt").write_text("not listed")
    (tmp_path / "model").mkdir()
    Model().save(str(tmp_path / "model" / "MLmodel"))
    log = Log(tmp_path / NAME)
    tags = {"device": "cpu", "mlflow.parentRunId": "of another store"}
    log.append("open", run="0" * 32, store=None, experiment="e", name="n", tags=tags, start=1)
    log.append("params", values={f"layer{index}": str(index) for index in range(250)})
    log.append("tags", values={"kept": "1", "changed": "1"})
    log.append("tags", values={"changed": "2", "deleted": "1"})
    log.append("metrics", points=[["loss", 0.1, 1000, 0], ["loss", "NaN", 2000, 1]])
    log.append("tags", values={"deleted": None})
    log.append("metrics", points=[["loss", 1 / 3, 3000, 2], ["val/acc", 0.5, 3000, 2]])
    log.append(
        "dataset",
        name="digits",
        digest="abcd" * 16,
        context="training",
        source="scikit-learn",
        rows=10,
        shape=[8, 8, 1],
        classes=["0", "1"],
    )
    files = listed(tmp_path / "artifacts")[1:]
    log.append("artifacts", path=None, folder="artifacts", files=files)
    log.append(
        "artifacts", path="sub", folder="artifacts/plots", files=[{**files[0], "name": "a.txt"}]
    )
    log.append("model", folder="model", step=2, files=listed(tmp_path / "model"))
    goal = {"metric": "val/acc", "mode": "max"}
    log.append("register", name=f"digits {tmp_path.name}", goal=goal, value=0.5)
    log.append("status", status="FAILED", end=4000, error="Traceback: no")
    log.close()
    return tmp_path / NAME


def found(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return all that a store has of a run."""
    run = client.get_run(run_id)
    points = {
        key: sorted(
            (point.step, point.timestamp, repr(point.value))
            for point in client.get_metric_history(run_id, key)
            if point.model_id is None
        )
        for key in run.data.metrics
    }
    where = [run.info.experiment_id]
    models = client.search_logged_models(where, f"source_run_id = '{run_id}'")
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    return {
        "params": run.data.params,
        "tags": {
            key: text for key, text in run.data.tags.items() if not key.startswith("mlflow.")
        },
        "points": points,
        "inputs": [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs],
        "ended": (run.info.status, run.info.end_time),
        "files": sorted(item.path for item in client.list_artifacts(run_id)),
        "models": [(model.status, len(model.metrics or [])) for model in models],
        "outputs": len(run.outputs.model_outputs) if run.outputs else 0,
        "versions": [one.tags["gluonexp.value"] for one in versions],
    }


def test_a_log_gives_a_run(client: MlflowClient, run_id: str, file: Path) -> None:
    sending = Replay(file, client, run_id)
    assert sending.send() == 13
    assert sending.registered is not None and sending.registered.champion
    run = found(client, run_id)
    assert len(run["params"]) == 250
    assert run["tags"] == {"device": "cpu", "kept": "1", "changed": "2"}
    assert "mlflow.parentRunId" not in client.get_run(run_id).data.tags
    assert run["points"] == {
        "loss": [(0, 1000, "0.1"), (1, 2000, "nan"), (2, 3000, repr(1 / 3))],
        "val/acc": [(2, 3000, "0.5")],
    }
    assert run["inputs"] == [("digits", "abcd" * 9)]
    assert run["ended"] == ("FAILED", 4000)
    assert run["files"] == ["error", "plots", "sub"]
    assert run["models"] == [("READY", 2)]
    assert run["outputs"] == 1
    assert run["versions"] == ["0.5"]
    # The files of the model are as they were recorded: its ids are written into a copy.
    assert not [
        line
        for line in file.parent.joinpath("model", "MLmodel").read_text().splitlines()
        if "run_id" in line
    ]


def test_sent_twice_it_changes_nothing(client: MlflowClient, run_id: str, file: Path) -> None:
    Replay(file, client, run_id).send()
    once = found(client, run_id)
    assert Replay(file, client, run_id).send() == 13
    assert Replay(file, client, run_id, after=5).send() == 13
    assert Replay(file, client, run_id, after=13).send() == 13
    assert found(client, run_id) == once


class CutOff:
    """A client whose store fails at the n-th call, before or after it was carried out."""

    def __init__(self, client: MlflowClient, at: int, after: bool) -> None:
        self.client, self.calls, self.at, self.after = client, 0, at, after

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at and not self.after:
                raise MlflowException("cut off")
            answer = attribute(*arguments, **options)
            if self.calls == self.at:
                raise MlflowException("cut off")
            return answer

        return call


def test_cut_off_anywhere_it_goes_on(client: MlflowClient, uri: str, file: Path) -> None:
    experiment_id = ensure_experiment(client, "log", uri)
    counted = CutOff(client, 0, False)
    whole = client.create_run(experiment_id).info.run_id
    Replay(file, counted, whole).send()  # type: ignore[arg-type]
    expected = found(client, whole)
    for at in range(1, counted.calls + 1):
        run_id = client.create_run(experiment_id).info.run_id
        flaky = CutOff(client, at, after=at % 2 == 0)
        sending = Replay(file, flaky, run_id)  # type: ignore[arg-type]
        with suppress(GluonexpError):  # what a version has for a tag may be missing
            sending.send()
        assert sending.send() == 13
        assert found(client, run_id) == expected


def test_a_log_is_sent_while_it_grows(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    log = Log(tmp_path / NAME)
    sending = Replay(log.file, client, run_id)
    for step in range(3):
        log.append("metrics", points=[["loss", step / 2, 1000 + step, step]])
        assert sending.send() == sending.sent == step + 1
        assert client.get_run(run_id).data.metrics == {"loss": step / 2}
    assert sending.send() == 3
    log.append("status", status="KILLED", end=4000, error=None)
    log.append("open", run="0" * 32, store=None, experiment="e", name="n", tags={}, start=1)
    assert sending.send() == 5
    assert client.get_run(run_id).info.status == "RUNNING"  # again
    log.close()


def test_files_that_are_gone_are_named_and_the_rest_is_sent(
    client: MlflowClient, run_id: str, file: Path
) -> None:
    (file.parent / "artifacts" / "plots" / "a.txt").write_text("changed")
    (file.parent / "model" / "MLmodel").unlink()
    told: list[str] = []
    sending = Replay(file, client, run_id, say=told.append)
    assert sending.send() == 13
    assert sending.missing() == (
        f"plots/a.txt, sub/a.txt, the model: no longer in {file.parent}/artifacts, "
        f"{file.parent}/artifacts/plots, {file.parent}/model as recorded, so not sent"
    )
    (line,) = told
    assert "has no model to be registered as" in line
    assert found(client, run_id)["ended"] == ("FAILED", 4000)


def test_a_name_that_the_registry_refuses_does_not_hold_up_the_rest(
    client: MlflowClient, run_id: str, file: Path
) -> None:
    told: list[str] = []
    log = Log(file)
    log.append("register", name="a/b:c", goal={"metric": "m", "mode": "max"}, value=None)
    log.append("tags", values={"after": "1"})
    log.close()
    assert Replay(file, client, run_id, say=told.append).send() == 15
    assert ["a/b:c" in line for line in told] == [True]
    assert found(client, run_id)["tags"]["after"] == "1"


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "metrics", "points": [["loss"]]},
        {"kind": "tags"},
        {"kind": "newer"},
        {
            "kind": "artifacts",
            "path": None,
            "folder": "..",
            "files": [{"name": "x", "sha256": ""}],
        },
        {
            "kind": "artifacts",
            "path": None,
            "folder": ".",
            "files": [{"name": "/x", "sha256": ""}],
        },
    ],
)
def test_a_record_that_is_none_is_named(
    client: MlflowClient, run_id: str, tmp_path: Path, fields: dict[str, Any]
) -> None:
    log = Log(tmp_path / NAME)
    log.append(**fields)
    log.close()
    with pytest.raises(GluonexpError, match=rf"{NAME}, line 1: this version of gluonexp does not"):
        Replay(log.file, client, run_id).send()


def test_nan_is_recorded_as_a_text(tmp_path: Path) -> None:
    log = Log(tmp_path / NAME)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("metrics", points=[["loss", math.nan, 1, 1]])
    log.close()
    assert not kinds(log.file)
