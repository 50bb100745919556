"""MLflow's pages, served from the store of this project."""

from __future__ import annotations

import signal
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from gluonexp.tracking.places import relocate
from gluonexp.tracking.read.runs import RunRecord, reader
from gluonexp.tracking.serving import serving
from gluonexp.tracking.store import open_store
from gluonexp.tracking.uri import displayed, existing, experiment_link, run_link, sqlite_path
from gluonexp.tracking.views import share_sweep, shown_sweep, sweep_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_METRICS = ("val/acc", "test/acc", "train/acc")  # what the charts are sorted by


def serve(
    uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    open_browser: bool = False,
    sweep: str | None = None,
    announce: Callable[[dict[str, str]], None] | None = None,
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
    announce
        Takes the addresses by what they show, and that of the store, instead of printing them.

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
        _announce(client, uri, parent, open_browser, announce or _printed)
        return 0
    if database is not None:
        relocate(uri)  # the server looks for files where they are recorded
    artifacts = None if database is None else database.parent / "artifacts"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(uri, artifacts, host, port) as server:
            _announce(client, server.base, parent, open_browser, announce or _printed)
            print("Press Ctrl-C to stop.", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _announce(
    client: MlflowClient,
    base: str,
    parent: RunRecord | None,
    open_browser: bool,
    announce: Callable[[dict[str, str]], None],
) -> None:
    """Tell the addresses worth opening: the comparison of a sweep, the last run, all charts."""
    links = {"experiment": f"{base}/?workflowType=machine_learning"}
    for last in reader(client.tracking_uri).newest(limit=1):
        parent = parent or sweep_of(client, last)
        metric = next((name for name in _METRICS if name in last.metrics), _METRICS[0])
        links = {} if parent is None else {"sweep": share_sweep(client, base, parent)}
        links["last_run"] = run_link(base, last.experiment_id, last.run_id)
        links["experiment"] = experiment_link(base, last.experiment_id, metric)
    announce({"store": displayed(client.tracking_uri), **links})
    if open_browser:
        webbrowser.open(links.get("sweep", links["experiment"]))


def _printed(links: dict[str, str]) -> None:
    print(f"MLflow on {links['store']}")
    for name, link in links.items():
        if name != "store":
            print(f"  {name.replace('_', ' '):<11} {link}", flush=True)
