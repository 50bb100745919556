"""One job of a sweep: composed where the sweep is led, run in a worker process, on any host."""

from __future__ import annotations

import logging
import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cloudpickle
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gluonexp.base.errors import GluonexpError
from gluonexp.base.imports import installed
from gluonexp.base.processes import this_host
from gluonexp.base.source import code_digest
from gluonexp.config import hydra_private
from gluonexp.config.computing import libraries
from gluonexp.config.schema import Config, to_config
from gluonexp.tracking import open_store
from gluonexp.tracking.store import impatient
from gluonexp.tracking.uri import local_path, resolve_uri, sqlite_path
from gluonexp.training import job_folder

_log = logging.getLogger(__name__)

# In the folder of a sweep, where it is led.
_SIGN: Final = "multirun.yaml"


class Sender:
    """Packs the jobs of a sweep, for `run` in another process.

    What a job asks for is composed here: the files of its groups need not be there.

    Parameters
    ----------
    hydra_context, config, task_function
        What Hydra gives to a launcher.

    Attributes
    ----------
    shared
        What all jobs need.
    """

    def __init__(
        self, hydra_context: HydraContext, config: DictConfig, task_function: TaskFunction
    ) -> None:
        self._loader, self._config = hydra_context.config_loader, config
        state = hydra_private.state()
        self.shared: bytes = cloudpickle.dumps((hydra_context, task_function, state))
        self._codes: dict[tuple[Sequence[str], Sequence[str]], str] = {}

    def packed(self, number: int, overrides: Sequence[str]) -> bytes:
        """Return the job whose number in the sweep is `number`; what is wrong with it, it raises.

        What it runs on is told ahead of it, in plain types that any code can read.
        """
        terms: dict[str, Any] = {"host": this_host(), "folder": str(Path.cwd())}
        content: DictConfig | Exception
        try:
            content = self._loader.load_sweep_config(self._config, list(overrides))
            with open_dict(content):
                content.hydra.job.id = content.hydra.job.num = number
            settings = _settings(content)
        except Exception as error:
            content = error
        else:
            if settings is not None:
                content.tracking.uri = settings.tracking.uri  # may be of our environment
                terms |= self._code(settings)
        return pickle.dumps((terms, cloudpickle.dumps(content)))

    def _code(self, settings: Config) -> dict[str, Any]:
        """Say which code the job must find; what is edited later in the sweep is another."""
        packages, computing = tuple(settings.build.allow), libraries(settings)
        if (packages, computing) not in self._codes:
            self._codes[packages, computing] = code_digest(packages, computing)
        return {
            "packages": packages,
            "libraries": computing,
            "versions": _versions(computing),
            "code": self._codes[packages, computing],
        }


def run(shared: bytes, job: bytes) -> JobReturn:
    """Run a job that a `Sender` has packed, which has `shared`.

    Raises
    ------
    GluonexpError
        This host has other code than the one that leads the sweep, or cannot reach its store.
    Exception
        What the job raised.
    """
    terms, content = pickle.loads(job)
    if "code" in terms:
        _check_code(terms)
    composed: DictConfig | Exception = cloudpickle.loads(content)
    if isinstance(composed, Exception):
        raise composed
    hydra_context, task_function = _unpacked(shared)
    elsewhere = tuple(terms["host"]) != this_host()
    with read_write(composed), open_dict(composed):
        if elsewhere:
            _check_store(terms, composed)
            composed.hydra.runtime.cwd = os.getcwd()
            last = OmegaConf.select(composed, "trainer.resume")
            if last is not None and not Path(last).exists():  # it stayed where it was made
                composed.trainer.resume = None
        if (goes_on := _left_off(composed)) is not None:
            composed.trainer.resume = str(goes_on)
    try:
        with hydra_private.secrets_hidden():
            done = run_job(
                hydra_context=hydra_context,
                task_function=task_function,
                config=composed,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
    finally:
        if elsewhere:
            _keep_log(composed)
    if done.status is JobStatus.FAILED:
        raise hydra_private.outcome(done)
    return done


def _left_off(composed: DictConfig) -> Path | None:
    """Return the checkpoint of a job that its scheduler has started again, in its own run."""
    folder = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir).absolute()
    run_id = OmegaConf.select(composed, "tracking.run_id")
    return None if run_id is None else job_folder.goes_on(folder, run_id)


@lru_cache(maxsize=1)
def _unpacked(shared: bytes) -> tuple[HydraContext, TaskFunction]:
    """Unpack once in each worker: restoring the state is slow."""
    hydra_context, task_function, state = cloudpickle.loads(shared)
    hydra_private.restore(state)
    return hydra_context, task_function


def _settings(composed: DictConfig) -> Config | None:
    """Return a job's configuration; None for that of another application, or a wrong one."""
    own = deepcopy(composed)
    with read_write(own), open_dict(own):
        own.pop("hydra", None)
    try:
        return to_config(own)
    except GluonexpError:  # the job says so
        return None


@lru_cache
def _own_code(packages: Sequence[str], computing: Sequence[str]) -> str:
    """Return the digest of the code of this process: what is edited later, it does not import."""
    return code_digest(packages, computing)


def _versions(computing: Sequence[str]) -> dict[str, str]:
    """Return what may make two hosts' code differ although their files do not."""
    return {"Python": platform.python_version(), **installed(*computing)}


def _check_code(terms: Mapping[str, Any]) -> None:
    """Refuse a job that would run on other code than the sweep that it belongs to."""
    computing = tuple(terms["libraries"])
    here, there = _own_code(tuple(terms["packages"]), computing), terms["code"]
    if here == there:
        return
    (name, _), leading, ours = this_host(), terms["versions"], _versions(computing)
    other = [
        f"{each} {ours.get(each, 'missing')} instead of {leading.get(each, 'none')}"
        for each in sorted({*ours, *leading})
        if ours.get(each) != leading.get(each)
    ]
    raise GluonexpError(
        f"host {name} has other code ({here[:8]}{': ' if other else ''}{', '.join(other)}) than "
        f"{terms['host'][0]}, which leads the sweep ({there[:8]}): give it the same gluonexp, "
        "packages of build.allow and libraries, and resume the sweep"
    )


def _check_store(terms: Mapping[str, Any], composed: DictConfig) -> None:
    """Refuse a store in files that are another host's: there would be one more of them here."""
    if OmegaConf.select(composed, "tracking.backend") != "mlflow":
        return
    (name, _), leading = this_host(), terms["host"][0]
    uri, where = resolve_uri(composed.tracking.uri), ""
    if sqlite_path(uri) is not None:
        where = "the store of the sweep"
    elif not uri.startswith(("http:", "https:", "databricks")):
        run_id = composed.tracking.run_id
        location = run_id and open_store(uri).get_run(run_id).info.artifact_uri
        sign = Path(terms["folder"], str(composed.hydra.sweep.dir), _SIGN)
        if location and local_path(location) is not None and not sign.is_file():
            where = f"what the runs of the sweep keep ({location})"
    if where:
        raise GluonexpError(
            f"host {name} cannot write {where}: it lies in files of {leading}, which leads the "
            "sweep; name a server that all hosts reach, tracking.uri=http://HOST:PORT"
        )


def _keep_log(composed: DictConfig) -> None:
    """Keep with its run what a job has printed: nobody finds it on this host."""
    log = Path(composed.hydra.runtime.output_dir or "", job_folder.CONSOLE)
    run_id = OmegaConf.select(composed, "tracking.run_id")
    if run_id is None or not log.is_file():
        return
    try:
        with impatient(retries=1, timeout_s=10):
            open_store(composed.tracking.uri).log_artifact(run_id, str(log))
    except Exception as error:  # whatever a store raises: the job has ended, and this is not it
        _log.warning("%s is not kept with run %s: %s", log, run_id, error)
