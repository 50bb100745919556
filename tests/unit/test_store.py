"""The store: made once, opened, found in, checked; and the pages over it."""

import hashlib
import http.server
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.run import again
from gluonexp.tracking import ensure_experiment, find_run, open_store, probe, store, ui
from gluonexp.tracking.beginning import run_tags
from gluonexp.tracking.patience import Patience
from gluonexp.tracking.uri import displayed, experiment_link, resolve_uri, run_link


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that the tests of this module share; each uses experiments of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlruns/mlflow.db"
    open_store(uri)
    return uri


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


# --- a store that is away ------------------------------------------------------------------------


def test_a_store_is_waited_for_as_long_as_it_does_not_answer(closed_port: int) -> None:
    said: list[str] = []

    def ask() -> None:
        open_store(f"http://127.0.0.1:{closed_port}")

    with pytest.raises(GluonexpError, match=r"^tracking"):
        ask()  # what is slow to import is imported by now
    with pytest.raises(GluonexpError, match=r"has not answered for 0\.5 s: tracking\.uri="):
        (patience := Patience(said.append, limit_s=0.5)).ask(ask)
    assert len(said) == 1 and "the sweep waits up to 0.5 s" in said[0]
    with pytest.raises(GluonexpError, match=r"^tracking"):  # no more
        patience.ask(ask)

    def refused() -> None:
        raise GluonexpError("no such run")

    with pytest.raises(GluonexpError, match="no such run"):
        Patience(said.append).ask(refused)
    assert len(said) == 1

    def interrupt(line: str) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Patience(interrupt).ask(ask)


# --- which store a URI means ---------------------------------------------------------------------


def test_the_default_store_is_beside_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None) == resolve_uri("") == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert resolve_uri("sqlite:///a/../b.db?timeout=5") == f"sqlite:///{tmp_path}/b.db?timeout=5"
    assert resolve_uri("sqlite:////x/y.db") == "sqlite:////x/y.db"


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/mlflow",
        "postgresql+psycopg2://me:pw@host/runs",
        "databricks",
        "mssql://host/runs",
    ],
)
def test_other_stores_are_left_to_mlflow(uri: str) -> None:
    assert resolve_uri(uri) == uri


@given(st.text(st.characters(blacklist_characters="%?\0", blacklist_categories=["Cs"])))
def test_resolving_twice_changes_nothing(path: str) -> None:
    once = resolve_uri(f"sqlite:////folder/{path}/mlflow.db")
    assert once.startswith("sqlite:////")
    assert resolve_uri(once) == once


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("/old/mlruns", "mlflow migrate-filestore --source /old/mlruns --target sqlite:////old/"),
        ("file:///old/mlruns", "migrate-filestore --source /old/mlruns --target sqlite:////old"),
        ("/old/mlflow.db", "write sqlite:////old/mlflow.db"),
        ("sqlite://", "a SQLite store needs a file"),
        ("sqlite:///:memory:", "a SQLite store needs a file"),
        ("sqlite:////a%20b/mlflow.db", "cannot hold a path with '%'"),
    ],
)
def test_what_cannot_be_a_store_is_refused_with_a_remedy(uri: str, remedy: str) -> None:
    with pytest.raises(GluonexpError, match=re.escape(remedy)):
        resolve_uri(uri)


def test_a_folder_whose_name_is_not_utf8_is_refused() -> None:
    with pytest.raises(GluonexpError, match=r"caf\\udce9/mlflow\.db: a store cannot be"):
        resolve_uri(os.fsdecode(b"sqlite:////caf\xe9/mlflow.db"))


def test_a_trailing_slash_does_not_count() -> None:
    assert resolve_uri("http://host:5000/") == "http://host:5000"


def test_passwords_are_not_shown() -> None:
    assert displayed("postgresql://me:secret@host/runs") == "postgresql://me:***@host/runs"
    assert displayed("http://host:5000") == "http://host:5000"


def test_links() -> None:
    assert run_link("http://h:5/", "3", "ab") == (
        "http://h:5/#/experiments/3/runs/ab?workflowType=machine_learning"
    )
    assert experiment_link("http://h:5", "3", "val/acc") == (
        "http://h:5/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&orderByKey=metrics.%60val%2Facc%60&orderByAsc=false"
    )


# --- making and opening --------------------------------------------------------------------------


def test_a_store_appears_whole_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b#ü" / "mlruns"  # what users call their folders
    monkeypatch.chdir(tmp_path)
    folder.mkdir(parents=True)
    (folder / "mlflow.db").touch()  # an empty file is no store yet
    client = open_store(f"sqlite:///{folder}/mlflow.db")
    assert sorted(os.listdir(folder)) == [".mlflow.db.lock", "mlflow.db"]
    assert client.get_experiment("0").artifact_location == f"{folder}/artifacts/0"
    assert os.listdir(tmp_path) == ["a b#ü"]


def test_processes_that_start_together_share_one_store(tmp_path: Path) -> None:
    """MLflow alone loses all six, and the file."""
    script = """
        import multiprocessing, sys
        import mlflow.store.tracking.sqlalchemy_store  # before the fork: once instead of 6 times
        from gluonexp.config.schema import TrackingConfig
        from gluonexp.tracking import tracked_run

        uri = sys.argv[1]

        def work(barrier, results):
            barrier.wait()
            with tracked_run(TrackingConfig(uri=uri, experiment="together")) as tracker:
                for step in range(5):
                    tracker.log_metrics({"loss": step}, step)
            results.put((tracker.experiment_id, tracker.run_id))

        fork = multiprocessing.get_context("fork")
        barrier, results = fork.Barrier(6), fork.Queue()
        workers = [fork.Process(target=work, args=(barrier, results)) for _ in range(6)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 6
        assert len({results.get()[0] for _ in workers}) == 1
    """
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), uri], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    client = open_store(uri)
    experiment = client.get_experiment_by_name("together")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(s, s) for s in range(5)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DROP TABLE trace_info", "made by another version of MLflow"),
        ("UPDATE alembic_version SET version_num = '0a0a0a0a0a0a'", "made by another version"),
        ("DROP TABLE experiments", "no MLflow store"),
    ],
)
def test_a_store_of_another_version_is_refused(
    tmp_path: Path, uri: str, damage: str, message: str
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(Path(uri.removeprefix("sqlite:///")).read_bytes())
    with sqlite3.connect(database) as link:
        link.execute(damage)
    link.close()
    before = database.read_bytes()
    with pytest.raises(GluonexpError, match=message) as refusal:
        open_store(f"sqlite:///{database}")
    if "version" in message:
        assert f"mlflow db upgrade sqlite:///{database}" in str(refusal.value)
    assert database.read_bytes() == before  # MLflow alone would have migrated it


def test_what_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to be taken for the header of one" * 10)
    with pytest.raises(GluonexpError, match="cannot be made or read"):
        open_store(f"sqlite:///{text}")
    with pytest.raises(GluonexpError, match="cannot be made or read"):
        open_store(f"sqlite:///{text}/mlruns/mlflow.db")
    with pytest.raises(GluonexpError, match="cannot be made or read"):
        open_store("sqlite:////proc/mlflow.db")  # where not even a lock can be made


def test_runs_of_the_old_file_store_are_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "meta.yaml").touch()
    with caplog.at_level(logging.WARNING, "gluonexp"):
        store._mention_file_store(tmp_path)
        store._mention_file_store(tmp_path)
    assert len(caplog.messages) == 1
    assert f"migrate-filestore --source {tmp_path}" in caplog.text


def test_a_store_is_made_and_opened_without_what_mlflow_may_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore._engine_map")
        store._make_database(tmp_path / "mlflow.db")
    monkeypatch.setitem(sys.modules, "mlflow.store.db.base_sql_model", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking.context.registry", None)
    open_store(f"sqlite:///{tmp_path}/mlflow.db")
    tags = run_tags({"mine": "x"})
    assert tags["mine"] == "x"
    ours = {"gluonexp.host", "gluonexp.boot", "gluonexp.pid", "gluonexp.process"}
    assert tags.keys() == {"mine", *ours}


# --- stores that do not answer -------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_at_once(closed_port: int) -> None:
    for scheme in ("http", "postgresql"):
        with pytest.raises(
            GluonexpError, match=r"cannot be opened \(.*Connection refused"
        ) as refusal:
            open_store(f"{scheme}://me:secret@127.0.0.1:{closed_port}")
        assert "secret" not in str(refusal.value)
        assert "tracking=none" in str(refusal.value)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_missing_database_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(GluonexpError, match="pip install 'psycopg2-binary'"):
            open_store(f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/runs")


def test_a_database_that_takes_calls_and_never_answers_is_told_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psycopg2", reason="no driver: pip install psycopg2-binary")
    monkeypatch.setattr(store, "_TIMEOUT_S", 2)  # the least that the driver knows
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(GluonexpError, match="timeout expired"):
            open_store(f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/runs")


def test_a_web_server_that_is_no_mlflow_is_refused() -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(GluonexpError, match="404"):
            open_store(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


# --- experiments ---------------------------------------------------------------------------------


def test_an_experiment_is_made_once_and_keeps_its_artifacts_beside_the_database(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = open_store(uri)
    made = ensure_experiment(client, "team/first try", uri)
    assert ensure_experiment(client, "team/first try", uri) == made
    root = Path(uri.removeprefix("sqlite:///")).parent / "artifacts"
    assert client.get_experiment(made).artifact_location == str(root / "team_first_try")
    dots = client.get_experiment(ensure_experiment(client, "..", uri))
    assert dots.artifact_location == str(root / "_")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_experiment_is_not_written_to(uri: str) -> None:
    client = open_store(uri)
    made = ensure_experiment(client, "gone", uri)
    client.delete_experiment(made)
    with pytest.raises(GluonexpError, match=f"restore --experiment-id {made}"):
        ensure_experiment(client, "gone", uri)


# --- the probe -----------------------------------------------------------------------------------


def test_the_probe_makes_no_store(tmp_path: Path) -> None:
    said = probe(f"sqlite:///{tmp_path}/a/b/mlflow.db")
    assert said == f"SQLite {tmp_path}/a/b/mlflow.db, to be made by the first run"
    assert list(tmp_path.iterdir()) == []


def test_the_probe_leaves_no_trace(uri: str) -> None:
    database = Path(uri.removeprefix("sqlite:///"))

    def state() -> tuple[str, list[Path]]:
        return hashlib.sha256(database.read_bytes()).hexdigest(), sorted(database.parent.iterdir())

    before = state()
    assert re.fullmatch(
        f"SQLite {re.escape(str(database))}, \\d+ experiments, writable", probe(uri)
    )
    assert state() == before


def test_the_probe_really_writes(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_TIMEOUT_S", 0)
    writer = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")  # a writer that hangs; reading goes on
    with pytest.raises(GluonexpError, match="cannot be written: database is locked"):
        probe(uri)
    writer.close()
    assert probe(uri).endswith("writable")


# --- finding -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A store with four runs: two FINISHED (the first one last), one FAILED, one RUNNING."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"
    client = open_store(uri)
    ids = []
    for name in ("one", "two", "two", "two"):
        experiment_id = ensure_experiment(client, name, uri)
        ids.append(client.create_run(experiment_id).info.run_id)
    client.set_terminated(ids[1], "FINISHED", end_time=1_000)
    client.set_terminated(ids[0], "FINISHED", end_time=2_000)
    client.set_terminated(ids[2], "FAILED", end_time=3_000)
    yield uri, ids


def test_a_run_is_found_by_id_prefix_or_as_the_last(runs: tuple[str, list[str]]) -> None:
    uri, ids = runs
    client = open_store(uri)
    for run_id in ids:
        assert find_run(client, run_id).info.run_id == run_id
        assert find_run(client, run_id[:8]).info.run_id == run_id
    assert find_run(client, "last").info.run_id == ids[0]


def test_what_is_no_run_is_told(runs: tuple[str, list[str]], tmp_path: Path) -> None:
    uri, ids = runs
    client = open_store(uri)
    for ref in ("abc", "export/model", f"{ids[0]}0", "LAST"):
        with pytest.raises(GluonexpError, match=f"{ref}: not a run"):
            find_run(client, ref)
    with pytest.raises(GluonexpError, match="no run id begins with 00000000"):
        find_run(client, "0" * 32 if "0" * 8 in ids else "00000000")
    empty = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(GluonexpError, match="no run has FINISHED"):
        find_run(empty, "last")


def test_an_ambiguous_prefix_lists_the_runs(uri: str) -> None:
    client = open_store(uri)
    experiment_id = ensure_experiment(client, "twins", uri)
    ids = [client.create_run(experiment_id).info.run_id for _ in range(2)]
    twins = [f"abcdef{run_id[6:]}" for run_id in ids]
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as link:
        for run_id, twin in zip(ids, twins, strict=True):
            for table in ("runs", "tags"):
                link.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (twin, run_id))
    link.close()
    with pytest.raises(GluonexpError, match="several run ids") as refusal:
        find_run(client, "abcdef")
    assert all(twin in str(refusal.value) for twin in twins)
    assert find_run(client, twins[0]).info.run_id == twins[0]


# --- the pages -----------------------------------------------------------------------------------


def test_the_pages_are_served_and_nothing_is_left_behind(tmp_path: Path) -> None:
    before = f"sqlite:///{tmp_path}/before/mlflow.db"
    client = open_store(before)
    experiment_id = ensure_experiment(client, "shown", before)
    run_id = client.create_run(experiment_id).info.run_id
    client.log_metric(run_id, "val/acc", 0.9, step=0)
    client.log_text(run_id, "moved", "note.txt")
    client.set_terminated(run_id)
    (tmp_path / "before").rename(tmp_path / "mlruns")
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    script = "import sys; from gluonexp.tracking import ui; sys.exit(ui.serve(sys.argv[1], port="
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-c", f"{script}{port}))", uri],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        lines = []
        assert server.stdout is not None
        for line in server.stdout:  # ends with the server, which gives up after a minute
            lines.append(line)
            if line.startswith("Press"):
                break
    try:
        printed = "".join(lines)
        found = re.search(r"taking (\d+)", printed)
        assert found, printed + server.communicate()[1]
        base = f"http://127.0.0.1:{found[1]}"
        assert f"experiment  {experiment_link(base, experiment_id, 'val/acc')}\n" in printed
        assert f"last run    {run_link(base, experiment_id, run_id)}\n" in printed
        answer = requests.get(f"{base}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=10)
        assert answer.json()["run"]["data"]["metrics"][0]["value"] == 0.9
        file = requests.get(f"{base}/get-artifact?path=note.txt&run_id={run_id}", timeout=10)
        assert file.text == "moved"
        # The store again, this time as a server.
        assert probe(base) == f"MLflow server {base}, writable"
        assert open_store(base).search_registered_models() == []
        assert find_run(open_store(base), "last").info.run_id == run_id
        server.terminate()
        # The pipes end when the last process that inherited them has: none is left behind.
        server.communicate(timeout=60)
        assert server.returncode == 0
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{base}/health", timeout=5)
    finally:
        if server.returncode is None:
            server.terminate()
            server.communicate(timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["mlruns"]


def test_no_store_no_pages(tmp_path: Path) -> None:
    with pytest.raises(GluonexpError, match="there is no store at"):
        ui.serve(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_looked_for_in_the_store_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/there.db")
    with pytest.raises(GluonexpError, match=r"no store at .*there\.db"):
        again(["sweep.resume=last"])
