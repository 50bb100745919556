"""Where the files of a SQLite store lie: beside its database, also after the store was moved.

MLflow records absolute paths. A recorded path that leads out of the store's folder is looked for
beside the database first: by its end, from which on both places are alike. So a store that was
moved or copied as a whole is read as before; what is written goes where the database is now.
Only MLflow's own commands still need the recorded paths: `relocate` mends them.

The tables are MLflow's, as in `read/sqlite.py`.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import internals
from gluonexp.tracking.uri import displayed, existing, local_path, resolve_uri, sqlite_path

# The tag that says in which folder a run keeps its checkpoints.
WORKDIR: Final = "gluonexp.workdir"

_BUSY_S: Final = 20  # how long another process may be writing; MLflow waits as long
_ID: Final = re.compile("(m-)?[0-9a-f]{32}")
# Of a run or a logged model in an experiment of ours.
_OURS: Final = re.compile(
    r"(/.*)/artifacts/([^/]+/(?:[0-9a-f]{32}|models/m-[0-9a-f]{32})/artifacts(?:/.*)?)"
)
_ADDRESSES: Final = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass(frozen=True)
class Move:
    """The folder of a store: when something was recorded, and now."""

    before: Path
    now: Path

    def follow(self, path: str) -> str:
        """Return where a path in the store, or beside it in the same project, lies now.

        One that is not found there is returned as it is.
        """
        for before, now in ((self.before, self.now), (self.before.parent, self.now.parent)):
            if before != Path("/") and Path(path).is_relative_to(before):
                moved = now / Path(path).relative_to(before)
                return str(moved) if moved.exists() else path
        return path


@dataclass(frozen=True)
class Stray:
    """A recorded path that leads elsewhere than to where the file lies."""

    table: str
    column: str
    row: int
    path: str
    now: str


def here(address: str, tracking_uri: str | None) -> str:
    """Return where the files lie now that a store recorded at `address`.

    Of a store that is no SQLite file on this machine, and of files outside of a store's folder,
    that is `address` itself.
    """
    database = sqlite_path(tracking_uri) if tracking_uri else None
    return address if database is None else _beside(address, database.parent)


def move_of(artifact_uri: str, database: Path | None) -> Move | None:
    """Return how a store was moved since a run in it was recorded; None if it was not.

    Parameters
    ----------
    artifact_uri
        The recorded address of the run's files.
    """
    found = _OURS.fullmatch(str(local_path(artifact_uri) or ""))
    if found is None or database is None or _same(Path(found[1]), database.parent):
        return None
    return Move(Path(found[1]), database.parent)


def experiment_folder(name: str) -> str:
    """Return the name of the folder for the files of an experiment."""
    return re.sub(r"[^\w.\-]+", "_", name).strip(".")[:100] or "_"


def settle(uri: str, run_id: str | None = None) -> None:
    """Let what is written from now on lie beside the database, if the store was moved.

    That is what new runs and models of our experiments write, and run `run_id`.

    Raises
    ------
    GluonexpError
        The store cannot be written.
    """
    database = sqlite_path(uri)
    if database is None:
        return
    with _opened(database) as link:
        strays = list(_experiments(link, database.parent))
        if run_id is not None:
            strays += _runs(link, database.parent, run_id)
        _mend(link, strays)
    if run_id is not None:
        internals.forget_place(run_id)


def strays(uri: str | None) -> list[Stray]:
    """Return the paths that the store at `uri` recorded and that are not where the files are.

    Raises
    ------
    GluonexpError
        The store cannot be read.
    """
    database = sqlite_path(resolve_uri(uri))
    if database is None or not database.is_file():
        return []
    with _opened(database) as link:
        return list(_all(link, database.parent))


def relocate(uri: str | None) -> list[Stray]:
    """Record where the files of a SQLite store lie now, in one step; return what was mended.

    Raises
    ------
    GluonexpError
        There is no such store, or it cannot be written.
    """
    uri = existing(uri)
    database = sqlite_path(uri)
    if database is None:
        raise GluonexpError(
            f"{displayed(uri)} keeps its files itself: only the paths of a SQLite store are mended"
        )
    with _opened(database) as link:
        found = list(_all(link, database.parent))
        _mend(link, found)
        return found


def _beside(address: str, home: Path) -> str:
    path = local_path(address)
    if path is None or not path.is_absolute() or path.is_relative_to(home):
        return address
    ids = [at for at, part in enumerate(path.parts) if _ID.fullmatch(part)]
    if not ids:  # nothing that tells it from another file of this name
        return address
    for start in range(1, ids[-1] + 1):
        if (found := home.joinpath(*path.parts[start:])).exists():
            return str(found)
    ours = _OURS.fullmatch(str(path))
    return address if ours is None or path.exists() else str(home / "artifacts" / ours[2])


def _all(link: sqlite3.Connection, home: Path) -> Iterator[Stray]:
    yield from _experiments(link, home)
    for table, column in _ADDRESSES:
        for row, address in link.execute(f"SELECT rowid, {column} FROM {table}"):
            yield from _stray(table, column, row, address, _beside(address or "", home))
    for row, folder, uri in link.execute(
        "SELECT t.rowid, t.value, r.artifact_uri FROM tags t JOIN runs r USING (run_uuid) "
        "WHERE t.key = ?",
        (WORKDIR,),
    ):
        move = move_of(uri, home / "any")
        yield from _stray("tags", "value", row, folder, move.follow(folder) if move else folder)


def _runs(link: sqlite3.Connection, home: Path, run_id: str) -> Iterator[Stray]:
    for row, address in link.execute(
        "SELECT rowid, artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)
    ):
        yield from _stray("runs", "artifact_uri", row, address, _beside(address, home))


def _experiments(link: sqlite3.Connection, home: Path) -> Iterator[Stray]:
    """Yield the experiments whose new runs would be written to where the store was before."""
    rows = link.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments"
    ).fetchall()
    made = next((Path(place).parent.parent for key, _, place in rows if key == 0 and place), None)
    for key, name, place in rows:
        path = local_path(place or "")
        if path is None or path.parent.name != "artifacts":
            continue
        ours = path.name == (str(key) if key == 0 else experiment_folder(name))
        # Somebody may have wanted the files of an experiment elsewhere, where they are.
        if ours and (path.parent.parent == made or not path.exists()):
            now = str(home / "artifacts" / path.name)
            yield from _stray("experiments", "artifact_location", key, place, now)


def _stray(table: str, column: str, row: int, path: str, now: str) -> Iterator[Stray]:
    if path and path != now and not _same(Path(path), Path(now)):
        yield Stray(table, column, row, path, now)


def _same(one: Path, other: Path) -> bool:
    """Tell whether two paths are of one thing, perhaps by a link on the way."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _mend(link: sqlite3.Connection, strays: Iterable[Stray]) -> None:
    for one in strays:
        link.execute(
            f"UPDATE {one.table} SET {one.column} = ? WHERE rowid = ?", (one.now, one.row)
        )


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database; what is written is kept if the block succeeds."""
    try:
        with (
            closing(
                sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)
            ) as link,
            link,
        ):
            yield link
    except sqlite3.Error as error:
        raise GluonexpError(f"{database}: its paths cannot be read or mended ({error})") from error
