"""One job of a sweep that a scheduler may ask to make room: it ends in order, and is queued again.

The scheduler is Slurm, reached by submitit, which unpickles `Task` in a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn

from gluonexp.base.imports import heavy_imports, own_process
from gluonexp.base.workers import WorkerDied

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


class Task:
    """A job of a sweep, as submitit calls it.

    Submitit's signal (SIGUSR2) asks it to make room. Training ends at its next checkpoint then, as
    by SIGUSR1, and submitit queues the job again; that goes on from the checkpoint in its folder.
    Where none comes in time, it ends as by Ctrl-C.

    Parameters
    ----------
    cluster
        Submitit's name of it.
    patience_s
        How long it may go on to the next checkpoint (seconds).
    """

    def __init__(self, cluster: str, patience_s: float) -> None:
        self._cluster, self._patience_s = cluster, patience_s

    def checkpoint(self, *arguments: Any) -> DelayedSubmission:
        """Return what is queued again: the same, for its folder says where it goes on."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, *arguments)

    def __call__(self, shared: bytes, job: bytes) -> Any:
        """Return what the job returned, or what it raised: submitit keeps a text of that only."""
        if self._cluster == "debug":
            return _carried_out(shared, job)
        own_process()
        with _Asked(self._cluster, self._patience_s) as asked:
            try:
                return _carried_out(shared, job)
            except KeyboardInterrupt:
                left: object = 130
            except SystemExit as ended:
                left = ended.code
        from submitit.core.utils import UncompletedJobError

        if not asked.came and left != os.EX_TEMPFAIL:
            asked_to = left in (130, 128 + signal.SIGTERM)  # else it is not tried again
            return WorkerDied(f"it left with exit code {left or 0}", left=not asked_to)
        try:
            return asked.requeue()
        except UncompletedJobError:
            return WorkerDied(
                "it ran out of time more often than hydra.launcher.max_num_timeout allows"
            )


class _Asked:
    """While a job runs: turns submitit's signal into what ends training in order.

    Slurm's SIGTERM ahead of a preemption is ignored, as by submitit; here it cancels a job.
    """

    def __init__(self, cluster: str, patience_s: float) -> None:
        self.came = False
        self._cluster, self._patience_s = cluster, patience_s
        self._signum = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        self._theirs: Any = None
        self._over = threading.Event()

    def __enter__(self) -> _Asked:
        self._theirs = signal.getsignal(self._signum)
        # Until training heeds it: a signal that nobody handles would end the process.
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(self._signum, self._ask)
        slurm = self._cluster == "slurm"
        signal.signal(signal.SIGTERM, signal.SIG_IGN if slurm else _terminated)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not slurm:
            os.setpgid(0, 0)  # away from the terminal, whose Ctrl-C is for the sweep
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        for signum in (self._signum, signal.SIGUSR1):  # what has a result is not queued again
            signal.signal(signum, signal.SIG_IGN)

    def requeue(self) -> None:
        """Let submitit queue the job again and leave."""
        self._theirs(self._signum, None)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        """Send SIGUSR1, also to training that begins only now; at last interrupt it."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            os.kill(os.getpid(), signal.SIGUSR1)
            if self._over.wait(1.0):
                return
        os.kill(os.getpid(), signal.SIGINT)


def _terminated(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _carried_out(shared: bytes, job: bytes) -> JobReturn | Exception:
    try:
        with heavy_imports():
            from gluonexp.sweep import remote

        return remote.run(shared, job)
    except Exception as error:
        return error
