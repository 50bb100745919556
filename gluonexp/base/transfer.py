"""One file on its way to this machine: a part beside its target, resumed, bounded and checked."""

from __future__ import annotations

import glob
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:  # they take a tenth of a second to import
    import requests
    from rich.progress import Progress, TaskID

_ATTEMPTS = 5  # requests for one file; every further one resumes where the last one broke
_BLOCK = 1 << 16  # bytes
_REFRESH_S = 0.2

Checked = TypeVar("Checked")


class CutOffError(GluonexpError):
    """The connection was lost; `reason` says how, in a few words."""

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(f"{doing}: {reason}")
        self.reason = reason


@contextmanager
def connected(doing: str) -> Iterator[None]:
    """Tell the loss of the connection from what a server answers; its own text names internals.

    Raises
    ------
    CutOffError
        Instead of whatever the loss made MLflow, requests or urllib3 raise.
    """
    try:
        yield
    except Exception as error:
        reason = _loss(error)
        if reason is None:
            raise
        raise CutOffError(doing, reason) from error


def part_of(target: Path, *identity: object) -> Path:
    """Return where the part of `target` grows, which is what `identity` says and nothing else."""
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:8]
    return target.with_name(f".{target.name}.{key}.part")


def remove_parts(target: Path) -> None:
    """Remove the parts of `target`: it has arrived, and they may be of what was wanted before."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        part.unlink(missing_ok=True)


def complete(
    part: Path,
    send: Callable[[Path], object],
    check: Callable[[Path], Checked],
    *,
    reconnect: bool,
) -> Checked:
    """Let `send` complete `part`, and check it.

    What fails the check is removed. Where its beginning had been there before, that may be of a
    file that has changed since: then all of it is sent again.

    Parameters
    ----------
    send
        Adds to the part what is missing, or writes all of it anew; a lost connection is a
        `CutOffError`.
    check
        Raises `GluonexpError` if the part has the wrong content.
    reconnect
        Send again after a lost connection, as long as that brings bytes.

    Returns
    -------
    Checked
        What `check` returns.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        before = arrived(part)
        try:
            send(part)
        except CutOffError:
            if not reconnect or arrived(part) <= before or attempt == _ATTEMPTS:
                raise
            continue
        try:
            return check(part)
        except Exception as error:  # whatever it is: the next attempt must not resume from this
            part.unlink(missing_ok=True)
            if not isinstance(error, GluonexpError) or before == 0 or attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def receive(
    ask: Callable[[dict[str, str]], requests.Response],
    part: Path,
    *,
    size: int | None = None,
    limit: int | None = None,
    begin: Callable[[int | None], object] = lambda total: None,
) -> None:
    """Append to `part` what a server has after its end, or write all of it anew.

    Parameters
    ----------
    ask
        Sends a GET request with these headers, and returns the response, not yet read.
    size
        Of the whole file, bytes, where it is known.
    limit
        Most bytes that it may have.
    begin
        Called with the size of the whole file, as far as it is known, before bytes come.

    Raises
    ------
    GluonexpError
        The file has another size than it should.
    requests.RequestException, urllib3.exceptions.HTTPError
        The transfer fails; what had arrived stays in `part`.
    """
    begun = arrived(part)
    # The bytes as they are stored: a range of what a proxy compresses would be another one.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begun}-"} if begun else {})}
    with closing(ask(headers)) as response:
        if begun and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing comes after the part; whether it is right, the check will tell
        response.raise_for_status()
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            begun = 0  # the server does not know of ranges and sends the whole file
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            part.unlink()  # the next attempt gets all of it
            raise GluonexpError("the server sent another range than asked for")
        length = response.headers.get("Content-Length", "")
        total = begun + int(length) if length.isdecimal() else size
        if size is not None and total != size:
            raise GluonexpError(f"the file has {total} bytes, not {size}")
        if limit is not None and (total or 0) > limit:
            raise GluonexpError(f"the file has {total} bytes, more than {limit}")
        begin(total)
        with part.open("ab" if begun else "wb") as file:
            # No server's Content-Encoding is undone.
            for block in response.raw.stream(_BLOCK, decode_content=False):
                file.write(block)
                if limit is not None and file.tell() > limit:
                    part.unlink()
                    raise GluonexpError(f"the file has more than {limit} bytes")


@contextmanager
def watched(bar: Progress, task: TaskID, part: Path, before: int = 0) -> Iterator[None]:
    """Let a bar follow the size of `part` while it grows, `before` bytes being there already."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_REFRESH_S):
            bar.update(task, completed=before + arrived(part))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def arrived(part: Path) -> int:
    """Return how many bytes of a file are there."""
    with suppress(FileNotFoundError):
        return part.stat().st_size
    return 0


def of_size(done: int, size: int | None) -> str:
    """Say how much has arrived: ``50.3 of 228.2 MB``."""
    unit, scale, digits = ("MB", 1e6, 1) if max(done, size or 0) >= 1e6 else ("bytes", 1, 0)
    total = "" if size is None else f" of {size / scale:,.{digits}f}"
    return f"{done / scale:,.{digits}f}{total} {unit}"


def _loss(error: BaseException) -> str | None:
    """Say how the connection was lost, if that is what is behind an error; else None."""
    import requests
    import urllib3

    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(behind)

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if among(requests.exceptions.SSLError):  # of which the server's own text says more
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
