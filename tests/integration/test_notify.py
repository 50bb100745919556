"""``callbacks=notify``: how a run or a sweep ended is told, and nothing comes of it to the run."""

import io
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

import gluonexp.api as gx
from gluonexp import run as application
from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.config import recorded
from gluonexp.config.schema import NotifyConfig
from gluonexp.experiment import execute
from gluonexp.run import compose
from gluonexp.tracking import open_store
from gluonexp.tracking.notify import telling
from gluonexp.tracking.read.runs import reader

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "dataset.source.train=64"),
    *("trainer.epochs=2", "trainer.batch_size=16", "export=none"),
)
TOKEN = "T0123/B0456/abcdefghijkl"


class Hook(ThreadingHTTPServer):
    """A webhook on the loopback, which keeps what it is sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got, self.status, self.free = [], 200, threading.Event()
        self.free.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/services/{TOKEN}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, json.loads(body)))
        self.server.free.wait(60)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def hook():
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.free.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def train(tmp_path, hook, monkeypatch):
    monkeypatch.setenv("GLUONEXP_WEBHOOK", hook.url)
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def train(*words):
        words = (
            *TINY,
            "callbacks=notify",
            f"tracking.uri={uri}",
            "tracking.run_name=mine",
            *words,
        )
        return execute.run(compose(*words), tmp_path / "job", words, Console(file=io.StringIO()))

    train.uri = uri
    return train


def only(hook):
    ((path, notice),) = hook.got
    assert path == f"/services/{TOKEN}"
    return notice


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_that_has_finished(train, hook, tmp_path):
    result = train()
    notice = only(hook)
    assert (notice["kind"], notice["status"], notice["reason"]) == ("run", "FINISHED", "")
    assert (notice["run_id"], notice["name"]) == (result.run_id, "mine")
    assert notice["objective"] == result.objective
    assert notice["objective_metric"] == "val/acc"
    assert notice["metrics"] == result.metrics and "test/acc" in notice["metrics"]
    assert notice["command"].startswith("python -m gluonexp.run dataset=synthetic ")
    assert notice["host"] and notice["seconds"] > 0 and notice["link"] is None
    title = f"mine ({result.run_id[:8]}) FINISHED after "
    assert notice["text"].startswith(title) and "val/acc" in notice["text"]
    # It was told once the run was closed, and of the address nothing is recorded.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    (kept,) = tmp_path.rglob("config/resolved.yaml")
    assert "webhook: '***'" in kept.read_text()
    (run,) = reader(train.uri).newest()
    assert not any(key.startswith("notify") for key in run.params)


def test_a_run_that_diverges(train, hook):
    with pytest.raises(GluonexpError) as failure:
        train("optim=sgd", "optim.lr=1e30")
    notice = only(hook)
    assert notice["status"] == "FAILED" and notice["reason"] == str(failure.value)
    assert "not finite" in notice["text"]


def test_a_failure_before_there_is_a_run(train, hook):
    with pytest.raises(GluonexpError) as failure:
        train("trainer.resume=/no/such/folder")
    notice = only(hook)
    assert notice["status"] == "FAILED" and notice["reason"] == str(failure.value)
    assert (notice["run_id"], notice["name"]) == (None, "mine")


def test_nobody_is_named(train, monkeypatch):
    monkeypatch.setenv("GLUONEXP_WEBHOOK", "")
    monkeypatch.delattr(execute.resume, "earlier")  # nothing is looked at before
    with pytest.raises(GluonexpError, match="callbacks=notify: nobody is named"):
        train()


def test_a_failure_after_the_loop_has_what_was_measured(train, hook, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "model.params")

    monkeypatch.setattr(execute.record, "checkpoint", full)
    with pytest.raises(OSError):
        train()
    notice = only(hook)
    assert notice["status"] == "FAILED" and "the disk is full" in notice["reason"]
    assert notice["objective"] is not None and "test/acc" in notice["metrics"]


@pytest.mark.parametrize(
    ("signum", "raised", "said"),
    [
        (signal.SIGINT, KeyboardInterrupt, "interrupted by Ctrl-C"),
        (signal.SIGTERM, SystemExit, "ended by SIGTERM"),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_run_that_is_killed(train, hook, monkeypatch, signum, raised, said):
    monkeypatch.setattr(execute.record, "checkpoint", lambda *of: os.kill(os.getpid(), signum))
    with pytest.raises(raised):
        train()
    notice = only(hook)
    assert (notice["status"], notice["reason"]) == ("KILLED", said)
    (run,) = open_store(train.uri).search_runs(["1"])
    assert (run.info.run_id, run.info.status) == (notice["run_id"], "KILLED")


def test_with_other_callbacks_and_only_of_what_is_wanted(train, hook):
    callback = compose("callbacks=notify").callbacks
    assert callback == compose().callbacks
    both = ("callbacks=early_stopping", "notify.webhook=${oc.env:GLUONEXP_WEBHOOK}")
    assert compose(*both).callbacks["early_stopping"]["patience"] == 3
    train(*both, "notify.when=[failed,killed]", "trainer.epochs=1")
    assert hook.got == []


def test_what_resumes_tells_whom_it_is_told_now(hook):
    """The record has not the address, and need not be asked for it."""
    words = ("notify.webhook=https://example.org/new", "notify.each_job=true")
    before = asdict(compose())
    before["notify"]["webhook"] = "***"
    merged = recorded.with_typed(before, application.composition(words), words, [])
    assert merged.notify.webhook == "https://example.org/new" and merged.notify.each_job


def test_where_nobody_is_named_nothing_begins(train, hook, monkeypatch):
    monkeypatch.delenv("GLUONEXP_WEBHOOK")
    with pytest.raises(GluonexpError, match="export GLUONEXP_WEBHOOK=https://"):
        train()
    with pytest.raises(GluonexpError, match="there is no store"):
        reader(train.uri)


def test_a_loop_of_ones_own_tells_if_it_is_asked_to(hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUONEXP_WEBHOOK", hook.url)
    with gx.track("quiet", offline=True):
        pass
    assert hook.got == []
    goal = {"objective": "loss", "mode": "min"}
    with (
        pytest.raises(ZeroDivisionError),
        gx.track("mine", offline=True, notify=True, **goal) as run,
    ):
        run.log({"loss": 0.5, "worst": float("inf")})
        run_id = run.id
        1 / 0  # noqa: B018
    notice = only(hook)
    assert (notice["kind"], notice["run_id"], notice["name"]) == ("run", run_id, "mine")
    assert notice["status"] == "FAILED" and "division by zero" in notice["reason"]
    assert (notice["objective"], notice["objective_metric"]) == (0.5, "loss")
    assert notice["metrics"] == {"loss": 0.5, "worst": None}
    program = "import sys; open('told', 'w').write(sys.stdin.read())"
    with gx.track("mine", offline=True, notify=[sys.executable, "-c", program]):
        pass
    assert json.loads((tmp_path / "told").read_text())["status"] == "FINISHED"
    monkeypatch.delenv("GLUONEXP_WEBHOOK")
    for given, said in ((True, "export GLUONEXP_WEBHOOK=https://"), ("mail", "give True, or a")):
        with pytest.raises(GluonexpError, match=said):
            gx.track("never", notify=given)


# --- a sweep -------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path, hook, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUONEXP_WEBHOOK", hook.url)

    def sweep(*words):
        return application.sweep(
            *TINY, "callbacks=notify", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", *words
        )

    return sweep


def test_a_sweep_tells_once(sweep, hook):
    summary = sweep("optim=sgd", "optim.lr=0.1,1e30", "trainer.epochs=1")
    notice, best = only(hook), summary.best()
    assert (notice["kind"], notice["run_id"]) == ("sweep", summary.parent_id)
    assert (notice["status"], notice["reason"]) == ("FAILED", "1 of 2 points failed")
    assert notice["ends"] == {"FINISHED": 1, "PRUNED": 0, "FAILED": 1, "KILLED": 0}
    assert notice["best"] == {"run_id": best.run_id, "name": "lr=0.1"}
    assert (notice["objective"], notice["objective_metric"]) == (best.objective, "val/acc")
    assert notice["command"].startswith("python -m gluonexp.run -m dataset=synthetic ")


def test_or_each_of_its_jobs_too(sweep, hook):
    summary = sweep("seed=0,1", "trainer.epochs=1", "notify.each_job=true")
    *jobs, last = [notice for _, notice in hook.got]
    assert [job["kind"] for job in jobs] == ["run", "run"] and last["kind"] == "sweep"
    assert [job["run_id"] for job in jobs] == [one.run_id for one in summary.outcomes]


# --- whoever is told -----------------------------------------------------------------------------


def told(**settings):
    with telling(NotifyConfig(**settings), "run", "python -m gluonexp.run") as facts:
        facts.facts |= {"run_id": "f" * 32, "metrics": {"val/loss": float("nan")}}


def test_a_command_reads_it_without_a_shell(tmp_path):
    script = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    target = tmp_path / "$(touch x); 'a b'"
    told(command=[sys.executable, "-c", script, str(target)])
    notice = json.loads(target.read_text())
    assert notice["run_id"] == "f" * 32 and notice["metrics"] == {"val/loss": None}
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os, sys; print(os.environ['MY_TOKEN'], 'no'); sys.exit(3)", "failed (3): *** no"),
        ("import sys; sys.stdin.close(); sys.exit(4)", "failed (4)"),
        ("import time; time.sleep(60)", "has not ended in 0.2 s, and was killed"),
        # One that leaves a process behind, which has its output.
        ("import subprocess; subprocess.Popen(['sleep', '3']); raise SystemExit(5)", "failed (5)"),
    ],
    ids=["fails", "reads nothing", "hangs", "leaves another"],
)
def test_a_command_that_fails_costs_a_warning(capfd, monkeypatch, script, said):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh12345")
    timeout_s = 0.2 if "0.2" in said else 60.0
    told(command=[sys.executable, "-c", script], timeout_s=timeout_s)
    err = capfd.readouterr().err
    assert err.startswith("warning: nobody was told of the end: notify.command (") and said in err
    assert "abcdefgh12345" not in err


def test_a_command_that_does_not_exist_costs_a_warning(capfd):
    told(command=["/no/such/program"])
    assert "cannot be run: No such file or directory" in capfd.readouterr().err


def test_a_webhook_that_fails_costs_a_warning(hook, capfd):
    hook.status = 404
    told(webhook=hook.url)
    assert "notify.webhook (127.0.0.1) has answered 404" in capfd.readouterr().err
    hook.free.clear()
    told(webhook=hook.url, timeout_s=0.2)
    assert "has not answered in 0.2 s" in capfd.readouterr().err
    hook.server_close()
    hook.free.set()
    told(webhook=hook.url)
    err = capfd.readouterr().err
    assert "cannot be reached (ConnectionError)" in err and TOKEN not in err


def test_the_reason_comes_through_and_secrets_do_not(hook):
    error = GluonexpError("the password=hunter22 is wrong, as is https://me:pw@host/x")
    with (
        pytest.raises(GluonexpError),
        telling(NotifyConfig(webhook=hook.url), "run", "x token=abc123456"),
    ):
        raise error
    notice = only(hook)
    assert notice["reason"] == "the password=*** is wrong, as is https://***@host/x"
    assert notice["command"] == "x token=***"
    assert "hunter22" not in json.dumps(notice)


@pytest.mark.parametrize(
    "address",
    [
        f"https://hooks.slack.com/services/{TOKEN}",
        "https://discord.com/api/webhooks/123456789/abc-DEF_ghi",
        "https://me.webhook.office.com/webhookb2/aa@bb/IncomingWebhook/cc/dd",
    ],
)
def test_addresses_of_webhooks_are_secrets_wherever_they_stand(address):
    said = hide(f"post to {address}, now")
    assert said.startswith("post to https://") and said.endswith("/*** now")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["notify.webhook=ftp://host/secret-path"], "begins with https:// or http://"),
        (["notify.command=[]"], "name a program"),
        (["notify.command=[cat]", "notify.when=[done]"], "choose some of finished, pruned"),
        (["notify.timeout_s=0"], "must be above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_before_training(words, said):
    with pytest.raises(GluonexpError, match=said) as refused:
        compose(*words)
    assert "secret-path" not in str(refused.value)
