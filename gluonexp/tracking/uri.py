"""Which store a tracking URI means, and the addresses of MLflow's pages."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import HIDDEN, hide
from gluonexp.base.text import in_shell, readable
from gluonexp.tracking.internals import VIEW_KEY

_SQLITE = "sqlite:///"


def resolve_uri(uri: str | None) -> str:
    """Return the tracking URI a configuration means, with an absolute path where it has one.

    Parameters
    ----------
    uri
        None or empty for the default ``./mlruns/mlflow.db``; ``sqlite:///`` and a path; or any
        other URI of MLflow (``http``, ``https``, ``postgresql``, ``databricks``...), kept as is.

    Raises
    ------
    GluonexpError
        A folder or a ``file:`` URI (MLflow gave its file store up), a store in memory, a path
        that a SQLite URI cannot hold.
    """
    if not uri:
        return _SQLITE + _checked(str(Path.cwd() / "mlruns" / "mlflow.db"))
    if uri.startswith("sqlite:"):
        return _resolve_sqlite(uri)
    try:
        urlsplit(uri)
    except ValueError as error:
        raise GluonexpError(
            f"tracking.uri={displayed(uri)} is no address ({error}); write one as "
            "http://HOST:PORT, or sqlite:///PATH"
        ) from None
    if uri.startswith("file:") or ("://" not in uri and uri.split(":")[0] != "databricks"):
        raise GluonexpError(_not_a_uri(uri))
    return uri.rstrip("/")


def existing(uri: str | None) -> str:
    """Return `uri` resolved; looking at runs must not make an empty store.

    Raises
    ------
    GluonexpError
        It is a SQLite store that does not exist.
    """
    resolved = resolve_uri(uri)
    database = sqlite_path(resolved)
    if database is not None and not database.is_file():
        raise GluonexpError(
            f"there is no store at {database} yet: `python -m gluonexp.run` makes it; go to the "
            "folder you trained in, or name its store: MLFLOW_TRACKING_URI=sqlite:////path/to/mlflow.db"
        )
    return resolved


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of a resolved SQLite URI, None for any other kind of store."""
    return Path(uri.removeprefix(_SQLITE).split("?")[0]) if uri.startswith(_SQLITE) else None


def local_path(uri: str) -> Path | None:
    """Return the path that the address of artifacts means; None if they lie elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def displayed(uri: str) -> str:
    """Return `uri` fit to be shown and logged: without the password it may carry."""
    return hide(re.sub(r"(://[^/\s:@]*):[^/\s]*@", rf"\1:{HIDDEN}@", uri))


def deleted(run_id: str, uri: str) -> str:
    """Say that a run was deleted from the store at `uri`, and how it comes back."""
    restore = f"mlflow runs restore --run-id {run_id}"
    return (
        f"run {run_id} was deleted from {displayed(uri)}: bring it back "
        f"(MLFLOW_TRACKING_URI={in_shell(displayed(uri))} {restore})"
    )


def kind(uri: str) -> str:
    """Return what sort of store a resolved `uri` is, for people."""
    scheme = urlsplit(uri).scheme.split("+")[0] or uri
    names = {"sqlite": "SQLite", "http": "MLflow server", "https": "MLflow server"}
    return names.get(scheme, f"{scheme} store")


def run_link(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page on the server at `base` (``http://host:port``)."""
    # A fresh browser opens in MLflow's GenAI mode, which hides charts, unless told otherwise.
    page = f"#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
    return f"{base.rstrip('/')}/{page}?workflowType=machine_learning"


def experiment_link(base: str, experiment_id: str, metric: str) -> str:
    """Return the address of an experiment's charts, the runs sorted by `metric`, largest first.

    Sorting by a metric is also what makes MLflow list the children of a sweep one by one.
    """
    order = quote(metric_column(metric), safe="")
    return f"{_charts(base, experiment_id)}&orderByKey={order}&orderByAsc=false"


def sweep_link(base: str, experiment_id: str, parent_id: str, metric: str, mode: str) -> str:
    """Return the address of the charts of a sweep's runs, the best by `metric` first.

    Parameters
    ----------
    mode
        ``max`` or ``min``: which `metric` is best.
    """
    order, runs = quote(metric_column(metric), safe=""), quote(sweep_runs(parent_id), safe="")
    ascending = "true" if mode == "min" else "false"
    page = _charts(base, experiment_id)
    return f"{page}&orderByKey={order}&orderByAsc={ascending}&searchFilter={runs}"


def view_link(base: str, experiment_id: str, key: str) -> str:
    """Return the address of an experiment's charts as the shared view `key` has them.

    MLflow ignores the view if the address says anything of the order or the filter too.
    """
    return f"{_charts(base, experiment_id)}&{VIEW_KEY}={quote(key, safe='')}"


def sweep_runs(parent_id: str) -> str:
    """Return MLflow's filter for the runs of a sweep; with one it does not hide them, nested."""
    return f"tags.mlflow.parentRunId = '{parent_id}'"


def metric_column(metric: str) -> str:
    """Return what MLflow calls the column of `metric`, for sorting too."""
    return f"metrics.`{metric}`"


def _charts(base: str, experiment_id: str) -> str:
    page = f"#/experiments/{quote(experiment_id)}/runs"
    return f"{base.rstrip('/')}/{page}?workflowType=machine_learning&compareRunsMode=CHART"


def _resolve_sqlite(uri: str) -> str:
    path, mark, query = uri.removeprefix(_SQLITE).partition("?")
    if not uri.startswith(_SQLITE) or path in ("", ":memory:"):
        raise GluonexpError(
            f"tracking.uri={uri}: a SQLite store needs a file, because one in memory would be "
            "lost with the process; write sqlite:///PATH (four slashes for an absolute path)."
        )
    return _SQLITE + _checked(os.path.abspath(os.path.expanduser(path))) + mark + query


def _checked(path: str) -> str:
    if path != readable(path):
        raise GluonexpError(
            f"{readable(path)}: a store cannot be in a folder whose name is not UTF-8; rename "
            "it, or name another place with tracking.uri=sqlite:////absolute/path/mlflow.db"
        )
    # SQLAlchemy 2.1 decodes %XX in the path and 2.0 does not, so no spelling suits both.
    if "%" in path or "?" in path:
        raise GluonexpError(
            f"{path}: a SQLite URI cannot hold a path with '%' or '?'; rename the folder or "
            "name another place with tracking.uri=sqlite:////absolute/path/mlflow.db"
        )
    return path


def _not_a_uri(uri: str) -> str:
    path = Path(uri.removeprefix("file://").removeprefix("file:")).expanduser().absolute()
    if path.suffix in (".db", ".sqlite", ".sqlite3") or path.is_file():
        return f"tracking.uri={uri} is a path; write {_SQLITE}{path}"
    from gluonexp.config.overrides import typed  # Hydra: only where it is needed

    target = f"{_SQLITE}{path}/mlflow.db"
    return (
        f"tracking.uri={uri} names a folder: MLflow no longer writes its file store. For a new "
        f"store use {typed('tracking.uri', target)}; to keep the runs of an old one, first run "
        f"`{in_shell('mlflow', 'migrate-filestore', '--source', str(path), '--target', target)}`"
    )
