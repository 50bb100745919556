"""One run from its start to its truthful end: FINISHED, FAILED or KILLED."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import say
from gluonexp.tracking.beginning import begun
from gluonexp.tracking.burial import bury
from gluonexp.tracking.statuses import FAILED
from gluonexp.tracking.store import impatient, open_store
from gluonexp.tracking.tracker import Status, Tracker
from gluonexp.tracking.uri import resolve_uri

if TYPE_CHECKING:
    from gluonexp.config.schema import TrackingConfig

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """SIGTERM or SIGHUP came; the exit status is 128 + its number, as a shell reports it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


@contextmanager
def tracked_run(
    settings: TrackingConfig,
    tags: Mapping[str, str] | None = None,
    folder: Path | None = None,
    *,
    alone: bool = True,
) -> Iterator[Tracker]:
    """Record what happens inside as one run, and how it ended.

    All of it goes into the run's own log first, and from there to the store, whenever that takes
    it: what it does not take until the end is told then.

    The run ends FINISHED if the block does, FAILED on an exception (kept as tag ``error`` and
    artifact ``error/traceback.txt``), KILLED on Ctrl-C, SIGTERM, SIGHUP or SystemExit; what was
    measured is written first, and the exception is raised. The first signal that arrives while the
    run is being closed waits until it is; a second one does not.

    Parameters
    ----------
    settings
        Where; MLflow makes up a `run_name` that is None. With a `run_id` that run, which exists
        already, is resumed: it is RUNNING again, keeps its name and its experiment, and gets the
        tags.
    tags
        The user, the source file and its git commit, the host and the process id are added.
    folder
        The job's, where the log lies; None: a temporary one, which stays where something could
        not be sent.
    alone
        Whether a run in a folder of its own goes on offline where its store is down.

    Raises
    ------
    GluonexpError
        The store cannot be opened, or the log cannot be written.
    """
    # What waits for a store is the thread that sends, which tries again by itself.
    with _Signals() as signals, impatient(retries=1, timeout_s=60):
        tracker, temporary = Tracker(), None
        if settings.backend == "none":
            signals.defer()
        else:
            if folder is None:
                folder = temporary = Path(tempfile.mkdtemp(prefix="gluonexp-"))
            # A run that exists must not be lost on the way to its `finally`.
            try:
                may = alone and temporary is None
                tracker = begun(settings, tags or {}, folder, signals.defer, alone=may)
            except BaseException:
                if temporary is not None:
                    shutil.rmtree(temporary, ignore_errors=True)
                raise
        # For the signal that strikes between the end of the block and our `finally`.
        atexit.register(tracker.close, "KILLED")
        status: Status = "KILLED"
        failure: Exception | None = None
        process = os.getpid()
        try:
            tracker.lease.begin()
            signals.deliver()
            yield tracker
            status = "FINISHED"
        except Exception as error:
            status, failure = "FAILED", error
            raise
        finally:
            signals.defer()
            atexit.unregister(tracker.close)
            if os.getpid() == process:  # a fork that leaves the block ends no run of its parent's
                tracker.lease.end(hurry=status == "KILLED")
                _close(settings, tracker, status, failure)
                if temporary is not None and tracker.sent:
                    shutil.rmtree(temporary, ignore_errors=True)


def end_lost(uri: str | None, run_id: str, reason: str) -> None:
    """End a run FAILED whose own process was killed, for that `reason`.

    Raises
    ------
    GluonexpError
        The store does not answer.
    """
    bury(open_store(resolve_uri(uri)), run_id, reason, FAILED)


def _close(
    settings: TrackingConfig, tracker: Tracker, status: Status, failure: Exception | None
) -> None:
    try:
        tracker.close(status, failure)
    except GluonexpError as lost:
        told = _end_in_store(settings, tracker, status, failure or lost)
        if status == "FINISHED":
            raise
        # The reason why the run ended matters more, and is about to be raised.
        if str(lost) != str(failure) or not told:
            shown = "" if told else "; the run may be shown as RUNNING"
            print(f"gluonexp: {lost}{shown}", file=sys.stderr)
    if (unsent := tracker.unsent()) is not None:
        say(f"gluonexp: {unsent}")


def _end_in_store(
    settings: TrackingConfig, tracker: Tracker, status: Status, error: Exception
) -> bool:
    """End a run in its store whose log has no room for that; say whether it has ended there."""
    if tracker.run_id is None or tracker.experiment_id is None:
        return False
    try:
        with impatient(retries=0, timeout_s=2):
            client = open_store(resolve_uri(settings.uri))
            bury(client, tracker.run_id, str(error), FAILED if status == "FINISHED" else status)
    except GluonexpError:
        return False
    return True


_handling: list[_Signals] = []  # of the runs that are open, which need not end in their order


class _Signals:
    """SIGINT, SIGTERM and SIGHUP as exceptions, which can be put off once.

    Only the main thread may set handlers; in another one this does nothing. A signal that the
    process ignores (SIGHUP under ``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._deferring = False
        self._deferred: int | None = None

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                before = signal.getsignal(signum)
                if before not in (signal.SIG_IGN, None):
                    self._before[signum] = before
                    signal.signal(signum, self._handle)
        _handling.append(self)
        return self

    def __exit__(self, raised: type[BaseException] | None, *details: object) -> None:
        _handling.remove(self)
        for signum, before in self._before.items():
            # A run that began within this one, and goes on, keeps its handler.
            later = [each for each in _handling if each._before.get(signum) == self._handle]
            if later:
                later[0]._before[signum] = before
            else:
                signal.signal(signum, before)
        if raised is None:
            self.deliver()

    def defer(self) -> None:
        """From now on let the first signal wait."""
        self._deferring = True

    def deliver(self) -> None:
        """Raise what waited, and from now on whatever comes."""
        self._deferring = False
        if self._deferred is not None:
            signum, self._deferred = self._deferred, None
            self._raise(signum, None)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._deferring and self._deferred is None:
            self._deferred = signum
        else:
            self._raise(signum, frame)

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGINT:
            raise Interrupted(signum)
        before = self._before[signum]
        if callable(before):  # Python's own raises KeyboardInterrupt; a notebook has another
            before(signum, frame)
        else:
            raise KeyboardInterrupt
