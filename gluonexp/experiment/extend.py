"""``trainer.resume=RUN_ID``: a run that goes on, or one trained further, from its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import temporary
from gluonexp.config import recorded
from gluonexp.config.recorded import Composed
from gluonexp.config.schema import Config, to_config
from gluonexp.tracking import owner
from gluonexp.tracking.artifacts import of_run
from gluonexp.tracking.logs import offline_run
from gluonexp.tracking.read.runs import RunRecord, reader
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, RUNNING
from gluonexp.training import job_folder

_CONFIGURATION: Final = "config/resolved.yaml"

# How a run stands that can go on as itself.
_CUT_OFF: Final = (RUNNING, FAILED, KILLED)


def configuration(composed: Composed, overrides: Sequence[str], folders: Iterable[Path]) -> Config:
    """Return the configuration to run: where it resumes a run by its id, that run's.

    A run that was cut off goes on as itself, ``tracking.run_id``; one that has finished is trained
    further in a new run. The overrides come on top of what the run recorded, and
    ``trainer.resume`` is the folder of its newest checkpoint. A path that exists is not taken for
    an id. `folders` are those of groups of configuration files.

    Raises
    ------
    GluonexpError
        There is no such run, it left no checkpoint on this machine, or what was typed is wrong.
    """
    config = to_config(composed)
    reference = config.trainer.resume
    if reference is None or not _is_run(reference):
        return config
    run, folder = _checkpoint(reference, config.tracking.uri)
    before = _recorded(run, folder, config.tracking.uri)
    try:
        config = to_config(recorded.with_typed(before, composed, overrides, folders))
    except GluonexpError as error:
        raise GluonexpError(f"trainer.resume={reference}: {error}") from None
    if run.status not in _CUT_OFF:
        return _resumed(config, folder, None)
    for key in ("experiment", "run_name"):
        if getattr(config.tracking, key) != (had := before["tracking"].get(key)):
            raise GluonexpError(
                f"trainer.resume={reference}: the run goes on as itself, so tracking.{key} stays "
                f"{'null' if had is None else had}; leave it out"
            )
    if offline_run(run.run_id, config.tracking.uri) is not None:  # so it stays until it is pushed
        config = replace(config, tracking=replace(config.tracking, backend="offline"))
    return _resumed(config, folder, run.own_id)


def restarted(config: Config, job: str) -> Config:
    """Return what to run where torchrun has started its `job` again, because a process was lost.

    That is `config`, in the run that the job had begun, from its newest checkpoint; a run without
    one, which its own process could not end any more, is FAILED now, and another begins.

    Raises
    ------
    GluonexpError
        The store cannot be read.
    """
    uri, of_sweep = config.tracking.uri, config.tracking.run_id is not None
    if of_sweep or config.trainer.lr_find.steps or config.tracking.backend == "none":
        return config
    for run in reader(uri).tagged(tracking.TORCHRUN, job):
        if run.status == FINISHED:  # another job of that name
            break
        if run.status == RUNNING and not owner.alive(run.tags):
            tracking.end_lost(uri, run.run_id, "its process was lost; torchrun started another")
        if (folder := _newest(run)) is not None:
            return _resumed(config, folder, run.run_id)
    return config


def _resumed(config: Config, folder: Path, run_id: str | None) -> Config:
    """Let a checkpoint be trained further, in run `run_id` or in a new one."""
    return replace(
        config,
        trainer=replace(config.trainer, resume=str(folder)),
        tracking=replace(config.tracking, run_id=run_id),
    )


def _recorded(run: RunRecord, folder: Path, uri: str | None) -> dict[str, Any]:
    """Return the configuration of a run that left checkpoint `folder`.

    Of one that was cut off it lies in its own folder, whether or not the store has got it.
    """
    workdir = folder.parents[1]
    file = workdir / job_folder.ARTIFACTS / _CONFIGURATION
    is_its_own = job_folder.owner(workdir / job_folder.CHECKPOINTS).run_id == run.own_id
    if is_its_own and file.is_file():
        return recorded.read(file)
    with temporary() as place:
        kept = of_run(tracking.open_store(uri), run.run_id)
        return recorded.read(kept.fetch(_CONFIGURATION, place))


def _newest(run: RunRecord) -> Path | None:
    """Return the folder of the newest checkpoint that a run left; a sweep's parent has none."""
    return job_folder.of_run(Path(run.workdir), run.own_id) if run.workdir else None


def _is_run(reference: str) -> bool:
    if Path(reference).expanduser().exists():
        return False
    return reference == "last" or re.fullmatch("[0-9a-f]{6,32}", reference) is not None


def _checkpoint(reference: str, uri: str | None) -> tuple[RunRecord, Path]:
    """Return the run, and the folder of its newest checkpoint."""
    store = reader(uri, alone=True)
    if reference == "last":
        runs = [run for run in store.newest(100) if not _trains(run)]
    elif _trains(run := store.fetch([reference])[0]):
        raise GluonexpError(f"trainer.resume={reference}: run {run.run_id} still trains")
    else:
        runs = [run]
    for run in runs:
        if (folder := _newest(run)) is not None:
            return run, folder
    if reference == "last":
        raise GluonexpError("trainer.resume=last: no run left a checkpoint on this machine")
    (run,) = runs
    place = run.workdir or "a folder that it did not record"
    instead = "it can only be started anew"  # of one that was cut off the store has none
    if run.status == FINISHED:
        instead = f"to start from its parameters instead: model.weights=runs:/{run.run_id}"
    raise GluonexpError(
        f"trainer.resume={reference}: run {run.run_id} has no checkpoint in {place} (one stays "
        "on the machine that trained, from the first epoch on, unless callbacks.checkpoint.keep=0)"
        f"; {instead}"
    )


def _trains(run: RunRecord) -> bool:
    """Say whether a process is at work on a recorded run, as far as can be told."""
    return run.status == RUNNING and not run.lost
