"""How a sweep runs its jobs: the protocol of a launcher, and Hydra's own ones behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from gluonexp.base.workers import WorkerDied
from gluonexp.config import hydra_private
from gluonexp.tracking.statuses import FAILED, KILLED, Ending

# A job of a sweep: its number there, and its overrides.
Job = tuple[int, Sequence[str]]
Launch = Callable[[Iterator[Job]], Generator[tuple[int, Ending], None, None]]


@runtime_checkable
class Streaming(Protocol):
    """A launcher that draws a job only when it can run it, and yields each as soon as it ends.

    A job whose process or machine is lost ends with a `WorkerDied` in place of its result; the
    others go on, and nothing is tried again: that is up to the sweep. Closed, the iterator ends
    the jobs that run, in order. Several may follow each other between `start` and `close`.

    Hydra's own interface knows only batches: a search learns nothing before a batch has ended, and
    one that raises loses what the others of its batch gave. `InBatches` is that, as it is.
    """

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Start workers ahead of the jobs: for `count` of them; each calls `warm_up` first."""

    def stream(self, jobs: Iterable[Job]) -> Generator[tuple[int, JobReturn], None, None]:
        """Yield how each job ended."""

    def close(self) -> None:
        """End the workers that `start` started."""


class InBatches:
    """A launcher of Hydra that knows only batches.

    Parameters
    ----------
    size
        Of a batch; None for all jobs. Hydra's default launcher runs jobs in this process, one
        after the other, and gets one at a time.
    """

    def __init__(self, launcher: Launcher, size: int | None) -> None:
        self._launcher = launcher
        self._size = 1 if type(launcher).__name__ == "BasicLauncher" else size

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Do nothing: such a launcher starts with its jobs."""

    def stream(self, jobs: Iterable[Job]) -> Generator[tuple[int, JobReturn], None, None]:
        """Yield how each job ended, batch after batch."""
        jobs = iter(jobs)
        while batch := list(itertools.islice(jobs, self._size)):
            numbers = [number for number, _ in batch]
            ended = self._launcher.launch([list(words) for _, words in batch], numbers[0])
            yield from zip(numbers, ended, strict=True)

    def close(self) -> None:
        """Do nothing: such a launcher ends with its jobs."""


def streaming(launcher: Launcher | Streaming, batch_size: int | None) -> Streaming:
    """Return a launcher that has the protocol: `launcher`, or what makes batches for it.

    Parameters
    ----------
    batch_size
        How many jobs a launcher that knows only batches is given at once; None for all.
    """
    return launcher if isinstance(launcher, Streaming) else InBatches(launcher, batch_size)


def launched(
    launcher: Streaming, jobs: Iterator[Job]
) -> Generator[tuple[int, Ending], None, None]:
    """Run jobs, and yield how each ended."""
    for number, done in launcher.stream(jobs):
        yield number, _ending(done)


def _ending(done: JobReturn) -> Ending:
    """Return how a job says it ended; of one that could not, how its launcher saw it end."""
    outcome = hydra_private.outcome(done)
    if done.status is JobStatus.COMPLETED:
        assert isinstance(outcome, Ending)
        return outcome
    reason = str(outcome) or type(outcome).__name__
    if isinstance(outcome, WorkerDied):
        return Ending(KILLED, reason=reason, lost=not outcome.left)
    return Ending(FAILED, reason=reason)
