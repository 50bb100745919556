"""``hydra/launcher=processes``: the jobs of a sweep side by side, each in a process of its own.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from gluonexp.base.workers import Workers

# A job of a sweep: its number there, and its overrides; and the same, packed for another process.
# Texts: Hydra looks through this module, and on Python 3.10 takes an alias for a class.
Job: TypeAlias = "tuple[int, Sequence[str]]"
Packed: TypeAlias = "tuple[int, bytes]"

log = logging.getLogger(__name__)


class StreamingLauncher(Launcher):
    """What launchers share that draw jobs one by one (`gluonexp.sweep.launching.Streaming`)."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to every launcher."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """How many jobs run at a time."""

    @abstractmethod
    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Start what runs jobs ahead of them; where that runs, do nothing.

        Parameters
        ----------
        count
            How many jobs there are, if that is known: no more workers are needed.
        warm_up
            Called in each worker that will run several jobs, to import what they will need.
        """

    @abstractmethod
    def outcomes(
        self, shared: bytes, jobs: Iterable[Packed]
    ) -> Generator[tuple[int, JobReturn | Exception], None, None]:
        """Run jobs by ``remote.run(shared, job)``; yield each, by number, as soon as it ends.

        What a job raised takes the place of what it returned; that is a
        ``gluonexp.base.workers.WorkerDied`` if its process died. Closed, it ends what runs.
        """

    @abstractmethod
    def close(self) -> None:
        """End what `start` started."""

    def stream(self, jobs: Iterable[Job]) -> Generator[tuple[int, JobReturn], None, None]:
        """Run jobs, and yield how each ended as soon as it does.

        A job is its number in the sweep and its overrides, and is drawn only when it can run.
        What it raised takes the place of its return value.
        """
        from gluonexp.sweep import remote

        self.start()
        # All jobs share this folder: its name, which is the time, must be settled here.
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        sender = remote.Sender(self._hydra_context, self._config, self._task_function)
        running: dict[int, Sequence[str]] = {}

        def packed() -> Iterator[Packed]:
            for number, overrides in jobs:
                running[number] = overrides
                yield number, sender.packed(number, overrides)

        with closing(self.outcomes(sender.shared, packed())) as outcomes:
            for number, outcome in outcomes:
                overrides = running.pop(number)
                if isinstance(outcome, JobReturn):
                    yield number, outcome
                else:
                    failed = JobReturn(filter_overrides(overrides), status=JobStatus.FAILED)
                    failed.return_value = outcome
                    yield number, failed

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a batch of jobs and return how they ended, in their order."""
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        self.start(len(job_overrides))
        log.info("Launching %d jobs, %d at a time", len(job_overrides), self.n_workers)
        with closing(self):
            ended = dict(self.stream(enumerate(job_overrides, initial_job_idx)))
        return [ended[number] for number in sorted(ended)]


class ProcessLauncher(StreamingLauncher):
    """Run jobs in worker processes; one that dies loses its own job only.

    Parameters
    ----------
    n_jobs
        How many run at a time; -1 for one on each core. The cores are shared evenly.
    """

    def __init__(self, n_jobs: int = -1) -> None:
        super().__init__()
        self.n_jobs = n_jobs
        self._workers: Workers | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to every launcher."""
        check_n_jobs(self.n_jobs)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @property
    def n_workers(self) -> int:
        """How many jobs run at a time."""
        from gluonexp.base.workers import cores

        if self._workers is not None:
            return self._workers.n
        return cores() if self.n_jobs == -1 else self.n_jobs

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Start the worker processes."""
        from gluonexp.base.workers import Workers

        if self._workers is None:
            n = self.n_workers if count is None else max(1, min(self.n_workers, count))
            self._workers = Workers(n, warm_up)
            self._workers.start()

    def outcomes(
        self, shared: bytes, jobs: Iterable[Packed]
    ) -> Generator[tuple[int, JobReturn | Exception], None, None]:
        """Run jobs; those that run when the iterator is closed get SIGTERM first."""
        from gluonexp.sweep import remote

        assert self._workers is not None
        yield from self._workers.stream(
            (number, remote.run, (shared, job)) for number, job in jobs
        )

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.stop()
            self._workers = None


class JoblibLauncher(ProcessLauncher):
    """The former name of `ProcessLauncher`, for ``hydra/launcher=joblib`` and recorded commands.

    Parameters
    ----------
    of_joblib
        Ignored. Where hydra-joblib-launcher is installed, Hydra adds its options to ours.
    """

    def __init__(self, n_jobs: int = -1, **of_joblib: Any) -> None:
        super().__init__(n_jobs)


def check_n_jobs(n_jobs: object) -> None:
    """Refuse what is no number of jobs.

    Raises
    ------
    CompactHydraException
        The message names the key.
    """
    if not isinstance(n_jobs, int) or (n_jobs < 1 and n_jobs != -1):
        raise CompactHydraException(
            f"hydra.launcher.n_jobs={n_jobs}: 1 or more, or -1 for as many as there is room for"
        )
