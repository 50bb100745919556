"""Ends its own process at the n-th step of what it writes, as SIGKILL or a power cut would.

Steps are what Python tells of (audit events): files opened to be written, renames, removals,
links and folders made; besides `os.write` and `os.fsync`, by which logs and the file room go, and
the commits of the store. Those of the folders that are watched count, of every thread.
"""

from __future__ import annotations

import builtins
import io
import multiprocessing.connection
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_CHANGES = {
    "os.rename": (0, 2),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.truncate": (0, None),
}  # which argument is the path, and which the folder that it counts from
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def die() -> None:
    """End this process at once; nothing of it is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


class Watch:
    """Counts steps, notes them, and dies at one.

    Parameters
    ----------
    roots
        The folders that are watched.
    at
        Die at the step of this number, counted from 1; 0: never.
    torn
        Count only what can be half done, and die when half of it is done.
    notes
        A file, for a line each step.
    """

    def __init__(self, roots: list[str], at: int, torn: bool, notes: str) -> None:
        self._roots = tuple(os.path.realpath(root) for root in roots)
        self._at, self._torn, self._count = at, torn, 0
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._turn = threading.RLock()
        self._inside = threading.local()
        self._synced: dict[tuple[int, int], int] = {}  # the size of a file then
        self._os_write, self._os_fsync, self._open = os.write, os.fsync, io.open

    def begin(self) -> None:
        """Watch from now on, for good."""
        os.write, os.fsync = self._write, self._fsync
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        sys.addaudithook(self._hear)
        from sqlalchemy import Engine, event

        event.listen(Engine, "commit", self._commit)

    def _step(self, kind: str, what: str, *, tears: bool = False) -> bool:
        """Count a step that is about to be done; say whether it is to be torn."""
        if self._torn and not tears:
            return False
        with self._turn:
            self._count += 1
            self._os_write(self._notes, f"{self._count} {kind} {what}\n".encode())
            if self._count != self._at:
                return False
            if not self._torn:
                die()
            return True

    def _watched(self, path: Any, folder: Any = None) -> str | None:
        if isinstance(path, int):
            path, folder = f"/proc/self/fd/{path}", None
            try:
                name = os.readlink(path)
            except OSError:
                return None
        else:
            name = os.fsdecode(path)
            if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
                name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
            parent = os.path.realpath(os.path.dirname(os.path.abspath(name)))
            name = os.path.join(parent, os.path.basename(name))
        return name if name.startswith(self._roots) else None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if self._torn or not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            if not (arguments[2] or 0) & _TO_WRITE:
                return
            if (name := self._watched(arguments[0])) is not None:
                self._step("open", name)
        elif event in _CHANGES and not self._torn:
            path, folder = _CHANGES[event]
            where = None if folder is None else arguments[folder]
            if (name := self._watched(arguments[path], where)) is not None:
                self._step(event.removeprefix("os."), name)

    def _commit(self, connection: Any) -> None:
        if isinstance(connection.connection.dbapi_connection, sqlite3.Connection):
            self._step("commit", "store")

    def _write(self, descriptor: int, data: Any) -> int:
        name = self._watched(descriptor)
        if name is not None and self._step("write", name, tears=True):
            self._os_write(descriptor, memoryview(data)[: len(data) // 2])
            die()
        return self._os_write(descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        """Torn: of what was added since the last time only half comes to the disk."""
        name, about = self._watched(descriptor), os.fstat(descriptor)
        key, before = (about.st_dev, about.st_ino), 0
        if stat.S_ISREG(about.st_mode):
            before = self._synced.get(key, 0)
            self._synced[key] = about.st_size
        added = self._synced.get(key, 0) - before
        if name is not None and self._step("sync", name, tears=added > 0):
            os.truncate(name, before + added // 2)
            die()
        self._os_fsync(descriptor)

    def _opened(self, file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        opened = self._open(file, mode, *more, **options)
        if self._torn and set(mode) & set("wxa+") and not isinstance(file, int):
            name = self._watched(file)
            if name is not None and self._step("open", name, tears=True):
                return _Torn(opened, name)
        return opened


class _Torn:
    """A file that takes half of what is written, and ends the process."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def write(self, data: Any) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        die()

    def writelines(self, lines: Any) -> None:
        self.write((b"" if "b" in self._file.mode else "").join(lines))

    def close(self) -> None:
        """Nobody has written through this object: `sendfile`, or nothing at all."""
        self._file.flush()
        os.truncate(self._name, Path(self._name).stat().st_size // 2)
        die()


def watch(order: dict[str, Any]) -> None:
    """Watch what the process of an order writes, if that is asked for."""
    if order.get("notes"):
        Watch(order["roots"], order.get("at", 0), order.get("torn", False), order["notes"]).begin()


def prepare_worker() -> None:
    """Make a copy of this process, which is the worker that proves the export.

    It is what a new process would be: nothing is computed yet. To start that takes two seconds.
    """
    from gluonexp.base import workers

    ours, theirs = workers.Pipe()
    pid = os.fork()
    if not pid:
        ours.close()
        try:
            workers.work(theirs.fileno())
        finally:
            sys.stdout.flush()
            os._exit(0)
    theirs.close()
    waiting: list[Any] = [ours, _Process(pid)]
    nobody = os.fdopen(os.open(os.devnull, os.O_RDONLY))

    def pipe() -> Any:
        return (waiting.pop(0), nobody) if waiting else multiprocessing.connection.Pipe()

    def popen(*arguments: Any, **options: Any) -> Any:
        return waiting.pop(0) if waiting else subprocess.Popen(*arguments, **options)

    names = {**vars(subprocess), "Popen": popen}
    workers.Pipe, workers.subprocess = pipe, SimpleNamespace(**names)  # type: ignore[assignment]


class _Process:
    """What is used of `subprocess.Popen`, of a process that runs already."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def _look(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        return self._look(0)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
