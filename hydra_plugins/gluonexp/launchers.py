"""``hydra/launcher=processes``: the jobs of a sweep side by side, each in a process of its own.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from gluonexp.base.workers import Workers

log = logging.getLogger(__name__)


class ProcessLauncher(Launcher):
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
        if not isinstance(self.n_jobs, int) or (self.n_jobs < 1 and self.n_jobs != -1):
            raise CompactHydraException(
                f"hydra.launcher.n_jobs={self.n_jobs}: 1 or more, or -1 for one on each core"
            )
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    @property
    def n_workers(self) -> int:
        """How many jobs run at a time."""
        from gluonexp.base.workers import cores

        if self._workers is not None:
            return self._workers.n
        return cores() if self.n_jobs == -1 else self.n_jobs

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Start the workers ahead of the jobs; once they run, this does nothing.

        Parameters
        ----------
        count
            How many jobs there are, if that is known: no more workers are needed.
        warm_up
            Called in each worker as soon as it runs, to import what the jobs will need.
        """
        from gluonexp.base.workers import Workers

        if self._workers is None:
            n = self.n_workers if count is None else max(1, min(self.n_workers, count))
            self._workers = Workers(n, warm_up)
            self._workers.start()

    def stream(
        self, jobs: Iterable[tuple[int, Sequence[str]]]
    ) -> Generator[tuple[int, JobReturn], None, None]:
        """Run jobs, and yield how each ended as soon as it does.

        A job is its number in the sweep and its overrides, and is drawn only when a worker is
        free for it. The workers end with the iterator; those that are busy when it is closed get
        SIGTERM first. What a job raised takes the place of its return value; that is a
        ``gluonexp.base.workers.WorkerDied`` if its process died.
        """
        from gluonexp.sweep import remote

        self.start()
        assert self._workers is not None
        # All jobs share this folder: its name, which is the time, must be settled here.
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        shared = remote.packed(self._hydra_context, self._config, self._task_function)
        tasks = (
            ((number, overrides), remote.run, (shared, number, overrides))
            for number, overrides in jobs
        )
        try:
            with self._workers as workers:
                for (number, overrides), outcome in workers.stream(tasks):
                    done = outcome
                    if not isinstance(outcome, JobReturn):
                        done = JobReturn(filter_overrides(overrides), status=JobStatus.FAILED)
                        done.return_value = outcome
                    yield number, done
        finally:
            self._workers = None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a batch of jobs and return how they ended, in their order."""
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        self.start(len(job_overrides))
        log.info("Launching %d jobs, %d at a time", len(job_overrides), self.n_workers)
        ended = dict(self.stream(enumerate(job_overrides, initial_job_idx)))
        return [ended[number] for number in sorted(ended)]


class JoblibLauncher(ProcessLauncher):
    """The former name of `ProcessLauncher`, for ``hydra/launcher=joblib`` and recorded commands.

    Parameters
    ----------
    of_joblib
        Ignored. Where hydra-joblib-launcher is installed, Hydra adds its options to ours.
    """

    def __init__(self, n_jobs: int = -1, **of_joblib: Any) -> None:
        super().__init__(n_jobs)
