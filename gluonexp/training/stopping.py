"""Ending in time: signals and the clock ask training to end, and it does where little is lost."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from gluonexp.tracking.lifecycle import Interrupted
from gluonexp.training.loop import Callback, Fit
from gluonexp.training.team import ALONE, Team

# What ends training soon; and what asks that it be started again, as schedulers do before a limit.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REQUEUE: Final = signal.SIGUSR1

# How long training may go on to the next checkpoint once a signal has come to end it (seconds).
_PATIENCE_S: Final = 2.0


class Requeue(SystemExit):
    """Training has ended in order before its last epoch, and asks to be started again.

    The exit status is 75, which schedulers take for that (`EX_TEMPFAIL`).

    Attributes
    ----------
    reason
        One line for people.
    over_time
        Whether the clock asked, not a signal.
    """

    def __init__(self, reason: str, *, over_time: bool) -> None:
        super().__init__(os.EX_TEMPFAIL)
        self.reason, self.over_time = reason, over_time


class EndInTime(Callback):
    """Ends training after the next checkpoint, once a signal or the clock asks for that.

    Ctrl-C, SIGTERM and SIGHUP raise what they would have raised: at the next checkpoint within an
    epoch, where that has begun within two seconds, else after these; at once where there are no
    such checkpoints, or at the second signal. SIGUSR1 and the clock raise `Requeue` at the next
    checkpoint, whenever that is.

    Enter it around the whole run, so that SIGUSR1 kills no process that prepares training or has
    ended it; it comes after the callback that saves checkpoints. Only the main thread is sent
    signals; in another one the clock alone ends training.

    Parameters
    ----------
    max_hours
        How long the job may take; None: as long as it needs.
    started
        When it began, on the clock of `time.monotonic` (seconds).
    team
        The processes that train together. They end where rank 0 does.
    """

    def __init__(self, max_hours: float | None, started: float, team: Team = ALONE) -> None:
        self._max_hours, self._team = max_hours, team
        self._limit = math.inf if max_hours is None else started + 3600 * max_hours
        self._before: dict[int, Any] = {}
        self._asked: int | None = None
        self._timer: threading.Timer | None = None
        self._over = False  # these two seconds
        self._fit: Fit | None = None

    def __enter__(self) -> EndInTime:
        self._take(_REQUEUE)
        return self

    def __exit__(self, *raised: object) -> None:
        self._give_back()

    def fit_start(self, fit: Fit) -> None:
        """Let signals wait for a checkpoint from now on."""
        self._fit = fit
        for signum in _ENDING:
            self._take(signum)

    def batch_end(self, fit: Fit) -> None:
        """End where there is a checkpoint, or none to wait for."""
        if self._asked in _ENDING and not fit.settings.checkpoint_every_steps:
            self._end(fit, self._asked)
        if fit.resumable:
            self._at_checkpoint(fit)

    def epoch_end(self, fit: Fit) -> None:
        """End; after the last epoch only where what remains is interrupted."""
        if fit.epoch < fit.epochs - 1:
            self._at_checkpoint(fit)
        elif self._asked in _ENDING:
            self._end(fit, self._asked)

    def fit_end(self, fit: Fit) -> None:
        """Let signals do what they did before."""
        if self._timer is not None:
            self._timer.cancel()
        self._give_back(*_ENDING)

    def _at_checkpoint(self, fit: Fit) -> None:
        asked = self._asked
        if asked is None and time.monotonic() > self._limit:
            asked = _REQUEUE
        if (asked := self._team.tell(asked)) is not None:
            self._end(fit, asked)

    def _end(self, fit: Fit, signum: int) -> None:
        fit.engine.sync()
        if signum != _REQUEUE:
            self._raise(signum, None)
        over_time = self._asked is None and self._max_hours is not None
        why = f"trainer.max_hours={self._max_hours:g} are over" if over_time else "SIGUSR1 came"
        where = f"in epoch {fit.epoch}, after step {fit.step}"
        raise Requeue(f"stopped {where}: {why}", over_time=over_time)

    def _take(self, signum: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signum)
        if before not in (signal.SIG_IGN, None):
            self._before[signum] = before
            signal.signal(signum, self._ask)

    def _give_back(self, *signums: int) -> None:
        for signum in signums or tuple(self._before):
            if signum in self._before:
                signal.signal(signum, self._before.pop(signum))

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if signum == _REQUEUE:
            self._asked = self._asked or signum
        elif self._asked in _ENDING:
            over, self._over = self._over, False
            if not (over and self._saves()):
                self._raise(signum, frame)
        else:
            self._asked = signum
            self._timer = threading.Timer(_PATIENCE_S, self._again, (signum,))
            self._timer.daemon = True
            self._timer.start()

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        before = self._before.get(signum)
        if callable(before):
            before(signum, frame)
        raise KeyboardInterrupt if signum == signal.SIGINT else Interrupted(signum)

    def _again(self, signum: int) -> None:
        self._over = True
        with suppress(ProcessLookupError):
            os.kill(os.getpid(), signum)

    def _saves(self) -> bool:
        """Tell whether a checkpoint is being made, after which training ends anyway."""
        fit = self._fit
        return fit is not None and (fit.resumable or len(fit.history) > fit.epoch)
