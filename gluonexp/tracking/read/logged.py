"""Runs that no store has, read from their logs in the form in which a store's runs are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from gluonexp.tracking import owner
from gluonexp.tracking.logs import Logged, offline
from gluonexp.tracking.read.records import PARENT, Query, RunRecord, record
from gluonexp.tracking.statuses import RUNNING
from gluonexp.tracking.store import check_ref, only


class Logs:
    """The runs that were recorded offline beside where the store at `uri` is, or would be."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def runs(self) -> dict[str, RunRecord]:
        """The runs by their own ids, in order of their start."""
        return {log.run_id: as_recorded(log) for log in self._logs}

    def find(self, ref: str) -> str:
        """Return the id of the run that `ref` means."""
        check_ref(ref)
        ids = [log.run_id for log in self._logs]
        found = ids[-1:] if ref == "last" else [one for one in ids if one.startswith(ref)]
        return only(ref, found, self.uri)

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments, which are their ids here."""
        return {log.experiment: log.experiment for log in self._logs}

    def tag_of_experiment(self, experiment_id: str, key: str) -> str | None:
        """Return None: an experiment that no store has, has no tags."""
        return None

    def select(self, query: Query) -> list[RunRecord]:
        """Return the runs of `query`, in order of their start."""
        found = [
            run
            for run in self.runs.values()
            if (query.ids is None or run.run_id in query.ids)
            and query.tags.items() <= run.tags.items()
            and query.experiment_id in (None, run.experiment)
            and query.status in (None, run.status)
            and not (query.top and run.parent_id)
        ]
        return (found[::-1] if query.newest_first else found)[: query.limit]

    def count_children(self, parents: Sequence[str]) -> dict[str, int]:
        """Return how many children each of `parents` has; those without are left out."""
        counts = {parent: len(self.select(Query(tags={PARENT: parent}))) for parent in parents}
        return {parent: count for parent, count in counts.items() if count}

    def points(self, run_ids: Collection[str], metric: str) -> Iterator[tuple[str, int, float]]:
        """Yield run, step and value of each point of `metric`, in order of time."""
        for log in self._logs:
            if log.run_id in run_ids:
                for key, value, _, step in _points(log):
                    if key == metric:
                        yield log.run_id, step, value

    @cached_property
    def _logs(self) -> list[Logged]:
        return offline(self.uri)


def as_recorded(log: Logged) -> RunRecord:
    """Return a run as its log has it, in the form in which a store's are read."""
    params: dict[str, str] = {}
    tags = dict(log.tags)
    metrics: dict[str, tuple[int, float]] = {}
    status, end = RUNNING, None
    for entry in log.records:
        kind = entry["kind"]
        if kind == "params":
            params |= {key: value for key, value in entry["values"].items() if key not in params}
        elif kind == "tags":
            tags |= entry["values"]
        elif kind == "status":
            status, end = entry["status"], entry["end"]
        elif kind == "open":
            ended = ("error", *owner.OF_BURIALS)  # no longer, it goes on
            tags = {key: text for key, text in tags.items() if key not in ended} | entry["tags"]
            status = RUNNING
    for key, value, _, step in _points(log):
        if key not in metrics or step >= metrics[key][0]:  # as MLflow keeps the latest
            metrics[key] = step, value
    return record(
        log.run_id,
        log.name,
        status,
        log.start,
        end,
        log.experiment,
        log.experiment,
        move=None,
        params=params,
        metrics={key: value for key, (_, value) in metrics.items()},
        tags={key: value for key, value in tags.items() if value is not None},
    )


def _points(log: Logged) -> Iterator[tuple[str, float, int, int]]:
    """Yield key, value, time and step of each point in a log, in order of time."""
    points = [
        point for entry in log.records if entry["kind"] == "metrics" for point in entry["points"]
    ]
    for key, value, at, step in sorted(points, key=lambda point: point[2]):
        yield key, float(value), at, step
