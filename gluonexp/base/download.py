"""Download one file from the first mirror that has it."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import requests
import urllib3

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import held, lock, settle
from gluonexp.base.progress import bar_of_bytes
from gluonexp.base.text import say
from gluonexp.base.transfer import CutOffError, complete, connected, part_of, receive, watched

_CONNECTING = 10.0  # seconds
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


def shown(url: str) -> str:
    """Return `url` without the user name and password it may hold, for messages."""
    return re.sub(r"//[^/?#]*@", "//", url)


def obstacles(urls: Sequence[str], seconds: float = 3.0) -> list[str | None]:
    """Say within `seconds` what keeps each of `urls` from being downloaded; None: nothing does.

    A timeout of a request would not do: it counts for every address of a host and for every byte
    of an answer, and there is none for the search of a host's name.
    """
    if offline():
        return [_OFFLINE for _ in urls]
    replies: dict[str, str | None] = dict.fromkeys(urls, "no answer")

    def ask(url: str) -> None:
        try:
            with connected(url), requests.get(url, stream=True, timeout=seconds) as response:
                response.raise_for_status()
            replies[url] = None
        except (*_NETWORK, GluonexpError) as error:
            replies[url] = _reason(error)

    until = time.monotonic() + seconds
    asking = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return [replies[url] for url in urls]


def fetch(
    target: Path,
    urls: Sequence[str],
    *,
    check: Callable[[Path], object],
    needed: Mapping[str, str],
    size: int | None = None,
    limit: int | None = None,
    place: Callable[[Path, Path], object] = settle,
    ready: Callable[[], bool] | None = None,
    patience: float = 60.0,
    remedy: str = "or set dataset.root (or GLUONEXP_DATA) to a folder that has them.",
) -> Path:
    """Return `target`, downloading it if it is not there.

    The addresses are tried in turn. An interrupted download is resumed where it stopped, in this
    call or in a later one. The file appears under its name only once `check` has passed;
    what fails it is removed. Processes that need the same file at the same time download it once.

    Parameters
    ----------
    target
        A path; its folder is made if missing.
    urls
        Where the file is to be had.
    check
        Raises `GluonexpError` if the file it is given has the wrong content.
    needed, remedy
        What to put into the folder by hand if no address works (file names, and what identifies
        each: its digest), and what else helps. Only the message uses them.
    size
        Exact size in bytes, if the very same file is at every address.
    limit
        Most bytes that it may have, where the size is not known.
    place
        Given the checked download and `target`, makes the latter of the former, in one step, and
        leaves nothing else.
    ready
        Whether `target` is the right file already; by default it is if it exists. Asked again
        after another process has downloaded it.
    patience
        How long a server may send nothing, seconds.

    Raises
    ------
    GluonexpError
        If no address delivers the file (`NoMirror`), or the folder cannot be written.
    """
    dest = target.parent
    ready = ready or target.exists
    files = [f"  {name}  ({identity})" for name, identity in needed.items()]
    advice = [f"Without a download, put into {dest}:", *files, remedy]
    try:
        if ready():
            return target
        dest.mkdir(parents=True, exist_ok=True)
        with held(lock(target), f"downloads {target}"):
            if not ready():
                most = limit if size is None else size
                get = partial(_download, check=check, patience=patience, size=size, limit=most)
                place(_from_first(urls, target, get, advice), target)
    except OSError as error:
        raise GluonexpError(f"cannot download {target.name} to {dest}: {error}") from error
    return target


def _from_first(
    urls: Sequence[str], target: Path, get: Callable[[str, Path], None], advice: Sequence[str]
) -> Path:
    """Return the checked download, which lies beside `target`."""
    failures = []
    for url in urls:
        # One part a mirror: mirrors compress differently, so that a download which began at one
        # cannot be resumed at another.
        part = part_of(target, url)
        try:
            if offline():
                raise GluonexpError(_OFFLINE)
            get(url, part)
            return part
        except (*_NETWORK, GluonexpError) as error:
            failures.append(f"  {shown(url)}: {_reason(error)}")
    message = [f"{target.name} cannot be downloaded:", *failures, *advice]
    raise NoMirror("\n".join(message), failures)


def _download(
    url: str,
    part: Path,
    check: Callable[[Path], object],
    patience: float,
    size: int | None,
    limit: int | None,
) -> None:
    """Complete `part` from `url`, and check it."""

    def ask(headers: dict[str, str]) -> requests.Response:
        waiting = (_CONNECTING, patience)
        return requests.get(url, headers=headers, stream=True, timeout=waiting)

    with bar_of_bytes() as bar:
        task = bar.add_task(part.name.split(".")[1], total=None)

        def begin(total: int | None) -> None:
            bar.update(task, total=total)
            if bar.disable:
                say(f"downloading {shown(url)}" + (f" ({total / 1e6:.1f} MB)" if total else ""))

        def send(to: Path) -> None:
            with connected(shown(url)):
                receive(ask, to, size=size, limit=limit, begin=begin)

        with watched(bar, task, part):
            complete(part, send, check, reconnect=True)


def _reason(error: Exception) -> str:
    """Put a network error in a few words; its own text is long and names internals."""
    if isinstance(error, CutOffError):
        return error.reason
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection"
    # InvalidURL, MissingSchema and the like, whose text quotes the address with what is secret.
    if isinstance(error, ValueError):
        return "not an address that files can be downloaded from"
    return str(error)
