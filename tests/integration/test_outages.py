"""A store that goes away while runs train, and a disk that is full: nothing is lost."""

import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hydra.errors import HydraException
from mlflow import MlflowClient

import gluonexp.api as gx
from gluonexp import experiment
from gluonexp.base.errors import GluonexpError, sentence
from gluonexp.cli import main
from gluonexp.run import compose, sweep
from gluonexp.tracking import find_run, open_store, patience
from gluonexp.tracking.log import NAME, records
from gluonexp.tracking.read.runs import reader
from gluonexp.training.checkpoint import newest, read_meta
from gluonexp.training.loop import Callback, Fit
from tests.unit.test_push import fields

SMALL = [
    *("model=mlp", "model.hidden=[32]", "trainer.epochs=6", "trainer.batch_size=64"),
    *("export.onnx=false", "export.images=16", "build.allow=[tests]"),
]
SWEEP = [
    *(*SMALL, "trainer.epochs=2", "export=none", "seed=0,1"),
    "+callbacks.next={_target_: tests.integration.test_outages.Next}",
]
OUTAGE = "+callbacks.outage={_target_: tests.integration.test_outages.Outage, %s}"


class Server:
    """MLflow's server on a port of its own, which may be killed and started again."""

    running: "Server"

    def __init__(self, folder: Path) -> None:
        self.folder, self._process = folder, None
        self.next: list[Callable[[], None]] = []
        self._back = threading.Thread()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db", "--workers=1"]
        words += [f"--artifacts-destination={self.folder}/artifacts", f"--port={self.port}"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        search = f"{self.uri}/api/2.0/mlflow/experiments/search?max_results=1"
        while self._process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(search, timeout=60).read()
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def send(self, signum: int) -> None:
        os.killpg(self._process.pid, signum)

    def restart(self) -> None:
        """Let it be away for the seconds that it takes to start."""
        self.stop()
        self._back = threading.Thread(target=self.start, daemon=True)
        self._back.start()

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


class Next(Callback):
    """Do to the server, in the second epoch of a run, what is the next that a test has in mind."""

    def epoch_end(self, fit: Fit) -> None:
        if fit.epoch == 1 and Server.running.next:
            Server.running.next.pop(0)()


class Outage(Callback):
    """Stop the server after an epoch, for good or until it goes on after another."""

    def __init__(self, stop: int, start: int | None = None) -> None:
        self._stop, self._start = stop, start

    def epoch_end(self, fit: Fit) -> None:
        if fit.epoch == self._stop and self._start is None:
            Server.running.stop()
        elif fit.epoch in (self._stop, self._start):
            going = signal.SIGSTOP if fit.epoch == self._stop else signal.SIGCONT
            Server.running.send(going)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that runs."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # ten processes more
        Server.running = Server(folder)
        Server.running.start()
        yield Server.running
        Server.running.stop()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where the commands are typed, and the folders of jobs lie."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name, *overrides):
    job = Path("mlruns", "hydra", name).absolute()
    job.mkdir(parents=True)
    return experiment.run(compose(*SMALL, *overrides), job)


def told(*words):
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    return ended.output


def logged(result):
    """Return the points in the log of a run, and the digests of its files."""
    points, files = [], {}
    for entry in records(result.folder / NAME):
        if entry["kind"] == "metrics":
            points += [tuple(point) for point in entry["points"]]
        elif entry["kind"] == "artifacts":
            assert entry["path"] is None
            files |= {file["name"]: file["sha256"] for file in entry["files"]}
    return sorted(points), files


def points(found):
    """Return the points of a run among its fields, but for those that are its model's."""
    return sorted(
        (key, float(value), at, step)
        for key, history in found["points"].items()
        for step, at, value, of_run_alone in history
        if of_run_alone
    )


def whole(result, found):
    """Say whether a store has each point of a run once, its files, its model and its end."""
    had, files = logged(result)
    assert points(found) == had
    assert found["files"] == files
    assert found["ended"][0] == "FINISHED"
    (model,) = found["models"]
    assert model[:2] == ("model", "READY")
    return True


def test_a_server_that_goes_on_is_sent_each_point_once(server, home, capsys):
    result = train("1", f"tracking.uri={server.uri}", OUTAGE % "stop: 1, start: 3")
    assert capsys.readouterr().err == ""
    assert whole(result, fields(MlflowClient(server.uri), result.run_id, {}))


def test_what_a_server_never_got_is_pushed_to_any_store(server, home, capsys):
    lost = train("2", f"tracking.uri={server.uri}", OUTAGE % "stop: 1", "export.register=digits")
    err = capsys.readouterr().err
    assert len(lost.history) == 6
    assert re.search(
        rf"run \w+: \d+ of \d+ records are not in {re.escape(server.uri)} \(.+\);", err
    )
    assert f"all of it lies in {lost.folder}; `gluonexp push {lost.run_id}` sends it, and" in err
    offline = train("3", f"tracking.uri={server.uri}", "trainer.epochs=1")
    err = capsys.readouterr().err
    assert f"run {offline.run_id} is offline: all of it lies in {offline.folder}" in err
    assert f"`gluonexp push {offline.run_id}` sends it" in err
    with pytest.raises(HydraException, match="cannot be opened"):
        sweep(*SMALL, f"tracking.uri={server.uri}", "seed=0,1")

    # Its own id is one that every command takes, also while the store is away.
    of_server = f"--tracking-uri={server.uri}"
    assert offline.run_id[:8] in told("runs", of_server)
    assert offline.run_id[:8] in told("compare", offline.run_id, of_server)
    told("download", offline.run_id[:8], "export", "--to", "copy", of_server)
    (image,) = Path(offline.folder).glob("artifacts/data/examples/3/*.png")
    assert "3/" in told("predict", offline.run_id[:8], str(image), of_server)

    other = f"sqlite:///{home}/other.db"
    for run in (lost, offline):
        assert "sent" in told("push", run.run_id[:8], "--to", other)
    server.start()
    assert told("push", "--all").count("sent") == 2
    assert told("push", "--all").count("has all of it") == 2
    stores = MlflowClient(server.uri), open_store(other)
    for run in (lost, offline):
        there, here = (
            fields(store, find_run(store, run.run_id).info.run_id, {}) for store in stores
        )
        assert there == here
        assert whole(run, there)
    assert there["versions"] == []


def test_a_sweep_waits_for_a_server_that_is_away(server, home, capsys):
    server.next = [server.restart]
    summary = sweep(*SWEEP, f"tracking.uri={server.uri}")
    said = capsys.readouterr()
    assert "Retrying" not in said.out + said.err
    assert said.out.count("the store does not answer; the sweep waits") == 1
    assert said.out.count("the store answers again") == 1
    client = MlflowClient(server.uri)
    assert client.get_run(summary.parent_id).info.status == "FINISHED"
    _, runs = reader(server.uri).sweep(summary.parent_id)
    assert [run.run_id for run in runs] == [one.run_id for one in summary.outcomes]
    for run in runs:  # what the server never got lay in its log
        assert run.status == "FINISHED"
        assert len(client.get_metric_history(run.run_id, "train/loss")) == 2


def test_a_sweep_whose_server_stays_away_says_how_to_go_on(server, home, capsys, monkeypatch):
    monkeypatch.setattr(patience, "LIMIT_S", 0.2)
    server.next = [server.stop]
    with pytest.raises(HydraException, match=r"the store has not answered for 0\.2 s"):
        sweep(*SWEEP, f"tracking.uri={server.uri}")
    resume = re.search(r"^  resume:  python -m gluonexp.run (.+)$", capsys.readouterr().out, re.M)
    server.start()
    summary = sweep(*resume[1].split())
    assert [one.status for one in summary.outcomes] == ["FINISHED", "FINISHED"]
    assert [one.job for one in summary.outcomes] == [0, 1]  # the first lay in its log
    assert MlflowClient(server.uri).get_run(summary.parent_id).info.status == "FINISHED"


def test_ctrl_c_after_the_first_line_of_a_sweep_says_how_to_go_on(server, home, monkeypatch):
    class Screen(io.StringIO):
        def write(self, text):
            size = super().write(text)
            if ": 2 points" in text:
                signal.raise_signal(signal.SIGINT)
            return size

    monkeypatch.setattr(sys, "stdout", Screen())
    with pytest.raises(KeyboardInterrupt):
        sweep(*SWEEP, f"tracking.uri={server.uri}")
    resume = re.search(
        r"resume:  python -m gluonexp.run sweep.resume=(\w+)", sys.stdout.getvalue()
    )
    parent = find_run(MlflowClient(server.uri), resume[1])
    assert parent.info.status == "KILLED"


@pytest.fixture
def room():
    """Give what lets no file grow beyond so many bytes, as where a disk is full; None: any."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size or before[0], before[1]))

    yield limit
    limit(None)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A folder with a store, and a run in it."""
    folder = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        train("1", "trainer.epochs=1", "export=none")
    return folder


@pytest.mark.parametrize("size", [500, 3_000, 10_000, 90_000])
def test_a_full_disk_ends_a_run_in_a_sentence(earlier, monkeypatch, capsys, room, size):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(earlier)
    client = open_store(None)
    known = {run.info.run_id for run in client.search_runs(["1"])}
    before = [fields(client, run_id, {}) for run_id in known]
    room(size)
    try:
        with pytest.raises(Exception) as raised:
            train(str(size), "trainer.epochs=2", "callbacks.checkpoint.keep=2")
    finally:
        room(None)
    said = sentence(raised.value)
    assert said is not None and "\n" not in said, raised.value
    assert "cannot be written" in said
    assert [fields(client, run_id, {}) for run_id in known] == before
    job = earlier / "mlruns" / "hydra" / str(size)
    assert not list(job.rglob(".new-*"))
    for folder in newest(job / "checkpoints"):
        read_meta(folder)
    if any(records(job / NAME)):
        told("push", str(job))
        (run,) = (one for one in client.search_runs(["1"]) if one.info.run_id not in known)
        assert run.info.status in ("FAILED", "KILLED")


def test_a_run_is_read_from_python_while_it_goes_on_and_after(server, home):
    with gx.track("open", {"lr": 0.5}, uri=server.uri) as tracked:
        run = gx.Run(tracked.id, server.uri)
        assert run.status == "RUNNING" and run.name == "open" and run.seconds != run.seconds
        assert run.metrics == {} and run.history.empty
        for epoch in range(2):
            tracked.log({"val/acc": epoch / 2}, step=epoch)
        tracked.image("seen", [[0, 255]])  # what waits is sent before it
        for _ in range(2000):
            if "plots/seen.png" in run.files:
                break
        assert run.status == "RUNNING" and run.params == {"lr": 0.5}
        assert run.metrics == {"val/acc": 0.5} and "RUNNING" in run._repr_html_()
        assert run.curve("val/acc").to_dict() == {0: 0.0, 1: 0.5}
        assert gx.runs(uri=server.uri, where="status == 'RUNNING'")["run_id"].tolist() == [run.id]
        tracked.log({"val/acc": 0.75}, step=2)
    assert run.status == "FINISHED" and run.seconds > 0
    assert run.history["val/acc"].to_dict() == {0: 0.0, 1: 0.5, 2: 0.75}
    assert run.url.startswith(server.uri) and run.id in run.url
    assert {"metrics/history.csv", "plots/seen.png"} <= set(run.files)
    copy = run.file("metrics/history.csv")
    assert len(copy.read_text().splitlines()) == 4 and not copy.is_relative_to(server.folder)
    assert run.file("plots").is_dir()
    with pytest.raises(GluonexpError, match=r"none\.txt"):
        run.file("none.txt")
