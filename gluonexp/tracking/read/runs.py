"""What was recorded, many runs at a time, in plain types: to compare, to list, to sum up.

Nothing is written here. A SQLite store of the layout known here is read without MLflow, whose
import alone takes longer than the answer should; every other store is read through MLflow.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import say
from gluonexp.tracking.logs import offline_run
from gluonexp.tracking.read import sqlite
from gluonexp.tracking.read.client import Client
from gluonexp.tracking.read.logged import Logs
from gluonexp.tracking.read.records import PARENT, Query, RunRecord
from gluonexp.tracking.store import KIND, Unreachable, open_store
from gluonexp.tracking.uri import deleted, displayed, existing, resolve_uri, sqlite_path

__all__ = ["PARENT", "Reader", "RunRecord", "reader"]


def reader(uri: str | None, *, alone: bool = False) -> Reader:
    """Open the store at `uri` (None: ``./mlruns/mlflow.db``) for reading.

    Parameters
    ----------
    alone
        While the store does not answer, what was recorded offline will do alone.

    Raises
    ------
    GluonexpError
        There is no store, or it cannot be read with this version of MLflow.
    """
    try:
        uri = existing(uri)
    except GluonexpError:
        logs = Logs(resolve_uri(uri))
        if not logs.experiments():
            raise
        return Reader(logs)  # nothing but what was recorded offline
    database = sqlite_path(uri)
    if database is not None and sqlite.is_known(database):
        return Reader(sqlite.Database(uri, database))
    try:
        return Reader(Client(open_store(uri)))
    except Unreachable as down:
        logs = Logs(uri)
        if not alone or not logs.experiments():
            raise
        say(f"warning: {down}; here is what was recorded offline")
        return Reader(logs)


class Reader:
    """Answers questions about the runs of one store. A run may be named by the start of its id.

    All methods raise `GluonexpError` where the store fails, or does not have what was asked for.
    """

    def __init__(self, store: sqlite.Database | Logs | Client) -> None:
        self._store = store
        self.uri = store.uri
        self._logs: Logs | None = None  # of runs that no store has, once one was asked for

    def fetch(self, refs: Sequence[str]) -> list[RunRecord]:
        """Return these runs, each once, in order of their start.

        An id may be the one that a run had before it was sent here, or that of a run which is
        recorded in its log alone.
        """
        there = {run.run_id: run for run in self.existing([one for one in refs if len(one) == 32])}
        found: list[str] = []
        alone: list[str] = []
        for ref in refs:
            try:
                if ref not in there:
                    found.append(self._store.find(ref))
            except GluonexpError:
                log = offline_run(ref, self.uri)
                if log is None:
                    self._refuse_deleted(ref)
                    raise
                alone.append(log.run_id)
        there |= {run.run_id: run for run in self.existing(found)}
        runs = list(there.values())
        if alone:
            self._logs = Logs(self.uri)
            runs += self._logs.select(Query(ids=alone))
        return sorted(runs, key=lambda run: (run.start, run.run_id))

    def _refuse_deleted(self, run_id: str) -> None:
        if len(run_id) != 32 or isinstance(self._store, Logs):
            return
        from mlflow.exceptions import MlflowException

        try:
            run = open_store(self.uri).get_run(run_id)
        except (MlflowException, GluonexpError):
            return  # the store has never had it
        if run.info.lifecycle_stage != "active":
            raise GluonexpError(deleted(run_id, self.uri))

    def select(self, query: Query) -> list[RunRecord]:
        """Return the runs of `query`, in order of their start."""
        return self._store.select(query)

    def existing(self, run_ids: Sequence[str]) -> list[RunRecord]:
        """Return those of `run_ids` (whole ids) that are there, in order of their start."""
        return self._store.select(Query(ids=run_ids)) if run_ids else []

    def children(self, parent: str) -> list[RunRecord]:
        """Return the runs of the sweep `parent`, in order of their start; it may have none."""
        (run,) = self.fetch([parent])
        return self._store.select(Query(tags={PARENT: run.run_id}))

    def tagged(self, key: str, value: str) -> list[RunRecord]:
        """Return the runs with this tag, the newest first."""
        return self._store.select(Query(tags={key: value}, newest_first=True))

    def parent(self, ref: str) -> RunRecord:
        """Return the parent run of a sweep; ``last`` is the sweep that was begun last."""
        parent = self._parent(ref)
        if parent.tags.get(KIND) != "sweep":
            raise self._no_sweep(parent)
        return parent

    def sweep(self, ref: str, limit: int | None = None) -> tuple[RunRecord, list[RunRecord]]:
        """Return a sweep's parent, and its runs in order of their start; there is at least one.

        Any run that has children is a sweep here, whoever made it.

        Parameters
        ----------
        limit
            How many runs are enough.
        """
        parent = self._parent(ref)
        runs = self._store.select(Query(tags={PARENT: parent.run_id}, limit=limit))
        if runs:
            return parent, runs
        if parent.tags.get(KIND) == "sweep":
            raise GluonexpError(f"sweep {parent.run_id} has no runs yet")
        raise self._no_sweep(parent)

    def of_experiment(self, name: str) -> list[RunRecord]:
        """Return all runs of an experiment, in order of their start."""
        return self._store.select(Query(experiment_id=self.experiment_id(name)))

    def newest(
        self,
        limit: int | None = None,
        *,
        experiment: str | None = None,
        status: str | None = None,
        top: bool = False,
        offline: bool = False,
        tags: Sequence[str] | None = None,
    ) -> list[RunRecord]:
        """Return runs, the newest first: of any or one experiment, of any or one status.

        With `top`, runs that belong to a parent are left out; with `offline`, those that are
        recorded in their logs alone are among them. Of `tags`, where given, the others may be
        missing.
        """
        query = Query(status=status, top=top, newest_first=True, limit=limit, wanted=tags)
        alone: list[RunRecord] = []
        if offline and not isinstance(self._store, Logs):
            self._logs = Logs(self.uri)
            alone = self._logs.select(replace(query, experiment_id=experiment))
        if experiment is not None:
            if alone and experiment not in self.experiments():
                return alone
            query = replace(query, experiment_id=self.experiment_id(experiment))
        runs = [*self._store.select(query), *alone]
        runs.sort(key=lambda run: (run.start, run.run_id), reverse=True)
        return runs[: query.limit]

    def count_children(self, parents: Sequence[str]) -> dict[str, int]:
        """Return how many children each of `parents` (whole ids) has, if it has any."""
        return self._store.count_children(parents)

    def experiments(self) -> list[str]:
        """Return the names of all experiments, sorted."""
        return sorted(self._store.experiments().values())

    def tag_of_experiment(self, name: str, key: str) -> str | None:
        """Return a tag of an experiment; None where it has none of that key."""
        return self._store.tag_of_experiment(self.experiment_id(name), key)

    def curves(self, run_ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return `metric` by step for each of `run_ids` (whole ids), empty where it is not there.

        A run that no store has is one that was fetched before.
        Of a step that was logged twice, as by a run that was resumed, the later value counts.
        """
        found: dict[str, dict[int, float]] = {run_id: {} for run_id in run_ids}
        logged = () if self._logs is None else self._logs.points(run_ids, metric)
        for run_id, step, value in chain(self._store.points(run_ids, metric), logged):
            found[run_id][step] = value
        return {run_id: sorted(points.items()) for run_id, points in found.items()}

    def _parent(self, ref: str) -> RunRecord:
        if ref != "last":
            (run,) = self.fetch([ref])
            return run
        for run in self._store.select(Query(tags={KIND: "sweep"}, newest_first=True, limit=1)):
            return run
        raise GluonexpError(
            f"there is no sweep in {displayed(self.uri)} yet: "
            "`python -m gluonexp.run -m optim.lr=0.001,0.01` makes one"
        )

    def _no_sweep(self, run: RunRecord) -> GluonexpError:
        belongs = f": it belongs to sweep {run.parent_id}" if run.parent_id else ""
        return GluonexpError(f"run {run.run_id} is no sweep{belongs}")

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment."""
        ids = {name: number for number, name in self._store.experiments().items()}
        if name in ids:
            return ids[name]
        near = difflib.get_close_matches(name, ids, n=3, cutoff=0.5) or sorted(ids)[:8]
        raise GluonexpError(
            f"no experiment {name} in {displayed(self.uri)}; there is {', '.join(near)}"
        )
