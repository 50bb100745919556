"""Runs as plain types, and which of them a store is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from gluonexp.tracking import owner
from gluonexp.tracking.places import WORKDIR, Move
from gluonexp.tracking.statuses import FINISHED, LOST, PRUNED, RUNNING

# The id that a run had before it was sent to this store: its own.
OWN_ID = "gluonexp.run"
PARENT, PRUNED_TAG = "mlflow.parentRunId", "gluonexp.pruned"
# A child's number in its sweep, from 0, and the digest of its configuration.
JOB, POINT = "gluonexp.sweep.job", "gluonexp.sweep.point"
# Where MLflow keeps how busy a machine was; the most memory that training took, in megabytes.
SYSTEM = "system/"
PEAK_MEMORY = f"{SYSTEM}peak_memory_megabytes"
# The SHA-256 of the export's certificate.
CERTIFICATE_TAG = "gluonexp.export.certificate"
# Of a run whose loop is not ours, which nobody but its own script trains again.
OWN_LOOP = "gluonexp.own_loop"
# What `RunRecord.shown_status` is made of.
OF_STATUS = (PRUNED_TAG, owner.HOST, owner.BOOT, owner.PROCESS, owner.LEASE)

# A run's id, the step, and the value of a metric.
Point = tuple[str, int, float]


@dataclass(frozen=True)
class RunRecord:
    """One run as the store has it.

    Attributes
    ----------
    run_id, name
        MLflow's id, 32 hex digits, and the run's name.
    status
        FINISHED, PRUNED, FAILED, KILLED, RUNNING or SCHEDULED.
    experiment, experiment_id
        Name and MLflow's id of its experiment.
    start
        When it started, in UTC.
    seconds
        From its start to its end; NaN while it runs.
    params, tags
        Texts by key.
    metrics
        The value of the largest step by name: ``val/acc``, ``test/acc``...
    move
        How the store was moved since; None if it was not.
    """

    run_id: str
    name: str
    status: str
    experiment: str
    experiment_id: str
    start: datetime
    seconds: float = math.nan
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    move: Move | None = None

    @property
    def parent_id(self) -> str | None:
        """The run that this one is a child of."""
        return self.tags.get(PARENT)

    @property
    def own_id(self) -> str:
        """The id that it began with, before it was sent here."""
        return self.tags.get(OWN_ID, self.run_id)

    @property
    def lost(self) -> bool:
        """Whether it is RUNNING in the store, and its process is gone."""
        return self.status == RUNNING and owner.is_lost(self.tags)

    @property
    def shown_status(self) -> str:
        """Its status for people: of one that is lost, ``lost``."""
        return LOST if self.lost else self.status

    @property
    def workdir(self) -> str | None:
        """The folder of its job, where that lies now; None if it did not record one."""
        folder = self.tags.get(WORKDIR)
        return self.move.follow(folder) if folder and self.move else folder


@dataclass(frozen=True)
class Query:
    """Which runs, that are not deleted, and in which order; a None restricts nothing.

    Of `wanted` tags the others need not be read: there are as many as parameters.
    """

    ids: Sequence[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    experiment_id: str | None = None
    status: str | None = None
    top: bool = False  # only runs without a parent
    newest_first: bool = False
    limit: int | None = None
    wanted: Sequence[str] | None = None


def record(
    run_id: str,
    name: str | None,
    status: str,
    start: int | None,
    end: int | None,
    experiment_id: str,
    experiment: str,
    *,
    move: Move | None,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> RunRecord:
    """Return a run of what MLflow keeps of it; times are in milliseconds after 1970.

    A run that was resumed keeps its earlier end while it is RUNNING.
    """
    began = datetime.fromtimestamp((start or 0) / 1000, timezone.utc)
    ended = status != RUNNING and start is not None and end is not None
    seconds = (end - start) / 1000 if ended else math.nan  # type: ignore[operator]
    if status == FINISHED and PRUNED_TAG in tags:  # for which MLflow has no word
        status = PRUNED
    where = experiment, experiment_id
    times = began, seconds
    return RunRecord(run_id, name or "", status, *where, *times, params, metrics, tags, move)
