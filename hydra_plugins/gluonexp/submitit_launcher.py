"""``hydra/launcher=submitit``: the jobs of a sweep as jobs of Slurm, each from the queue.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException

from hydra_plugins.gluonexp.launchers import Packed, StreamingLauncher, check_n_jobs

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.core.core import Job as Submitted
    from submitit.core.utils import DelayedSubmission

# How often to look whether a job has ended (seconds): of Slurm that is a look at a shared disk.
_LOOK_AGAIN: Final = {"slurm": 2.0}
_LOOK_AGAIN_HERE: Final = 0.2

# How many jobs are in Slurm's queue at a time, where that is not said: a search must learn, too.
_QUEUED: Final = 32


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
        check_n_jobs(n_jobs)
        self.n_jobs, self._cluster, self._cpus = n_jobs, cluster, cpus
        self._signal_delay_s, self._max_num_timeout = signal_delay_s, max_num_timeout
        self._takes: dict[str, Any] = {
            "name": "gluonexp",
            "timeout_min": timeout_min,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            "mem_gb": mem_gb,
            "slurm_partition": partition,
            "slurm_additional_parameters": dict(additional_parameters or {}),
            "slurm_signal_delay_s": signal_delay_s,
        }
        self._executor: AutoExecutor | None = None

    @property
    def n_workers(self) -> int:
        """How many jobs run, or wait in the queue, at a time."""
        from gluonexp.base.workers import cores

        cluster = self._started().cluster
        if cluster == "debug":
            return 1
        if self.n_jobs != -1:
            return self.n_jobs
        return _QUEUED if cluster == "slurm" else max(1, cores() // self._cpus)

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Check that jobs can be submitted; each is a process that imports anew."""
        if self._executor is not None:
            return
        try:
            import submitit
        except ImportError:
            raise CompactHydraException(
                "hydra/launcher=submitit needs submitit: pip install 'gluonexp[slurm]'"
            ) from None
        folder = Path(str(self._config.hydra.sweep.dir)).absolute() / "submitit"
        # What is submitted has the whole configuration, secrets included.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(
                folder,
                self._cluster,
                slurm_max_num_timeout=self._max_num_timeout,
                local_max_num_timeout=self._max_num_timeout,
            )
            executor.update_parameters(**self._takes)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise CompactHydraException(f"hydra/launcher=submitit: {_sentence(error)}") from None
        if executor.cluster != "slurm":  # whose name for it is no parameter of others
            executor._executor.parameters["signal_delay_s"] = self._signal_delay_s
        self._executor = executor

    def outcomes(
        self, shared: bytes, jobs: Iterable[Packed]
    ) -> Generator[tuple[int, JobReturn | Exception], None, None]:
        """Run jobs; those that run when the iterator is closed are asked to end, then killed."""
        cluster = self._started().cluster
        jobs, more = iter(jobs), True
        running: dict[Submitted[Any], int] = {}
        try:
            while True:
                while more and len(running) < self.n_workers:
                    try:
                        number, job = next(jobs)
                    except StopIteration:
                        more = False
                    else:
                        running[self._submit(shared, job)] = number
                if not running:
                    return
                if not (ended := [each for each in running if each.done()]):
                    time.sleep(_LOOK_AGAIN.get(cluster, _LOOK_AGAIN_HERE))
                for each in ended:
                    yield running.pop(each), _outcome(each, cluster)
        finally:
            _cancel(list(running), cluster)

    def close(self) -> None:
        """Do nothing more: no worker waits for jobs."""
        self._executor = None

    def _started(self) -> AutoExecutor:
        assert self._executor is not None
        return self._executor

    def _submit(self, shared: bytes, job: bytes) -> Submitted[Any]:
        from submitit.core.utils import (
            FailedJobError,
            FailedSubmissionError,
            environment_variables,
        )

        from gluonexp.base.errors import GluonexpError

        executor = self._started()
        # Nothing else shall be imported there than here.
        path = os.pathsep.join(each for each in sys.path if each)
        threads = os.environ.get("OMP_NUM_THREADS", str(self._cpus))
        # A terminal sends Ctrl-C to all processes; submitit's own would leave the job a second.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment_variables(PYTHONPATH=path, OMP_NUM_THREADS=threads):
                # Half a minute is left then to end the run, and to be queued again.
                task = Task(executor.cluster, max(1.0, self._signal_delay_s - 30.0))
                return executor.submit(task, shared, job)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise GluonexpError(
                f"hydra/launcher=submitit: no job can be submitted: {_sentence(error)}"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        with _Asked(self._cluster, self._patience_s) as asked:
            try:
                return _carried_out(shared, job)
            except KeyboardInterrupt:
                left: object = 130
            except SystemExit as ended:
                left = ended.code
        from submitit.core.utils import UncompletedJobError

        from gluonexp.base.workers import WorkerDied

        if not asked.came and left != os.EX_TEMPFAIL:
            return WorkerDied(f"it left with exit code {left or 0}")
        try:
            return asked.requeue()
        except UncompletedJobError:
            return WorkerDied(
                "it ran out of time more often than hydra.launcher.max_num_timeout allows"
            )


class _Asked:
    """While a job runs: turns submitit's signal into what ends training in order.

    Slurm sends it, and the SIGTERM ahead of a preemption, to all processes of a job. The latter is
    ignored, by submitit as well; elsewhere SIGTERM is what cancels a job.
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
        signal.signal(signal.SIGUSR1, _nothing)
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


def _nothing(signum: int, frame: FrameType | None) -> None:
    pass


def _terminated(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _carried_out(shared: bytes, job: bytes) -> JobReturn | Exception:
    from gluonexp.base.imports import heavy_imports

    try:
        with heavy_imports():
            from gluonexp.sweep import remote

        return remote.run(shared, job)
    except Exception as error:
        return error


def _outcome(job: Submitted[Any], cluster: str) -> JobReturn | Exception:
    """Return what a job that has ended left; a `WorkerDied` where that is nothing."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    from gluonexp.base.workers import TaskError, WorkerDied

    state = f" ({job.state})" if cluster == "slurm" else ""
    lost = WorkerDied(f"job {job.job_id} ended without a result{state}: see {job.paths.stderr}")
    try:
        # Submitit waits a while for the file, which a shared disk may show late.
        if cluster == "local" and not job.paths.result_pickle.exists():
            return lost
        outcome: JobReturn | Exception = job.result()
        return outcome
    except FailedJobError:
        return TaskError(f"its result cannot be brought back: see {job.paths.stderr}")
    except UncompletedJobError:
        return lost
    except Exception as error:
        return TaskError(f"its result cannot be brought back: {error!r}")
    finally:
        _tidy(job)


def _cancel(jobs: Sequence[Submitted[Any]], cluster: str) -> None:
    """End jobs in order, as Ctrl-C would; after the grace of any worker, at once."""
    from gluonexp.base.workers import GRACE

    if not jobs or cluster == "debug":
        return
    ids = [job.job_id for job in jobs]
    deadline = time.monotonic() + GRACE
    try:
        if cluster == "slurm":
            _scancel("--state=PENDING", *ids)
            _scancel("--signal=INT", *ids)
        else:
            _kill(ids, signal.SIGTERM)  # which submitit's process hands on
        while time.monotonic() < deadline and not all(job.done(force_check=True) for job in jobs):
            time.sleep(_LOOK_AGAIN.get(cluster, _LOOK_AGAIN_HERE))
    finally:  # also when a second Ctrl-C cuts the wait short
        left = [job.job_id for job in jobs if not job.done()]
        if left and cluster == "slurm":
            _scancel(*left)
        elif left:
            _kill([child for each in left for child in _children(each)], signal.SIGKILL)
        for job in jobs:
            _tidy(job)


def _scancel(*words: str) -> None:
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", *words], capture_output=True, timeout=60)


def _kill(ids: Sequence[str], signum: int) -> None:
    for each in ids:
        with suppress(ProcessLookupError):
            os.kill(int(each), signum)


def _children(process: str) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return []


def _tidy(job: Submitted[Any]) -> None:
    """Remove what had the configuration in it; what the job printed stays."""
    for path in (job.paths.submitted_pickle, job.paths.result_pickle):
        path.unlink(missing_ok=True)


def _sentence(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
