"""One run from its start to its truthful end: FINISHED, FAILED or KILLED."""

from __future__ import annotations

import atexit
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking import internals, owner
from gluonexp.tracking.burial import bury
from gluonexp.tracking.lease import Lease
from gluonexp.tracking.places import settle
from gluonexp.tracking.statuses import FAILED
from gluonexp.tracking.store import ensure_experiment, open_store, reported
from gluonexp.tracking.tracker import MlflowTracker, Status, Tracker
from gluonexp.tracking.uri import displayed, resolve_uri
from gluonexp.tracking.values import sanitised, tag_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gluonexp.config.schema import TrackingConfig

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """SIGTERM or SIGHUP came; the exit status is 128 + its number, as a shell reports it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


@contextmanager
def tracked_run(
    settings: TrackingConfig, tags: Mapping[str, str] | None = None
) -> Iterator[Tracker]:
    """Record what happens inside as one run, and how it ended.

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

    Raises
    ------
    GluonexpError
        The store cannot be opened; or the block ended well and its run could not be closed.
    """
    with _Signals() as signals:
        if settings.backend == "none":
            tracker = Tracker()
            signals.defer()
        else:
            uri, run_id = resolve_uri(settings.uri), settings.run_id
            client = open_store(uri)
            all_tags = run_tags(tags or {})
            if run_id is None:
                experiment_id = ensure_experiment(client, settings.experiment, uri)
                signals.defer()  # a run that exists must not be lost on the way to its `finally`
                with reported(f"a run cannot be started in {displayed(uri)}"):
                    all_tags |= owner.lease_tag()
                    run_id = create_run(client, experiment_id, all_tags, settings.run_name)
                    tracker = MlflowTracker(client, run_id)
            else:
                signals.defer()
                settle(uri, run_id)
                with reported(f"run {run_id} cannot be resumed in {displayed(uri)}"):
                    owner.claim(client, run_id)
                    tracker = MlflowTracker(client, run_id)
                    tracker.log_tags(all_tags)
            tracker.lease = Lease(client, run_id)
        # For the signal that strikes between the end of the block and our `finally`.
        atexit.register(tracker.close, "KILLED")
        status: Status = "KILLED"
        failure: Exception | None = None
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
            tracker.lease.end()
            _close(tracker, status, failure)


def end_lost(uri: str | None, run_id: str, reason: str) -> None:
    """End a run FAILED whose own process was killed, for that `reason`.

    Raises
    ------
    GluonexpError
        The store does not answer.
    """
    bury(open_store(resolve_uri(uri)), run_id, reason, FAILED)


def create_run(
    client: MlflowClient, experiment_id: str, tags: Mapping[str, str], name: str | None
) -> str:
    """Return the id of a new run; a name MLflow makes up must not follow from the run's seed."""
    seeded = random.getstate()
    random.seed()
    try:
        known = None if name is None else hide(readable(name))
        run = client.create_run(experiment_id, tags=dict(tags), run_name=known)
        return str(run.info.run_id)
    finally:
        random.setstate(seeded)


def _close(tracker: Tracker, status: Status, failure: Exception | None) -> None:
    try:
        tracker.close(status, failure)
    except GluonexpError as lost:
        if status == "FINISHED":
            raise
        # The reason why the run ended matters more, and is about to be raised.
        print(f"gluonexp: {lost}; the run may be shown as RUNNING", file=sys.stderr)


def run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return `tags` with those of this process: user, source, git commit, host and process id."""
    # Without git on the PATH, GitPython and MLflow warn about it three times.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    resolved = internals.context_tags({**owner.own_tags(), **tags})
    return {sanitised(key): tag_text(value) for key, value in resolved.items()}


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
        return self

    def __exit__(self, raised: type[BaseException] | None, *details: object) -> None:
        for signum, before in self._before.items():
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
