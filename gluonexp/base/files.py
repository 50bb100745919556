"""Files: the user's cache of them, their digest, written in one step and for good, locked."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from errno import EINVAL, ENOTSUP
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gluonexp.base.text import say

if TYPE_CHECKING:
    from filelock import FileLock

_BLOCK = 1 << 20  # bytes
_AT_ONCE = 8  # files that are synced side by side: the disk writes its journal once for several
_POINTER = b"version https://git-lfs.github.com/spec/"  # so begins what stands for a file in git
DRAFT = ".new-"  # so begins the name of a folder that holds a draft
_DRAFT = f"{DRAFT}gluonexp-"  # of those that anybody may remove whose process is gone


def user_cache() -> Path:
    """Return the folder of what can be had again, of this user, without creating it."""
    import platformdirs

    return platformdirs.user_cache_path("gluonexp", appauthor=False)


def obstacle(path: Path, error: OSError) -> str:
    """Say why `path` cannot be made or written: what is in the way, else the system's reason."""
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    in_the_way = there != path or isinstance(error, FileExistsError | NotADirectoryError)
    if in_the_way and not there.is_dir():
        return f"{'it' if there == path else there} is no folder"
    return error.strerror or str(error)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return digest(file, "sha256")


def digest(file: IO[bytes], algorithm: str) -> str:
    """Return the digest of what remains in an open file, hexadecimal."""
    found = hashlib.new(algorithm)
    while block := file.read(_BLOCK):
        found.update(block)
    return found.hexdigest()


def pointer(path: Path) -> str | None:
    """Say so if a file is only what git keeps in the place of a large one."""
    try:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) != _POINTER:
                return None
    except OSError:  # whoever reads it says so
        return None
    return f"{path} is a git-LFS pointer, not the file that it stands for: type git lfs pull there"


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """Yield where to write what becomes `target`, a file or a folder, if the block succeeds.

    The draft has the same name, in a temporary folder beside `target`; there is no other file in
    it. Until the end `target` is as it was, also after a power cut. A folder replaces an empty
    folder only.
    """
    with temporary(target.parent) as folder:
        yield (written := folder / target.name)
        settle(written, target)


@contextmanager
def temporary(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `parent`, by default the system's temporary one, until the block ends.

    What processes left there that were killed in such a block is removed first.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(parent)
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if _taken(folder, fcntl.LOCK_SH, stack) is not False:
                break  # else another process saw it in the moment when it was not locked yet
        yield folder


def sweep(parent: Path) -> None:
    """Remove from a folder what processes left that were killed within `temporary`.

    The lock on such a folder goes with its process, whatever ends that; where the disk knows no
    locks, all of them stay.
    """
    for left in parent.glob(f"{_DRAFT}*"):
        with ExitStack() as stack:
            if _taken(left, fcntl.LOCK_EX, stack):
                shutil.rmtree(left, ignore_errors=True)


def _taken(folder: Path, kind: int, stack: ExitStack) -> bool | None:
    """Lock a folder until `stack` ends; False where another has it, None where nobody can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return None
    return os.fstat(descriptor).st_nlink > 0  # else it was removed meanwhile


def write_text(target: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all, for good."""
    with draft(target) as written:
        written.write_text(text, encoding="utf-8")


def settle(written: Path, target: Path) -> None:
    """Give a file or a folder that is written its name `target`, for good."""
    sync(written)
    rename(written, target)


def sync(path: Path) -> None:
    """Have a file on the disk, or a folder with all that is in it."""
    if not path.is_dir():
        _sync(path)
        return
    inside = [each for each in path.rglob("*") if not each.is_symlink()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_sync, [*inside, path]))


def rename(source: Path, target: Path) -> None:
    """Rename what is synced, and have its new name on the disk."""
    source.replace(target)
    _sync(target.parent)


def sync_names(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    _sync(folder)


def _sync(path: Path) -> None:
    """Have a file on the disk, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # disks of other hosts know of files only
        if error.errno not in (EINVAL, ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a link to the file `source`, or a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def lock(target: Path | str, timeout: float = -1) -> FileLock:
    """Return a lock, to be entered by ``with``, that one process of this machine has at a time.

    Parameters
    ----------
    target
        What is locked: a path, beside which the lock's own file lies, or any other text.
    timeout
        How long to wait, seconds; after that it raises `filelock.Timeout`, an `OSError`.
    """
    from filelock import FileLock

    if isinstance(target, str):
        key = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
        # A file for each user: they may not open those of others.
        target = Path(tempfile.gettempdir(), f"gluonexp-{os.getuid()}-{key}")
    return FileLock(target.with_name(f".{target.name}.lock"), timeout=timeout)


@contextmanager
def held(lock: FileLock, doing: str) -> Iterator[None]:
    """Hold `lock`; if another process has it, say that one which is `doing` is waited for."""
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        say(f"waiting for another process that {doing}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
