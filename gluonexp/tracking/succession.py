"""A run with several logs: each process that goes on with it in another folder has its own.

The last of them tells how the run ended. An earlier one, sent later, only adds what the store has
not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gluonexp.tracking import owner
from gluonexp.tracking.artifacts import of_run
from gluonexp.tracking.logs import Logged
from gluonexp.tracking.statuses import UNFINISHED
from gluonexp.tracking.store import reported

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_OF_AN_END = ("error", *owner.OF_BURIALS)


def has_gone_on(run: Run, log: Logged) -> bool:
    """Say whether a run of a store has gone on since the end of a log, so with another one.

    It has where it ended later, or where another process has renewed its lease later. The end
    that a process enters for one that is lost (see `burial`) does not count.
    """
    tags, since = run.data.tags, log.last
    renewed = owner.renewed(tags)
    # While a process lives that was killed later, its lease is renewed after its last record.
    if renewed is not None and 1000 * renewed > since and (log.ended or not _wrote(log, run)):
        return True
    ended = run.info.status not in UNFINISHED and owner.BURIED not in tags
    return ended and run.info.end_time is not None and int(run.info.end_time) > since


def _wrote(log: Logged, run: Run) -> bool:
    """Say whether the process that a run belongs to has written to a log."""
    named = (owner.HOST, owner.PROCESS)
    process = [run.data.tags.get(key) for key in named]
    opened = (entry["tags"] for entry in log.records if entry["kind"] == "open")
    return any([tags.get(key) for key in named] == process for tags in opened)


class Newer:
    """What a store has of a run that has gone on: an earlier log changes none of it."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        with reported(f"run {run_id} cannot be read"):
            run = client.get_run(run_id)
        self._client, self._run_id = client, run_id
        self._params, self._tags = run.data.params, run.data.tags
        self._steps: dict[str, set[int]] = {key: set() for key in run.data.metrics}
        self.files = {file.path for file in of_run(client, run_id).files()}

    def params(self, values: dict[str, str]) -> dict[str, str]:
        """Return those parameters that the store lacks."""
        return {key: value for key, value in values.items() if key not in self._params}

    def tags(self, values: dict[str, str | None]) -> dict[str, str | None]:
        """Return those tags that the store lacks, without what an end says."""
        known = {*self._tags, *_OF_AN_END}
        return {key: value for key, value in values.items() if key not in known}

    def points(self, values: list[tuple[str, float, int, int]]) -> list[Any]:
        """Return those points of metrics at whose steps the store has none."""
        for key in {key for key, *_ in values}:
            if self._steps.get(key) == set():
                with reported(f"{key} of run {self._run_id} cannot be read"):
                    history = self._client.get_metric_history(self._run_id, key)
                self._steps[key] = {point.step for point in history}
        return [point for point in values if point[3] not in self._steps.get(point[0], ())]
