"""What keeps studies, and what of Optuna's storages no public class of Optuna offers.

`StoredTrial` uses methods of Optuna's storages that are meant for Optuna itself; read from Optuna
4.5 and 5.0. `optuna.Study.ask` gives a trial to the process that asks. Any other process, such as
the job of a trial, gets at it only through the storage: without these methods no job can report
its epochs or be pruned, and no process can take over what another one left.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gluonexp.base import files
from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.sweep.study.place import Place
from gluonexp.tracking.store import Unreachable

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage, JournalStorage
    from optuna.storages.journal import JournalFileSymlinkLock
    from sqlalchemy import Connection, Engine

# Of PostgreSQL: MLflow and Optuna both have a table alembic_version.
SCHEMA: Final = "gluonexp_studies"
_PORT: Final = 13000  # of the proxy, as Optuna has it
_ANSWER_S: Final = 20  # that a database or a proxy may take
_BRACES: Final = str.maketrans({"{": "{{", "}": "}}"})


def opened(place: Place, seldom: bool = False) -> BaseStorage:
    """Return what keeps studies at a place; what is missing there is made.

    Parameters
    ----------
    seldom
        Whether it is used now and then only, as by a job after each epoch: no connection to a
        database is kept then, of which a server has a hundred for all.

    Raises
    ------
    GluonexpError
        It cannot be opened, or something else is there.
    """
    with told(place):
        if place.name.startswith("grpc://"):
            return _proxy(place)
        if "://" in place.name or place.file is None:
            return _database(place, seldom)
        return _journal(place.file)


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Say in a sentence that a study cannot be read or written now.

    Raises
    ------
    GluonexpError
        Instead of what Optuna, SQLAlchemy or gRPC raise; `Unreachable` where that is no file.
    """
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except ModuleNotFoundError as error:
        extra = "grpc" if place.name.startswith("grpc:") else "postgres"
        raise GluonexpError(
            f"{place.shown}: {error.name} is not installed: pip install 'gluonexp[{extra}]', or "
            "the driver of another kind of database"
        ) from error
    except Exception as error:
        known = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)
        if not isinstance(error, known) and not type(error).__module__.startswith("grpc"):
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        details = getattr(cause, "details", None)  # of gRPC
        said = str(details() if callable(details) else cause).strip().partition("\n")[0]
        kind = Unreachable if place.file is None else GluonexpError
        raise kind(
            f"{place.shown}: the study there cannot be read or written ({hide(said)}); see that "
            "its address is right, and that it can be reached from here"
        ) from error


def _proxy(place: Place) -> BaseStorage:
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import GrpcStorageProxy

    address = urlsplit(place.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=address.hostname or "127.0.0.1", port=address.port or _PORT)
    proxy.wait_server_ready(timeout=_ANSWER_S)
    return proxy


def _database(place: Place, seldom: bool) -> BaseStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    try:
        url = sqlalchemy.make_url(place.name)
    except sqlalchemy.exc.ArgumentError as error:
        raise GluonexpError(
            f"{place.shown} is no address of a database; write one as "
            "postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    if place.file is not None:
        place.file.parent.mkdir(parents=True, exist_ok=True)
    limit = {"sqlite": "timeout", "postgresql": "connect_timeout"}.get(url.get_backend_name())
    waits = {"connect_args": {limit: _ANSWER_S}} if limit else {}
    # What is in PostgreSQL has a schema of its own, unless the address says which.
    separate = url.drivername.startswith("postgresql") and "options" not in url.query
    if separate:
        url = url.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **waits)
    if place.file is not None:
        alone: AbstractContextManager[object] = files.lock(place.file)
    else:
        alone = locked(engine, SCHEMA)
    with alone:  # several that make tables at the same time fail
        with engine.begin() as link:
            if separate:
                _make_schema(link)
            if sqlalchemy.inspect(link).has_table("experiments"):
                raise GluonexpError(
                    f"{place.shown} keeps MLflow's runs, and tables of Optuna's must not be among "
                    "those: name another database by hydra.sweeper.storage="
                )
        try:
            # It takes the address for a template.
            written = url.render_as_string(hide_password=False).translate(_BRACES)
            kept = {"poolclass": sqlalchemy.NullPool} if seldom else {"pool_pre_ping": True}
            return RDBStorage(written, engine_kwargs={**kept, **waits})
        except RuntimeError as error:
            raise GluonexpError(f"{place.shown}: {error}") from error


@contextmanager
def locked(engine: Engine, name: str) -> Iterator[None]:
    """Have a lock in PostgreSQL by this name; in other databases, none."""
    from sqlalchemy import text

    with engine.begin() as link:
        if link.dialect.name == "postgresql":  # it ends with the transaction, or the connection
            query = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
            link.execute(query, {"name": f"gluonexp {name}"})
        yield


def _make_schema(link: Connection) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    known = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if link.execute(known, {"name": SCHEMA}).first() is not None:
        return
    try:
        link.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    except ProgrammingError as error:
        raise GluonexpError(
            "the database may not be given a schema for studies: let its owner say CREATE SCHEMA "
            f"{SCHEMA} AUTHORIZATION {link.engine.url.username}, or name another place by "
            "hydra.sweeper.storage="
        ) from error


def _journal(path: Path) -> JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileSymlinkLock(str(path))
        if path.exists():
            _check_end(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise GluonexpError(f"{path}: the study's journal cannot be opened: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise GluonexpError(
            f"{path} is damaged, or no journal of a study ({error}); move it away or choose "
            "another file"
        ) from error


def _check_end(path: Path, lock: JournalFileSymlinkLock) -> None:
    """Raise ValueError if the last line is not whole: what is appended to it would be lost too."""
    lock.acquire()
    try:
        last = path.read_bytes().splitlines(keepends=True)[-1:]
    finally:
        lock.release()
    for line in last:
        json.loads(line)
        if not line.endswith(b"\n"):
            raise ValueError("its last line is cut off")


class StoredTrial:
    """A trial of a study, whichever process asked for it; KeyError if there is none."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, number: int) -> None:
        study_id = storage.get_study_id_from_name(study.study_name)
        self._id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._study = study
        self._storage = storage

    def mark(self, key: str, value: object) -> None:
        """Set an attribute of the trial."""
        self._storage.set_trial_user_attr(self._id, key, value)

    def epochs(self) -> set[int]:
        """Return the epochs that have been reported."""
        return set(self._storage.get_trial(self._id).intermediate_values)

    def report(self, value: float, epoch: int) -> bool:
        """Report an epoch; return whether the study's pruner would end the trial."""
        self._storage.set_trial_intermediate_value(self._id, epoch, value)
        trial = self._storage.get_trial(self._id)
        return bool(self._study.pruner.prune(self._study, trial))  # it may be NumPy's


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling about each study and trial; its warnings stay."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
