"""How the processes of a training learn that one of them has ended, and why."""

from __future__ import annotations

import json
import platform
import signal
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from gluonexp.base.errors import GluonexpError
from gluonexp.base.processes import lives, this_process
from gluonexp.tracking.lifecycle import Interrupted

_PARTING_S: Final = 30.0  # that a process which failed leaves rank 0 to say so, before it ends
_GLANCE_S: Final = 0.05


class Store(Protocol):
    """What all processes read and write, as `torch.distributed.Store`; RuntimeError once gone."""

    def set(self, key: str, value: str, /) -> None:
        """Write."""

    def get(self, key: str, /) -> Any:
        """Read, once it is written."""

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all of these are written."""


class Lost(GluonexpError):
    """Another process of the training has failed, or ended without a word."""


class Peers:
    """The processes of a training, each of which notes here how it ends.

    Construct it in all of them: it waits for the others.

    Attributes
    ----------
    ending
        Whether this process is about to end, because it or another one failed.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank = store, rank
        self._others = [other for other in range(size) if other != rank]
        me = {"host": platform.node(), "process": this_process()}
        store.set(f"who/{rank}", json.dumps(me))
        self._who = [json.loads(store.get(f"who/{other}")) for other in range(size)]
        self.ending = False

    def note(self, error: BaseException) -> None:
        """Note why this process ends."""
        self.ending = True
        with suppress(RuntimeError):
            self._store.set(f"end/{self._rank}", json.dumps(_noted(error)))

    def why(self, patience: float = 0.0) -> BaseException | None:
        """Return what to raise because another process failed, was interrupted or was lost.

        Parameters
        ----------
        patience
            How long to wait for a sign of that (seconds): connections end before processes do.
        """
        until = time.monotonic() + patience
        while (found := self._sign()) is None and time.monotonic() < until:
            time.sleep(_GLANCE_S)
        self.ending = self.ending or isinstance(found, Lost)
        return found

    def _sign(self) -> BaseException | None:
        notes = {rank: note for rank in self._others if (note := self._note(rank))}
        for rank, note in notes.items():
            if "error" in note:
                return Lost(f"rank {rank}: {note['error']}")
        for note in notes.values():
            if "lost" in note:
                return Lost(note["lost"])
        for note in notes.values():
            number = int(note["signal"])
            return KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number)
        for rank in self._others:
            if self._is_gone(rank):
                return Lost(f"rank {rank} was lost: its process has ended without a word")
        return None

    def first_was_lost(self) -> bool:
        """Tell whether rank 0 ended without a word."""
        return not self._note(0) and self._is_gone(0)

    def outlive_first(self) -> None:
        """Wait for rank 0 to say what this process failed with: with it all are ended."""
        until = time.monotonic() + _PARTING_S
        while self._is_here(0) and not self._is_gone(0) and time.monotonic() < until:
            time.sleep(_GLANCE_S)

    def _is_here(self, rank: int) -> bool:
        return bool(self._who[rank]["host"] == self._who[self._rank]["host"])

    def _is_gone(self, rank: int) -> bool:
        return self._is_here(rank) and not lives(self._who[rank]["process"])

    def _note(self, rank: int) -> dict[str, str]:
        with suppress(RuntimeError):
            if self._store.check([f"end/{rank}"]):
                note: dict[str, str] = json.loads(self._store.get(f"end/{rank}"))
                return note
        return {}


def _noted(error: BaseException) -> dict[str, str]:
    if isinstance(error, Lost):
        return {"lost": str(error)}
    if isinstance(error, GluonexpError):
        return {"error": str(error)}
    if isinstance(error, Exception):
        frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        return {"error": f"{type(error).__name__}: {error} ({where})"}
    return {"signal": str(int(getattr(error, "signum", signal.SIGINT)))}
