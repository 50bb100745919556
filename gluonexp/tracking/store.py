"""The store of runs: made once, opened, found in, and checked.

MLflow initialises an empty SQLite file without a lock: processes that start together break it for
good, and so does Ctrl-C in the wrong second. It also retries what cannot be reached for minutes,
silently. Here a store appears whole or not at all, and a failure is told within seconds.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gluonexp.base.environment import environment
from gluonexp.base.errors import GluonexpError, cause_of
from gluonexp.base.files import draft, lock, obstacle, sweep
from gluonexp.base.imports import heavy_imports
from gluonexp.base.secrets import hide
from gluonexp.base.text import in_shell, readable
from gluonexp.tracking import internals
from gluonexp.tracking.logs import offline_run
from gluonexp.tracking.places import experiment_folder, settle
from gluonexp.tracking.read.records import OWN_ID, PRUNED_TAG
from gluonexp.tracking.uri import displayed, kind, resolve_uri, sqlite_path
from gluonexp.tracking.values import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What to install for a module.
_DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_TIMEOUT_S = 5

# The tag of runs that end with an answer, not with a model: searches, sweeps.
KIND = "gluonexp.kind"

# The tag of runs that torchrun started: its job, the same for the run of a restart.
TORCHRUN = "gluonexp.torchrun"


class Unreachable(GluonexpError):
    """A store does not answer now; it may later."""


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """Turn MLflow's and the file system's errors into one sentence: `doing`, and the reason."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise GluonexpError(f"{doing}: {one_line(hide(str(cause_of(error))), 400)}") from error


def impatient(retries: int, timeout_s: int = _TIMEOUT_S) -> AbstractContextManager[None]:
    """Let MLflow's requests to a server fail after seconds; by default it retries for minutes."""
    return environment(
        MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(retries), MLFLOW_HTTP_REQUEST_TIMEOUT=str(timeout_s)
    )


def silent() -> AbstractContextManager[None]:
    """Let MLflow read small files without a progress bar of its own."""
    return environment(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")


def open_store(uri: str | None) -> MlflowClient:
    """Return a client of the store at `uri`, making a SQLite store that does not exist yet.

    Raises
    ------
    GluonexpError
        The store cannot be made, reached or written by this version of MLflow; the message names
        the URI and the remedy. It takes seconds, not MLflow's minutes.
    """
    with heavy_imports():
        import mlflow  # noqa: F401 (it sets up its loggers, before we set one up otherwise)

    # "Creating initial MLflow database tables...", each error that we report, each retry.
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = resolve_uri(uri)
    if (database := sqlite_path(uri)) is not None:
        _ensure_database(database)
        _mention_file_store(database.parent)
    else:
        # A server that restarts is waited for; one that is gone must not stop training for long.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with impatient(retries=0), _logged_in(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        if internals.is_outdated(error):
            raise GluonexpError(_other_schema(uri)) from error
        kind = Unreachable if internals.is_away(error) else GluonexpError
        raise kind(_unreachable(uri, error)) from error
    return client


def ensure_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Return the id of experiment `name`, made if it does not exist.

    In a SQLite store its artifacts lie beside the database, whatever the working directory, also
    if the store was moved: ``<folder of the database>/artifacts/<name>``. A server decides for
    itself.
    """
    from mlflow.exceptions import MlflowException

    if name != readable(name):
        raise GluonexpError(
            f"tracking.experiment={readable(name)} is not UTF-8: choose another name"
        )
    database = sqlite_path(uri)
    location = None
    if database is not None:
        settle(uri)
        location = str(database.parent / "artifacts" / experiment_folder(name))
    with reported(f"tracking.experiment={name}: cannot be opened in {displayed(uri)}"):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found is None or found.lifecycle_stage != "active":
        number = found.experiment_id if found else "ID"
        raise GluonexpError(
            f"tracking.experiment={name} was deleted from {displayed(uri)}: choose another name, "
            f"or bring it back with `MLFLOW_TRACKING_URI={displayed(uri)} mlflow experiments "
            f"restore --experiment-id {number}`"
        )
    return str(found.experiment_id)


def probe(uri: str | None) -> str:
    """Say what kind of store `uri` is after having really written to it, leaving no trace.

    A store that does not exist yet is not made; then its folder is tried.

    Raises
    ------
    GluonexpError
        It cannot be reached or written.
    """
    uri = resolve_uri(uri)
    database = sqlite_path(uri)
    if database is None:
        client = open_store(uri)
        name = f"gluonexp-probe-{uuid.uuid4().hex}"
        # The one thing that MLflow deletes from its tables, instead of marking it as deleted.
        with reported(f"{displayed(uri)} cannot be written"), impatient(retries=0):
            client.create_registered_model(name)
            client.delete_registered_model(name)
        return f"{kind(uri)} {displayed(uri)}, writable"
    if not _has_content(database):
        folder = next(path for path in database.parents if path.exists())
        _try_writing(folder)
        return f"SQLite {database}, to be made by the first run"
    client = open_store(uri)
    try:
        with closing(sqlite3.connect(database, timeout=_TIMEOUT_S, isolation_level=None)) as link:
            link.execute("BEGIN IMMEDIATE")
            link.execute("CREATE TABLE gluonexp_probe (x)")
            link.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise GluonexpError(f"{database} cannot be written: {error}") from error
    artifacts = database.parent / "artifacts"
    _try_writing(artifacts if artifacts.exists() else database.parent)
    experiments = len(client.search_experiments())
    return f"SQLite {database}, {experiments} experiments, writable"


def find_run(client: MlflowClient, ref: str) -> Run:
    """Return the run that `ref` means.

    Parameters
    ----------
    ref
        A run id, the first 6 or more characters of one, or ``last``: the run, of all experiments,
        that was the last to end FINISHED with a model. A run that was sent here is also found by
        the id that it had before.
    """
    check_ref(ref)
    last = ref == "last"
    with reported(f"run {ref} cannot be looked up"):
        known = list(experiments(client))

        def search(wanted: str) -> list[Run]:
            order, limit = ["attributes.end_time DESC"], 100 if last else 5
            return list(client.search_runs(known, wanted, max_results=limit, order_by=order))

        runs = search(
            "attributes.status = 'FINISHED'" if last else f"attributes.run_id LIKE '{ref}%'"
        )
        if not runs and not last:
            runs = search(f"tags.`{OWN_ID}` LIKE '{ref}%'")
    if last:
        runs = [run for run in runs if not {KIND, PRUNED_TAG} & run.data.tags.keys()][:1]
    only(ref, [run.info.run_id for run in runs], client.tracking_uri)
    return runs[0]


def check_ref(ref: str) -> None:
    """Refuse what cannot mean a run."""
    if ref != "last" and not re.fullmatch("[0-9a-f]{6,32}", ref):
        raise GluonexpError(
            f"{ref}: not a run; give its id, the first 6 or more characters of it, or 'last'"
        )


def only(ref: str, run_ids: Sequence[str], uri: str) -> str:
    """Return the one of `run_ids` that `ref` was found to mean in the store `uri`.

    Raises
    ------
    GluonexpError
        It means none of them, or several.
    """
    if not run_ids:
        if (log := offline_run(ref, uri)) is not None:
            raise GluonexpError(
                f"run {log.run_id[:8]} is recorded in {log.file} alone; `gluonexp push "
                f"{log.run_id[:8]}` sends it to a store"
            )
        what = "no run has FINISHED" if ref == "last" else f"no run id begins with {ref}"
        raise GluonexpError(
            f"{what} in {displayed(uri)}; `gluonexp runs` lists the runs there are"
        )
    if len(run_ids) > 1:
        raise GluonexpError(f"{ref} is the beginning of several run ids: {', '.join(run_ids)}")
    return run_ids[0]


def experiments(client: MlflowClient) -> dict[str, str]:
    """Return the names of all experiments by their ids."""
    names: dict[str, str] = {}
    token: str | None = None
    while True:
        page = client.search_experiments(page_token=token)
        names |= {experiment.experiment_id: experiment.name for experiment in page}
        token = page.token
        if not token:
            return names


def _has_content(database: Path) -> bool:
    """Tell a store from a missing or empty file, which SQLite takes for a new database."""
    return database.is_file() and database.stat().st_size > 0


def _ensure_database(database: Path) -> None:
    try:
        if not _has_content(database):
            database.parent.mkdir(parents=True, exist_ok=True)
            # Where no lock can be made, filelock waits for it without end.
            with tempfile.TemporaryFile(dir=database.parent), lock(database):
                if not _has_content(database):  # else another process made it while we waited
                    _make_database(database)
        sweep(database.parent)  # a process may have been killed that had just made it
        _check_schema(database)
    except GluonexpError:
        raise
    except Exception as error:  # SQLAlchemy's own stand around those of SQLite
        cause = cause_of(error)
        if not isinstance(cause, OSError | sqlite3.Error):
            raise
        reason = obstacle(database, cause) if isinstance(cause, OSError) else cause
        raise GluonexpError(
            f"{database}: the store cannot be made or read ({reason}); name another place with "
            "tracking.uri=sqlite:////absolute/path/mlflow.db"
        ) from error


def _make_database(database: Path) -> None:
    with draft(database) as new:
        internals.make_tables(new, database.parent / "artifacts")
    internals.forget_connections(f"sqlite:///{database}")


def _check_schema(database: Path) -> None:
    """Refuse what MLflow would migrate, without a lock, as soon as it opens it."""
    # Not to be read only: first what a killed writer left may have to be undone.
    address = f"{database.as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=_TIMEOUT_S)) as link:
        rows = link.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {name for (name,) in rows}
    if "experiments" not in tables:
        raise GluonexpError(
            f"{database} is a SQLite file but no MLflow store (or one whose making was cut "
            "short): move it away, or name another place with tracking.uri="
        )
    if not tables.issuperset(internals.table_names()):
        raise GluonexpError(_other_schema(f"sqlite:///{database}"))


@contextmanager
def _logged_in(uri: str) -> Iterator[None]:
    """Knock at a database server, log in, and let one process at a time make MLflow's tables."""
    parts = urlsplit(uri)
    port = _PORTS.get(parts.scheme.split("+")[0])
    if port is None:
        yield
        return
    import sqlalchemy

    try:
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or port), _TIMEOUT_S).close()
        limit = {} if parts.scheme.startswith("mssql") else {"connect_timeout": _TIMEOUT_S}
        engine = sqlalchemy.create_engine(uri, connect_args=limit, poolclass=sqlalchemy.NullPool)
        link = engine.connect()
        if engine.name == "postgresql":  # it ends with the connection
            link.execute(sqlalchemy.text("SET lock_timeout = '60s'"))
            link.execute(sqlalchemy.text("SELECT pg_advisory_lock(1729)"))
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(error.name or "", error.name)
        raise GluonexpError(
            f"tracking.uri={displayed(uri)}: its driver is not installed: pip install '{package}'"
        ) from error
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise Unreachable(_unreachable(uri, error)) from error
    with link:
        yield


def _try_writing(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise GluonexpError(f"{folder} cannot be written: {obstacle(folder, error)}") from error


@functools.cache
def _mention_file_store(folder: Path) -> None:
    """Say once that MLflow's old file store lies beside ours, and that its runs are not shown."""
    old = next((meta for meta in folder.glob("[0-9]*/meta.yaml")), None)
    if old is not None:
        _log.warning(
            "%s also holds runs of MLflow's old file store; they stay untouched and are not shown "
            "here. `mlflow migrate-filestore --source %s --target sqlite:///%s/old.db` moves them "
            "to a store of their own.",
            *(folder, folder, folder),
        )


def _unreachable(uri: str, error: BaseException) -> str:
    if internals.asks_who(error):
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"tracking.uri={displayed(uri)}: this server asks who you are; set {names}"
    while error.__cause__ or error.__context__:  # below: "Connection refused", "timed out"
        error = error.__cause__ or error.__context__ or error
    return (
        f"tracking.uri={displayed(uri)}: this {kind(uri)} cannot be opened "
        f"({one_line(displayed(str(error)), 200)}); start it or correct the address, or record "
        "into ./mlruns with tracking.uri=null, or nowhere with tracking=none"
    )


def _other_schema(uri: str) -> str:
    import mlflow

    upgrade = in_shell("mlflow", "db", "upgrade", displayed(uri))
    return (
        f"{displayed(uri)} was made by another version of MLflow than {mlflow.__version__}, which "
        f"is installed here: make a copy of it, then run `{upgrade}` (if "
        "the store is the newer of the two, install its MLflow instead)"
    )
