"""How a run ends in the store when its process is interrupted."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from mlflow.entities import Run

from gluonexp.tracking import open_store

SCRIPT = """
    import signal, sys
    from gluonexp.config.schema import TrackingConfig
    from gluonexp.tracking import tracked_run

    # A test runner in the background ignores SIGINT, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tracked_run(TrackingConfig(uri=sys.argv[1], experiment="interrupted")) as tracker:
        tracker.log_metrics({"train/loss": 0.5}, step=0)
        tracker.log_metrics({"train/loss": 0.25}, step=1)
        print("measured", flush=True)
        if sys.argv[2] == "raise":
            raise ValueError("out of luck")
        while True:
            signal.pause()
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri)
    return uri


def last_run(uri: str) -> Run:
    client = open_store(uri)
    experiment = client.get_experiment_by_name("interrupted")
    newest = ["attributes.start_time DESC"]
    return client.search_runs([experiment.experiment_id], max_results=1, order_by=newest)[0]


@pytest.mark.parametrize(
    ("how", "signum", "returncode", "status"),
    [
        ("wait", signal.SIGINT, -signal.SIGINT, "KILLED"),
        ("wait", signal.SIGTERM, 128 + signal.SIGTERM, "KILLED"),
        ("raise", None, 1, "FAILED"),
    ],
)
def test_an_interrupted_run_is_told_truthfully(
    uri: str, tmp_path: Path, how: str, signum: int | None, returncode: int, status: str
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), uri, how],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "measured\n"
    if signum is not None:
        child.send_signal(signum)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == returncode, errors
    run = last_run(uri)
    assert run.data.tags["gluonexp.pid"] == str(child.pid)
    assert run.info.status == status
    assert run.info.end_time is not None
    client = open_store(uri)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25)]
    assert run.data.tags.get("error") == ("ValueError: out of luck" if how == "raise" else None)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == (
        ["error"] if how == "raise" else []
    )
    assert list(tmp_path.iterdir()) == []
