"""Download one file from the first mirror that has it."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests
import urllib3
from filelock import FileLock, Timeout
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gluonexp.errors import GluonexpError
from gluonexp.progress import transient_bar

_TIMEOUT = (10.0, 60.0)  # connect and read, seconds
_ATTEMPTS = 5  # connections to one mirror; every further one goes on where the last one broke
_BLOCK = 1 << 16  # bytes
_ENCODING = {"Accept-Encoding": "identity"}
_OFFLINE = "not asked, because GLUONEXP_OFFLINE is set"

# urllib3's own errors come from reading the raw stream, where requests does not wrap them.
_NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError)


class NoMirror(GluonexpError):
    """No mirror delivered a file; `failures` are lines that say of each why."""

    def __init__(self, message: str, failures: Sequence[str]) -> None:
        super().__init__(message)
        self.failures = list(failures)


def offline() -> bool:
    """Whether ``GLUONEXP_OFFLINE`` forbids downloads."""
    return os.environ.get("GLUONEXP_OFFLINE", "0") not in ("", "0")


def obstacle(url: str, seconds: float = 3.0) -> str | None:
    """Say within `seconds` what keeps `url` from being downloaded; None if nothing does.

    A timeout of a request would not do: it counts for every address of a host, and there is none
    for the search of its name.
    """
    if offline():
        return _OFFLINE
    replies: list[str | None] = []

    def ask() -> None:
        try:
            with requests.get(url, headers=_ENCODING, stream=True, timeout=seconds) as response:
                response.raise_for_status()
            replies.append(None)
        except requests.RequestException as error:
            replies.append(_reason(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return replies[0] if replies else "no answer"


def fetch(
    filename: str,
    mirrors: Sequence[str],
    dest: Path,
    *,
    check: Callable[[Path], object],
    needed: Mapping[str, str],
    size: int | None = None,
    remote: str | None = None,
    place: Callable[[Path, Path], object] = os.replace,
    replace: bool = False,
) -> Path:
    """Return ``dest/filename``, downloading it if it is not there.

    The mirrors are tried in turn. An interrupted download goes on where it stopped, in this call
    or in a later one. The file appears under its name only once `check` has passed; what fails
    it is removed. Processes that need the same file at the same time download it once.

    Parameters
    ----------
    filename
        Name in `dest`, and at the mirrors unless `remote` says another.
    mirrors
        Base addresses, ending in ``/``.
    dest
        Folder, made if missing.
    check
        Raises `GluonexpError` if the file it is given has the wrong content.
    needed
        What to put into `dest` by hand if no mirror works: file names, and what identifies each
        (its digest). Only the message uses it.
    size
        Exact size in bytes, if every mirror has the very same file.
    remote
        Name at the mirrors.
    place
        Given the checked download and ``dest/filename``, makes the latter of the former, in one
        step, and leaves nothing else.
    replace
        Download although the file is there.

    Raises
    ------
    GluonexpError
        If no mirror delivers the file (`NoMirror`), or `dest` cannot be written.
    """
    target = dest / filename
    if target.exists() and not replace:
        return target
    urls = [mirror + (remote or filename) for mirror in mirrors]
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lock = FileLock(dest / f".{filename}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say(f"waiting for another process that downloads {target}")
            lock.acquire()
        try:
            if replace or not target.exists():
                place(_from_first(urls, target, check, needed, size), target)
        finally:
            lock.release()
    except OSError as error:
        raise GluonexpError(f"cannot download {filename} to {dest}: {error}") from error
    return target


def _from_first(
    urls: Sequence[str],
    target: Path,
    check: Callable[[Path], object],
    needed: Mapping[str, str],
    size: int | None,
) -> Path:
    """Return the checked download, which lies beside `target`."""
    failures = []
    for url in urls:
        if offline():
            failures.append(f"  {url}: {_OFFLINE}")
            continue
        # One part file a mirror: mirrors compress differently, so that a download which began at
        # one cannot go on at another.
        tag = hashlib.sha256(url.encode()).hexdigest()[:8]
        part = target.with_name(f".{target.name}.{tag}.part")
        try:
            _download(url, part, check, size)
        except (*_NETWORK, GluonexpError) as error:
            failures.append(f"  {url}: {_reason(error)}")
            continue
        return part
    files = [f"  {name}  ({identity})" for name, identity in needed.items()]
    raise NoMirror(
        "\n".join(
            [
                f"{target.name} cannot be downloaded:",
                *failures,
                f"Without a download, put into {target.parent}:",
                *files,
                "or set dataset.root (or GLUONEXP_DATA) to a folder that has them.",
            ]
        ),
        failures,
    )


def _download(url: str, part: Path, check: Callable[[Path], object], size: int | None) -> None:
    """Complete `part` from `url`, reconnecting as long as that brings bytes, and check it."""
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive(url, part, before, size)
        except _NETWORK:
            after = part.stat().st_size if part.exists() else 0
            if after <= before or attempt == _ATTEMPTS:
                raise
            continue
        try:
            check(part)
        except GluonexpError:
            part.unlink()
            # A part left by an earlier download may be of a file that has changed since.
            if before == 0 or attempt == _ATTEMPTS:
                raise
            continue
        return


def _receive(url: str, part: Path, offset: int, size: int | None) -> None:
    """Append what `url` has after `offset` bytes to `part`, or write all of it anew.

    Raises
    ------
    requests.RequestException, urllib3.exceptions.HTTPError
        If the transfer fails; what had arrived stays in `part`.
    """
    headers = dict(_ENCODING)
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if offset and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing comes after `offset`; whether the part is right, the check will tell
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            offset = 0  # the server ignores Range and sends the whole file
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise requests.RequestException("the server sent another range than asked for")
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else size
        if size is not None and total != size:
            raise requests.RequestException(f"the file has {total} bytes, not {size}")
        with (
            transient_bar(
                "{task.description}",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            ) as bar,
            part.open("ab" if offset else "wb") as file,
        ):
            if bar.disable:
                _say(f"downloading {url}" + (f" ({total / 1e6:.1f} MB)" if total else ""))
            task = bar.add_task(part.name.split(".")[1], total=total, completed=offset)
            # The bytes as they are stored at the mirror: no server's Content-Encoding is undone.
            for block in response.raw.stream(_BLOCK, decode_content=False):
                file.write(block)
                bar.advance(task, len(block))


def _reason(error: Exception) -> str:
    """Put a network error in a few words; its own text is long and names internals."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "timed out"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "the connection broke"
    return str(error)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
