"""The tracker's contract, held by every tracker; and what the MLflow one writes."""

import json
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.models import Model
from sqlalchemy import event
from sqlalchemy.engine import Engine

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import ObjectiveConfig, TrackingConfig
from gluonexp.tracking import Tracker, UsedData, ensure_experiment, open_store, tracked_run
from gluonexp.tracking.lifecycle import Interrupted, _Signals
from gluonexp.tracking.log import NAME, Log, records
from gluonexp.tracking.replay import Replay
from gluonexp.tracking.sender import Sender
from gluonexp.tracking.tracker import LogTracker, Recorded
from gluonexp.tracking.values import MAX_KEY, MAX_PARAM, flatten, number, sanitised


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_store(uri)


@pytest.fixture
def run_id(client: MlflowClient, uri: str) -> str:
    return str(client.create_run(ensure_experiment(client, "unit", uri)).info.run_id)


def recording(client: MlflowClient, run_id: str, folder: Path) -> LogTracker:
    """Return a tracker of a run; it has sent all it took once it was left or closed."""
    log = Log(folder / NAME)
    run = client.get_run(run_id)
    return LogTracker(
        log,
        run_id,
        uri=client.tracking_uri,
        experiment_id=run.info.experiment_id,
        before=Recorded(run.data.params),
        replay=lambda: Replay(log.file, client, run_id),
    )


@pytest.fixture
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture
def tracker(client: MlflowClient, run_id: str, job: Path) -> Iterator[LogTracker]:
    tracker = recording(client, run_id, job)
    yield tracker
    tracker.leave()


@pytest.fixture(params=["mlflow", "none"])
def any_tracker(request: pytest.FixtureRequest) -> Tracker:
    return Tracker() if request.param == "none" else request.getfixturevalue("tracker")


def start(
    uri: str,
    backend: str = "mlflow",
    tags: Any = None,
    folder: Path | None = None,
    **settings: Any,
) -> Any:
    return tracked_run(TrackingConfig(backend, uri, "lifecycle", **settings), tags, folder)


def only_run(client: MlflowClient, run_id: str | None) -> Run:
    assert run_id is not None
    return client.get_run(run_id)


# --- the contract --------------------------------------------------------------------------------


def test_a_tracker_takes_what_a_run_has(any_tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    any_tracker.log_params({"optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "seed": 1})
    any_tracker.log_params({})
    any_tracker.log_tags({"device": "cpu"})
    any_tracker.log_metrics({"acc@1": np.float32(0.5), "loss": math.inf, "n": np.int64(3)}, step=0)
    any_tracker.log_metrics({}, step=0)
    digits = UsedData(
        name="digits",
        digest="0" * 64,
        context="training",
        source="scikit-learn",
        rows=10,
        shape=(28, 28, 1),
        classes=["0", "1"],
    )
    any_tracker.log_dataset(digits)
    any_tracker.log_artifacts(tmp_path)
    any_tracker.log_artifacts(tmp_path, "config")
    Model().save(str(tmp_path / "MLmodel"))
    any_tracker.log_model(tmp_path, step=0)
    any_tracker.register("digits", 3.0, ObjectiveConfig("n", "max"))
    any_tracker.flush()
    assert any_tracker.status == "RUNNING"
    any_tracker.close("FINISHED")
    any_tracker.close("FAILED", ValueError("too late"))
    assert any_tracker.status == "FINISHED"
    assert any_tracker.link is None
    assert any_tracker.unsent() is None
    assert any_tracker.sent == (any_tracker.run_id is not None)
    registered = any_tracker.registered
    assert (registered is None) == (any_tracker.run_id is None)
    if registered is not None:
        assert registered.champion


@pytest.mark.parametrize("backend", ["mlflow", "none"])
def test_how_a_block_ends_is_how_its_run_ends(
    uri: str, client: MlflowClient, backend: str
) -> None:
    endings = [
        (None, "FINISHED"),
        (ValueError("no"), "FAILED"),
        (GluonexpError("no"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "KILLED"),
        (SystemExit(3), "KILLED"),
    ]
    for error, status in endings:
        raised: BaseException | None = None
        try:
            with start(uri, backend) as tracker:
                tracker.log_metrics({"loss": 1.0}, step=0)
                if error is not None:
                    raise error
        except BaseException as caught:
            raised = caught
        assert raised is error
        assert tracker.status == status
        if backend == "mlflow":
            run = only_run(client, tracker.run_id)
            assert run.info.status == status
            assert run.data.metrics == {"loss": 1.0}
        else:
            assert tracker.run_id is None


def test_recording_nothing_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tracked_run(TrackingConfig(backend="none")) as tracker:
        tracker.log_params({"a": 1})
    assert list(tmp_path.iterdir()) == []


# --- names and values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("train/loss", "train/loss"),
        ("acc@1", "acc_1"),
        ("lr[0]", "lr_0_"),
        ("a=b%", "a_b_"),
        ("/a//b/./../c/", "a/b/c"),
        ("größe in mm: x-y.z", "größe in mm: x-y.z"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_sanitised_keys(key: str, clean: str) -> None:
    assert sanitised(key) == clean


@given(st.text(max_size=400))
def test_mlflow_accepts_every_sanitised_key(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    clean = sanitised(key)
    _validate_metric_name(clean)
    assert 1 <= len(clean) <= MAX_KEY
    assert sanitised(clean) == clean


@given(st.floats())
def test_numbers_are_finite_or_nan(value: float) -> None:
    if math.isfinite(value):
        assert number(value) == value
        assert number(np.float64(value)) == value
    else:
        assert math.isnan(number(value))


class Mode(Enum):
    MIN = 1


def test_flatten() -> None:
    config = {
        "optim": {"lr": 0.1, "betas": [0.9, 0.999], "clip": None, "nesterov": True},
        "callbacks": [{"patience": 3}, "plain", [1, 2]],
        "classes": ("a", "ü"),
        "empty": {},
        "none": [],
        "mode": Mode.MIN,
        "where": Path("a/b"),
        "size": np.int64(3),
        7: "seven",
    }
    assert flatten(config) == {
        "optim.lr": "0.1",
        "optim.betas": "[0.9,0.999]",
        "optim.clip": "null",
        "optim.nesterov": "true",
        "callbacks.0.patience": "3",
        "callbacks.1": "plain",
        "callbacks.2": "[1,2]",
        "classes": '["a","ü"]',
        "empty": "{}",
        "none": "[]",
        "mode": "MIN",
        "where": "a/b",
        "size": "3",
        "7": "seven",
    }
    assert flatten({}) == {}


def test_long_values_are_cut_but_stay_distinct() -> None:
    one, two = flatten({"a": "x" * 2000}), flatten({"a": "x" * 1999 + "y"})
    assert len(one["a"]) == len(two["a"]) == MAX_PARAM
    assert one != two
    assert flatten({"a": "x" * MAX_PARAM}) == {"a": "x" * MAX_PARAM}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), json_values, max_size=4))
def test_flatten_gives_texts_and_is_idempotent(config: dict[str, Any]) -> None:
    flat = flatten(config)
    assert all(isinstance(value, str) for value in flat.values())
    assert flatten(flat) == flat


# --- what MLflow gets ----------------------------------------------------------------------------


def test_params_are_written_once_and_drift_is_a_tag(
    tracker: LogTracker, client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    many = {f"layer{index}": index for index in range(250)}  # MLflow takes 100 at a time
    tracker.log_params({"optim": {"lr": 0.1}, **many})
    tracker.log_params({"optim": {"lr": 0.2}, "new@key": None})
    tracker.leave()
    again = recording(client, run_id, tmp_path)  # a resumed run knows what it recorded
    again.log_params({"layer0": "changed", "layer1": 1, "optim.lr": 0.1})
    again.leave()
    data = client.get_run(run_id).data
    expected = {key: str(value) for key, value in many.items()}
    assert data.params == {"optim.lr": "0.1", "new_key": "null", **expected}
    drift = {key: value for key, value in data.tags.items() if key.startswith("param_drift")}
    assert drift == {
        "param_drift.optim.lr": "0.1 -> 0.2",
        "param_drift.layer0": "0 -> changed",
    }


def test_keys_that_become_one_do_not_crash(tracker: LogTracker, client: MlflowClient) -> None:
    tracker.log_params({"a@b": 1, "a#b": 2})
    tracker.leave()
    data = client.get_run(tracker.run_id).data
    assert data.params == {"a_b": "1"}
    assert data.tags["param_drift.a_b"] == "1 -> 2"


def test_metrics_are_sent_once_there_are_enough(
    tracker: LogTracker, client: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "wake", lambda sender: woken.append(True))
        tracker.flush_count = 5
        tracker.log_metrics({"a": 1, "b": 2}, step=0)
        tracker.log_metrics({"a": 3, "b": 4}, step=1)
        assert not woken
        tracker.log_metrics({"a": np.float32(0.5)}, step=2)
        assert len(woken) == 1
        tracker.log_metrics({"b": 6}, step=3)
        assert len(woken) == 1
    tracker.leave()
    assert client.get_run(run_id).data.metrics == {"a": 0.5, "b": 6.0}
    history = client.get_metric_history(run_id, "a")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 3.0), (2, 0.5)]


def test_the_first_number_that_is_not_finite_is_told(
    tracker: LogTracker, client: MlflowClient
) -> None:
    tracker.log_metrics({"loss": 1.0, "acc@1": 0.5}, step=0)
    tracker.log_metrics({"loss": -math.inf, "acc@1": 0.6}, step=1)
    tracker.log_metrics({"loss": 2.0, "acc@1": math.nan}, step=2)
    tracker.leave()
    tags = client.get_run(tracker.run_id).data.tags
    assert (tags["diverged"], tags["diverged.first"]) == ("true", "loss at step 1")
    values = [point.value for point in client.get_metric_history(tracker.run_id, "loss")]
    assert [values[0], values[2]] == [1.0, 2.0]
    assert math.isnan(values[1])


def test_a_data_set_is_an_input_with_our_digest(tracker: LogTracker, client: MlflowClient) -> None:
    for context, source in (("training", "https://host/train.gz"), ("test", "/data/test")):
        data = UsedData(
            name=f"fashion_mnist {context}",
            digest="abcd" * 16,
            context=context,
            source=source,
            rows=60000,
            shape=(28, 28, 1),
            classes=["shirt", "bag"],
        )
        tracker.log_dataset(data)
    tracker.leave()
    inputs = client.get_run(tracker.run_id).inputs.dataset_inputs
    found = {entry.dataset.name: entry for entry in inputs}
    entry = found["fashion_mnist training"]
    assert entry.dataset.digest == "abcd" * 9
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
    assert (entry.dataset.source_type, json.loads(entry.dataset.source)) == (
        "http",
        {"url": "https://host/train.gz"},
    )
    assert json.loads(entry.dataset.profile) == {
        "num_rows": 60000,
        "image_shape": [28, 28, 1],
        "classes": ["shirt", "bag"],
    }
    assert "[-1, 28, 28, 1]" in json.loads(entry.dataset.schema)["mlflow_tensorspec"]["features"]
    assert found["fashion_mnist test"].dataset.source_type == "local"


def test_runs_that_begin_at_once_record_the_same_data_set(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    data = UsedData("raced", "0" * 36, "training", "/data", 1, (1, 1, 1), ["one"])
    experiment_id = client.get_run(run_id).info.experiment_id
    faster_id = client.create_run(experiment_id).info.run_id
    log = Log(tmp_path / NAME)
    log.append("dataset", **asdict(data))
    log.close()
    added: list[str] = []

    def overtake(*arguments: Any) -> None:  # between the look of one and its attempt to add
        if arguments[2].startswith("INSERT INTO datasets"):
            added.append("one")
            if len(added) == 1:
                Replay(log.file, client, faster_id).send()

    event.listen(Engine, "before_cursor_execute", overtake)
    try:
        Replay(log.file, client, run_id).send()
    finally:
        event.remove(Engine, "before_cursor_execute", overtake)
    assert added == ["one", "one"]
    for one in (run_id, faster_id):
        (entry,) = client.get_run(one).inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == ("raced", "0" * 36)


def test_what_a_deleted_run_does_not_take_is_told(
    tracker: LogTracker, client: MlflowClient, job: Path
) -> None:
    client.delete_run(tracker.run_id)
    tracker.log_dataset(UsedData("x", "0", "test", "/", 1, (1, 1, 1), []))
    tracker.close("FINISHED")
    told = tracker.unsent()
    assert told is not None
    assert "data set x cannot be recorded: " in told and "state is deleted" in told
    assert f"all of it lies in {job}; `gluonexp push {job}` sends it" in told


def test_files_are_kept(tracker: LogTracker, client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    tracker.log_artifacts(tmp_path)
    tracker.log_artifacts(tmp_path / "sub", "plots")
    with pytest.raises(GluonexpError, match="missing is no folder"):
        tracker.log_artifacts(tmp_path / "missing")
    tracker.leave()
    assert {item.path for item in client.list_artifacts(tracker.run_id)} == {"sub", "plots"}
    assert [item.path for item in client.list_artifacts(tracker.run_id, "plots")] == [
        "plots/a.txt"
    ]


def test_a_run_says_who_and_where(uri: str, client: MlflowClient) -> None:
    tags = {"device": "cpu", "note@x": "a\nb" + "x" * 9000}
    with start(uri, tags=tags, run_name="mine") as tracker:
        assert only_run(client, tracker.run_id).info.status == "RUNNING"
    run = only_run(client, tracker.run_id)
    assert run.info.run_name == "mine"
    assert client.get_experiment(run.info.experiment_id).name == "lifecycle"
    assert run.data.tags["gluonexp.pid"] == str(os.getpid())
    assert run.data.tags["device"] == "cpu"
    assert run.data.tags["note_x"].startswith("a\nb")
    assert {"gluonexp.host", "mlflow.user", "mlflow.source.name"} <= run.data.tags.keys()
    with start(uri) as unnamed:
        assert only_run(client, unnamed.run_id).info.run_name


def test_a_failure_is_kept_to_be_read(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), start(uri) as tracker:
        tracker.log_metrics({"loss": 0.1}, step=4)
        print(1 / int("0"))
    run = only_run(client, tracker.run_id)
    assert run.data.tags["error"] == "ZeroDivisionError: division by zero"
    file = client.download_artifacts(run.info.run_id, "error/traceback.txt", str(tmp_path))
    assert 'print(1 / int("0"))' in Path(file).read_text()
    assert run.info.end_time >= run.info.start_time


# --- a store that goes away ----------------------------------------------------------------------


class Flaky:
    """A client whose store can be cut off; everything else is the real client's."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.cut, self.refused = client, False, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def log_batch(self, *arguments: Any, **options: Any) -> None:
        from mlflow.exceptions import MlflowException

        if self.cut:
            self.refused.set()
            raise MlflowException("connection refused")
        self.client.log_batch(*arguments, **options)


def test_training_goes_on_during_an_outage(
    client: MlflowClient, run_id: str, job: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = Flaky(client)
    flaky.cut = True
    tracker = recording(flaky, run_id, job)  # type: ignore[arg-type]
    tracker.flush_count = 2
    for step in range(10):
        tracker.log_metrics({"loss": step}, step)
        if step == 4:
            assert flaky.refused.wait(60)
    tracker.flush()
    flaky.cut = False
    tracker.close("FINISHED")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "connection refused; training continues" in caplog.text
    assert tracker.unsent() is None
    history = client.get_metric_history(run_id, "loss")
    assert [point.step for point in history] == list(range(10))
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_was_not_sent_is_told_at_the_end_and_can_be(
    client: MlflowClient, run_id: str, job: Path
) -> None:
    flaky = Flaky(client)
    flaky.cut = True
    tracker = recording(flaky, run_id, job)  # type: ignore[arg-type]
    tracker.log_metrics({"loss": 1}, 0)
    tracker.close("FINISHED")
    assert (tracker.status, tracker.sent) == ("FINISHED", False)
    told = tracker.unsent()
    assert told is not None
    assert told.startswith(f"run {run_id}: 2 of 2 records are not in {client.tracking_uri} (metri")
    assert told.endswith(f"all of it lies in {job}; `gluonexp push {job}` sends it")
    assert client.get_run(run_id).info.status == "RUNNING"
    assert Replay(job / NAME, client, run_id).send() == 2
    assert client.get_run(run_id).data.metrics == {"loss": 1.0}
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_store_that_hangs_holds_nobody_up(
    client: MlflowClient, run_id: str, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Hanging(Flaky):
        def log_batch(self, *arguments: Any, **options: Any) -> None:
            released.wait(60)

    monkeypatch.setattr("gluonexp.tracking.tracker._PATIENCE_S", 0.1)
    monkeypatch.setattr("gluonexp.tracking.sender._SLOW_S", 0.1)
    tracker = recording(Hanging(client), run_id, job)  # type: ignore[arg-type]
    tracker.log_metrics({"loss": 1}, 0)
    tracker.flush()
    tracker.close("FINISHED")
    assert "the store does not answer" in str(tracker.unsent())
    assert [record["kind"] for record in records(job / NAME)] == ["metrics", "status"]
    released.set()


def test_a_store_that_is_slow_is_waited_for(
    client: MlflowClient, run_id: str, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Flaky):
        def log_batch(self, *arguments: Any, **options: Any) -> None:
            threading.Event().wait(0.3)
            self.client.log_batch(*arguments, **options)

    monkeypatch.setattr("gluonexp.tracking.tracker._HURRY_S", 0.1)
    tracker = recording(Slow(client), run_id, job)  # type: ignore[arg-type]
    tracker.log_metrics({"loss": 1}, 0)
    tracker.close("KILLED")
    assert tracker.sent
    assert client.get_run(run_id).info.status == "KILLED"


def test_an_offline_run_is_a_log(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TrackingConfig("offline", "sqlite:////no/such/store.db", "e", "mine")
    with tracked_run(settings, {"device": "cpu"}, job) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.register("digits", 0.5, ObjectiveConfig("val/acc", "max"))
    assert (tracker.status, tracker.sent, tracker.link) == ("FINISHED", False, None)
    first, *others = records(job / NAME)
    assert (first["kind"], first["run"]) == ("open", tracker.run_id)
    assert first["store"] == {"uri": settings.uri, "run_id": None}
    assert (first["experiment"], first["name"]) == ("e", "mine")
    assert first["tags"]["device"] == "cpu"
    assert [record["kind"] for record in others] == ["metrics", "register", "status"]
    assert capsys.readouterr().err == (
        f"gluonexp: run {tracker.run_id} is offline: all of it lies in {job}; `gluonexp push "
        f"{job}` sends it, and registers its model as digits\n"
    )


def test_a_run_whose_store_is_down_goes_on_offline(
    job: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = TrackingConfig(uri=f"http://127.0.0.1:{held.getsockname()[1]}")
        with tracked_run(settings, folder=job) as tracker:
            pass
        assert (tracker.status, tracker.experiment_id, tracker.sent) == ("FINISHED", None, False)
        assert "the run goes on offline" in caplog.text
        with pytest.raises(GluonexpError, match="cannot be opened"), tracked_run(settings):
            pass


def test_a_log_that_is_not_sent_makes_room_for_another(
    uri: str, job: Path, client: MlflowClient
) -> None:
    with tracked_run(TrackingConfig("offline"), folder=job) as first:
        (job / "artifacts").mkdir()
        (job / "artifacts" / "a.txt").write_text("a")
        first.log_artifacts(job / "artifacts")
    for _ in range(2):
        with start(uri, folder=job) as second:
            second.log_metrics({"loss": 1.0}, 0)
        assert second.sent
        (aside,) = job.glob("run-*")
        assert aside.name == f"run-{str(first.run_id)[:8]}"
        assert sorted(path.name for path in job.iterdir()) == [aside.name, NAME, "run.sent"]
    experiment_id = client.get_run(second.run_id).info.experiment_id
    late = client.create_run(experiment_id).info.run_id
    Replay(aside / NAME, client, late).send()
    assert [item.path for item in client.list_artifacts(late)] == ["a.txt"]


def test_a_run_that_is_resumed_goes_on_in_its_log(
    uri: str, client: MlflowClient, job: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), start(uri, folder=job) as first:
        first.log_params({"lr": 1})
        raise KeyboardInterrupt
    with start(uri, folder=job, run_id=first.run_id) as second:
        second.log_params({"lr": 2})
    assert second.run_id == first.run_id
    kinds = [record["kind"] for record in records(job / NAME)]
    assert kinds == ["open", "params", "status", "open", "tags", "status"]
    run = only_run(client, first.run_id)
    assert (run.info.status, run.data.tags["param_drift.lr"]) == ("FINISHED", "1 -> 2")


def test_names_that_are_no_utf8_are_recorded_escaped(uri: str, client: MlflowClient) -> None:
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(GluonexpError), start(uri, run_name=name) as tracker:
        tracker.log_params({"root": name, "several": [name]})
        tracker.log_tags({"folder": name})
        raise GluonexpError(f"{name} cannot be read")
    run = client.get_run(str(tracker.run_id))
    assert run.info.run_name == "caf\\udce9"
    assert run.data.params == {"root": "caf\\udce9", "several": '["caf\\udce9"]'}
    assert run.data.tags["folder"] == "caf\\udce9"
    assert run.data.tags["error"] == "caf\\udce9 cannot be read"
    with pytest.raises(GluonexpError, match=r"^tracking\.experiment=caf\\udce9 is not UTF-8"):
        ensure_experiment(client, name, uri)


@pytest.mark.parametrize("error", [ValueError("the real reason"), None])
def test_a_lost_store_changes_nothing_of_how_a_run_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception | None
) -> None:
    uri, raised = f"sqlite:///{tmp_path}/mlflow.db", None
    try:
        with start(uri, folder=tmp_path / "job") as tracker:
            tracker.log_metrics({"loss": 1.0}, 0)
            (tmp_path / "mlflow.db").write_bytes(b"")
            if error is not None:
                raise error
    except ValueError as caught:
        raised = caught
    assert raised is error
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"gluonexp: run {tracker.run_id}: ")
    assert f"`gluonexp push {tmp_path}/job` sends it" in line
    *_, last = records(tmp_path / "job" / NAME)
    assert (last["kind"], last["status"]) == ("status", "FINISHED" if error is None else "FAILED")
    with start(uri) as again:  # the store is made anew, and the old connections are not used
        pass
    assert only_run(open_store(uri), again.run_id).info.status == "FINISHED"


# --- signals, in this process (in real ones: tests/integration/test_interrupts.py) ---------------


@pytest.fixture
def handlers() -> Iterator[list[Any]]:
    """The handlers before; they must be the same after."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in watched]
    yield before
    assert [signal.getsignal(signum) for signum in watched] == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("backend", ["mlflow", "none"])
def test_a_signal_kills_the_run(
    uri: str, client: MlflowClient, handlers: list[Any], signum: int, backend: str
) -> None:
    with pytest.raises(Interrupted) as raised, start(uri, backend) as tracker:
        tracker.log_metrics({"loss": 0.5}, step=1)
        os.kill(os.getpid(), signum)
    assert raised.value.code == 128 + signum
    assert tracker.status == "KILLED"
    if backend == "mlflow":
        run = only_run(client, tracker.run_id)
        assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 0.5})


def test_an_ignored_signal_stays_ignored(uri: str, client: MlflowClient) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with start(uri) as tracker:
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert only_run(client, tracker.run_id).info.status == "FINISHED"


class SignalsWhileClosing(Exception):
    """Strikes when its message is written to the store."""

    def __str__(self) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "struck"


def test_a_signal_while_closing_waits(uri: str, client: MlflowClient, handlers: list[Any]) -> None:
    error = SignalsWhileClosing()
    raised: BaseException | None = None
    try:
        with start(uri) as tracker:
            raise error
    except BaseException as caught:
        raised = caught
    assert raised is error
    run = only_run(client, tracker.run_id)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "SignalsWhileClosing: struck")


def test_deferred_signals_are_raised_later_and_a_second_one_at_once(handlers: list[Any]) -> None:
    reached = []
    with pytest.raises(Interrupted) as raised, _Signals() as signals:
        signals.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("after the first")
    assert raised.value.signum == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), _Signals() as signals:
        signals.defer()
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")
        signals.deliver()
        reached.append("never")
    with pytest.raises(Interrupted) as raised, _Signals() as signals:
        signals.defer()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        reached.append("never")
    assert raised.value.signum == signal.SIGHUP
    assert reached == ["after the first", "after the second"]


def test_a_run_may_live_in_another_thread(uri: str, client: MlflowClient) -> None:
    ids: list[str | None] = []

    def work() -> None:
        with start(uri) as tracker:
            tracker.log_metrics({"loss": 1.0}, 0)
            ids.append(tracker.run_id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert only_run(client, ids[0]).info.status == "FINISHED"


def test_runs_may_be_nested(uri: str, client: MlflowClient, handlers: list[Any]) -> None:
    with pytest.raises(Interrupted), start(uri) as parent, start(uri) as child:
        os.kill(os.getpid(), signal.SIGTERM)
    for tracker in (parent, child):
        assert only_run(client, tracker.run_id).info.status == "KILLED"


def test_importing_the_package_does_not_import_mlflow() -> None:
    import subprocess

    code = "import sys, gluonexp.tracking, gluonexp.tracking.ui; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
