"""One array that is kept: its files, read safely and written for good.

An entry is a folder ``<kind>-<digest of what it is of>/`` with ``array.npy``, and ``meta.json``,
which says what it is of and has the SHA-256 of each block of the array's file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from errno import EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.files import DRAFT, sync

npy: Any = np.lib.format  # it has no types

_FORMAT: Final = 1
ARRAY: Final = "array.npy"
_META: Final = "meta.json"
_IDENTITY: Final = ("kind", "key", "shape", "dtype")
NAME: Final = re.compile(r"[a-z]+-[0-9a-f]{32}")  # of an entry's folder
_BLOCK: Final = 16 << 20  # bytes that have a digest of their own
_READ: Final = 1 << 18  # bytes
_THREADS: Final = 8


class Damaged(Exception):
    """What lies in the place of an entry is none; the message says why."""


@dataclass(frozen=True)
class Entry:
    """An array that is kept, opened.

    Attributes
    ----------
    array
        Its file, mapped read-only. The entry is in use as long as this, or a view of it, lives.
    made
        Whether it was computed by this call.
    notes
        What was noted when it was made.
    folder
        Where it lies.
    """

    array: NDArray[Any]
    made: bool
    notes: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class Kept:
    """What is known of an entry without reading its array.

    Attributes
    ----------
    folder
        Where it lies.
    kind
        What sort of array it is.
    size
        Of the array's file, bytes.
    used
        When it was opened last, seconds since the epoch.
    in_use
        Whether a process has it open, or makes it.
    made
        When, seconds since the epoch; None for a damaged one.
    notes
        What was noted when it was made; empty for a damaged one.
    """

    folder: Path
    kind: str
    size: int
    used: float
    in_use: bool
    made: float | None
    notes: Mapping[str, Any]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def name_of(identity: Mapping[str, Any]) -> str:
    """Return the name of the folder of what is described so."""
    digest = hashlib.sha256(_canonical({"format": _FORMAT, **identity})).hexdigest()
    return f"{identity['kind']}-{digest[:32]}"


def opened(target: Path, touch: bool = True) -> Entry | None:
    """Open an entry and verify all of it; None if there is none.

    Raises
    ------
    Damaged
        It is not what was once written there.
    """
    with ExitStack() as stack:
        try:
            place = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (ENOTDIR, ELOOP):  # a file or a link
                raise Damaged("it is no folder") from None
            raise
        stack.callback(os.close, place)
        file = stack.enter_context(_file(place, ARRAY))
        fcntl.flock(file, fcntl.LOCK_SH)
        meta = _meta(place)
        if name_of({name: meta.get(name) for name in _IDENTITY}) != target.name:
            raise Damaged("it is of something else")
        if _digests(file) != meta.get("sha256"):
            raise Damaged(f"{ARRAY} is not what was written")
        try:
            array = mapped(file, meta["shape"], np.dtype(meta["dtype"]))
        except (ValueError, TypeError, KeyError):  # the last two: what is recorded is none
            raise Damaged(f"{ARRAY} is not of the recorded shape and type") from None
        if touch:
            with suppress(OSError):  # a disk that cannot be written
                os.utime(file.fileno())
        return Entry(array, False, meta.get("notes", {}), target)


def _file(place: int, name: str) -> IO[bytes]:
    """Open a plain file of a folder, which is open as `place`."""

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)

    try:
        file = open(name, "rb", opener=opener)  # noqa: SIM115 (who asked for it closes it)
    except OSError as error:
        if error.errno in (ENOENT, ELOOP, EISDIR, ENXIO):  # the last: a socket
            raise Damaged(f"{name}: {error.strerror}") from None
        raise
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise Damaged(f"{name} is no file")


def _meta(place: int) -> dict[str, Any]:
    """Read what is recorded of an entry, which is open as `place`."""
    with _file(place, _META) as file:
        try:
            meta = json.load(file)
            if meta.pop("digest") == hashlib.sha256(_canonical(meta)).hexdigest():
                return dict(meta)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            pass
    raise Damaged(f"{_META} is not what was written")


def mapped(file: IO[bytes], shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map an array's file; the map holds the file's lock, even when `file` is closed."""
    file.seek(0)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("version")
    if npy.read_array_header_1_0(file) != (tuple(shape), False, dtype):
        raise ValueError("header")
    size = file.tell() + math.prod(shape) * dtype.itemsize
    if os.fstat(file.fileno()).st_size != size:
        raise ValueError("size")
    return np.memmap(file, dtype, "r", file.tell(), tuple(shape))


def _digests(file: IO[bytes]) -> list[str]:
    """Return the SHA-256 of each block of a file."""
    descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size

    def digest(start: int) -> str:
        found = hashlib.sha256()
        for at in range(start, min(start + _BLOCK, size), _READ):
            found.update(os.pread(descriptor, _READ, at))
        return found.hexdigest()

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest, range(0, size, _BLOCK)))


def begin(
    draft: Path, shape: Sequence[int], dtype: np.dtype[Any]
) -> tuple[IO[bytes], np.memmap[Any, Any]]:
    """Make an array's file in a folder; return it, locked, and its map, to be written to."""
    array = npy.open_memmap(draft / ARRAY, "w+", dtype, tuple(shape))
    file = (draft / ARRAY).open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        _reserve(file, array.offset)
    except BaseException:
        file.close()
        raise
    return file, array


def _reserve(file: IO[bytes], start: int) -> None:
    """Take the disk's blocks of a file now: a map for which there are none kills its process."""
    descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
    if sys.platform != "darwin":
        os.posix_fallocate(descriptor, 0, size)
        return
    for at in range(start, size, _READ):
        os.pwrite(descriptor, bytes(min(_READ, size - at)), at)


def seal(
    draft: Path, file: IO[bytes], array: np.memmap[Any, Any], meta: Mapping[str, Any]
) -> None:
    """Write down what was written, and have all of it on the disk."""
    with ThreadPoolExecutor(1) as pool:
        digests = pool.submit(_digests, file)
        array.flush()
        sync(draft / ARRAY)
    described = {**meta, "sha256": digests.result()}
    digest = hashlib.sha256(_canonical(described)).hexdigest()
    with (draft / _META).open("w", encoding="utf-8") as text:
        json.dump({**described, "digest": digest}, text)
    sync(draft)


def look(folder: Path) -> Kept | None:
    """Look at an entry; None if it has gone."""
    meta: Mapping[str, Any] = {}
    try:
        status = os.lstat(folder)
        with ExitStack() as stack, suppress(Damaged, OSError):
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, place)
            status = os.stat(ARRAY, dir_fd=place, follow_symlinks=False)
            meta = _meta(place)
    except FileNotFoundError:
        return None
    with ExitStack() as stack:
        return Kept(
            folder,
            folder.name.partition("-")[0],
            status.st_size,
            status.st_mtime,
            not idle(folder, stack),
            meta.get("made"),
            meta.get("notes", {}),
        )


def idle(folder: Path, stack: ExitStack) -> bool:
    """Say whether nobody has the array in a folder open; if so, nobody opens it before `stack`."""
    try:
        array = os.open(folder / ARRAY, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return not isinstance(error, PermissionError)
    stack.callback(os.close, array)
    try:
        fcntl.flock(array, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Return the size of the array's file in a folder, bytes."""
    try:
        return os.lstat(folder / ARRAY).st_size
    except OSError:
        return 0


def remove(folder: Path) -> None:
    """Remove an entry, or what lies in its place: at once, whatever happens meanwhile."""
    doomed = folder.with_name(f"{DRAFT}{folder.name}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        folder.rename(doomed)
        delete(doomed)


def delete(path: Path) -> None:
    """Delete a folder, a file or a link, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
