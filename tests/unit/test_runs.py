"""Runs read from a store, many at a time: by plain SQL, and the same through MLflow."""

import dataclasses
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import ensure_experiment, find_run, internals, open_store
from gluonexp.tracking.patience import Patience
from gluonexp.tracking.read import runs, sqlite
from gluonexp.tracking.read.client import Client
from gluonexp.tracking.read.records import OF_STATUS
from gluonexp.tracking.sweeps import SweepRun

START = 1_790_000_000_000  # ms since 1970
ODD = "a.b-c d/e:f_ü"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store with every sort of run, each a second after the one before."""
    from mlflow.entities import Metric, Param

    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    client = open_store(uri)
    made = SimpleNamespace(uri=uri, client=client, path=Path(uri.removeprefix("sqlite:///")))
    begun = 0

    def make(name, experiment, status="FINISHED", params=(), points=(), tags=()):
        nonlocal begun
        experiment_id = ensure_experiment(client, experiment, uri)
        start = START + 1000 * begun
        begun += 1
        run = client.create_run(experiment_id, start, dict(tags), name).info.run_id
        client.log_batch(
            run,
            [Metric(key, value, start + at, step) for key, value, at, step in points],
            [Param(key, value) for key, value in dict(params).items()],
        )
        if status != "RUNNING":
            client.set_terminated(run, status, START + 1000 * begun + 500)
        setattr(made, name, run)
        return run

    good = [("val/acc", 0.5, 0, 0), ("val/acc", 0.75, 1, 1), ("test/acc", 0.7, 2, 1)]
    make("plain", "alpha", params={"optim.lr": "0.1", ODD: "x=1, 'y'"}, points=good)
    make("diverged", "alpha", points=[("val/acc", 0.5, 0, 0), ("val/acc", math.nan, 1, 1)])
    make("failed", "alpha", "FAILED", tags={"error": "no"})
    make("running", "alpha", "RUNNING", points=[("val/acc", 0.25, 0, 0)])
    # Gone on with after step 2, from a checkpoint of step 0.
    again = [(0, 0.1), (1, 0.2), (2, 0.3), (1, 0.4), (2, 0.35), (3, 0.5)]
    make(
        "resumed", "alpha", points=[("val/acc", v, at, step) for at, (step, v) in enumerate(again)]
    )
    sweep = make("sweep", "alpha", tags={"gluonexp.kind": "sweep"})
    for name, more in {"child": {}, "pruned": {"gluonexp.pruned": "epoch 5"}}.items():
        tags = {"mlflow.parentRunId": sweep, **more}
        make(name, "beta ü", params={"optim.lr": name}, points=good, tags=tags)
    make("killed", "beta ü", "KILLED", tags={"mlflow.parentRunId": "f" * 32})
    client.delete_run(make("deleted", "alpha", tags={"mlflow.parentRunId": sweep}))
    make("lost", "gone")
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    return made


@pytest.fixture(scope="module")
def served(store: SimpleNamespace) -> Iterator[str]:
    """The address of MLflow's server on the store, in a thread."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "_tracking_store", store.client._tracking_client.store)
        patch.setattr(
            handlers, "_tracking_store_registry", handlers.TrackingStoreRegistryWrapper()
        )
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture(params=["sql", "mlflow", "server"])
def reader(store: SimpleNamespace, request: pytest.FixtureRequest) -> runs.Reader:
    if request.param == "sql":
        return runs.Reader(sqlite.Database(store.uri, store.path))
    if request.param == "mlflow":
        return runs.Reader(Client(store.client))
    return runs.reader(request.getfixturevalue("served"))


def named(records):
    return [record.name for record in records]


# --- one run, whole ------------------------------------------------------------------------------


def test_a_run_is_read_whole(reader: runs.Reader, store: SimpleNamespace) -> None:
    (run,) = reader.fetch([store.plain])
    experiment = store.client.get_experiment_by_name("alpha")
    assert run == runs.RunRecord(
        run_id=store.plain,
        name="plain",
        status="FINISHED",
        experiment="alpha",
        experiment_id=experiment.experiment_id,
        start=datetime.fromtimestamp(START / 1000, timezone.utc),
        seconds=1.5,
        params={"optim.lr": "0.1", ODD: "x=1, 'y'"},
        metrics={"val/acc": 0.75, "test/acc": 0.7},
        tags={"mlflow.runName": "plain"},
    )
    assert run.parent_id is None


def test_every_ending_is_told(reader: runs.Reader, store: SimpleNamespace) -> None:
    names = ("plain", "failed", "killed", "running", "pruned")
    found = reader.fetch([getattr(store, name) for name in names])
    assert {run.name: run.status for run in found} == {
        "plain": "FINISHED",
        "failed": "FAILED",
        "killed": "KILLED",
        "running": "RUNNING",
        "pruned": "PRUNED",
    }
    assert {run.name for run in found if math.isnan(run.seconds)} == {"running"}
    assert {run.name: run.parent_id for run in found if run.parent_id} == {
        "pruned": store.sweep,
        "killed": "f" * 32,
    }


def test_a_run_that_goes_on_has_no_duration_yet(store: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "mlflow.db"
    shutil.copy(store.path, copy)
    with sqlite3.connect(copy) as link:  # as update_run(status="RUNNING") leaves it
        link.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", [store.plain])
    (run,) = runs.reader(f"sqlite:///{copy}").fetch([store.plain])
    assert run.status == "RUNNING"
    assert math.isnan(run.seconds)


def test_nan_stays_nan(reader: runs.Reader, store: SimpleNamespace) -> None:
    (run,) = reader.fetch([store.diverged])
    assert math.isnan(run.metrics["val/acc"])
    (first, second) = reader.curves([store.diverged], "val/acc")[store.diverged]
    assert first == (0, 0.5)
    assert second[0] == 1
    assert math.isnan(second[1])


# --- which runs ----------------------------------------------------------------------------------


def test_runs_come_in_order_of_their_start_and_once(
    reader: runs.Reader, store: SimpleNamespace
) -> None:
    refs = [store.running, store.plain[:8], store.failed, store.plain]
    assert named(reader.fetch(refs)) == ["plain", "failed", "running"]
    assert reader.fetch([]) == []
    assert named(reader.existing([store.failed, "0" * 32, store.deleted])) == ["failed"]


def test_the_children_of_a_sweep(reader: runs.Reader, store: SimpleNamespace) -> None:
    assert named(reader.children(store.sweep)) == ["child", "pruned"]
    assert reader.children(store.plain) == []
    parents = [store.sweep, store.plain, "f" * 32]
    assert reader.count_children(parents) == {store.sweep: 2, "f" * 32: 1}
    assert reader.count_children([]) == {}
    for ref in ("last", store.sweep[:8], store.sweep):
        parent, children = reader.sweep(ref)
        assert (parent.name, named(children)) == ("sweep", ["child", "pruned"])


def test_the_runs_of_an_experiment(reader: runs.Reader) -> None:
    alpha = ["plain", "diverged", "failed", "running", "resumed", "sweep"]
    assert named(reader.of_experiment("alpha")) == alpha
    assert named(reader.of_experiment("beta ü")) == ["child", "pruned", "killed"]
    assert reader.experiments() == ["Default", "alpha", "beta ü"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"limit": 2}, ["killed", "pruned"]),
        ({"limit": 2, "top": True}, ["sweep", "resumed"]),
        ({"experiment": "alpha", "limit": 3}, ["sweep", "resumed", "running"]),
        ({"status": "FINISHED", "experiment": "beta ü"}, ["child"]),
        ({"status": "PRUNED"}, ["pruned"]),
        ({"status": "FAILED"}, ["failed"]),
        ({"status": "KILLED", "top": True}, []),
        ({"limit": 100, "top": True, "experiment": "beta ü"}, []),
    ],
    ids=str,
)
def test_the_newest_runs(reader: runs.Reader, asked: dict, found: list[str]) -> None:
    assert named(reader.newest(**asked)) == found


def test_of_wanted_tags_the_others_are_not_read(store: SimpleNamespace) -> None:
    by_sql = runs.Reader(sqlite.Database(store.uri, store.path))
    whole, part = by_sql.newest(), by_sql.newest(tags=("gluonexp.kind", *OF_STATUS))
    assert [run.shown_status for run in part] == [run.shown_status for run in whole]
    assert [run.params for run in part] == [run.params for run in whole]
    assert {"PRUNED"} < {run.status for run in part}
    assert {key for run in part for key in run.tags} == {"gluonexp.kind", "gluonexp.pruned"}


def test_last_is_the_last_run_with_a_model(reader: runs.Reader, store: SimpleNamespace) -> None:
    assert named(reader.fetch(["last"])) == ["child"]
    assert find_run(store.client, "last").info.run_id == store.child


# --- curves --------------------------------------------------------------------------------------


def test_curves_keep_the_later_value_of_a_step(
    reader: runs.Reader, store: SimpleNamespace
) -> None:
    ids = [store.resumed, store.failed, store.plain]
    assert reader.curves(ids, "val/acc") == {
        store.resumed: [(0, 0.1), (1, 0.4), (2, 0.35), (3, 0.5)],
        store.failed: [],
        store.plain: [(0, 0.5), (1, 0.75)],
    }
    assert list(reader.curves(ids, "val/acc")) == ids
    assert reader.curves([store.plain], "no/such") == {store.plain: []}
    assert reader.curves([], "val/acc") == {}


@given(
    st.dictionaries(
        st.integers(0, 50),
        st.tuples(st.integers(0, 6), st.one_of(st.just(math.nan), st.floats(-1e6, 1e6))),
        max_size=20,
    )
)
@settings(max_examples=15)
def test_a_curve_is_what_was_logged_last(store, points) -> None:
    from mlflow.entities import Metric

    run = store.client.create_run("0").info.run_id
    metrics = [Metric("m", value, START + at, step) for at, (step, value) in points.items()]
    for some in (metrics[::2], metrics[1::2]):  # what arrives first need not be the earlier
        store.client.log_batch(run, some)
    last = {points[at][0]: points[at][1] for at in sorted(points)}
    expected = [(step, pytest.approx(last[step], nan_ok=True, rel=1e-12)) for step in sorted(last)]
    store.client.delete_run(run)  # a curve is read by its run's id alone
    for source in (sqlite.Database(store.uri, store.path), Client(store.client)):
        assert runs.Reader(source).curves([run], "m")[run] == expected


@pytest.mark.parametrize("most", [25_000, 7, 1])
def test_curves_are_whole_however_much_a_store_tells_at_once(
    reader: runs.Reader, store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    ids = [run.run_id for run in reader.newest()]
    expected = runs.Reader(sqlite.Database(store.uri, store.path)).curves(ids, "val/acc")
    monkeypatch.setattr(internals, "_MOST_POINTS", most)
    monkeypatch.setattr(internals, "MOST_HISTORIES", min(most, 100))
    assert len(ids) == 9
    assert str(reader.curves(ids, "val/acc")) == str(expected)  # as texts, NaN equals NaN


def test_mlflow_tells_many_curves_at_once(store: SimpleNamespace, served: str) -> None:
    ids = [store.resumed, store.plain]
    here, there = (
        internals.histories(one, ids, "val/acc") for one in (store.client, open_store(served))
    )
    assert here is not None
    assert there == here
    assert len(here) == 8


def test_all_ways_of_reading_agree_on_everything(
    reader: runs.Reader, store: SimpleNamespace
) -> None:
    def plain(record):
        return dataclasses.asdict(record) | {"seconds": str(record.seconds)}

    by_sql = runs.Reader(sqlite.Database(store.uri, store.path)).newest()
    assert len(by_sql) == 9
    assert str(list(map(plain, reader.newest()))) == str(list(map(plain, by_sql)))


def test_a_large_sweep_is_counted_by_its_newest_jobs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_store(uri)
    parent = client.create_run("0").info.run_id
    for job in range(7):
        tags = {"mlflow.parentRunId": parent, "gluonexp.sweep.job": str(job)}
        client.create_run("0", START + job, tags)
    for source in (sqlite.Database(uri, tmp_path / "mlflow.db"), Client(client)):
        assert source.count_children([parent]) == {parent: 7}


@pytest.mark.parametrize("where", ["uri", "served"])
def test_a_sweep_asks_for_a_part_of_its_attempts(
    store: SimpleNamespace, served: str, where: str
) -> None:
    client = open_store(served if where == "served" else store.uri)
    experiment = client.create_experiment(f"sweep {where}")
    parent = client.create_run(experiment).info.run_id
    for job in range(2):  # as an earlier version, which did not count
        tags = {"mlflow.parentRunId": parent, "gluonexp.sweep.job": str(job)}
        client.create_run(experiment, START + job, tags)
    tracker: Any = SimpleNamespace(experiment_id=experiment)
    run = SweepRun(client, parent, tracker)
    jobs = [run.next_job() for _ in range(3)]
    assert jobs == [2, 3, 4]
    first, second, third = (
        run.begin(job, point, {"optim.lr": point}, point)
        for job, point in zip(jobs, ("aa", "bb", "aa"), strict=True)
    )
    client.set_terminated(second, "FAILED")
    everything = run.attempts()
    assert [one.job for one in everything] == [0, 1, 2, 3, 4]
    assert [one.run_id for one in run.attempts("aa")] == [first, third]
    assert run.attempts("bb") == [one for one in everything if one.run_id == second]
    assert run.attempts("bb", "RUNNING") == run.attempts("cc") == []
    assert [one.job for one in run.attempts(status="RUNNING")] == [0, 1, 2, 4]
    assert run.read(third).job == 4
    client.delete_experiment(experiment)


def test_a_run_is_begun_once_though_the_answer_is_lost(served: str) -> None:
    class Cut(MlflowClient):
        answers = 0

        def create_run(self, *given: Any, **named: Any) -> Any:
            made = super().create_run(*given, **named)
            self.answers += 1
            if self.answers == 1:
                raise MlflowException("the connection was cut")
            return made

    client, said = Cut(served), list[str]()
    experiment = client.create_experiment("cut")
    parent = MlflowClient(served).create_run(experiment).info.run_id
    tracker: Any = SimpleNamespace(experiment_id=experiment)
    run = SweepRun(client, parent, tracker, Patience(said.append))
    jobs = [run.next_job(), run.next_job()]
    begun = [run.begin(job, "aa", {}, "aa") for job in jobs]
    assert [one.run_id for one in run.attempts("aa")] == begun
    assert len(set(begun)) == client.answers == len(said) == 2
    run.patience.end()
    client.answers = 0
    with pytest.raises(GluonexpError, match="was cut"):
        run.begin(run.next_job(), "aa", {}, "aa")
    client.delete_experiment(experiment)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda reader, _: reader.fetch(["xyz"]), "xyz: not a run"),
        (lambda reader, _: reader.fetch(["'; DROP TABLE runs --"]), "not a run"),
        (lambda reader, _: reader.fetch(["0" * 32]), f"no run id begins with {'0' * 32}"),
        (lambda reader, _: reader.fetch(["000000"]), "gluonexp runs"),
        (
            lambda reader, made: reader.fetch([made.deleted]),
            "was deleted from .* mlflow runs restore",
        ),
        (lambda reader, made: reader.fetch([made.plain, made.lost]), "was deleted from"),
        (lambda reader, _: reader.of_experiment("alpa"), "no experiment alpa .* there is alpha"),
        (lambda reader, _: reader.of_experiment("gone"), "no experiment gone"),
        (lambda reader, _: reader.of_experiment("zzz"), "there is Default, alpha, beta ü"),
        (lambda reader, made: reader.sweep(made.plain), "is no sweep$"),
        (lambda reader, made: reader.sweep(made.child), "is no sweep: it belongs to"),
    ],
)
def test_what_is_not_there_is_said(reader, store, ask, told) -> None:
    with pytest.raises(GluonexpError, match=told):
        ask(reader, store)


def test_an_ambiguous_start_names_the_runs(store: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "mlflow.db"
    shutil.copy(store.path, copy)
    both = ["abcdef" + "0" * 26, "abcdef" + "1" * 26]
    with sqlite3.connect(copy) as link:
        for new, old in zip(both, (store.plain, store.failed), strict=True):
            link.execute("UPDATE runs SET run_uuid = ? WHERE run_uuid = ?", [new, old])
    with pytest.raises(GluonexpError) as refused:
        runs.reader(f"sqlite:///{copy}").fetch(["abcdef"])
    assert all(run_id in str(refused.value) for run_id in both)


def test_a_sweep_without_runs_is_said(store: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "mlflow.db"
    shutil.copy(store.path, copy)
    reader = runs.reader(f"sqlite:///{copy}")
    with sqlite3.connect(copy) as link:
        link.execute("DELETE FROM tags WHERE key = 'mlflow.parentRunId'")
    for ref in ("last", store.sweep):
        with pytest.raises(GluonexpError, match=f"sweep {store.sweep} has no runs yet"):
            reader.sweep(ref)
    with sqlite3.connect(copy) as link:
        link.execute("DELETE FROM tags WHERE key = 'gluonexp.kind'")
    with pytest.raises(GluonexpError, match=r"there is no sweep in .* yet"):
        reader.sweep("last")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(GluonexpError, match="there is no store at"):
        runs.reader(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one\n" * 9)
    with sqlite3.connect(tmp_path / "other.db") as link:
        link.execute("CREATE TABLE x (y)")
    with pytest.raises(GluonexpError, match="cannot be made or read"):
        runs.reader(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(GluonexpError, match="is a SQLite file but no MLflow store"):
        runs.reader(f"sqlite:///{tmp_path}/other.db")


# --- plain SQL is for one layout only ------------------------------------------------------------


def test_the_layout_of_the_pinned_mlflow_is_known(store: SimpleNamespace) -> None:
    import mlflow

    if not mlflow.__version__.startswith("3.17."):
        pytest.skip(f"MLflow {mlflow.__version__} is read through MLflow")
    assert sqlite.is_known(store.path)


def test_another_layout_is_left_to_mlflow(store: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "mlflow.db"
    shutil.copy(store.path, copy)
    with sqlite3.connect(copy) as link:
        link.execute("UPDATE alembic_version SET version_num = 'future'")
    assert not sqlite.is_known(copy)
    with pytest.raises(GluonexpError, match="was made by another version of MLflow"):
        runs.reader(f"sqlite:///{copy}")


def test_reading_changes_no_byte_and_waits_for_no_writer(
    reader: runs.Reader, store: SimpleNamespace
) -> None:
    before = store.path.read_bytes()
    writer = sqlite3.connect(store.path, isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET name = 'unfinished'")
        assert named(reader.of_experiment("beta ü")) == ["child", "pruned", "killed"]
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("opens", [runs.reader, open_store])
def test_what_a_killed_writer_left_is_undone(
    store: SimpleNamespace, tmp_path: Path, opens: Callable[[str], object]
) -> None:
    half = tmp_path / "mlflow.db"
    writer = sqlite3.connect(shutil.copy(store.path, tmp_path / "first.db"), isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # so that the change reaches the file at once
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET name = 'half written'")
    writer.execute("UPDATE tags SET value = 'half written' || hex(zeroblob(2000))")
    # The two files of a process that was killed here.
    shutil.copy(tmp_path / "first.db", half)
    shutil.copy(tmp_path / "first.db-journal", tmp_path / "mlflow.db-journal")
    writer.close()
    assert b"half written" in half.read_bytes()
    opens(f"sqlite:///{half}")
    reader = runs.reader(f"sqlite:///{half}")
    assert named(reader.of_experiment("beta ü")) == ["child", "pruned", "killed"]
