"""``hydra/launcher=ray``: the jobs of a sweep as tasks of Ray, on this machine or on a cluster.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.gluonexp.launchers import Packed, StreamingLauncher, check_n_jobs

# How often the cluster is asked whether there is room for more (seconds).
_LOOK_AGAIN: Final = 1.0


class RayLauncher(StreamingLauncher):
    """Run jobs as tasks of Ray, each in a process of its own; a lost one loses its own job only.

    Ray tries nothing again (``max_retries=0``): ``sweep.retries`` does, from the checkpoint.

    Parameters
    ----------
    address
        Of a cluster: ``auto`` (the one that this machine belongs to) or ``ray://host:10001``;
        None starts one on this machine, for the time of the sweep.
    n_jobs
        How many run at a time, at most; -1 for as many as the cluster has room for.
    num_cpus, num_gpus, resources
        What a job takes.
    runtime_env
        What Ray brings to the workers: code, packages, environment variables.
    """

    def __init__(
        self,
        address: str | None = None,
        n_jobs: int = -1,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.address, self.n_jobs = address, n_jobs
        self._resources = _mapping("resources", resources)
        self._takes = {"CPU": num_cpus, "GPU": num_gpus, **self._resources}
        self._runtime_env = _mapping("runtime_env", runtime_env)
        self._ending = ExitStack()
        self._connected = False

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to every launcher."""
        check_n_jobs(self.n_jobs)
        for name, each in self._takes.items():
            if not isinstance(each, int | float) or each < 0 or (name == "CPU" and not each):
                raise CompactHydraException(
                    f"hydra.launcher.{_key(name)}={each}: a job takes a number, and more than no "
                    "core"
                )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @property
    def n_workers(self) -> int:
        """How many jobs run at a time: as many as the cluster has room for now."""
        import ray

        there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        rooms = [int(there.get(name, 0) / each) for name, each in self._takes.items() if each]
        room = max(1, min(rooms))  # a cluster may grow when a job waits for it
        return room if self.n_jobs == -1 else min(room, self.n_jobs)

    def start(self, count: int | None = None, warm_up: Callable[[], object] | None = None) -> None:
        """Connect to the cluster, or start one here; each task is a process that imports anew."""
        from gluonexp.base import ray_cluster

        if self._connected:
            return
        self._ending.enter_context(ray_cluster.environment(self.address))
        try:
            import ray
        except ImportError:
            self.close()
            raise CompactHydraException(
                "hydra/launcher=ray needs Ray: pip install 'gluonexp[ray]'"
            ) from None
        self._connected = True
        self._ending.callback(setattr, self, "_connected", False)
        if ray.is_initialized():  # by whoever called us
            return
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._runtime_env:
            options["runtime_env"] = self._runtime_env
        self._ending.enter_context(ray_cluster.quiet())
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is None:
                self._ending.enter_context(ray_cluster.own_cluster(options))
                self._refuse_what_is_not_here()
            else:
                ray_cluster.look_for(self.address)
                ray.init(address=self.address, **options)
                self._ending.callback(ray.shutdown)
        except CompactHydraException:
            raise
        except Exception as error:  # of many kinds
            why = _sentence(error)
            raise CompactHydraException(
                f"hydra/launcher=ray: Ray does not start here: {why}"
                if self.address is None
                else f"hydra.launcher.address={self.address}: there is no cluster ({why}); "
                "`ray start --head` starts one, and without an address there is one here; "
                "one with a token needs RAY_AUTH_MODE=token"
            ) from None
        finally:
            with suppress(ValueError):  # not in the main thread, where Ray changes nothing either
                signal.signal(signal.SIGTERM, on_sigterm)

    def _refuse_what_is_not_here(self) -> None:
        """Refuse a job that this machine never has room for: it would wait for good."""
        import ray

        there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for name, each in self._takes.items():
            if each > (has := there.get(name, 0)):
                raise CompactHydraException(
                    f"hydra.launcher.{_key(name)}={each:g}: this machine has {has:g}; take less, "
                    "or name a cluster by hydra.launcher.address"
                )

    def outcomes(
        self, shared: bytes, jobs: Iterable[Packed]
    ) -> Generator[tuple[int, JobReturn | Exception], None, None]:
        """Run jobs; those that run when the iterator is closed are cancelled, as by Ctrl-C.

        Raises
        ------
        GluonexpError
            The head of the cluster is lost, and all jobs with it.
        """
        import ray

        from gluonexp.base import ray_cluster
        from gluonexp.base.errors import GluonexpError

        task: Any = ray.remote(
            max_retries=0,
            max_calls=1,
            num_cpus=self._takes["CPU"],
            num_gpus=self._takes["GPU"],
            resources=self._resources,
        )(_carried_out)
        # Where Ray brings a folder to the workers, they are in that; else in ours, where it is.
        folder = None if "working_dir" in (self._runtime_env or {}) else os.getcwd()
        common = ray.put(shared)
        jobs, more = iter(jobs), True
        running: dict[Future[JobReturn], tuple[Any, int]] = {}
        head = ray_cluster.Head(self.address)
        try:
            while True:
                there = head.answers()  # if not, a question to Ray would not come back
                if head.lost:
                    running.clear()  # nobody is there to be asked to cancel them
                    raise GluonexpError(
                        f"the Ray cluster is lost, and its jobs with it: {head.silent} does not "
                        "answer any more; start it again and resume the sweep"
                    )
                if not there and not running:
                    time.sleep(_LOOK_AGAIN)
                while there and more and len(running) < self.n_workers:
                    try:
                        number, job = next(jobs)
                    except StopIteration:
                        more = False
                    else:
                        reference = task.remote(folder, common, job)
                        running[reference.future()] = reference, number
                if not running and not more:
                    return
                # Not ray.wait: a signal's exception that is raised in it becomes exit code 1.
                for future in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
                    yield running.pop(future)[1], _outcome(future)
        finally:
            _cancel({future: reference for future, (reference, _) in running.items()})

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        self._ending.close()


def _mapping(key: str, value: object) -> dict[str, Any]:
    """Return an option that is a mapping, as plain Python."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value is not None and not isinstance(value, Mapping):
        raise CompactHydraException(
            f"hydra.launcher.{key}={value}: a mapping is wanted, as '{{NAME: VALUE}}'"
        )
    return {str(name): each for name, each in (value or {}).items()}


def _key(resource: str) -> str:
    """Return the option that says how much of a resource a job takes."""
    return f"num_{resource.lower()}s" if resource in ("CPU", "GPU") else f"resources.{resource}"


def _carried_out(folder: str | None, shared: bytes, job: bytes) -> JobReturn:
    """Run a job in a worker of Ray, in the folder of the sweep where this machine has that."""
    from gluonexp.base.imports import heavy_imports
    from gluonexp.base.workers import contained

    if folder is not None:
        os.chdir(folder if os.path.isdir(folder) else _home())
    with heavy_imports():
        from gluonexp.sweep import remote

    return contained(remote.run, shared, job)


def _home() -> Path:
    """Return the folder for jobs on a host that has not that of the sweep."""
    import platformdirs

    home = platformdirs.user_state_path("gluonexp", appauthor=False) / "jobs"
    home.mkdir(parents=True, exist_ok=True)
    return home


def _outcome(future: Future[JobReturn]) -> JobReturn | Exception:
    """Return what a task returned or raised, or how its worker was lost."""
    from ray import exceptions

    from gluonexp.base.workers import TaskError, WorkerDied

    try:
        return future.result()
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, exceptions.RayError):  # what it was sent is lost, say
            return WorkerDied(f"its worker was lost: {_sentence(cause)}")
        return cause if isinstance(cause, Exception) else TaskError(str(error))
    except exceptions.RayError as error:
        return WorkerDied(f"its worker was lost: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    """Return the first sentence of one of Ray's long messages."""
    text = " ".join(str(error).split())
    return text.partition(". ")[0] or type(error).__name__


def _cancel(running: Mapping[Future[JobReturn], Any]) -> None:
    """End tasks in order, as Ctrl-C would; after the grace of any worker, at once."""
    import ray

    from gluonexp.base.workers import GRACE

    left = set(running)
    try:
        with suppress(Exception):  # whatever a cluster that goes down comes up with
            for reference in running.values():
                ray.cancel(reference, force=False)
            left = wait(running, GRACE).not_done
    finally:  # also when a second Ctrl-C cuts the wait short
        with suppress(Exception):
            for future in left:
                ray.cancel(running[future], force=True)
