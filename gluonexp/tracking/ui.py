"""MLflow's pages, served from the store of this project."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.places import relocate
from gluonexp.tracking.read.runs import RunRecord, reader
from gluonexp.tracking.store import open_store
from gluonexp.tracking.uri import displayed, existing, experiment_link, run_link, sqlite_path
from gluonexp.tracking.views import share_sweep, shown_sweep, sweep_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_START_S = 60.0  # it takes 5 s on two idle cores
_STOP_S = 10.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # how to ask it from here
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for generative models: 10 processes, 2 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",  # of MLflow's own dependencies
}
_METRICS = ("val/acc", "test/acc", "train/acc")  # what the charts are sorted by


def serve(
    uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    open_browser: bool = False,
    sweep: str | None = None,
) -> int:
    """Serve the store at `uri` until interrupted; return the server's exit status.

    A store that is a server already is not served again: only its links are printed.

    Parameters
    ----------
    uri
        Tracking URI, None for ``./mlruns/mlflow.db``.
    host, port
        Where to listen; if `port` is taken, a free one is chosen. There is no login: whoever
        reaches a host other than the loopback can change and delete runs.
    open_browser
        Open the comparison of the sweep, else the charts of the latest experiment.
    sweep
        The sweep whose runs are compared: its parent run's id, the start of one, or ``last``;
        None for the one that the latest run belongs to, if any.

    Raises
    ------
    GluonexpError
        There is no store, no such sweep, or the server does not come up.
    """
    uri = existing(uri)
    database = sqlite_path(uri)
    client = open_store(uri)  # tells what is wrong with it before a server does, in forty lines
    parent = None if sweep is None else shown_sweep(client, sweep)
    if uri.startswith("http"):
        _announce(client, uri, parent, open_browser)
        return 0
    if database is not None:
        relocate(uri)  # the server looks for files where they are recorded
    free = _free_port(host, port)
    if free != port != 0:
        print(f"Port {port} is in use; taking {free}.", flush=True)
    base = f"http://{_LOOPBACK.get(host, f'[{host}]' if ':' in host else host)}:{free}"
    command = _command(uri, database, host, free)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Its own process group: the server has workers, and all of them are to end with it.
        server = subprocess.Popen(command, env={**os.environ, **_SETTINGS}, start_new_session=True)
        try:
            _await_answer(server, base)
            _announce(client, base, parent, open_browser)
            print("Press Ctrl-C to stop.", flush=True)
            return _exit_status(server.wait())
        finally:
            _stop(server)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _command(uri: str, database: Path | None, host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", uri, "--registry-store-uri", uri]
    if database is not None:
        command += ["--artifacts-destination", str(database.parent / "artifacts")]
    # One worker is 240 MB, and plenty for one person.
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    return [*command, "--uvicorn-opts", "--log-level warning"]


def _free_port(host: str, port: int) -> int:
    for candidate in (port, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                refused = error
            else:
                return int(probe.getsockname()[1])
    raise GluonexpError(f"cannot listen on host {host}: {refused}")


def _await_answer(server: subprocess.Popen[bytes], base: str) -> None:
    """Return when the server answers, by asking it again and again."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            status = server.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            pass
        else:
            raise GluonexpError(f"MLflow's server ended at once, with status {status}; see above")
        try:
            if requests.get(f"{base}/health", timeout=1).ok:
                return
        except requests.RequestException:
            continue
    raise GluonexpError(f"MLflow's server did not answer at {base} within {_START_S:.0f} s")


def _announce(
    client: MlflowClient, base: str, parent: RunRecord | None, open_browser: bool
) -> None:
    """Print the addresses worth opening: the comparison of a sweep, the last run, all charts."""
    links = {"experiment": f"{base}/?workflowType=machine_learning"}
    for last in reader(client.tracking_uri).newest(limit=1):
        parent = parent or sweep_of(client, last)
        metric = next((name for name in _METRICS if name in last.metrics), _METRICS[0])
        links = {} if parent is None else {"sweep": share_sweep(client, base, parent)}
        links["last run"] = run_link(base, last.experiment_id, last.run_id)
        links["experiment"] = experiment_link(base, last.experiment_id, metric)
    print(f"MLflow on {displayed(client.tracking_uri)}")
    for name, link in links.items():
        print(f"  {name:<11} {link}", flush=True)
    if open_browser:
        webbrowser.open(links.get("sweep", links["experiment"]))


def _exit_status(returncode: int) -> int:
    """Return a status as a shell reports it: 128 + the signal that ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, politely first."""
    impatience = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it takes a second or two
    try:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if _signal_group(server, signum):
                deadline = time.monotonic() + _STOP_S
                while _signal_group(server, 0) and time.monotonic() < deadline:
                    time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, impatience)


def _signal_group(server: subprocess.Popen[bytes], signum: int) -> bool:
    """Send `signum` (0 sends nothing) to the group; return False if nobody is left in it."""
    server.poll()  # reap the leader, or it counts as alive
    try:
        os.killpg(server.pid, signum)
    except ProcessLookupError:
        return False
    return True
