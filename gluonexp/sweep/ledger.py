"""Which points of a sweep have been tried, by which process, and with what result."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from gluonexp.base.better import best_of
from gluonexp.base.errors import GluonexpError
from gluonexp.base.source import code_digest
from gluonexp.base.text import store_option
from gluonexp.config.computing import libraries
from gluonexp.config.overrides import quoted
from gluonexp.config.schema import Config, ObjectiveConfig
from gluonexp.sweep.outcomes import Outcome
from gluonexp.sweep.points import Point
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING, Ending
from gluonexp.tracking.sweeps import Attempt, SweepRun
from gluonexp.training import job_folder

# Why a job counts as KILLED of which the store has no end, and this machine no log.
_UNSENT: Final = (
    "it ended, which the store has not been told: `gluonexp push --all` on its host sends it"
)


@dataclass(frozen=True)
class Begun:
    """An attempt that was entered: its number, and the overrides that its job needs."""

    number: int
    overrides: list[str]


class Unrecorded:
    """The attempts of a sweep with ``tracking=none``: they are forgotten with the process."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Point, float]] = {}
        self._ended: list[Outcome] = []

    def lock(self) -> AbstractContextManager[object]:
        """There are no others."""
        return nullcontext()

    def begin(self, point: Point) -> Begun | Outcome:
        """Enter a new attempt; here each point has one."""
        number = len(self._open) + len(self._ended)
        self._open[number] = point, time.monotonic()
        return Begun(number, [])

    def end(self, number: int, ending: Ending) -> Outcome:
        """Enter how an attempt ended."""
        point, began = self._open.pop(number)
        self._ended.append(
            Outcome(
                job=number,
                varied=point.varied,
                status=ending.status,
                objective=ending.objective,
                seconds=time.monotonic() - began,
                error=ending.reason if ending.status in (FAILED, KILLED) else None,
                point=point.digest,
                seed=None if point.config is None else point.config.seed,
            )
        )
        return self._ended[-1]

    def output(self, run_id: str | None, log: Path) -> str | None:
        """Say where the output of a job is; None if it is nowhere."""
        return str(log) if log.is_file() else None

    def settle(self, reason: str) -> None:
        """Enter all attempts that did not end as KILLED."""
        for number in list(self._open):
            self.end(number, Ending(KILLED, reason=reason))

    def outcomes(self) -> list[Outcome]:
        """Return how each point ended: the last attempt counts."""
        last = {outcome.point: outcome for outcome in self._ended}
        return sorted(last.values(), key=lambda outcome: outcome.job)


class Recorded:
    """The attempts of a sweep in the store, shared by all processes that work on it.

    Parameters
    ----------
    run
        The parent run.
    objective
        What the outcomes are judged by.
    folder
        Where the jobs' folders are, on this machine.
    """

    def __init__(self, run: SweepRun, objective: ObjectiveConfig, folder: Path) -> None:
        self._run = run
        self._objective = objective
        self._folder = folder
        self._open: dict[int, str] = {}  # run ids by job number, of this process
        self._points: dict[int, Point] = {}  # theirs
        self._digests: dict[str, str] = {}  # of data sets, by their configuration
        self._codes: dict[tuple[Sequence[str], Sequence[str]], str] = {}  # digests, as they began
        self._bury()

    def lock(self) -> AbstractContextManager[object]:
        """Keep out other processes on this host that work on a sweep of the same store."""
        return self._run.lock()

    def begin(self, point: Point) -> Begun | Outcome:
        """Make a child run, unless an equal point finished or another process runs it.

        Then the result is returned, or an outcome that is RUNNING.
        Equal are configuration, code and data. A job that was cut off resumes from its checkpoint.
        """
        with self.lock():
            tried = self._run.attempts(point=point.digest)[::-1]
            for one in tried:
                if one.run_id in self._open.values() or self._run.elsewhere(one):
                    return replace(self._outcome([one], {}), error=one.where)
                if one.status in (FINISHED, PRUNED) and self._current(one, point):
                    return self._outcome([one], self._curves([one.run_id]))
            number = self._run.next_job()
            run_id = self._run.begin(number, point.digest, point.varied, point.name)
            self._open[number] = run_id
            self._points[number] = point
        overrides = [f"tracking.run_id={quoted(run_id)}"]
        if (data := self._digests.get(_data_of(point))) is not None:
            overrides.append(f"sweep.data={quoted(data)}")
        checkpoints = (self._checkpoint(one, point) for one in tried)
        if (last := next(filter(None, checkpoints), None)) is not None:
            overrides.append(f"trainer.resume={quoted(str(last))}")
        return Begun(number, overrides)

    def end(self, number: int, ending: Ending) -> Outcome:
        """Read how a job ended; where it could not say so itself, enter it."""
        run_id, point, folder = self._open[number], self._points[number], self._job(number)
        if ending.status in (FAILED, KILLED):
            self._run.end(run_id, ending, folder)
        attempt = self._run.read(run_id)
        if attempt.status == RUNNING:  # the store was away when it ended: its log tells
            self._run.end(run_id, Ending(KILLED, reason=_UNSENT), folder)
            attempt = self._run.read(run_id)
        if attempt.status in (FINISHED, PRUNED) and attempt.data is not None:
            data = self._digests.setdefault(_data_of(point), attempt.data)
            if data != attempt.data:  # it began before any other had said what data it has
                self._run.fail(run_id, other_data(attempt.data, data))
                attempt = self._run.read(run_id)
        outcome = self._outcome([attempt], self._curves([run_id]))
        del self._open[number], self._points[number]
        return outcome

    def output(self, run_id: str | None, log: Path) -> str | None:
        """Say where the output of a job is; None if it is nowhere.

        Parameters
        ----------
        log
            Where it is if the job ran on this host, or shares its disk.
        """
        if log.is_file() or run_id is None:
            return str(log) if log.is_file() else None
        attempt = self._run.read(run_id)
        if attempt.host is None:
            return None
        if self._run.has(run_id, job_folder.CONSOLE):
            store = store_option(self._run.client.tracking_uri)
            return f"gluonexp download {run_id[:8]} {job_folder.CONSOLE} --to .{store}"
        if attempt.folder is None:
            return None
        return f"{attempt.folder / job_folder.CONSOLE} on {attempt.host}"

    def settle(self, reason: str) -> None:
        """Mark the children KILLED whose jobs are gone: ours, and those of dead processes."""
        for number, run_id in self._open.items():
            self._run.end(run_id, Ending(KILLED, reason=reason), self._job(number))
        self._open.clear()
        self._points.clear()
        self._bury()

    def outcomes(self) -> list[Outcome]:
        """Return how each point ended, by number of the attempt that counts.

        That is the last one that finished, else the last.
        """
        attempts = self._run.attempts()
        curves = self._curves([one.run_id for one in attempts])
        return outcomes_of(attempts, curves, self._objective.mode)

    def _job(self, number: int) -> Path:
        """Return the folder of a job."""
        return self._folder / str(number)

    def _checkpoint(self, attempt: Attempt, point: Point) -> Path | None:
        """Return the checkpoint of an attempt that was cut off, if the code is still the same."""
        if attempt.folder is None or not self._same_code(attempt, point):
            return None
        last = job_folder.of_run(attempt.folder, attempt.run_id)
        # What ended well keeps its checkpoints too, and is never resumed: its data have changed.
        return last if last is not None and job_folder.owner(last.parent).unfinished else None

    def _bury(self) -> None:
        for one in self._run.attempts(status=RUNNING):
            ours = one.run_id in self._open.values()
            if not ours and not self._run.elsewhere(one):
                reason = f"{one.where} ended without recording it"
                self._run.end(one.run_id, Ending(KILLED, reason=reason))

    def _curves(self, run_ids: list[str]) -> Mapping[str, list[tuple[int, float]]]:
        return self._run.curves(run_ids, self._objective.metric)

    def _outcome(
        self, tried: list[Attempt], curves: Mapping[str, list[tuple[int, float]]]
    ) -> Outcome:
        return _of_point(tried, curves, self._objective.mode)

    def _current(self, attempt: Attempt, point: Point) -> bool:
        """Say whether running `point` now would only repeat a finished attempt."""
        if point.config is None or not self._same_code(attempt, point):
            return False
        return attempt.data == self._data_digest(point, point.config, attempt)

    def _same_code(self, attempt: Attempt, point: Point) -> bool:
        if point.config is None:
            return False
        key = tuple(point.config.build.allow), libraries(point.config)
        if key not in self._codes:
            self._codes[key] = code_digest(*key)
        return attempt.code == self._codes[key]

    def _data_digest(self, point: Point, config: Config, attempt: Attempt) -> str:
        """Return the digest of the data as they are now; read once for each data set.

        Where this host has none, that of an attempt on another one counts.
        """
        from gluonexp import assembly  # MXNet comes with it, which only a resumed sweep needs here

        if (key := _data_of(point)) not in self._digests:
            try:
                found = assembly.data(config, assembly.components(config).source).digest
            except GluonexpError:
                if attempt.host is None or attempt.data is None:
                    raise
                found = attempt.data
            self._digests[key] = found
        return self._digests[key]


def outcomes_of(
    attempts: Sequence[Attempt], curves: Mapping[str, list[tuple[int, float]]], mode: str
) -> list[Outcome]:
    """Return how each point ended, by number of the attempt that counts; see `Recorded.outcomes`.

    Parameters
    ----------
    attempts
        In order of their numbers.
    curves
        The objective by epoch of each of their runs.
    mode
        ``max`` or ``min``.
    """
    points: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        points.setdefault(attempt.point, []).append(attempt)
    found = [_of_point(tried, curves, mode) for tried in points.values()]
    return sorted(found, key=lambda outcome: outcome.job)


def _of_point(
    tried: list[Attempt], curves: Mapping[str, list[tuple[int, float]]], mode: str
) -> Outcome:
    finished = [one for one in tried if one.status in (FINISHED, PRUNED)]
    attempt = (finished or tried)[-1]
    record = attempt.record
    curve = curves.get(attempt.run_id, [])
    epoch, objective = best_of(curve, mode) or (None, None)
    seed = record.params.get("seed", "")
    return Outcome(
        job=attempt.job,
        varied=attempt.varied,
        status=attempt.status,
        objective=objective,
        epoch=epoch,
        seconds=record.seconds,
        run_id=attempt.run_id,
        point=attempt.point,
        error=attempt.told,
        metrics=record.metrics,
        curve=curve,
        seed=int(seed) if seed.isdigit() else None,
        attempts=len(tried),
        earlier=[
            (one.run_id, one.status, one.told or "")
            for one in tried
            if one is not attempt and one.status in (FAILED, KILLED)
        ],
    )


def other_data(found: str, others: str) -> str:
    """Say that this host, or the one of an attempt, has other data than other jobs of a sweep."""
    return (
        f"its data (digest {found[:8]}) are not those of other jobs of the sweep ({others[:8]}): "
        "let all hosts have the same, and resume the sweep"
    )


def _data_of(point: Point) -> str:
    """Return what tells the data set of a point from those of others."""
    dataset = None if point.config is None else asdict(point.config.dataset)
    return json.dumps(dataset, sort_keys=True, default=str)


Ledger = Recorded | Unrecorded
