"""What a cluster of Ray needs around it: a quiet start, and an end that is seen."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gluonexp.base.workers import cores

# Where Ray finds a token besides in the user's folder.
_TOKENS: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

# Of memory for what is sent to tasks, in a cluster of our own (bytes): the least that Ray takes.
_STORE: Final = 80 * 2**20

# How many looks in vain, a second each, mean that the head of the cluster is lost.
_PATIENCE: Final = 3


class Head:
    """The head of a cluster, and the node of this process.

    Ray ends a process that has lost one of them, without a word, in less than a minute; until then
    what is asked of it does not come back.

    Parameters
    ----------
    address
        What the user named.

    Attributes
    ----------
    silent
        The address where nobody listened at the last look; None where somebody did.
    """

    def __init__(self, address: str | None) -> None:
        import ray

        self.silent: str | None = None
        self._in_vain = 0
        if address is not None and address.startswith("ray://"):
            self._addresses = [address]
            return
        context = ray.get_runtime_context()
        own = context.get_node_id()
        self._addresses = [context.gcs_address] + [
            f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["NodeID"] == own
        ]

    def answers(self) -> bool:
        """Look again, and say whether somebody listens."""
        self.silent = None
        for address in self._addresses:
            try:
                look_for(address)
            except OSError:
                self.silent = address
        self._in_vain = self._in_vain + 1 if self.silent else 0
        return self.silent is None

    @property
    def lost(self) -> bool:
        """Whether nobody listened for a while."""
        return self._in_vain >= _PATIENCE


def look_for(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def quiet() -> Iterator[None]:
    """Let Ray print nothing among a sweep's lines: neither its defaults nor a lost node's log.

    There is no public switch for the latter, which the launcher tells in a sentence.
    """
    from ray._private import worker

    says = logging.getLogger("ray")
    before = says.level, getattr(worker, "_worker_logs_enabled", True)
    says.setLevel(logging.ERROR)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        says.setLevel(before[0])
        worker._worker_logs_enabled = before[1]


@contextmanager
def environment(address: str | None) -> Iterator[None]:
    """Undo what Ray changes in the environment; a cluster of others is met with a token.

    `ray start` takes the token that the user has; `ray.init` with an address would not look for
    one. Both decide when Ray is imported.
    """
    before = set(os.environ)
    token = Path.home() / ".ray" / "auth_token"
    undecided = address is not None and "ray" not in sys.modules
    if undecided and (token.is_file() or any(each in before for each in _TOKENS)):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            if name not in before:
                del os.environ[name]


@contextmanager
def own_cluster(options: dict[str, Any]) -> Iterator[None]:
    """Start Ray on this machine, reached through loopback alone; leave nothing of it.

    Raises
    ------
    Exception
        Of many kinds: Ray does not start.
    """
    import ray

    # Ray's sockets are in it, whose paths have at most 107 characters.
    with tempfile.TemporaryDirectory(
        prefix="gluonexp-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                num_cpus=cores(),
                include_dashboard=False,
                object_store_memory=_STORE,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
                **options,
            )
            yield
        finally:
            ray.shutdown()
