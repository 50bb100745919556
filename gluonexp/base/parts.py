"""Files on their way: a part beside its target, which a later download goes on with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import held, lock

_SUFFIX = ".gluonexp-part"


class CutOffError(GluonexpError):
    """The connection to a store was lost; `reason` says how, in a few words."""

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(f"{doing}: {reason}")
        self.reason = reason


@contextmanager
def connected(doing: str) -> Iterator[None]:
    """Tell the loss of the connection from what a store answers; its own text names internals.

    Raises
    ------
    CutOffError
        Instead of whatever the loss made MLflow or requests raise.
    """
    try:
        yield
    except Exception as error:
        reason = _loss(error)
        if reason is None:
            raise
        raise CutOffError(doing, reason) from error


def make_room(target: Path) -> None:
    """Make the folder of `target`, and see that a file can be put there."""
    advice = "move it away, or name another folder"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise GluonexpError(
            f"cannot download to {target}: a file lies where a folder belongs; {advice}"
        ) from None
    if target.is_dir():
        raise GluonexpError(
            f"cannot download to {target}: a folder lies where the file belongs; {advice}"
        )


def beside(target: Path, *identity: object) -> Path:
    """Return where the part of `target` grows, which is what `identity` says and nothing else."""
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:8]
    return target.with_name(f".{target.name}.{key}{_SUFFIX}")


@contextmanager
def growing(part: Path, size: int | None, what: str, *, stays: bool) -> Iterator[None]:
    """Say, if `part` is cut off, where; remove it then unless it `stays` to be gone on with.

    Raises
    ------
    GluonexpError, KeyboardInterrupt
        Instead of a `CutOffError` and of Ctrl-C, with how much of `what` has arrived.
    """
    try:
        yield
    except BaseException as error:
        arrived = part.stat().st_size if part.is_file() else 0
        told, again = f"{what}: cut off at {progress(arrived, size)}", "the same command goes on"
        if not stays:
            part.unlink(missing_ok=True)
            again += ", this file from its start" if arrived else ""
        if isinstance(error, CutOffError):
            raise GluonexpError(f"{told} ({error.reason}); {again}") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{told}; {again}") from None
        raise


def remove(folders: Iterable[Path]) -> None:
    """Remove the parts in `folders`: they are of what has arrived, or was once wanted instead."""
    for folder in folders:
        for part in folder.glob(f".*{_SUFFIX}"):
            part.unlink(missing_ok=True)


@contextmanager
def alone(dest: Path) -> Iterator[None]:
    """Let the processes of this machine download to `dest` one by one: they share its parts."""
    with held(lock(str(dest.resolve())), f"downloads to {dest}"):
        yield


def progress(done: int, size: int | None) -> str:
    """Say how much has arrived: ``50.3 of 228.2 MB``."""
    unit, scale, digits = ("MB", 1e6, 1) if max(done, size or 0) >= 1e6 else ("bytes", 1, 0)
    total = "" if size is None else f" of {size / scale:,.{digits}f}"
    return f"{done / scale:,.{digits}f}{total} {unit}"


def _loss(error: BaseException) -> str | None:
    """Say how the connection was lost, if that is what is behind an error; else None."""
    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(behind)

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if among(requests.exceptions.SSLError):  # of which the store's own text says more
        return None
    if among(urllib3.exceptions.NewConnectionError):  # which urllib3 counts as a timeout, too
        return "no connection"
    if among(requests.Timeout, urllib3.exceptions.TimeoutError):
        return "timed out"
    if among(requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError):
        return "the connection broke"
    if among(requests.exceptions.RetryError):  # 502, 503 and the like, again and again
        return "the server fails"
    return "the connection failed" if among(requests.ConnectionError) else None
