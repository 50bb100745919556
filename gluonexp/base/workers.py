"""Worker processes, each of which may die without taking another's task with it.

A pool of joblib or of the standard library breaks as a whole: one worker that is killed takes all
others with it, an exception that cannot be pickled kills its worker, and a parent that is killed
leaves idle workers behind for good. Here a worker is a plain child process with one socket. The
end of the socket says that the other side is gone, to both.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from types import FrameType
from typing import Any, Final, TypeVar

import cloudpickle

from gluonexp.base.imports import heavy_imports, own_process
from gluonexp.base.mx import usable_cores

Key = TypeVar("Key")
Result = TypeVar("Result")

# How long a busy worker has to close its run when it is told to stop (seconds).
GRACE: Final = 30.0

# How often to look for a dead worker whose socket a child of its own still holds open (seconds).
LOOK_AGAIN: Final = 1.0

_FAULTS: Final = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}

# What a worker starts with. Its path comes first: nothing shall be imported from the working
# directory that the parent would not import from there. What is registered first for the exit is
# called last: everything but the teardown of the interpreter is done then, which takes a second
# after MXNet and MLflow, and the parent would wait for it.
_BOOT: Final = """\
import sys; sys.path[:] = sys.argv[2:]
import atexit, os; atexit.register(lambda: (sys.stdout.flush(), os._exit(0)))
from gluonexp.base.workers import work; work(int(sys.argv[1]))
"""


class WorkerDied(Exception):
    """The process of a task ended before the task did: it was killed, or the task left it.

    Attributes
    ----------
    crashed
        Whether a fault in native code ended it.
    left
        Whether the task left it by itself (``sys.exit``), unasked.
    """

    def __init__(self, message: str, signum: int = 0, left: bool = False) -> None:
        super().__init__(message, signum, left)
        self.crashed = signum in _FAULTS
        self.left = left

    def __str__(self) -> str:
        return str(self.args[0])


class TaskError(Exception):
    """A task raised, or returned, something that cannot be brought back; the message is all."""


class _WorkerTraceback(Exception):
    """The traceback of an exception, in the worker where it was raised, as text."""


def cores() -> int:
    """Return how many cores this process may use."""
    return usable_cores() or os.cpu_count() or 1


class Workers:
    """Processes that carry out tasks, one at a time each.

    Leaving the block ends them all: what still runs gets SIGTERM, which raises SystemExit in it
    unless it has a handler of its own, and after `GRACE` seconds SIGKILL. If the parent is killed
    the same happens. SIGINT does nothing to workers: a terminal sends it to all processes, and
    the parent decides.

    Parameters
    ----------
    n
        How many, at most.
    warm_up
        Called in each worker before its first task, as soon as it runs, to import what its tasks
        will need. What it raises is dropped: the tasks will meet it again.
    """

    def __init__(self, n: int, warm_up: Callable[[], object] | None = None) -> None:
        if n < 1:
            raise ValueError(f"n={n}: at least one worker is needed")
        self.n = n
        self._warm_up = None if warm_up is None else cloudpickle.dumps(warm_up)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all workers, as leaving the block does."""
        self._stop(list(self._workers))

    def start(self) -> None:
        """Start all workers that do not run yet; they warm up by themselves."""
        while len(self._workers) < self.n:
            self._workers.append(_Worker(self.n, self._warm_up))

    def stream(
        self, tasks: Iterable[tuple[Key, Callable[..., Any], tuple[Any, ...]]]
    ) -> Generator[tuple[Key, Any], None, None]:
        """Carry out tasks, and yield the outcome of each as soon as it ends.

        A task is taken from `tasks` only when a worker is free for it, after all results that led
        up to it were yielded. Closing the iterator stops what runs, as leaving the block does.

        Parameters
        ----------
        tasks
            (key, function, arguments). Functions and arguments are pickled by value where they
            cannot be imported (cloudpickle).

        Yields
        ------
        tuple
            (key, result); or (key, exception) if the task failed: what it raised, with its
            traceback as cause; `WorkerDied`; or `TaskError`.
        """
        tasks, more = iter(tasks), True
        ended: deque[_Worker] = deque()
        try:
            while True:
                while more and len(self._busy()) < self.n:
                    try:
                        key, function, arguments = next(tasks)
                    except StopIteration:
                        more = False
                    else:
                        self._free().give(key, function, arguments)
                if not ended:
                    if not (busy := self._busy()):
                        return
                    ended.extend(_ended(busy))
                if ended:
                    worker = ended.popleft()
                    key, outcome = worker.key, worker.take()
                    if worker.connection.closed:
                        self._workers.remove(worker)
                    yield key, outcome
        finally:
            self._stop(self._busy())

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.busy]

    def _free(self) -> _Worker:
        """Return an idle worker, a new one where there is none or it has died."""
        for worker in [worker for worker in self._workers if not worker.busy]:
            if not worker.gone():
                return worker
            worker.kill()
            self._workers.remove(worker)
        self._workers.append(_Worker(self.n, self._warm_up))
        return self._workers[-1]

    def _stop(self, workers: list[_Worker]) -> None:
        if not workers:
            return
        try:
            for worker in workers:
                worker.ask_to_end()
            deadline = time.monotonic() + GRACE
            for worker in workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # also when a second Ctrl-C cuts the wait short
            for worker in workers:
                worker.kill()
                self._workers.remove(worker)


def _ended(workers: list[_Worker]) -> list[_Worker]:
    """Wait until tasks end or their workers die; return those workers."""
    ready = wait([worker.connection for worker in workers], LOOK_AGAIN)
    return [worker for worker in workers if worker.connection in ready or worker.dead()]


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, share: int, warm_up: bytes | None) -> None:
        self.key: Any = None
        self.busy = False
        environment = {"OMP_NUM_THREADS": str(max(1, cores() // share)), **os.environ}
        self.connection, theirs = Pipe()
        with theirs:
            # Held back, not lost: a Ctrl-C that strikes a worker before it can ignore it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._send((sys.argv, sys.orig_argv, warm_up))

    def _send(self, message: Any) -> None:
        data = cloudpickle.dumps(message)
        with suppress(OSError):  # it has died, which the next look at it tells
            self.connection.send_bytes(data)

    def give(self, key: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._send((function, arguments))
        self.key, self.busy = key, True

    def take(self) -> Any:
        """Return the outcome of the task."""
        self.busy = False
        try:
            # Of a dead worker whose socket is still held, there may be nothing to receive.
            if not self.connection.poll():
                raise EOFError
            trace, data = self.connection.recv()
        except (EOFError, OSError):
            return self._how_it_died()
        try:
            outcome = cloudpickle.loads(data)
        except Exception:
            return TaskError(trace)
        if isinstance(outcome, Exception) and trace:
            outcome.__cause__ = _WorkerTraceback(f"\n{trace}")
        return outcome

    def _how_it_died(self) -> WorkerDied:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LOOK_AGAIN)  # its socket ends a moment before
        code = self.kill()
        process = f"its process (pid {self.process.pid})"
        if code >= 0:
            return WorkerDied(f"{process} ended with exit code {code}")
        name = next((f" ({known.name})" for known in signal.Signals if known == -code), "")
        return WorkerDied(f"{process} was killed by signal {-code}{name}", -code)

    def dead(self) -> bool:
        return self.process.poll() is not None

    def gone(self) -> bool:
        """Return whether this idle worker has died; it has nothing to send but its end."""
        return self.dead() or self.connection.poll()

    def ask_to_end(self) -> None:
        """Stop its task, if it has one, and let it end."""
        with suppress(OSError):
            self.connection.send_bytes(b"")
        self.process.terminate()

    def kill(self) -> int:
        """End it at once unless it has ended; return its exit code, minus a signal's number."""
        self.connection.close()
        self.process.kill()
        return self.process.wait()


def work(descriptor: int) -> None:
    """Be a worker: carry out what comes through the socket until its end.

    Parameters
    ----------
    descriptor
        Of our side of the socket.
    """
    own_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's, to all processes of a job
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _terminated)
    os.set_inheritable(descriptor, False)
    connection: Connection[Any, Any] = Connection(descriptor)
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    if not (first := received.get()):
        return
    sys.argv, sys.orig_argv, warm_up = cloudpickle.loads(first)
    if warm_up is not None:
        with suppress(Exception), heavy_imports():
            cloudpickle.loads(warm_up)()
    while message := received.get():
        signal.signal(signal.SIGTERM, _terminated)
        reply = _carried_out(message)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                stream.flush()
        with suppress(OSError):  # the parent is gone
            connection.send(reply)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is registered for the exit shall run


def contained(function: Callable[..., Result], *arguments: object) -> Result:
    """Return what a task returns; one that leaves its process raises `WorkerDied` instead."""
    try:
        return function(*arguments)
    except SystemExit as left:
        asked = left.code == 128 + signal.SIGTERM
        raise WorkerDied(f"it left with exit code {left.code or 0}", left=not asked) from None
    except KeyboardInterrupt as interrupt:
        raise WorkerDied(f"it left with {interrupt!r}") from None


def _terminated(signum: int, frame: FrameType | None) -> None:
    """End the task; a second SIGTERM must not disturb its closing (a group gets ours as well)."""
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)


def _receive(connection: Connection[Any, Any], received: queue.SimpleQueue[bytes]) -> None:
    """Hand on what comes, until an empty message says it is all; end with the parent."""
    try:
        while data := connection.recv_bytes():
            received.put(data)
        received.put(b"")
    except (EOFError, OSError):
        received.put(b"")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)


def _carried_out(message: bytes) -> tuple[str, bytes]:
    """Carry out a task; return its traceback, empty where there is none, and its outcome."""
    try:
        function, arguments = cloudpickle.loads(message)
        outcome, trace = contained(function, *arguments), ""
    except WorkerDied as died:
        outcome, trace = died, ""
    except Exception as error:
        outcome, trace = error, traceback.format_exc()
    try:
        return trace, cloudpickle.dumps(outcome)
    except Exception as error:
        return trace or f"its result cannot be brought back: {error!r}", b""
