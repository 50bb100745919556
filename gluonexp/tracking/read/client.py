"""Any store, read through MLflow: a server, or the tables of one's own.

A server takes five milliseconds for a run with all its parameters, and as long for each question.
So it is asked for no run that is not wanted, and for the curves of many runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gluonexp.tracking import internals
from gluonexp.tracking.places import move_of
from gluonexp.tracking.read.records import (
    JOB,
    PARENT,
    PRUNED_TAG,
    Point,
    Query,
    RunRecord,
    record,
)
from gluonexp.tracking.statuses import FINISHED, PRUNED
from gluonexp.tracking.store import experiments, find_run, reported
from gluonexp.tracking.uri import displayed, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_THREADS: Final = 8  # requests to a server at a time
_PAGE: Final = 1000  # runs
# Of so many, the one that was begun last has the highest number, even if the clocks of the hosts
# that begin them differ by a little.
_NEWEST: Final = 5


class Client:
    """The store of a client of MLflow's."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.uri: str = client.tracking_uri
        self._names: dict[str, str] = {}  # of experiments, by their ids, once they were asked for

    def find(self, ref: str) -> str:
        """Return the id of the run that `ref` means."""
        return str(find_run(self._client, ref).info.run_id)

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments by their ids."""
        with self._reported():
            self._names = experiments(self._client)
        return self._names

    def tag_of_experiment(self, experiment_id: str, key: str) -> str | None:
        """Return a tag of an experiment; None where it has none of that key."""
        with self._reported():
            found: str | None = self._client.get_experiment(experiment_id).tags.get(key)
        return found

    def select(self, query: Query) -> list[RunRecord]:
        """Return the runs of `query`, in order of their start."""
        names = self._names
        if not names or query.experiment_id not in (None, *names):
            names = self.experiments()
        database = sqlite_path(self.uri)
        return [
            _record(run, names[run.info.experiment_id], database)
            for run in self._search(query, names)
            if run.info.experiment_id in names  # else that was deleted
        ]

    def count_children(self, parents: Sequence[str]) -> dict[str, int]:
        """Return how many children each of `parents` has; those without are left out.

        Of a sweep of gluonexp's that is how many were begun, so that not all of them are read.
        """
        names = self._names or self.experiments()

        def count(parent: str) -> int:
            of_parent = Query(tags={PARENT: parent}, newest_first=True, limit=_NEWEST)
            newest = [run.data.tags for run in self._search(of_parent, names)]
            if len(newest) < _NEWEST or any(JOB not in tags for tags in newest):
                return sum(1 for _ in self._search(Query(tags={PARENT: parent}), names))
            return 1 + max(int(tags[JOB]) for tags in newest)

        with ThreadPoolExecutor(_THREADS) as pool:
            counts = zip(parents, pool.map(count, parents), strict=True)
            return {parent: number for parent, number in counts if number}

    def points(self, run_ids: Sequence[str], metric: str) -> Iterator[Point]:
        """Yield run, step and value of each point of `metric`, in order of time."""
        size = internals.MOST_HISTORIES
        parts = [run_ids[start : start + size] for start in range(0, len(run_ids), size)]
        with self._reported(), ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(partial(self._points, metric), parts))
        for points in found:
            yield from points

    def _points(self, metric: str, run_ids: Sequence[str]) -> list[Point]:
        points = internals.histories(self._client, run_ids, metric)
        if points is not None:
            return points
        if len(run_ids) > 1:
            half = len(run_ids) // 2
            parts = run_ids[:half], run_ids[half:]
            return [point for part in parts for point in self._points(metric, part)]
        (run_id,) = run_ids
        history = self._client.get_metric_history(run_id, metric)
        in_order = sorted(history, key=lambda point: point.timestamp)
        return [(run_id, point.step, point.value) for point in in_order]

    def _search(self, query: Query, names: dict[str, str]) -> Iterator[Run]:
        """Yield the runs of `query`; `names` are the experiments there are, by id."""
        order = "DESC" if query.newest_first else "ASC"
        within = [query.experiment_id] if query.experiment_id is not None else list(names)
        wanted, limit = _filter(query), query.limit
        token: str | None = None
        while True:
            with self._reported():
                page = self._client.search_runs(
                    within,
                    wanted,
                    max_results=_PAGE if limit is None else min(limit, _PAGE),
                    order_by=[f"attributes.start_time {order}", f"attributes.run_id {order}"],
                    page_token=token,
                )
            yield from page
            limit = None if limit is None else limit - len(page)
            token = page.token
            if not token or limit == 0:
                return

    def _reported(self) -> AbstractContextManager[None]:
        return reported(f"the runs in {displayed(self.uri)} cannot be read")


def _filter(query: Query) -> str:
    """Return `query` in MLflow's language."""
    filters = []
    if query.ids is not None:
        quoted = ", ".join(f"'{run_id}'" for run_id in query.ids)
        filters.append(f"attributes.run_id IN ({quoted})")
    filters += [f"tags.`{key}` = '{value}'" for key, value in query.tags.items()]
    if query.top:
        filters.append(f"tags.`{PARENT}` IS NULL")
    if query.status is not None:
        status = FINISHED if query.status == PRUNED else query.status
        filters.append(f"attributes.status = '{status}'")
        if query.status in (FINISHED, PRUNED):
            kept = "IS NOT NULL" if query.status == PRUNED else "IS NULL"
            filters.append(f"tags.`{PRUNED_TAG}` {kept}")
    return " AND ".join(filters)


def _record(run: Run, experiment: str, database: Any) -> RunRecord:
    info, data = run.info, run.data
    times = info.start_time, info.end_time
    kept: dict[str, Any] = {"params": data.params, "metrics": data.metrics, "tags": data.tags}
    named = info.run_id, info.run_name, info.status
    move = move_of(info.artifact_uri, database)
    return record(*named, *times, info.experiment_id, experiment, move=move, **kept)
