"""The files that a store keeps of a run or a registered model: listed, copied, checked.

What is copied appears under its name only once it is whole and right. What is there already is
kept if it is the same: a copy that was cut off goes on with the files that are missing and, where
MLflow's server sends them, within the one that was under way.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import requests
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gluonexp.base import parts
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import replace, sha256
from gluonexp.base.progress import transient_bar
from gluonexp.base.text import say
from gluonexp.tracking.registry import find_model
from gluonexp.tracking.store import KIND, find_run, reported, silent
from gluonexp.tracking.sweeps import BEST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo

CERTIFICATE = "certificate.json"
# Beside what was copied: one line a file, with the digest of what has arrived.
JOURNAL = ".gluonexp-download.jsonl"

_BLOCK = 1 << 20  # bytes
_REFRESH_S = 0.2


@dataclass(frozen=True)
class File:
    """A file in a store: its path there, and its size in bytes where the store says one."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Copied:
    """What a download came to: paths that were copied, and those that were there already."""

    copied: tuple[str, ...]
    kept: tuple[str, ...]
    size: int  # of both, bytes


class Artifacts:
    """The files of one run or model.

    Attributes
    ----------
    title
        What it is, for messages: ``run 3f2a...`` or ``models:/digits@champion``.
    run_id
        The run they come from; None for a model without one.
    uri
        Their address in the store.
    goes_on
        Whether the store may send the rest of a file, as MLflow's server does.
    """

    def __init__(self, uri: str, tracking_uri: str, title: str, run_id: str | None) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

        self.title, self.run_id = title, run_id
        self._doing = f"the artifacts of {title} cannot be read"
        with reported(self._doing):
            self._store: Any = get_artifact_repository(uri, tracking_uri=tracking_uri)
        self.uri = str(self._store.artifact_uri)  # with the host of a server
        self.goes_on = isinstance(self._store, HttpArtifactRepository)

    def files(self, path: str = "") -> list[File]:
        """Return the file `path`, or all files in and below the folder `path`, sorted.

        Raises
        ------
        GluonexpError
            There is no such thing; the message says what there is. Or a path would lead out of
            the folder that it is copied to.
        """
        path = path.strip("/")
        if path:
            parent = path.rpartition("/")[0]
            beside = {item.path: item for item in self._list(parent)}
            if path not in beside:
                there = ", ".join(name.rpartition("/")[2] for name in sorted(beside)) or "nothing"
                where = f"in {parent}/ " if parent else ""
                raise GluonexpError(f"{self.title} has no {path}; {where}there is {there}")
            if not beside[path].is_dir:
                return [_checked(beside[path], self.title)]
        return sorted(self._below(path), key=lambda file: file.path)

    def has(self, path: str) -> bool:
        """Tell whether there is a file or folder `path`."""
        return path in {item.path for item in self._list(path.rpartition("/")[0])}

    def copy(self, path: str, target: Path) -> None:
        """Copy the file `path` to `target`; what failed may leave a part of it there."""
        doing = f"{path} of {self.title} cannot be read"
        with reported(doing), parts.connected(doing), silent():
            # What each kind of store implements, in this thread: Ctrl-C ends it at once, while
            # the public function above it waits for threads of its own.
            self._store._download_file(path, str(target))

    def append(self, path: str, part: Path) -> bool:
        """Add to `part`, the beginning of the file `path`, the rest; False if that is not sent.

        Whether both belong together is for the caller to check.
        """
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        if not self.goes_on:
            return False
        doing, begun = f"{path} of {self.title} cannot be read", part.stat().st_size
        # As the store's bytes are: a range of what a proxy compresses would be another one.
        headers = {"Range": f"bytes={begun}-", "Accept-Encoding": "identity"}
        with reported(doing), parts.connected(doing):
            server = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
            response = http_request(  # type: ignore[no-untyped-call]
                server, f"/{path}", "GET", stream=True, extra_headers=headers
            )
            with closing(response):
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    return True  # there is no more
                response.raise_for_status()
                if not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
                    return False  # the whole file, from a server that does not know of ranges
                with part.open("ab") as file:
                    for block in response.iter_content(_BLOCK >> 4):
                        file.write(block)
        return True

    def local(self, path: str) -> Path | None:
        """Return where the file `path` itself lies, if that is a folder on this machine."""
        folder = getattr(self._store, "artifact_dir", None)
        return Path(folder, path) if folder is not None else None

    def _list(self, path: str) -> list[FileInfo]:
        with reported(self._doing), parts.connected(self._doing):
            return list(self._store.list_artifacts(path or None))

    def _below(self, path: str) -> Iterator[File]:
        for item in self._list(path):
            if item.is_dir:
                yield from self._below(item.path)
            else:
                yield _checked(item, self.title)


def of(client: MlflowClient, ref: str) -> Artifacts:
    """Return the artifacts of what `ref` means.

    Parameters
    ----------
    ref
        A run (its id, the first 6 or more characters of it, ``last``, ``runs:/ID``) or a model
        (``models:/NAME/3``, ``models:/NAME@champion``, ``models:/m-ID``).
    """
    uri: str = client.tracking_uri
    if ref.startswith("models:/"):
        model = find_model(client, ref)
        return Artifacts(model.location, uri, model.address, model.run_id)
    run = find_run(client, ref.removeprefix("runs:/"))
    return Artifacts(run.info.artifact_uri, uri, f"run {run.info.run_id}", run.info.run_id)


def best_of_sweep(client: MlflowClient, ref: str) -> str:
    """Return the id of the best run if `ref` means a sweep, else `ref`."""
    if not re.fullmatch("(runs:/)?[0-9a-f]{6,32}", ref):
        return ref
    run = find_run(client, ref.removeprefix("runs:/"))
    if run.data.tags.get(KIND) != "sweep":
        return ref
    if BEST not in run.data.tags:
        raise GluonexpError(
            f"sweep {run.info.run_id} has no best run yet; name one of its runs: "
            f"`gluonexp runs --sweep {run.info.run_id[:8]}`"
        )
    return run.data.tags[BEST]


def download(source: Artifacts, files: Sequence[File], dest: Path) -> Copied:
    """Copy `files` of `source` under `dest`, by their paths; a bar on a terminal.

    A file that is there already with the right content is kept. Every copy is checked: its size
    with the store's, its digest with that in the certificate beside it and, in a store on this
    machine, with that of the file itself; where there is nothing of these, it is read twice.

    Raises
    ------
    GluonexpError
        The store or `dest` fails, or what arrives is not what the store or the certificate says.
        What was complete before that stays, and is not copied again.
    KeyboardInterrupt
        After a line on standard error that says what has arrived.
    """
    copied: list[str] = []
    kept: list[str] = []
    try:
        dest.mkdir(parents=True, exist_ok=True)
        journal = dest / JOURNAL
        with (
            parts.alone(dest),
            transient_bar(
                "{task.description}",
                *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
            ) as bar,
        ):
            before, expected, arrived = _noted(journal, source), _certified(source, files), 0
            task = bar.add_task("", total=sum(file.size or 0 for file in files))
            for file in files:
                bar.update(task, description=PurePosixPath(file.path).name)
                target, itself = dest / file.path, source.local(file.path)
                digest = expected.get(file.path) or (sha256(itself) if itself else None)
                if _is_there(target, file, digest or before.get(file)):
                    kept.append(file.path)
                else:
                    parts.make_room(target)
                    part = parts.beside(target, source.uri, file.path, file.size, digest)
                    with _watched(bar, task, part, arrived):
                        found = _arrive(source, file, part, digest)
                    replace(part, target)
                    _note(journal, source, file, found)
                    copied.append(file.path)
                arrived += target.stat().st_size
                bar.update(task, completed=arrived)
            parts.remove({(dest / file.path).parent for file in files})
    except OSError as error:
        raise GluonexpError(f"cannot download to {dest}: {error}") from error
    except KeyboardInterrupt as stop:
        say(str(stop) or f"{dest}: cut off; the same command goes on")
        raise
    return Copied(tuple(copied), tuple(kept), arrived)


def _arrive(source: Artifacts, file: File, part: Path, digest: str | None) -> str:
    """Copy `file` to `part`, check it, and return its digest."""
    what, told = f"{file.path} of {source.title}", digest is not None
    # Only what a digest proves afterwards is gone on with: the file may have changed since.
    with parts.growing(part, file.size, what, stays=source.goes_on and told):
        begun = told and part.is_file() and source.append(file.path, part)
        if not begun or sha256(part) != digest:
            source.copy(file.path, part)
        found = once = sha256(part)
        if file.size is None and not told:
            source.copy(file.path, part)
            once = sha256(part)
    size, wrong = part.stat().st_size, ""
    if file.size is not None and size != file.size:
        wrong = f": {size:,} bytes instead of {file.size:,}; try again"
    elif digest is not None and found != digest:
        wrong = f", or has changed since: its sha256 is {found[:12]}..., not {digest[:12]}..."
    elif found != once:
        wrong = ": read twice, it was not the same; try again"
    if wrong:
        part.unlink()
        raise GluonexpError(f"{what} did not arrive as it was stored{wrong}")
    return found


def _is_there(target: Path, file: File, digest: str | None) -> bool:
    if digest is None or not target.is_file():
        return False
    return file.size in (None, target.stat().st_size) and sha256(target) == digest


def _certified(source: Artifacts, files: Sequence[File]) -> dict[str, str]:
    """Return the digests by path that the certificates beside `files` have."""
    paths = {file.path for file in files}
    digests: dict[str, str] = {}
    for folder in {PurePosixPath(path).parent for path in paths}:
        path = str(folder / CERTIFICATE)
        if path in paths or (len(paths) == 1 and source.has(path)):
            with tempfile.TemporaryDirectory(prefix="gluonexp-") as temporary:
                copy = Path(temporary, CERTIFICATE)
                source.copy(path, copy)
                for name, digest in _digests(copy).items():
                    digests[str(folder / name)] = digest
    return digests


def _digests(certificate: Path) -> dict[str, str]:
    """Return the digest of each file that a certificate names; it may be of any version."""
    try:
        entries = json.loads(certificate.read_text(encoding="utf-8"))["files"]
        return {
            name: entry for name, entry in entries.items() if re.fullmatch("[0-9a-f]{64}", entry)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _noted(journal: Path, source: Artifacts) -> dict[File, str]:
    """Return the digests of what earlier downloads from `source` left here."""
    found: dict[File, str] = {}
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # a line that was cut off
            entry = json.loads(line)
            if entry["source"] == source.title:
                found[File(entry["path"], entry["size"])] = entry["sha256"]
    return found


def _note(journal: Path, source: Artifacts, file: File, digest: str) -> None:
    entry = {
        "source": source.title,
        "path": file.path,
        "size": file.size,
        "sha256": digest,
    }
    with journal.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


def _checked(item: FileInfo, title: str) -> File:
    """Refuse a path that leads elsewhere."""
    path = PurePosixPath(item.path)
    if path.is_absolute() or ".." in path.parts or "\\" in item.path or "\0" in item.path:
        raise GluonexpError(f"{title}: {item.path!r} is no path that is safe to copy to")
    return File(item.path, item.file_size)


@contextmanager
def _watched(bar: Progress, task: TaskID, part: Path, before: int) -> Iterator[None]:
    """Let the bar follow the size of `part` while it grows, `before` bytes being there already."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_REFRESH_S):
            with suppress(OSError):
                bar.update(task, completed=before + part.stat().st_size)

    thread = threading.Thread(target=follow, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if not bar.disable:
            thread.join()
