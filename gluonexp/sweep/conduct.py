"""A sweep from its first job to its result, top to bottom."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from gluonexp.base.errors import GluonexpError
from gluonexp.base.streams import lasting
from gluonexp.base.text import plain_console, short_keys, tell
from gluonexp.config.overrides import by_key
from gluonexp.sweep import answer
from gluonexp.sweep.best import IsGroup
from gluonexp.sweep.launching import Job, Launch
from gluonexp.sweep.ledger import Ledger, Recorded, Unrecorded
from gluonexp.sweep.outcomes import Outcome, Summary
from gluonexp.sweep.points import Point, PointSource
from gluonexp.sweep.screen import Jobs, announce
from gluonexp.tracking import recovery
from gluonexp.tracking.lease import NoLease
from gluonexp.tracking.notify import Told, telling
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING
from gluonexp.tracking.store import impatient
from gluonexp.tracking.sweeps import SweepRun
from gluonexp.training.job_folder import CONSOLE

CUT_OFF: Final = "sweep"  # the attribute of what ended a sweep early: which it was
_PARTING_S: Final = 20  # that the store has for each answer when a sweep is cut off


@dataclass(frozen=True)
class SweepPlan:
    """What to run, and how.

    Attributes
    ----------
    source
        The points.
    launch
        Runs the jobs it draws, and yields how each ended as it does.
    folder
        Where the jobs' folders are.
    arguments
        The overrides that start the same sweep again.
    is_group
        Tells whether a key is a group of configuration files.
    """

    source: PointSource
    launch: Launch
    folder: Path
    arguments: Sequence[str]
    is_group: IsGroup


@lasting()
def conduct(plan: SweepPlan, console: Console | None = None) -> Summary:
    """Run every point, record them under one parent run, and say which was best.

    Points that fail raise nothing: the summary says what is missing, and the parent run is FAILED.
    Ctrl-C and SIGTERM end it KILLED, with a report of the points that have ended.
    """
    console = console or plain_console()
    config = plan.source.config
    words = [*plan.arguments, *plan.source.arguments()]  # a resumed search has both
    arguments = list(by_key(words).values())
    name = f"sweep over {', '.join(short_keys(plan.source.keys)) or 'nothing'}"
    parent, folder = plan.source.parent, plan.folder
    opened = answer.opened(console, config, arguments, name, parent, folder)
    started = answer.command(plan.arguments)
    with telling(config.notify, "sweep", started) as told, closing(plan.source), opened as run:
        told.facts["experiment"] = config.tracking.experiment
        if run is not None:
            its = run.tracker
            told.facts |= {"run_id": run.run_id, "name": its.name or name, "link": its.link}
        wants_stop = NoLease().stop_wanted if run is None else run.tracker.lease.stop_wanted
        ledger: Ledger = Unrecorded()
        if run is not None:
            ledger = Recorded(run, config.objective, plan.folder)
        try:
            announce(console, run, plan.source.describe())
            if text := recovery.mention(config.tracking):
                tell(console, f"  note: {text}")
            why, left_out = _run(plan, ledger, console, wants_stop)
            ledger.settle("its launcher did not report its end")
        except GluonexpError:  # most often the store fails; what it still takes is recorded
            with suppress(GluonexpError), impatient(retries=0, timeout_s=_PARTING_S):
                ledger.settle("the sweep was stopped by an error")
            raise
        except (KeyboardInterrupt, SystemExit) as stop:
            if run is not None:
                setattr(stop, CUT_OFF, run.run_id)
                run.patience.end()
            try:
                with impatient(retries=0, timeout_s=_PARTING_S):
                    ledger.settle("the sweep was interrupted")
                    with ledger.lock():
                        summary = _summary(plan, ledger, run)
                        _tell(told, summary)
                        answer.give(console, run, config, summary, plan.is_group, interrupted=True)
            except GluonexpError as error:  # the store is away: its log has the end of the sweep
                tell(console, str(error))
            raise
        with ledger.lock():  # of several processes, the last to end writes the result
            summary = _summary(plan, ledger, run)
            summary = replace(summary, problem=_problem(plan.source, summary, left_out, why))
            _tell(told, summary)
            answer.give(console, run, config, summary, plan.is_group)
    if run is not None and not summary.count(RUNNING):  # the parent is closed
        answer.clear(run, summary)
    return summary


def _run(
    plan: SweepPlan, ledger: Ledger, console: Console, wants_stop: Callable[[], str | None]
) -> tuple[str, int]:
    """Run what is to be run; return why points were left out, and how many."""
    settings = plan.source.config.sweep
    limit = 1 if settings.fail_fast else settings.max_failures
    running: dict[int, Point] = {}
    lost: deque[Point] = deque()  # to be tried again
    tries: Counter[str] = Counter()
    failures = 0

    def left_out() -> str | None:
        if limit is not None and failures >= limit:
            return "sweep.fail_fast" if settings.fail_fast else "sweep.max_failures"
        return None if (who := wants_stop()) is None else f"`gluonexp stop` by {who}"

    def output(outcome: Outcome) -> str | None:
        log = plan.folder / str(outcome.job) / CONSOLE
        return ledger.output(outcome.run_id, log)

    def jobs() -> Iterator[Job]:
        while left_out() is None:
            if (point := lost.popleft() if lost else next(points, None)) is None:
                return
            entry = ledger.begin(point)
            if isinstance(entry, Outcome):
                display.known(point.name, entry)
                plan.source.ended(point, entry)
                continue
            running[entry.number] = point
            display.started(entry.number, point.name)
            added = (*entry.overrides, *plan.source.job_overrides(point))
            yield entry.number, [*point.overrides, *added]

    points = plan.source.points()
    metric = plan.source.config.objective.metric
    display = Jobs(console, plan.source.total, metric)
    with display.bar:
        more = True
        while more:  # once more where points were lost that nobody was there to try again
            with closing(plan.launch(jobs())) as launched:  # closed, it has ended what still runs
                for number, ending in launched:
                    point = running.pop(number)
                    outcome = ledger.end(number, ending)
                    if ending.lost and tries[point.digest] < settings.retries:
                        tries[point.digest] += 1
                        lost.append(point)
                        display.again(outcome, point.name, output(outcome))
                        continue
                    failed = outcome.status in (FAILED, KILLED)
                    failures += failed
                    display.ended(outcome, point.name, output(outcome) if failed else None)
                    plan.source.ended(point, outcome)
            more = bool(lost) and left_out() is None
    why = left_out()
    return ("", 0) if why is None else (why, plan.source.left())


def _summary(plan: SweepPlan, ledger: Ledger, run: SweepRun | None) -> Summary:
    settings = plan.source.config
    return Summary(
        title=f"{settings.tracking.experiment}: {settings.dataset.name}",
        command=answer.command(plan.arguments),
        metric=settings.objective.metric,
        mode=settings.objective.mode,
        outcomes=ledger.outcomes(),
        parent_id=None if run is None else run.run_id,
        experiment_id=None if run is None else run.experiment_id,
        uri=None if run is None else run.client.tracking_uri,
    )


def _tell(told: Told, summary: Summary) -> None:
    """Keep what somebody is told of a sweep; the last process that works on it tells."""
    told.nothing = bool(summary.count(RUNNING))
    if summary.problem:
        told.status, told.reason = FAILED, summary.problem
    ends = {status: summary.count(status) for status in (FINISHED, PRUNED, FAILED, KILLED)}
    told.facts |= {
        "points": len(summary.outcomes),
        "ends": ends,
        "objective_metric": summary.metric,
    }
    if (best := summary.best()) is not None:
        told.facts |= {"objective": best.objective, "metrics": best.metrics}
        told.facts["best"] = {"run_id": best.run_id, "name": best.name}


def _problem(source: PointSource, summary: Summary, left_out: int, why: str) -> str | None:
    """Say in one line what is missing of what was asked for, None if nothing is."""
    asked = [outcome for outcome in summary.outcomes if source.owns(outcome)]
    failed = sum(outcome.status in (FAILED, KILLED) for outcome in asked)
    parts = [f"{failed} of {len(asked) + left_out} points failed"] if failed else []
    if left_out:
        was = "was" if left_out == 1 else "were"
        parts.append(f"{left_out} {was} not started ({why})")
    return ", ".join(parts) or None
