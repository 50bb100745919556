"""``hydra/launcher=submitit``: the jobs of a sweep as jobs of Slurm, each from the queue.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.gluonexp.launchers import Packed, StreamingLauncher, check_n_jobs

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.core.core import Job as Submitted

# How many jobs are in Slurm's queue at a time, where that is not said: a search must learn, too.
_QUEUED: Final = 32
_CLUSTERS: Final = (None, "slurm", "local", "debug")


class SubmititLauncher(StreamingLauncher):
    """Run jobs by submitit; one that leaves no result loses its own only.

    A job that is preempted or runs out of time saves a checkpoint, is queued again, and goes on in
    the same run.

    Parameters
    ----------
    cluster
        ``slurm``; ``local``, each in a process of its own here; ``debug``, all in this one. None
        is Slurm where it is installed, else ``local``.
    n_jobs
        How many run, or wait in the queue, at a time; -1 for 32 on Slurm, else for as many as
        there are cores for.
    timeout_min, cpus, gpus, mem_gb, partition
        What a job takes. Its threads are as many as its cores.
    signal_delay_s
        How long before the end of its time a job is asked to end in order (seconds).
    max_num_timeout
        How often a job that runs out of time goes on.
    additional_parameters
        Further ones of sbatch.
    """

    def __init__(
        self,
        cluster: str | None = None,
        n_jobs: int = -1,
        timeout_min: int = 60,
        cpus: int = 1,
        gpus: int = 0,
        mem_gb: float | None = None,
        partition: str | None = None,
        signal_delay_s: int = 120,
        max_num_timeout: int = 3,
        additional_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.n_jobs, self._cluster, self._cpus = n_jobs, cluster, cpus
        self._signal_delay_s, self._max_num_timeout = signal_delay_s, max_num_timeout
        self._started = False
        self._takes: dict[str, Any] = {
            "name": "gluonexp",
            "timeout_min": timeout_min,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus or None,
            "mem_gb": mem_gb,
            "slurm_partition": partition,
            "slurm_additional_parameters": dict(additional_parameters or {}),
            "slurm_signal_delay_s": signal_delay_s,
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to every launcher."""
        check_n_jobs(self.n_jobs)
        if self._cluster not in _CLUSTERS:
            raise CompactHydraException(
                f"hydra.launcher.cluster={self._cluster}: slurm, local, debug, or null for Slurm "
                "where it is installed, else local"
            )
        minutes, delay = self._takes["timeout_min"], self._signal_delay_s
        numbers = {"timeout_min": minutes, "cpus": self._cpus, "signal_delay_s": delay}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise CompactHydraException(
                    f"hydra.launcher.{name}={value}: a whole number, 1 or more"
                )
        if delay >= 60 * minutes:
            raise CompactHydraException(
                f"hydra.launcher.signal_delay_s={delay}: less than a job's whole time, which is "
                f"{60 * minutes} s (hydra.launcher.timeout_min={minutes})"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @property
    def n_workers(self) -> int:
        """How many jobs run, or wait in the queue, at a time."""
        from gluonexp.base.workers import cores

        if self._cluster == "debug":
            return 1
        if self.n_jobs != -1:
            return self.n_jobs
        return _QUEUED if self._cluster == "slurm" else max(1, cores() // self._cpus)

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Check that jobs can be submitted; each is a process that imports anew."""
        if self._started:
            return
        with tempfile.TemporaryDirectory() as folder:
            found = self._executor(Path(folder)).cluster
        if self._cluster is None and found == "local":
            from gluonexp.base.text import say

            say(
                "hydra/launcher=submitit: no Slurm is installed here; the jobs run on this machine"
            )
        self._cluster, self._started = found, True

    def _executor(self, folder: Path) -> AutoExecutor:
        try:
            import submitit
        except ImportError:
            raise CompactHydraException(
                "hydra/launcher=submitit needs submitit: pip install 'gluonexp[slurm]'"
            ) from None
        timeouts = ("slurm_max_num_timeout", "local_max_num_timeout")
        options = dict.fromkeys(timeouts, self._max_num_timeout)
        try:
            executor = submitit.AutoExecutor(folder, self._cluster, **options)
            executor.update_parameters(**self._takes)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise CompactHydraException(f"hydra/launcher=submitit: {_sentence(error)}") from None
        if executor.cluster == "local":  # whose name for it is no parameter of others
            executor._executor.parameters["signal_delay_s"] = self._signal_delay_s
        return executor

    def outcomes(
        self, shared: bytes, jobs: Iterable[Packed]
    ) -> Generator[tuple[int, JobReturn | Exception], None, None]:
        """Run jobs; those that run when the iterator is closed are asked to end, then killed."""
        folder = Path(str(self._config.hydra.sweep.dir)).absolute() / "submitit"
        # What is submitted has the whole configuration, secrets included.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        executor = self._executor(folder)
        jobs, more, cluster = iter(jobs), True, executor.cluster
        running: dict[Submitted[Any], int] = {}
        watch = _OfSlurm(folder) if cluster == "slurm" else _Here()
        try:
            while True:
                while more and len(running) < self.n_workers:
                    try:
                        number, job = next(jobs)
                    except StopIteration:
                        more = False
                    else:
                        running[self._submit(executor, shared, job)] = number
                if not running:
                    return
                if not (ended := watch.ended(running)):
                    time.sleep(watch.look_again)
                for each in ended:
                    yield running.pop(each), _outcome(each, cluster)
        finally:
            if cluster != "debug":
                _cancel(list(running), watch)

    def close(self) -> None:
        """Do nothing more: no worker waits for jobs."""

    def _submit(self, executor: AutoExecutor, shared: bytes, job: bytes) -> Submitted[Any]:
        from submitit.core.utils import (
            FailedJobError,
            FailedSubmissionError,
            environment_variables,
        )

        from gluonexp.base.errors import GluonexpError
        from gluonexp.sweep.requeue import Task

        # Nothing else shall be imported there than here.
        path = os.pathsep.join(each for each in sys.path if each)
        threads = os.environ.get("OMP_NUM_THREADS", str(self._cpus))
        # A terminal sends Ctrl-C to all processes; submitit's own would leave the job a second.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment_variables(
                PYTHONPATH=path, OMP_NUM_THREADS=threads, PYTHONFAULTHANDLER="1"
            ):
                # Half a minute is left then to end the run, and to be queued again.
                task = Task(executor.cluster, max(1.0, self._signal_delay_s - 30.0))
                return executor.submit(task, shared, job)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise GluonexpError(
                f"hydra/launcher=submitit: no job can be submitted: {_sentence(error)}"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Here:
    """Which jobs have ended: local processes, or functions."""

    look_again = 0.2  # seconds

    def ended(self, jobs: Iterable[Submitted[Any]]) -> list[Submitted[Any]]:
        """Return which of these have."""
        return [job for job in jobs if job.done()]

    def ask_to_end(self, jobs: Iterable[Submitted[Any]]) -> None:
        """End them in order: submitit's process hands SIGTERM on."""
        for job in jobs:
            _kill(job.job_id, signal.SIGTERM)

    def still(self, jobs: Iterable[Submitted[Any]]) -> list[Submitted[Any]]:
        """Return which of these run."""
        return [job for job in jobs if not job.done()]

    def end(self, jobs: Iterable[Submitted[Any]]) -> None:
        """End them at once."""
        for job in jobs:
            children = Path(f"/proc/{job.job_id}/task/{job.job_id}/children")
            with suppress(OSError):
                for child in children.read_text().split():
                    _kill(child, signal.SIGKILL)


class _OfSlurm:
    """Which jobs have ended; submitit itself asks the accounting, which not every site has."""

    look_again = 2.0  # seconds: it is a look at a shared disk

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0
        self._absent: set[Submitted[Any]] = set()

    def ended(self, jobs: Iterable[Submitted[Any]]) -> list[Submitted[Any]]:
        """Return which of these have a result, or were lost.

        That is, they were not in the queue at two looks, half a minute apart.
        """
        files = set(os.listdir(self._folder))
        lost: set[Submitted[Any]] = set()
        if time.monotonic() > self._next:
            absent = set(jobs) - set(self.still(jobs))
            lost, self._absent = absent & self._absent, absent
            self._next = time.monotonic() + 30
        return [job for job in jobs if job in lost or job.paths.result_pickle.name in files]

    def ask_to_end(self, jobs: Iterable[Submitted[Any]]) -> None:
        """End them in order, as Ctrl-C would; those that wait leave the queue."""
        ids = [job.job_id for job in jobs]
        _slurm("scancel", "--state=PENDING", *ids)
        _slurm("scancel", "--signal=INT", *ids)

    def still(self, jobs: Iterable[Submitted[Any]]) -> list[Submitted[Any]]:
        """Return which of these are in the queue; all, where Slurm does not answer."""
        answer = _slurm("squeue", "--me", "--noheader", "--format=%i")
        return [job for job in jobs if answer is None or job.job_id in answer.split()]

    def end(self, jobs: Iterable[Submitted[Any]]) -> None:
        """End them at once."""
        _slurm("scancel", *(job.job_id for job in jobs))


def _outcome(job: Submitted[Any], cluster: str) -> JobReturn | Exception:
    """Return what a job that has ended left; a `WorkerDied` where that is nothing."""
    from submitit.core.utils import FailedJobError

    from gluonexp.base.workers import TaskError, WorkerDied

    try:
        if cluster != "debug" and not job.paths.result_pickle.exists():
            return WorkerDied(_death(job, cluster))
        outcome: JobReturn | Exception = job.result()
        return outcome
    except FailedJobError:
        return TaskError(f"its result cannot be brought back: see {job.paths.stderr}")
    except Exception as error:
        return TaskError(f"its result cannot be brought back: {error!r}")
    finally:
        _tidy(job)


def _death(job: Submitted[Any], cluster: str) -> str:
    """Say how a job ended that left no result, as far as that is known, and where it says so."""
    known = None
    if cluster == "slurm":
        known = _slurm("sacct", "-X", "--noheader", "--format=State", "--jobs", job.job_id)
    words = known.split()[:1] if known else []
    with suppress(OSError):
        if job.paths.stderr.stat().st_size:
            words.append(str(job.paths.stderr))
    if not words:  # a fault in native code says what it is there; see PYTHONFAULTHANDLER
        return f"job {job.job_id} was killed: it left no result and no message, as by signal 9"
    return f"job {job.job_id} ended without a result ({', '.join(words)})"


def _cancel(jobs: Sequence[Submitted[Any]], watch: _Here | _OfSlurm) -> None:
    """End jobs in order; after the grace of any worker, at once."""
    from gluonexp.base.workers import GRACE

    if not jobs:
        return
    deadline = time.monotonic() + GRACE
    try:
        watch.ask_to_end(jobs)
        while watch.still(jobs) and time.monotonic() < deadline:
            time.sleep(watch.look_again)
    finally:  # also when a second Ctrl-C cuts the wait short
        if left := watch.still(jobs):
            watch.end(left)
        for job in jobs:
            _tidy(job)


def _slurm(*words: str) -> str | None:
    """Return what one of Slurm's commands prints; None where it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _kill(process: str, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(int(process), signum)


def _tidy(job: Submitted[Any]) -> None:
    """Remove what had the configuration in it; what the job printed stays."""
    for path in (job.paths.submitted_pickle, job.paths.result_pickle):
        path.unlink(missing_ok=True)


def _sentence(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
