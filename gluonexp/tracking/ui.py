"""MLflow's pages, served from the store of this project."""

from __future__ import annotations

import signal
import webbrowser
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
    artifacts = None if database is None else database.parent / "artifacts"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(uri, artifacts, host, port) as server:
            _announce(client, server.base, parent, open_browser)
            print("Press Ctrl-C to stop.", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


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
