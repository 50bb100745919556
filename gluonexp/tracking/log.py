"""A run's own log: all that it records, a line a record, before any of it is sent anywhere.

A line is ``{"crc32":"0a1b2c3d","record":{...}}``, with the CRC of the record's bytes as they stand
there. Every record has `n`, which is the number of its line, `at` (milliseconds after 1970) and
`kind`: ``open``, ``params``, ``tags``, ``metrics``, ``dataset``, ``artifacts``, ``model``,
``register``, ``status``. What of it a store has is noted in a file beside the log.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import obstacle, sync_names
from gluonexp.tracking.uri import displayed

NAME: Final = "run.jsonl"  # in the job's folder
MODEL: Final = "model"  # beside it, a folder: the run's model

Record = dict[str, Any]

_START: Final = b'{"crc32":"'
_LINE: Final = re.compile(rb'\{"crc32":"([0-9a-f]{8})","record":(\{.*\})\}\n', re.DOTALL)


class Log:
    """A log that is being written, by this process alone; threads may share it.

    Opened again it is continued: a last line that was cut off, as by a power cut, is removed.

    Parameters
    ----------
    file
        Made if there is none; its folder exists.

    Raises
    ------
    GluonexpError
        Another process writes it, it is damaged, or it cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._turn = threading.Lock()
        self._n = self._size = 0
        try:
            new = not file.exists()
            self._descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _take(self._descriptor, file)
                self._settle()
                if new:
                    sync_names(file.parent)
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise _unwritable(file, error) from error

    @property
    def n(self) -> int:
        """The number of the last record; 0 without any."""
        return self._n

    def append(self, kind: str, **fields: object) -> int:
        """Hand a record over to the system, and return its number.

        Raises
        ------
        GluonexpError
            There is no room for it; the log is as it was.
        """
        with self._turn:
            try:
                self._settle()  # a signal may have struck between the lines below
                at = int(time.time() * 1000)
                line = _line({"n": self._n + 1, "at": at, "kind": kind, **fields})
                _write(self._descriptor, line)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                raise _unwritable(self.file, error) from error
            self._n, self._size = self._n + 1, self._size + len(line)
            return self._n

    def sync(self) -> None:
        """Wait until all that was appended is on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(self.file, error) from error

    def close(self) -> None:
        """Leave the log to others; nothing can be appended any more."""
        with self._turn:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _settle(self) -> None:
        """Count what is in the file, and cut off what is no whole record."""
        if os.fstat(self._descriptor).st_size == self._size:
            return
        for record, end in read(self.file, self._size, self._n):
            self._n, self._size = record["n"], end
        beginning = os.pread(self._descriptor, len(_START), 0)
        if not self._n and beginning.strip(b"\0") != _START[: len(beginning)]:
            raise GluonexpError(f"{self.file} is no log of a run: move it away")
        os.ftruncate(self._descriptor, self._size)


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a log, which may still be written; a line that is cut off is none.

    Raises
    ------
    GluonexpError
        The file cannot be read, or a line is damaged that others follow.
    """
    return (record for record, _ in read(file))


def read(file: Path, offset: int = 0, n: int = 0) -> Iterator[tuple[Record, int]]:
    """Yield each record after the `n`-th, which ends at byte `offset`, and where it ends itself.

    Raises
    ------
    GluonexpError
        As `records` does.
    """
    try:
        with file.open("rb") as lines:
            lines.seek(offset)
            damaged = False
            for line in lines:
                if damaged:
                    raise GluonexpError(
                        f"{file}, line {n + 1}: damaged; put a copy in its place, or remove "
                        "this line and all that follow: what they recorded is lost then"
                    )
                record = _parsed(line, n + 1)
                if record is None:
                    damaged = True
                    continue
                n, offset = n + 1, offset + len(line)
                yield record, offset
    except OSError as error:
        raise GluonexpError(
            f"{file} cannot be read: {obstacle(file, error)}; a run writes it in its job's folder"
        ) from error


def in_use(file: Path) -> bool:
    """Say whether a process writes the log `file`."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def note_sent(file: Path, uri: str, run_id: str, n: int) -> None:
    """Note that the store at `uri` has the records of a log up to the `n`-th, as run `run_id`."""
    entry = {"uri": displayed(uri), "run_id": run_id, "n": n}
    with _notes(file).open("a", encoding="utf-8") as notes:
        notes.write(f"\n{json.dumps(entry)}\n")  # the line before may have been cut off


def sent(file: Path, uri: str) -> tuple[str, int] | None:
    """Return as which run, and up to which record, the store at `uri` has a log.

    None where nothing is known of it: then nothing was sent, or it was and could not be noted.
    """
    return stores(file).get(displayed(uri))


def sent_as(file: Path, uri: str, run_id: str) -> int:
    """Return the number of the last record that the store at `uri` has of a log as that run."""
    noted = sent(file, uri)
    return noted[1] if noted is not None and noted[0] == run_id else 0


def waits(file: Path) -> bool:
    """Say whether a log has records that no store has."""
    last = max((record["n"] for record in records(file)), default=0)
    return last > max((n for _, n in stores(file).values()), default=0)


def _notes(file: Path) -> Path:
    return file.with_suffix(".sent")


def stores(file: Path) -> dict[str, tuple[str, int]]:
    """Return what was noted last of each store, by its address; a damaged line is no note."""
    known: dict[str, tuple[str, int]] = {}
    with suppress(OSError):
        for line in _notes(file).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
                entry = json.loads(line)
                known[str(entry["uri"])] = str(entry["run_id"]), int(entry["n"])
    return known


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    body = text.encode("utf-8", "backslashreplace")  # JSON writes these so, too
    return b'{"crc32":"%08x","record":%s}\n' % (zlib.crc32(body), body)


def _parsed(line: bytes, n: int) -> Record | None:
    """Return the record of a line, if that is whole and the `n`-th."""
    found = _LINE.fullmatch(line)
    if found is None or int(found[1], 16) != zlib.crc32(found[2]):
        return None
    try:
        record: Record = json.loads(found[2])
    except (ValueError, RecursionError):
        return None
    named = isinstance(record.get("kind"), str) and type(record.get("at")) is int
    return record if named and type(record.get("n")) is int and record["n"] == n else None


def _take(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GluonexpError(
            f"{file}: another process writes it; give the job a folder of its own"
        ) from None


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _unwritable(file: Path, error: OSError) -> GluonexpError:
    return GluonexpError(
        f"{file} cannot be written: {obstacle(file, error)}; what a run records goes there first, "
        "so make room, or give the job another folder"
    )
