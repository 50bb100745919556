"""Which points of a sweep have been tried, by whom, and with what result."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from gluonexp import runtime
from gluonexp.outcomes import FINISHED, KILLED, PRUNED, RUNNING, Outcome, best_of
from gluonexp.schema import Config, ObjectiveConfig
from gluonexp.sweep.points import Point, quoted
from gluonexp.tracking.sweeps import Attempt, SweepRun


class Ledger(Protocol):
    """Keeps account of a sweep's points."""

    def lock(self) -> AbstractContextManager[object]:
        """Keep other processes of this sweep from choosing a point at the same time."""

    def known(self, point: Point) -> Outcome | None:
        """Return the result that `point` has already, or will have from another process."""

    def begin(self, point: Point) -> tuple[int, list[str]]:
        """Enter a new attempt; return its number, and what its job must be told."""

    def end(
        self, number: int, status: str, objective: float | None, reason: str, trace: str | None
    ) -> Outcome:
        """Enter how an attempt ended, as its launcher saw it."""

    def settle(self, reason: str) -> None:
        """Enter all attempts that did not end as KILLED: their jobs are gone."""

    def outcomes(self) -> list[Outcome]:
        """Return how each point ended, by number; of several attempts, the one that counts."""


class Unrecorded:
    """The account of a sweep with ``tracking=none``: it ends with the process."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Point, float]] = {}
        self._ended: list[Outcome] = []

    def lock(self) -> AbstractContextManager[object]:
        """There are no others."""
        return nullcontext()

    def known(self, point: Point) -> Outcome | None:
        """Nothing was before."""
        return None

    def begin(self, point: Point) -> tuple[int, list[str]]:
        """Enter a new attempt."""
        number = len(self._open) + len(self._ended)
        self._open[number] = point, time.monotonic()
        return number, []

    def end(
        self, number: int, status: str, objective: float | None, reason: str, trace: str | None
    ) -> Outcome:
        """Enter how an attempt ended."""
        point, began = self._open.pop(number)
        self._ended.append(
            Outcome(
                job=number,
                varied=point.varied,
                status=status,
                objective=objective,
                seconds=time.monotonic() - began,
                error=reason or None,
                seed=None if point.config is None else point.config.seed,
            )
        )
        return self._ended[-1]

    def settle(self, reason: str) -> None:
        """Enter all attempts that did not end as KILLED."""
        for number in list(self._open):
            self.end(number, KILLED, None, reason, None)

    def outcomes(self) -> list[Outcome]:
        """Return how each point ended."""
        return sorted(self._ended, key=lambda outcome: outcome.job)


class Recorded:
    """The account of a sweep in the store, shared by all processes that work on it.

    Parameters
    ----------
    run
        The parent run.
    objective
        What the outcomes are judged by.
    """

    def __init__(self, run: SweepRun, objective: ObjectiveConfig) -> None:
        self._run = run
        self._objective = objective
        self._open: dict[int, str] = {}  # run ids by job number, of this process
        self._digests: dict[str, str] = {}  # of data sets, by their configuration
        for attempt in run.attempts():
            if attempt.status == RUNNING and not attempt.elsewhere():
                run.end(attempt.run_id, "KILLED", "its process ended without a word")

    def lock(self) -> AbstractContextManager[object]:
        """Keep other processes of this sweep, on this host, from choosing a point meanwhile."""
        return FileLock(Path(tempfile.gettempdir(), f"gluonexp-{self._run.run_id}.lock"))

    def known(self, point: Point) -> Outcome | None:
        """Return the outcome of an equal point: same configuration, code and data.

        One that another process is at work on is RUNNING.
        """
        for attempt in self._attempts(point):
            if attempt.elsewhere() or attempt.run_id in self._open.values():
                return self._outcome([attempt], {})
            if attempt.status in (FINISHED, PRUNED) and self._current(attempt, point):
                return self.read(attempt.run_id)
        return None

    def begin(self, point: Point) -> tuple[int, list[str]]:
        """Make a child run; a job that was cut off goes on from its checkpoint."""
        attempts = self._run.attempts()
        number = max((attempt.job for attempt in attempts), default=-1) + 1
        run_id = self._run.begin(number, point.digest, point.varied, point.name)
        self._open[number] = run_id
        told = [f"tracking.run_id={quoted(run_id)}"]
        tried = [one for one in attempts if one.point == point.digest]
        if tried and (last := self._checkpoint(tried[-1], point)) is not None:
            told.append(f"trainer.resume={quoted(str(last))}")
        return number, told

    def end(
        self, number: int, status: str, objective: float | None, reason: str, trace: str | None
    ) -> Outcome:
        """Read how a job ended; where it could not say so itself, enter it."""
        run_id = self._open.pop(number)
        if status != FINISHED:
            self._run.end(run_id, "KILLED" if status == KILLED else "FAILED", reason, trace)
        return self.read(run_id)

    def settle(self, reason: str) -> None:
        """Mark the children KILLED whose jobs are gone."""
        for run_id in self._open.values():
            self._run.end(run_id, "KILLED", reason)
        self._open.clear()

    def read(self, run_id: str) -> Outcome:
        """Return how one child ended."""
        return self._outcome([self._run.read(run_id)], self._curves([run_id]))

    def outcomes(self) -> list[Outcome]:
        """Return how each point ended, by number of the attempt that counts.

        That is the last one that finished, else the last.
        """
        points: dict[str, list[Attempt]] = {}
        for attempt in self._run.attempts():
            points.setdefault(attempt.point, []).append(attempt)
        curves = self._curves([one.run_id for tried in points.values() for one in tried])
        found = [self._outcome(tried, curves) for tried in points.values()]
        return sorted(found, key=lambda outcome: outcome.job)

    def _checkpoint(self, attempt: Attempt, point: Point) -> Path | None:
        """Return the checkpoint that a job can go on from, if the code is still the same."""
        from gluonexp import checkpoint

        if attempt.folder is None or not self._same_code(attempt, point):
            return None
        last = attempt.folder / "checkpoints" / "last"
        return last if checkpoint.find(last) is not None else None

    def _attempts(self, point: Point) -> list[Attempt]:
        """Return the attempts at `point`, the last first."""
        return [one for one in reversed(self._run.attempts()) if one.point == point.digest]

    def _curves(self, run_ids: list[str]) -> Mapping[str, list[tuple[int, float]]]:
        return self._run.curves(run_ids, self._objective.metric)

    def _outcome(
        self, tried: list[Attempt], curves: Mapping[str, list[tuple[int, float]]]
    ) -> Outcome:
        finished = [one for one in tried if one.status in (FINISHED, PRUNED)]
        attempt = (finished or tried)[-1]
        record = attempt.record
        curve = curves.get(attempt.run_id, [])
        epoch, objective = best_of(curve, self._objective.mode) or (None, None)
        seed = record.params.get("seed", "")
        return Outcome(
            job=attempt.job,
            varied=attempt.varied,
            status=attempt.status,
            objective=objective,
            epoch=epoch,
            seconds=record.seconds,
            run_id=attempt.run_id,
            error=attempt.error,
            metrics=record.metrics,
            curve=curve,
            seed=int(seed) if seed.isdigit() else None,
            attempts=len(tried),
        )

    def _current(self, attempt: Attempt, point: Point) -> bool:
        """Say whether running `point` now would only repeat a finished attempt."""
        if point.config is None or not self._same_code(attempt, point):
            return False
        return attempt.data == self._data_digest(point.config)

    def _same_code(self, attempt: Attempt, point: Point) -> bool:
        allowed = () if point.config is None else point.config.build.allow
        return attempt.code == runtime.code_digest(allowed)

    def _data_digest(self, config: Config) -> str:
        """Return the digest of the data as they are now; read once for each data set."""
        from gluonexp import build  # MXNet comes with it, which only a resumed sweep needs here

        key = json.dumps(asdict(config.dataset), sort_keys=True, default=str)
        if key not in self._digests:
            self._digests[key] = build.data(config, build.plan(config).source).digest
        return self._digests[key]
