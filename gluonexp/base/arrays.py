"""Arrays that can be had again: files that are mapped into memory, and never copied there.

An entry is made by one process at a time and appears whole or not at all. All of it is verified
whenever it is opened; a damaged one is made again. It is in use as long as a process has it
mapped. Where there is no room, those go that were used least recently, and none that is in use.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base import array_entry
from gluonexp.base.array_entry import NAME, Damaged, Entry, Kept
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import DRAFT, held, lock, obstacle, rename, user_cache
from gluonexp.base.text import in_bytes, say

__all__ = ["MARGIN", "ArrayCache", "Entry", "Kept", "NoCache", "NoRoom", "default_folder"]

MARGIN: Final = 2**30  # bytes of the disk that are left free

_HEADER: Final = 128  # bytes of a file before the array's
_FULL: Final = {ENOSPC, EDQUOT, EFBIG}

_ELSEWHERE: Final = "free some, or name a folder of another disk with features.folder"

Fill = Callable[[NDArray[Any]], "Mapping[str, Any] | None"]


class NoCache(GluonexpError):
    """Arrays cannot be kept; the message names folder, reason and remedy."""


class NoRoom(NoCache):
    """An array is too large for the budget or for the disk."""


def default_folder() -> Path:
    """Return the folder of this user's arrays, without creating it."""
    return user_cache() / "arrays"


class ArrayCache:
    """A folder of arrays, each of which is computed once.

    Parameters
    ----------
    folder
        Of the cache alone; it is made when there is something to keep.
    budget
        Bytes that all entries together may take.
    """

    def __init__(self, folder: Path, budget: float) -> None:
        self.folder = folder
        self.budget = budget

    @classmethod
    def configured(cls, folder: str | None, budget_gb: float) -> ArrayCache:
        """Return that of ``features.folder`` (by default the user's) and ``budget_gb``."""
        where = Path(folder).expanduser() if folder else default_folder()
        return cls(where, budget_gb * 1e9)

    def get(
        self,
        kind: str,
        key: Mapping[str, Any],
        shape: Sequence[int],
        dtype: str,
        fill: Fill,
        doing: str,
    ) -> Entry:
        """Return an entry, which is made first if there is none, or a damaged one.

        Parameters
        ----------
        kind
            What sort of array it is: a word of small letters.
        key
            All that decides the array's values, as JSON.
        shape, dtype
            Of the array.
        fill
            Writes every value of the array that it is given, a map of a file, and keeps no
            reference to it. It may return notes, as JSON; ``title`` says to people what the array
            is of.
        doing
            What a process does that makes this entry, for another one that waits for it.

        Raises
        ------
        NoRoom
            The budget or the disk does not suffice: nothing was written, or is left of it.
        NoCache
            The folder cannot be used.
        """
        shape = [int(length) for length in shape]
        size = math.prod(shape) * np.dtype(dtype).itemsize + _HEADER
        identity = {"kind": kind, "key": key, "shape": shape, "dtype": np.dtype(dtype).str}
        target = self.folder / array_entry.name_of(identity)
        with ExitStack() as stack:
            with self._said(size):
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(Damaged):
                    if entry := array_entry.opened(target):
                        return entry
                stack.enter_context(held(lock(target), doing))
                try:
                    if entry := array_entry.opened(target):  # made in the meantime
                        return entry
                except Damaged as damage:
                    say(f"{target} is damaged ({damage}): it is made again")
                    array_entry.remove(target)
                draft, file, array = self._begin(stack, target, shape, dtype, size)
            try:
                notes = json.loads(json.dumps(dict(fill(array) or {})))
            except OSError as error:
                if error.errno in _FULL:
                    raise self._no_room(size, f"{error.strerror}; {_ELSEWHERE}") from error
                raise
            with self._said(size):
                meta = {**identity, "made": time.time(), "notes": notes}
                array_entry.seal(draft, file, array, meta)
                rename(draft, target)
                return Entry(array_entry.mapped(file, shape, np.dtype(dtype)), True, notes, target)

    def entries(self) -> list[Kept]:
        """Return what is kept, the least recently used first; none where there is no folder."""
        try:
            names = [name for name in os.listdir(self.folder) if NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NoCache(f"{self.folder}: {obstacle(self.folder, error)}") from error
        found = [kept for name in names if (kept := array_entry.look(self.folder / name))]
        return sorted(found, key=lambda kept: kept.used)

    def verify(self, folder: Path) -> str | None:
        """Read a whole entry; say how it is damaged, if it is."""
        try:
            array_entry.opened(folder, touch=False)
        except Damaged as damage:
            return str(damage)
        except OSError as error:
            return obstacle(folder, error)
        return None

    def remove(self, folder: Path) -> bool:
        """Remove an entry, unless it is in use; say whether it was removed."""
        with _claimed(folder) as idle:
            if idle:
                array_entry.remove(folder)
        return idle

    def remove_drafts(self) -> None:
        """Remove what killed processes left; nothing of one that lives."""
        if any(self.folder.glob(f"{DRAFT}*")):
            with self._said(0), self._alone():
                self._remove_drafts()

    def _alone(self) -> AbstractContextManager[None]:
        """Let no other process begin a draft."""
        return held(lock(self.folder / "room"), "makes room in the cache")

    def _remove_drafts(self) -> None:
        for draft in self.folder.glob(f"{DRAFT}*"):
            ours = NAME.match(draft.name.removeprefix(DRAFT))
            with ExitStack() as stack:
                if ours and array_entry.idle(draft, stack):
                    array_entry.delete(draft)

    def _begin(
        self, stack: ExitStack, target: Path, shape: Sequence[int], dtype: str, size: int
    ) -> tuple[Path, IO[bytes], np.memmap[Any, Any]]:
        """Begin a draft, for which there is room now; it goes with `stack`, unless renamed."""
        with self._alone():
            self._make_room(size)
            draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT}{target.name}-", dir=self.folder))
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
            file, array = array_entry.begin(draft, shape, np.dtype(dtype))
            stack.enter_context(file)
        return draft, file, array

    def _make_room(self, size: int) -> None:
        """Remove what killed processes left, and as many entries as `size` more bytes need."""
        self._remove_drafts()
        drafts = [array_entry.size_of(draft) for draft in self.folder.glob(f"{DRAFT}*")]
        kept = self.entries()
        left = self.budget - sum(drafts) - sum(entry.size for entry in kept)
        free = shutil.disk_usage(self.folder).free - MARGIN
        with ExitStack() as stack:
            doomed = []
            for entry in kept:
                if size <= min(left, free) or size > self.budget:
                    break
                if stack.enter_context(_claimed(entry.folder)):
                    doomed.append(entry.folder)
                    left, free = left + entry.size, free + entry.size
            if size > left:
                in_use = "" if size > self.budget else ", most of which is in use"
                allowed = f"features.budget_gb allows {in_bytes(self.budget)}{in_use}"
                raise self._no_room(size, f"{allowed}; set it higher")
            if size > free:
                stays = f"its disk is to keep {in_bytes(MARGIN)} free"
                raise self._no_room(size, f"{stays}; {_ELSEWHERE}")
            for folder in doomed:
                array_entry.remove(folder)

    @contextmanager
    def _said(self, size: int) -> Iterator[None]:
        """Make a sentence of what the system says."""
        try:
            yield
        except (OSError, NotImplementedError) as error:  # the latter: there are no locks
            if isinstance(error, OSError) and error.errno in _FULL:
                raise self._no_room(size, f"{error.strerror}; {_ELSEWHERE}") from error
            why = obstacle(self.folder, error) if isinstance(error, OSError) else str(error)
            raise NoCache(
                f"{self.folder} cannot keep arrays: {why}; name another folder with "
                "features.folder, or set features.cache=off"
            ) from error

    def _no_room(self, size: int, why: str) -> NoRoom:
        return NoRoom(f"{self.folder} has no room for {in_bytes(size)} more: {why}")


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Say whether an entry is idle; if so, nobody opens or makes it while the block runs."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(folder, timeout=0))
        except TimeoutError:
            yield False
        else:
            yield array_entry.idle(folder, stack)
