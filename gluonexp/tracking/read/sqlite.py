"""A SQLite store read by plain SQL: 200 runs in a tenth of a second.

Through MLflow it is three seconds, two of which are its import. Its tables have kept their names
and meaning since its first version, but they are not a promise, so this is done only with the one
layout that it was tested with; `runs.reader` reads any other through MLflow.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.places import Move, move_of
from gluonexp.tracking.read.records import OWN_ID, PARENT, PRUNED_TAG, Query, RunRecord, record
from gluonexp.tracking.statuses import FINISHED, PRUNED
from gluonexp.tracking.store import KIND, check_ref, only

LAYOUT = "dc11669786a5"  # alembic's name for that of MLflow 3.17.2
_BUSY_S = 20  # how long another process may be writing; MLflow waits as long

_ACTIVE = "r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'"
_FIND = f"SELECT r.run_uuid FROM runs r JOIN experiments e USING (experiment_id) WHERE {_ACTIVE}"
_LATEST = "ORDER BY r.end_time DESC LIMIT"
_TAGGED = "r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = ?)"
_OWN = "r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value GLOB ?)"
_IN = "run_uuid IN (SELECT value FROM json_each(?))"  # any number of ids, as one JSON list


def is_known(database: Path) -> bool:
    """Tell whether `database` is a store with the layout known here."""
    try:
        with _opened(database) as link:
            rows = link.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return False  # opened through MLflow, it is told what is wrong
    return rows == [(LAYOUT,)]


class Database:
    """The store `uri`, whose file is `path`."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self._path = uri, path

    def find(self, ref: str) -> str:
        """Return the id of the run that `ref` means."""
        check_ref(ref)
        if ref == "last":
            with_model = f"r.status = ? AND NOT {_TAGGED} AND NOT {_TAGGED}"
            rows = self._rows(
                f"{_FIND} AND {with_model} {_LATEST} 1", *(FINISHED, KIND, PRUNED_TAG)
            )
        else:
            rows = self._rows(f"{_FIND} AND r.run_uuid GLOB ? {_LATEST} 5", f"{ref}*")
            if not rows:
                rows = self._rows(f"{_FIND} AND {_OWN} {_LATEST} 5", OWN_ID, f"{ref}*")
        return only(ref, [run_id for (run_id,) in rows], self.uri)

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments by their ids."""
        return dict(
            self._rows(
                "SELECT CAST(experiment_id AS TEXT), name FROM experiments "
                "WHERE lifecycle_stage = 'active'"
            )
        )

    def tag_of_experiment(self, experiment_id: str, key: str) -> str | None:
        """Return a tag of an experiment; None where it has none of that key."""
        rows = self._rows(
            "SELECT value FROM experiment_tags WHERE experiment_id = ? AND key = ?",
            *(experiment_id, key),
        )
        return str(rows[0][0]) if rows else None

    def select(self, query: Query) -> list[RunRecord]:
        """Return the runs of `query`, in order of their start."""
        where, arguments = _conditions(query)
        order = "DESC" if query.newest_first else "ASC"
        limit = -1 if query.limit is None else query.limit
        rows = self._rows(
            "SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time, "
            "CAST(r.experiment_id AS TEXT), e.name, r.artifact_uri "
            "FROM runs r JOIN experiments e USING (experiment_id) "
            f"WHERE {where} ORDER BY r.start_time {order}, r.run_uuid {order} LIMIT {limit}",
            *arguments,
        )
        ids = json.dumps([row[0] for row in rows])
        params, tags = self._texts("params", ids), self._texts("tags", ids, query.wanted)
        metrics: dict[str, dict[str, float]] = defaultdict(dict)
        for run_id, key, value, is_nan in self._rows(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE {_IN}", ids
        ):
            metrics[run_id][key] = math.nan if is_nan else value
        moves: dict[tuple[str, str], Move | None] = {}  # by what addresses have in common

        def move(run_id: str, uri: str) -> Move | None:
            before, _, after = uri.rpartition(run_id)
            if (before, after) not in moves:
                moves[before, after] = move_of(uri, self._path)
            return moves[before, after]

        return [
            record(
                *row,
                move=move(row[0], uri or ""),
                params=params[row[0]],
                metrics=metrics[row[0]],
                tags=tags[row[0]],
            )
            for *row, uri in rows
        ]

    def count_children(self, parents: Sequence[str]) -> dict[str, int]:
        """Return how many children each of `parents` has; those without are left out."""
        return dict(
            self._rows(
                "SELECT t.value, COUNT(*) FROM tags t JOIN runs r USING (run_uuid) "
                "JOIN experiments e USING (experiment_id) "
                f"WHERE t.key = ? AND t.value IN (SELECT value FROM json_each(?)) AND {_ACTIVE} "
                "GROUP BY t.value",
                *(PARENT, json.dumps(list(parents))),
            )
        )

    def points(self, run_ids: Sequence[str], metric: str) -> Iterator[tuple[str, int, float]]:
        """Yield run, step and value of each point of `metric`, in order of time."""
        # Values logged in the same millisecond are in the order of their rows.
        for run_id, step, value, is_nan in self._rows(
            "SELECT run_uuid, step, value, is_nan FROM metrics "
            f"WHERE key = ? AND {_IN} ORDER BY timestamp, rowid",
            *(metric, json.dumps(list(run_ids))),
        ):
            yield run_id, step, math.nan if is_nan else value

    def _texts(
        self, table: str, ids: str, keys: Sequence[str] | None = None
    ) -> dict[str, dict[str, str]]:
        """Return keys and texts by run: of each run one JSON text, four times as fast as rows.

        Parameters
        ----------
        keys
            The only ones that are read; None: all.
        """
        texts: dict[str, dict[str, str]] = defaultdict(dict)
        some = "" if keys is None else f"AND key IN ({', '.join('?' * len(keys))}) "
        for run_id, pairs in self._rows(
            f"SELECT run_uuid, json_group_object(key, value) FROM {table} WHERE {_IN} {some}"
            "GROUP BY run_uuid",
            *(ids, *(keys or ())),
        ):
            texts[run_id] = json.loads(pairs)
        return texts

    def _rows(self, statement: str, *arguments: str) -> list[Any]:
        try:
            with _opened(self._path) as link:
                return link.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise GluonexpError(f"{self._path}: the store cannot be read ({error})") from error


def _conditions(query: Query) -> tuple[str, list[str]]:
    """Return a WHERE clause for `query`, and what its question marks stand for."""
    where = [_ACTIVE]
    arguments: list[str] = []

    def add(condition: str, *values: str) -> None:
        where.append(condition)
        arguments.extend(values)

    if query.ids is not None:
        add(f"r.{_IN}", json.dumps(list(query.ids)))
    for key, value in query.tags.items():
        add("r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)", key, value)
    if query.experiment_id is not None:
        add("r.experiment_id = ?", query.experiment_id)
    if query.top:
        add(f"NOT {_TAGGED}", PARENT)
    if query.status is not None:
        add("r.status = ?", FINISHED if query.status == PRUNED else query.status)
        if query.status in (FINISHED, PRUNED):
            add(_TAGGED if query.status == PRUNED else f"NOT {_TAGGED}", PRUNED_TAG)
    return " AND ".join(where), arguments


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open `database` to be read, which may first mean to undo what a killed writer left."""
    with closing(
        sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)
    ) as link:
        link.execute("PRAGMA query_only = ON")
        yield link
