"""The files that a store keeps of a run or a model: listed, fetched, checked.

What is copied appears under its name only once it is whole and right. What is there already is
kept if it is the same: a copy that was cut off resumes with the files that are missing and, where
MLflow's server sends them, within the one that was under way.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gluonexp.base import transfer
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import held, lock, settle, sha256, temporary
from gluonexp.base.text import say
from gluonexp.model_folder.names import CERTIFICATE
from gluonexp.tracking import internals
from gluonexp.tracking.places import here
from gluonexp.tracking.store import reported, silent
from gluonexp.tracking.uri import local_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo

    from gluonexp.tracking.logs import Logged

# Beside what was copied: one line a file, with the digest of what has arrived.
RECEIPTS = ".gluonexp-download.jsonl"


@dataclass(frozen=True)
class StoredFile:
    """A file in a store: its path there, and its size in bytes where the store says one."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Copied:
    """The result of a download: paths that were copied, and those that were there already."""

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
        Where they lie: their address in the store or, if that was moved, beside its database.
    resumes
        Whether the store may send the rest of a file, as MLflow's server does.
    """

    def __init__(self, uri: str, tracking_uri: str | None, title: str, run_id: str | None) -> None:
        self.title, self.run_id = title, run_id
        self._doing = f"the artifacts of {title} cannot be read"
        with reported(self._doing):
            self._store = internals.artifact_store(here(uri, tracking_uri), tracking_uri)
        self.uri = str(self._store.artifact_uri)  # with the host of a server
        self.resumes = internals.sends_rest(self._store)

    def files(self, path: str = "") -> list[StoredFile]:
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

    def fetch(self, path: str, dest: Path) -> Path:
        """Return where the file or folder `path` lies on this machine.

        It is copied under `dest`, a folder that no other process uses, unless it lies here.
        """
        files = self.files(path)
        if (here := self.local(path)) is not None:
            return here
        _copy(self, files, dest, None)
        return dest / path

    def text(self, path: str) -> str:
        """Return the content of the small text file `path`."""
        with temporary() as place:
            copy = place / "copy"
            self.send(path, copy)
            return copy.read_text(encoding="utf-8")

    def send(self, path: str, part: Path) -> None:
        """Add to `part` what is missing of the file `path`, or write all of it anew."""
        doing = f"{path} of {self.title} cannot be read"
        with reported(doing), transfer.connected(doing), silent():
            if (here := self.local(path)) is not None:
                shutil.copyfile(here, part)
            elif self.resumes and transfer.arrived(part):
                transfer.receive(lambda headers: internals.get(self.uri, path, headers), part)
            else:
                internals.download_file(self._store, path, part)

    def local(self, path: str) -> Path | None:
        """Return where the file `path` itself lies, if that is a folder on this machine."""
        folder = local_path(self.uri)
        return None if folder is None else folder / path

    def _list(self, path: str) -> list[FileInfo]:
        with reported(self._doing), transfer.connected(self._doing):
            return list(self._store.list_artifacts(path or None))

    def _below(self, path: str) -> Iterator[StoredFile]:
        for item in self._list(path):
            if item.is_dir:
                yield from self._below(item.path)
            else:
                yield _checked(item, self.title)


def of_run(client: MlflowClient, run_id: str) -> Artifacts:
    """Return the artifacts of a run, by its whole id."""
    with reported(f"run {run_id} cannot be read"):
        uri = client.get_run(run_id).info.artifact_uri
    return Artifacts(uri, client.tracking_uri, f"run {run_id}", run_id)


def of_log(log: Logged) -> Artifacts:
    """Return the files of a run that no store has, which lie in the folder of its job."""
    return Artifacts(str(log.files()), None, f"run {log.run_id}", log.run_id)


def download(source: Artifacts, files: Sequence[StoredFile], dest: Path) -> Copied:
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
    try:
        with held(lock(str(dest.resolve())), f"downloads to {dest}"):  # they share parts
            return _copy(source, files, dest, dest / RECEIPTS)
    except KeyboardInterrupt as stop:
        say(str(stop) or f"{dest}: cut off; the same command resumes it")
        raise


def _copy(
    source: Artifacts, files: Sequence[StoredFile], dest: Path, receipts: Path | None
) -> Copied:
    """Copy `files` under `dest`, with a line for each in the file `receipts`."""
    from gluonexp.base.progress import bar_of_bytes

    copied: list[str] = []
    kept: list[str] = []
    try:
        dest.mkdir(parents=True, exist_ok=True)
        before, expected, arrived = _received(receipts, source), _certified(source, files), 0
        with bar_of_bytes() as bar:
            task = bar.add_task("", total=sum(file.size or 0 for file in files))
            for file in files:
                bar.update(task, description=PurePosixPath(file.path).name)
                target, itself = dest / file.path, source.local(file.path)
                digest = expected.get(file.path) or (sha256(itself) if itself else None)
                if _is_there(target, file, digest or before.get(file)):
                    kept.append(file.path)
                else:
                    _make_room(target)
                    part = transfer.part_of(target, source.uri, file.path, file.size, digest)
                    with transfer.watched(bar, task, part, arrived):
                        found = _arrive(source, file, part, digest)
                    settle(part, target)
                    transfer.remove_parts(target)
                    if receipts is not None:
                        _note(receipts, source, file, found)
                    copied.append(file.path)
                arrived += target.stat().st_size
                bar.update(task, completed=arrived)
    except OSError as error:
        raise GluonexpError(f"cannot download to {dest}: {error}") from error
    return Copied(tuple(copied), tuple(kept), arrived)


def _arrive(source: Artifacts, file: StoredFile, part: Path, digest: str | None) -> str:
    """Copy `file` to `part`, check it, and return its digest."""
    what = f"{file.path} of {source.title}"

    def check(part: Path) -> str:
        size, found, wrong = part.stat().st_size, sha256(part), ""
        if file.size is not None and size != file.size:
            wrong = f": {size:,} bytes instead of {file.size:,}; try again"
        elif digest is not None and found != digest:
            wrong = f", or has changed since: its sha256 is {found[:12]}..., not {digest[:12]}..."
        elif file.size is None and digest is None:
            part.unlink()
            source.send(file.path, part)
            if sha256(part) != found:
                wrong = ": read twice, it was not the same; try again"
        if wrong:
            raise GluonexpError(f"{what} did not arrive as it was stored{wrong}")
        return found

    # Only what a digest proves afterwards is resumed: the file may have changed since.
    resumes = source.resumes and digest is not None
    with _growing(part, file.size, what, stays=resumes):
        return transfer.complete(
            part, lambda part: source.send(file.path, part), check, reconnect=False
        )


@contextmanager
def _growing(part: Path, size: int | None, what: str, *, stays: bool) -> Iterator[None]:
    """Say, if `part` is cut off, where; remove it then unless it `stays` to be resumed.

    Raises
    ------
    GluonexpError, KeyboardInterrupt
        Instead of a `CutOffError` and of Ctrl-C, with how much of `what` has arrived.
    """
    if not stays:
        part.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        arrived = transfer.arrived(part)
        told = f"{what}: cut off at {transfer.of_size(arrived, size)}"
        again = "the same command resumes it"
        if not stays:
            part.unlink(missing_ok=True)
            again += ", this file from its start" if arrived else ""
        if isinstance(error, transfer.CutOffError):
            raise GluonexpError(f"{told} ({error.reason}); {again}") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{told}; {again}") from None
        raise


def _make_room(target: Path) -> None:
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


def _is_there(target: Path, file: StoredFile, digest: str | None) -> bool:
    if digest is None or not target.is_file():
        return False
    return file.size in (None, target.stat().st_size) and sha256(target) == digest


def _certified(source: Artifacts, files: Sequence[StoredFile]) -> dict[str, str]:
    """Return the digests by path that the certificates beside `files` have."""
    paths = {file.path for file in files}
    digests: dict[str, str] = {}
    for folder in {PurePosixPath(path).parent for path in paths}:
        path = str(folder / CERTIFICATE)
        if path in paths or (len(paths) == 1 and source.has(path)):
            for name, digest in _digests(source.text(path)).items():
                digests[str(folder / name)] = digest
    return digests


def _digests(certificate: str) -> dict[str, str]:
    """Return the digest of each file that a certificate names; it may be of any version."""
    try:
        entries = json.loads(certificate)["files"]
        return {
            name: entry for name, entry in entries.items() if re.fullmatch("[0-9a-f]{64}", entry)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _received(receipts: Path | None, source: Artifacts) -> dict[StoredFile, str]:
    """Return the digests of what earlier downloads from `source` left here."""
    found: dict[StoredFile, str] = {}
    if receipts is None or not receipts.is_file():
        return found
    for line in receipts.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that was cut off
            entry = json.loads(line)
            if entry["source"] == source.title:
                found[StoredFile(entry["path"], entry["size"])] = entry["sha256"]
    return found


def _note(receipts: Path, source: Artifacts, file: StoredFile, digest: str) -> None:
    entry = {"source": source.title, **asdict(file), "sha256": digest}
    with receipts.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


def _checked(item: FileInfo, title: str) -> StoredFile:
    """Refuse a path that leads elsewhere."""
    path = PurePosixPath(item.path)
    if path.is_absolute() or ".." in path.parts or "\\" in item.path or "\0" in item.path:
        raise GluonexpError(f"{title}: {item.path!r} is no path that is safe to copy to")
    return StoredFile(item.path, item.file_size)
