"""One job of a sweep, in a worker process: Hydra composes it there and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cloudpickle
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gluonexp.config import hydra_private
from gluonexp.training import job_folder


def packed(hydra_context: HydraContext, config: DictConfig, task_function: TaskFunction) -> bytes:
    """Return what all jobs of a sweep share, Hydra's global state included, for `run`."""
    state = hydra_private.state()
    data: bytes = cloudpickle.dumps((hydra_context, config, task_function, state))
    return data


def run(shared: bytes, number: int, overrides: Sequence[str]) -> JobReturn:
    """Run a job whose number in the sweep is `number`.

    Raises
    ------
    Exception
        What the job raised.
    """
    hydra_context, config, task_function = _unpacked(shared)
    composed = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
        if (last := _left_off(composed)) is not None:
            composed.trainer.resume = str(last)
    with hydra_private.secrets_hidden():
        done = run_job(
            hydra_context=hydra_context,
            task_function=task_function,
            config=composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    if done.status is JobStatus.FAILED:
        raise hydra_private.outcome(done)
    return done


def _left_off(composed: DictConfig) -> Path | None:
    """Return the checkpoint of a job that its scheduler has started again, in its own run."""
    folder = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir).absolute()
    run_id = OmegaConf.select(composed, "tracking.run_id")
    return None if run_id is None else job_folder.goes_on(folder, run_id)


@lru_cache(maxsize=1)
def _unpacked(shared: bytes) -> tuple[HydraContext, DictConfig, TaskFunction]:
    """Unpack once in each worker: restoring the state is slow."""
    hydra_context, config, task_function, state = cloudpickle.loads(shared)
    hydra_private.restore(state)
    return hydra_context, config, task_function
