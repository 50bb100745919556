"""What is used of MLflow's inside, which it does not promise: all of it read from MLflow 3.17.2.

The rest of gluonexp uses what MLflow's documentation names. Each function says what is lost where
another version has this no more, and does without it where it can. Three files hold more of the
same kind: `read/sqlite.py` the tables of a store, `views.py` the state of a page, and
`gluonexp.mlflow_gluon.autologging` what autologging is made of.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gluonexp.base.files import temporary
from gluonexp.base.imports import heavy_imports

if TYPE_CHECKING:
    import requests
    from mlflow import MlflowClient
    from mlflow.models import Model

_log = logging.getLogger(__name__)

# The tag of an experiment that keeps the state of its page, as MLflow's own "Share" writes it, and
# the parameter of an address that opens the page so. Without them it shows MLflow's own charts.
VIEW_TAG: Final = "mlflow.sharedViewState."
VIEW_KEY: Final = "viewStateShareKey"

# Of how many runs a server tells the histories of a metric at once, and of how many points.
MOST_HISTORIES: Final = 100
_MOST_POINTS: Final = 25_000
_HISTORIES: Final = "ajax-api/2.0/mlflow/metrics/get-history-bulk"

_OUTDATED: Final = "out-of-date database schema"
# MLflow looks whether an experiment has a data set, then adds it, without a lock between: of runs
# that begin at once, one adds it, the others are told this by their database.
_ADDED: Final = re.compile("unique|duplicate", re.IGNORECASE)
_REFUSALS: Final = (
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "PERMISSION_DENIED",
    "RESOURCE_DOES_NOT_EXIST",
)


def artifact_store(uri: str, tracking_uri: str | None) -> Any:
    """Return what reads the files at an address. Without it, no artifact can be copied."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri, tracking_uri=tracking_uri)


def download_file(store: Any, path: str, target: Path) -> None:
    """Copy one file of a store in this thread, which Ctrl-C ends at once.

    Without `_download_file`, MLflow's public function does it in threads that are waited for.
    """
    if hasattr(store, "_download_file"):
        store._download_file(path, str(target))
        return
    with temporary(target.parent) as folder:
        Path(store.download_artifacts(path, str(folder))).replace(target)


def remove_parts(folder: Path) -> None:
    """Remove from a run's files what killed processes left of files that they were copying.

    MLflow gives them such names until they are whole, and lists them like any other.
    """
    for part in folder.rglob(".artifact.uploading.*"):
        part.unlink(missing_ok=True)


def sends_rest(store: Any) -> bool:
    """Say whether a store may send the rest of a file, as MLflow's server does; see `get`."""
    try:
        from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
        from mlflow.utils.credentials import get_default_host_creds  # noqa: F401
        from mlflow.utils.rest_utils import http_request  # noqa: F401
    except ImportError:
        return False
    return isinstance(store, HttpArtifactRepository)


def get(uri: str, path: str, headers: Mapping[str, str]) -> requests.Response:
    """Ask MLflow's server for a file, with the user's credentials and MLflow's own retries.

    Without these functions a file that was cut off is copied again from its start.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    server = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    response: requests.Response = http_request(  # type: ignore[no-untyped-call]
        server, f"/{path}", "GET", stream=True, extra_headers=dict(headers)
    )
    return response


def histories(
    client: MlflowClient, run_ids: Sequence[str], metric: str
) -> list[tuple[str, int, float]] | None:
    """Return run, step and value of a metric's points of several runs, by run and time.

    None where they are too many for one answer, or the store does not answer it: without what
    MLflow's own pages ask, each run is asked about in turn, which takes twenty times as long.

    Parameters
    ----------
    run_ids
        At most `MOST_HISTORIES`.
    """
    try:
        if client.tracking_uri.startswith("http"):
            points = _sent_histories(client.tracking_uri, run_ids, metric)
        else:
            store = client._tracking_client.store
            found = store.get_metric_history_bulk(run_ids, metric, _MOST_POINTS)
            points = [point.to_dict() for point in found]
        if len(points) >= _MOST_POINTS:
            return None
        return [(point["run_id"], point["step"], float(point["value"])) for point in points]
    except Exception as error:  # whatever it is: the public way says what is wrong
        _log.debug("%s of %d runs: %s", metric, len(run_ids), error)
        return None


def _sent_histories(uri: str, run_ids: Sequence[str], metric: str) -> list[dict[str, Any]]:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    server = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    asked = {"run_id": list(run_ids), "metric_key": metric, "max_results": _MOST_POINTS}
    answer = http_request(  # type: ignore[no-untyped-call]
        server, f"/{_HISTORIES}", "GET", max_retries=0, params=asked
    )
    answer.raise_for_status()
    points: list[dict[str, Any]] = answer.json()["metrics"]
    return points


def environment(
    default: list[str], key: str, value: Any
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return a conda environment, requirements and constraints, as MLflow's flavors make them.

    Without these functions a model can only be kept with the requirements that it has by itself.

    Parameters
    ----------
    default
        The requirements that a model has by itself.
    key, value
        ``conda_env``, ``pip_requirements`` or ``extra_pip_requirements``, as users give them.
    """
    from mlflow.utils.environment import _process_conda_env, _process_pip_requirements

    value = str(value) if isinstance(value, Path) else value
    made: tuple[dict[str, Any], list[str], list[str]]
    if key == "conda_env":
        made = _process_conda_env(value)  # type: ignore[no-untyped-call]
    else:
        made = _process_pip_requirements(list(default), **{key: value})  # type: ignore[no-untyped-call]
    return made


def copy_code(paths: Sequence[str] | None, folder: Path) -> str | None:
    """Copy a user's code into a model's folder; return where. Without it code cannot be kept."""
    from mlflow.utils.model_utils import _validate_and_copy_code_paths

    copied: str | None = _validate_and_copy_code_paths(paths, str(folder))  # type: ignore[no-untyped-call]
    return copied


def save_example(model: Model, example: Any, folder: Path) -> None:
    """Put an example of the input into a model's folder. Without it the model has none."""
    try:
        from mlflow.models.utils import _save_example

        _save_example(model, example, str(folder))
    except Exception as error:  # whatever it is: a trained network is worth more
        reason = f"{type(error).__name__}: {error}"
        _log.warning("the model is kept without an example of its input (%s)", reason)


def make_tables(database: Path, artifacts: Path) -> None:
    """Make an empty store; the experiment Default keeps its artifacts in folder `artifacts`.

    Nobody has this file yet, so SQLite need not wait for the disk at each of MLflow's steps, which
    would take seconds. Without it, no new SQLite store can be made.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import Engine, event

    def connected(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connected)
    try:
        store = SqlAlchemyStore(f"sqlite:///{database}", str(artifacts))  # type: ignore[no-untyped-call]
        store.engine.dispose()
    finally:
        event.remove(Engine, "connect", connected)


def forget_connections(uri: str) -> None:
    """Close connections that MLflow keeps to a database that was deleted.

    Without `_engine_map`, a process that had a store here before must be started again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(uri)
    if engine is not None:
        engine.dispose()


def forget_place(run_id: str) -> None:
    """Let MLflow look again where the files of a run are: it remembers that of each run.

    Without the cache, a process that knew a run before its store was moved must be started again.
    """
    try:
        from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
    except ImportError:
        return
    _artifact_repos_cache.pop(run_id, None)


def table_names() -> Collection[str]:
    """Return the tables that a store must have. Without them MLflow tells what is wrong itself."""
    try:
        with heavy_imports():
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (it fills Base.metadata)
        from mlflow.store.db.base_sql_model import Base
    except ImportError:
        return ()
    return list(Base.metadata.tables)


def is_outdated(error: Exception) -> bool:
    """Say whether a store is of another version, by the text; else it just cannot be opened."""
    return _OUTDATED in str(error)


def is_away(error: BaseException | None) -> bool:
    """Say whether a store did not answer, or not as it should: it may do so later."""
    return getattr(error, "error_code", None) in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")


def asks_who(error: BaseException) -> bool:
    """Say whether a server wants to know who asks, by the code."""
    return getattr(error, "error_code", None) == "UNAUTHENTICATED"


def is_refusal(error: BaseException | None) -> bool:
    """Say whether a store refuses a request, by the code; any other may be sent again."""
    return getattr(error, "error_code", None) in _REFUSALS


def was_added_by_another(error: Exception) -> bool:
    """Say whether a data set is there already, by the text; else it cannot be recorded."""
    return _ADDED.search(str(error)) is not None


def system_monitors() -> list[Any]:
    """Return what MLflow reads processor, memory, disk, network and GPUs with, each if it can.

    Without these classes no run can record how busy its machine was.

    Raises
    ------
    ImportError
        psutil is not installed.
    """
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = []
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        try:
            monitors.append(kind())
        except Exception as error:  # there is none, or nothing to ask it with
            _log.debug("%s: %s", kind.__name__, error)
    return monitors


def random_name() -> str | None:
    """Return a name for a run, as a store makes one up; without it a run offline has none."""
    try:
        from mlflow.utils.name_utils import _generate_random_name
    except ImportError:
        return None
    return str(_generate_random_name())  # type: ignore[no-untyped-call]


def context_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return `tags`, and those of user, source and git commit. Without it these are missing."""
    try:
        from mlflow.tracking.context.registry import resolve_tags
    except ImportError:
        return dict(tags)
    resolved: dict[str, Any] = resolve_tags(dict(tags))
    return resolved
