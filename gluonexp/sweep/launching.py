"""How a sweep runs its jobs, with any of Hydra's launchers."""

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
class StreamingLauncher(Protocol):
    """A launcher that draws a job only when it can run it, and yields each as soon as it ends.

    Hydra's own interface knows only batches: a search learns nothing before a batch has ended.
    """

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Start workers ahead of the jobs: for `count` of them; each calls `warm_up` first."""

    def stream(self, jobs: Iterable[Job]) -> Generator[tuple[int, JobReturn], None, None]:
        """Yield how each job ended; jobs that run when the iterator is closed are ended."""


def launched(
    launcher: Launcher | StreamingLauncher, jobs: Iterator[Job], batch_size: int | None
) -> Generator[tuple[int, Ending], None, None]:
    """Run jobs as late and as few at once as the launcher can, and yield how each ended.

    Parameters
    ----------
    batch_size
        How many jobs a launcher that knows only batches is given at once; None for all.
    """
    if isinstance(launcher, StreamingLauncher):
        for number, done in launcher.stream(jobs):
            yield number, _ending(done)
        return
    # Hydra's default launcher runs jobs in this process, one after the other.
    size = 1 if type(launcher).__name__ == "BasicLauncher" else batch_size
    while batch := list(itertools.islice(jobs, size)):
        numbers = [number for number, _ in batch]
        ended = launcher.launch([list(words) for _, words in batch], numbers[0])
        yield from zip(numbers, map(_ending, ended), strict=True)


def _ending(done: JobReturn) -> Ending:
    """Return how a job says it ended; of one that could not, how its launcher saw it end."""
    outcome = hydra_private.outcome(done)
    if done.status is JobStatus.COMPLETED:
        assert isinstance(outcome, Ending)
        return outcome
    status = KILLED if isinstance(outcome, WorkerDied) else FAILED
    return Ending(status, reason=str(outcome) or type(outcome).__name__)
