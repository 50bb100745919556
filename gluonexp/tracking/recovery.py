"""Runs that are RUNNING in the store although their processes are gone: found, and ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import duration
from gluonexp.tracking import owner
from gluonexp.tracking.burial import bury, bury_offline
from gluonexp.tracking.logs import offline_run
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.read.runs import Reader, reader
from gluonexp.tracking.statuses import KILLED, RUNNING
from gluonexp.tracking.store import open_store, reported
from gluonexp.tracking.uri import displayed

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gluonexp.config.schema import TrackingConfig


@dataclass(frozen=True)
class Found:
    """A run that is lost, and what became of it.

    Attributes
    ----------
    run
        As it was found.
    status
        How it is recorded now: RUNNING where it was left alone.
    reached
        How far it came: ``3 of 20 epochs``; None where that is not known.
    reason
        Why it counts as lost, or is left alone.
    """

    run: RunRecord
    status: str
    reached: str | None
    reason: str


def lost(store: Reader, experiment: str | None = None) -> list[RunRecord]:
    """Return the runs that are lost, of any or one experiment, the newest first."""
    found = store.newest(experiment=experiment, status=RUNNING)
    by_id = {run.run_id: run for run in found}
    return [run for run in found if owner.is_lost(_tags(run, by_id))]


def mention(settings: TrackingConfig) -> str | None:
    """Say in one line that runs of an experiment are lost; None if none are.

    None also where nothing is recorded, and where the store does not tell.
    """
    if settings.backend == "none":
        return None
    try:
        count = len(lost(reader(settings.uri), settings.experiment))
    except GluonexpError:
        return None
    if not count:
        return None
    runs = "an earlier run is" if count == 1 else f"{count} earlier runs are"
    return f"{runs} RUNNING in the store without a process: `gluonexp recover` ends what is lost"


def recover(uri: str | None, forced: bool = False) -> Iterator[Found]:
    """End the runs that are lost KILLED, once what they had is sent; yield each, the newest first.

    One of another host is left alone for half an hour after its last sign of life.

    Parameters
    ----------
    forced
        End at once, too, what another host has not renewed the lease of, or has no lease.

    Raises
    ------
    GluonexpError
        There is no store, or it does not answer.
    """
    store = reader(uri)
    found = store.newest(status=RUNNING, offline=True)
    by_id = {run.run_id: run for run in found}
    client = None
    for run in found:
        tags = _tags(run, by_id)
        if owner.may_be_dead(tags, forced):
            reason = f"{owner.name(tags)} ended without closing it"
            if (log := offline_run(run.run_id, store.uri)) is not None:
                yield Found(run, KILLED, bury_offline(log, reason), reason)
                continue
            client = client or open_store(store.uri)
            if not _is_as_before(client, run):  # its process has come back, or another took it
                continue
            bury(client, run.run_id, reason)
            with reported(f"run {run.run_id} cannot be read"):
                now = client.get_run(run.run_id)
            yield Found(run, now.info.status, now.data.tags.get(owner.REACHED), reason)
        elif owner.is_lost(tags):
            yield Found(run, RUNNING, None, _patience(tags))


def stop(uri: str | None, ref: str, jobs: bool = False) -> list[RunRecord]:
    """Let a run that trains stop after the epoch that it is in; return what was told to stop.

    A sweep begins no more jobs then; those that have begun go on.

    Parameters
    ----------
    ref
        A run id, the start of one, or ``last``: the run or sweep that trains and began last.
    jobs
        Of a sweep, let the jobs that train stop too.

    Raises
    ------
    GluonexpError
        There is no such run, it does not train, or the store does not answer. Or no store has it,
        so that there is no way to tell it.
    """
    store = reader(uri)
    run = _last_that_trains(store) if ref == "last" else store.fetch([ref])[0]
    if run.lost:
        raise GluonexpError(
            f"run {run.run_id} is lost, and cannot stop: `gluonexp recover` ends it"
        )
    if run.status != RUNNING:
        raise GluonexpError(f"run {run.run_id} does not train: it is {run.status}")
    if offline_run(run.run_id, store.uri) is not None:
        raise GluonexpError(
            f"run {run.run_id} is recorded offline, where it cannot be told to stop: end "
            f"{owner.name(run.tags)} with Ctrl-C or kill -INT"
        )
    told = [run]
    if jobs:
        told += [one for one in store.children(run.run_id) if one.status == RUNNING]
    client = open_store(store.uri)
    for one in told:
        with reported(f"run {one.run_id} cannot be told to stop"):
            client.set_tag(one.run_id, owner.STOP, owner.name(owner.own_tags()))
    return told


def _last_that_trains(store: Reader) -> RunRecord:
    for run in store.newest(status=RUNNING, top=True, offline=True):
        if not run.lost:
            return run
    raise GluonexpError(
        f"no run trains in {displayed(store.uri)}; `gluonexp runs` lists the runs there are"
    )


def _tags(run: RunRecord, running: Mapping[str, RunRecord]) -> Mapping[str, str]:
    """Return a run's tags; a job that waits for its process has the lease of its sweep."""
    sweep = running.get(run.parent_id or "")
    return run.tags if sweep is None else owner.of_waiting(run.tags, sweep.tags)


def _is_as_before(client: MlflowClient, run: RunRecord) -> bool:
    with reported(f"run {run.run_id} cannot be read"):
        now = client.get_run(run.run_id)
    tags = now.data.tags
    alike = all(tags.get(key) == run.tags.get(key) for key in (owner.PROCESS, owner.LEASE))
    return alike and now.info.status == RUNNING


def _patience(tags: Mapping[str, str]) -> str:
    silent = duration(owner.silence(tags) or 0.0)
    return (
        f"{owner.name(tags)} has given no sign of life for {silent}: it is ended after "
        f"{duration(owner.PATIENCE_S)}, or now with --force"
    )
