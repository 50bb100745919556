"""Where a study is kept: a file on this machine, a database, or Optuna's gRPC proxy of one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.uri import displayed, resolve_uri, sqlite_path

_SQLITE: Final = "sqlite:///"
# File systems that several hosts share, by the beginning of the names that systems have for them.
_SHARED: Final = (
    *("nfs", "cifs", "smb", "afpfs", "afs", "lustre", "beegfs", "gpfs", "ceph", "gluster"),
    *("orangefs", "pvfs", "wekafs", "panfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse"),
    *("fuse.ceph", "fuse.gluster", "fuse.beegfs", "fuse.juicefs", "fuse.rclone"),
)


@dataclass(frozen=True)
class Place:
    """Where a study is.

    Attributes
    ----------
    name
        An address as SQLAlchemy has it, ``grpc://HOST:PORT``, or the path of a journal. Optuna
        calls the file so to which it only appends.
    apart
        Whether runs can be recorded from other machines, which cannot search along.
    """

    name: str
    apart: bool = False

    @property
    def file(self) -> Path | None:
        """The file, if it is one: a journal, or a database of SQLite."""
        if "://" not in self.name:
            return Path(self.name).resolve()
        path = self.name.removeprefix(_SQLITE).split("?")[0]
        return Path(path).resolve() if self.name.startswith(_SQLITE) else None

    @property
    def shown(self) -> str:
        """What to show and log: without a password."""
        return displayed(self.name)


def place(name: str) -> Place:
    """Return where a study is that somebody says is at `name`; a path may be relative.

    Raises
    ------
    GluonexpError
        It is a file on a disk of another host, or no address.
    """
    sqlite = name.startswith(_SQLITE)
    if sqlite or "://" not in name:
        path, mark, query = name.removeprefix(_SQLITE).partition("?") if sqlite else (name, "", "")
        file = os.path.abspath(os.path.expanduser(path))
        _check_local(Path(file))
        return Place(f"{_SQLITE if sqlite else ''}{file}{mark}{query}")
    try:
        _ = urlsplit(name).port
    except ValueError:  # it may quote a part of the password
        raise GluonexpError(
            f"{displayed(name)} is no address: write one as postgresql://USER:PASSWORD@HOST/NAME "
            "or grpc://HOST:PORT, with %XX for special characters in a password"
        ) from None
    return Place(name)


def chosen(name: str | None, tracking_uri: str | None, recorded: bool, journal: Path) -> Place:
    """Return where the study of a search is.

    Parameters
    ----------
    name
        ``hydra.sweeper.storage``; None for a place that suits the store of the runs: with these in
        PostgreSQL, else a file.
    tracking_uri
        ``tracking.uri``.
    recorded
        Whether runs are recorded at all.
    journal
        The file.
    """
    if name is not None:
        return place(name)
    uri = resolve_uri(tracking_uri) if recorded else ""
    if uri.startswith("postgresql"):
        return place(uri)
    return replace(place(str(journal)), apart=bool(uri) and sqlite_path(uri) is None)


def _check_local(file: Path) -> None:
    """Refuse a file on a network disk, where locks fail and lines of two hosts are mixed."""
    kind = disk_of(file)
    if kind.startswith(_SHARED):
        raise GluonexpError(
            f"{file} is on a network disk ({kind}), where what several hosts write to a study's "
            "file is mixed up (optuna #5138): name a database by "
            "hydra.sweeper.storage=postgresql://..., or a file on a disk of this machine"
        )


def disk_of(file: Path) -> str:
    """Return the type of the file system that a file is on, or would be; empty if unknown."""
    import psutil

    path = Path(os.path.realpath(file))
    try:
        mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    except (OSError, RuntimeError):
        return ""
    around = (str(folder) for folder in (path, *path.parents))
    return next((mounts[folder] for folder in around if folder in mounts), "").lower()
