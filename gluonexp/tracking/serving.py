"""MLflow's server as a process of its own, which ends with the block that needs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from gluonexp.base.errors import GluonexpError
from gluonexp.base.processes import outlived_by

_START_S: Final = 60.0  # it takes 5 s on two idle cores
_STOP_S: Final = 10.0
# What ends a process group, should the process be killed that serves.
_END_GROUP: Final = f"kill -TERM -$1; sleep {_STOP_S:.0f}; kill -KILL -$1"
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # how to ask it from here
_SETTINGS: Final = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for generative models: 10 processes, 2 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",  # of MLflow's own dependencies
}


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes
    ----------
    base
        Its address, ``http://host:port``, as it is reached from this machine.
    process
        The first of its process group.
    """

    base: str
    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        """Wait until it ends by itself; return its exit status as a shell reports it."""
        status = self.process.wait()
        return status if status >= 0 else 128 - status


@contextmanager
def serving(
    uri: str,
    artifacts: Path | None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    workers: int = 1,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve the store at `uri`, inside the block, from a process group of its own.

    Parameters
    ----------
    uri
        Of a database.
    artifacts
        Where the server keeps the files of runs; None for MLflow's own choice.
    host, port
        Where to listen. Another port is chosen if this one is taken, and is told; 0 for any.
    workers
        Its processes: one is 240 MB, and plenty for one person.
    options, environment
        More options of ``mlflow server``, and environment variables for it.

    Raises
    ------
    GluonexpError
        It does not come up.
    """
    free = _free_port(host, port)
    if free != port != 0:
        print(f"Port {port} is in use; taking {free}.", flush=True)
    base = f"http://{_LOOPBACK.get(host, f'[{host}]' if ':' in host else host)}:{free}"
    command = [sys.executable, "-m", "mlflow", "server"]
    if artifacts is not None:
        command += ["--artifacts-destination", str(artifacts)]
    command += ["--host", host, "--port", str(free), "--workers", str(workers)]
    command += ["--uvicorn-opts", "--log-level warning", *options]
    # Every process of this machine can read the words of a command, and a URI may have a password.
    store = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    given = {**os.environ, **_SETTINGS, **store, **(environment or {})}
    # Its own process group: the server has workers, and all of them are to end with it.
    server = subprocess.Popen(command, env=given, start_new_session=True)
    with outlived_by("/bin/sh", "-c", _END_GROUP, "sh", str(server.pid)):
        try:
            _await_answer(server, base)
            yield Server(base, server)
        finally:
            _stop(server)


def check_port(port: int, host: str = "127.0.0.1") -> None:
    """Refuse a port that another program listens at.

    Raises
    ------
    GluonexpError
        The message names it.
    """
    if _free_port(host, port) != port != 0:
        raise GluonexpError(
            f"port {port} is in use on this machine: end what listens there, or choose another"
        )


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
