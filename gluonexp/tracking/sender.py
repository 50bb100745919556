"""The thread that sends a run's log to its store, while the run goes on and waits for nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.replay import Replay

_log = logging.getLogger(__name__)

_SLOW_S: Final = 10.0  # that a store may take for an answer, if it is not known to be away
_WAITS_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between two attempts at a store that is away


class Sender:
    """Replays a log in a thread of its own, again and again while it grows.

    What the store does, nobody notices but by one warning: what it does not take is kept in the
    log, and sent later. While the thread lives, nobody else uses the client of `replay`.

    Attributes
    ----------
    flush_s
        A record waits no longer than so many seconds, also if nobody calls `wake`.
    """

    flush_s = 10.0

    def __init__(self, replay: Callable[[], Replay]) -> None:
        self._replay_of = replay
        self.replay: Replay | None = None
        self.failure: GluonexpError | None = None
        self._turn = threading.Condition()
        self._due = self._ending = self._warned = False
        self._thread = threading.Thread(target=self._work, name="gluonexp-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let what the log has be sent now; during an outage it waits for the next attempt."""
        with self._turn:
            self._due = True
            self._turn.notify()

    def finish(self, patience_s: float) -> None:
        """Send what is left, and end the thread; give up where nothing moves for `patience_s`.

        A store that has not failed, or answers again, may be slow: it is waited for longer.
        """
        with self._turn:
            self._ending = True
            self._turn.notify()
        moved, since = self._moved(), time.monotonic()
        if self.failure is None:
            patience_s = max(patience_s, _SLOW_S)
        while self._thread.is_alive() and time.monotonic() - since < patience_s:
            self._thread.join(0.05)
            if (now := self._moved()) != moved:
                moved, since, patience_s = now, time.monotonic(), max(patience_s, _SLOW_S)
        if self._thread.is_alive():
            self.failure = self.failure or GluonexpError("the store does not answer")

    def _moved(self) -> int:
        return 0 if self.replay is None else self.replay.answers

    def _work(self) -> None:
        waits = iter(_WAITS_S)
        wait, last = 0.0, False
        while True:
            with self._turn:
                self._turn.wait_for(self._called, wait)
                ending, self._due = self._ending, False
            try:
                if self.replay is None:
                    self.replay = self._replay_of()
                self.replay.send()
            except Exception as error:  # whatever a store or MLflow comes up with
                self._failed(error)
                wait = next(waits, _WAITS_S[-1])
            else:
                self.failure, wait, waits = None, self.flush_s, iter(_WAITS_S)
            if ending and (last or self.failure is None):
                return
            last = ending

    def _called(self) -> bool:
        return self._ending or (self._due and self.failure is None)

    def _failed(self, error: Exception) -> None:
        ours = isinstance(error, GluonexpError)
        known = error if ours else GluonexpError(f"{type(error).__name__}: {error}")
        assert isinstance(known, GluonexpError)
        self.failure = known
        if not self._warned:
            self._warned = True
            _log.warning("%s; training continues and they are sent later", known)
