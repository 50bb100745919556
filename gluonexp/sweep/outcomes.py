"""How the points of a sweep ended, and which was best: plain types, for terminal and report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gluonexp.base.text import brief, digits, short_keys
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING


@dataclass(frozen=True)
class Outcome:
    """How one point of a sweep ended; of several attempts, the last that finished, or the last.

    Attributes
    ----------
    job
        Its number in the sweep, from 0.
    varied
        What this point chose, by override key: ``{"optim.lr": "0.01", "optim": "adam"}``.
    status
        FINISHED, PRUNED, FAILED, KILLED or RUNNING.
    objective, epoch
        The best value of the objective's metric, and the epoch (from 0) it was reached in; None
        where it was not measured. The best is by the declared mode; NaN and infinity never are.
    seconds
        From the start to the end of the run.
    run_id
        MLflow's id, None with ``tracking=none``.
    point
        Digest of its configuration.
    error
        Why it failed, in one line.
    metrics
        What was measured last, by `split/name`: ``test/acc`` belongs to the best checkpoint.
    curve
        The objective's metric by epoch.
    seed
        The run's seed; points that differ in nothing else are one group.
    attempts
        How often the point was tried.
    earlier
        How those tries ended that others followed: (run id, status, reason).
    """

    job: int
    varied: Mapping[str, str]
    status: str
    objective: float | None = None
    epoch: int | None = None
    seconds: float = math.nan
    run_id: str | None = None
    point: str = ""
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    seed: int | None = None
    attempts: int = 1
    earlier: Sequence[tuple[str, str, str]] = ()

    @property
    def name(self) -> str:
        """What varied, as people write it: ``lr=0.01 optim=adam``."""
        return point_name(self.varied)

    @property
    def value(self) -> float | None:
        """The objective of a point that finished with a finite one, otherwise None."""
        if self.status != FINISHED or self.objective is None:
            return None
        return self.objective if math.isfinite(self.objective) else None


@dataclass(frozen=True)
class Spread:
    """The values of points that differ in their seed only.

    Attributes
    ----------
    varied
        What they have in common of what varied, by override key.
    values
        The objective of each point that finished with one.
    points
        How many points there are, finished or not.
    """

    varied: Mapping[str, str]
    values: Sequence[float]
    points: int

    @property
    def mean(self) -> float:
        """The mean of the values, NaN without any."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation of a sample (divided by n - 1), NaN below two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def name(self) -> str:
        """What the points have in common: ``lr=0.01 optim=adam``, or ``all`` without anything."""
        return point_name(self.varied) if self.varied else "all"

    def row(self) -> tuple[str, str, str, str, str]:
        """Return mean, standard deviation, n (``2 of 3`` if not all finished), min and max."""
        some = len(self.values)
        return (
            digits(self.mean if some else None),
            digits(self.deviation if some > 1 else None),
            str(some) if some == self.points else f"{some} of {self.points}",
            digits(min(self.values, default=None)),
            digits(max(self.values, default=None)),
        )


@dataclass(frozen=True)
class Summary:
    """A sweep, whole.

    Attributes
    ----------
    title
        A headline: the experiment and what it was run on.
    command
        What starts the same sweep again.
    metric, mode
        The objective: ``val/acc``, and ``max`` or ``min``.
    outcomes
        One for each point, in the order of their numbers.
    parent_id, experiment_id, uri
        Of the parent run, and its store; None with ``tracking=none``.
    problem
        What is missing of what was asked for, in one line; None if nothing is.
    """

    title: str
    command: str
    metric: str
    mode: str
    outcomes: Sequence[Outcome]
    parent_id: str | None = None
    experiment_id: str | None = None
    uri: str | None = None
    problem: str | None = None

    def ranked(self) -> list[Outcome]:
        """Return all outcomes: the finished ones from best to worst, then pruned, then the rest.

        Equal objectives are ranked by the point's number.
        """
        order = (FINISHED, PRUNED, RUNNING, KILLED, FAILED)

        def key(outcome: Outcome) -> tuple[int, float, int]:
            value = outcome.objective
            if value is None or not math.isfinite(value):
                worth = math.inf
            else:
                worth = -value if self.mode == "max" else value
            return order.index(outcome.status), worth, outcome.job

        return sorted(self.outcomes, key=key)

    def ranks(self) -> dict[int, int]:
        """Return each finished job's rank by its value: 1 is best, equal values share one."""
        values = [outcome.value for outcome in self.ranked()]
        return {
            outcome.job: values.index(outcome.value) + 1
            for outcome in self.ranked()
            if outcome.value is not None
        }

    def varied_keys(self) -> list[str]:
        """Return every override key that some point varied, in the order they came up."""
        return list(dict.fromkeys(key for outcome in self.outcomes for key in outcome.varied))

    def over_seeds(self) -> list[Spread]:
        """Return the groups of points that differ in their seed only, the best mean first.

        Without a seed that varies there is none.
        """
        if "seed" not in self.varied_keys():
            return []
        groups: dict[frozenset[tuple[str, str]], list[Outcome]] = {}
        for outcome in self.outcomes:
            rest = {key: value for key, value in outcome.varied.items() if key != "seed"}
            groups.setdefault(frozenset(rest.items()), []).append(outcome)
        spreads = [
            Spread(
                {key: value for key, value in group[0].varied.items() if key != "seed"},
                [outcome.value for outcome in group if outcome.value is not None],
                len(group),
            )
            for group in groups.values()
        ]
        sign = -1 if self.mode == "max" else 1
        return sorted(spreads, key=lambda one: sign * one.mean if one.values else math.inf)

    def best(self) -> Outcome | None:
        """Return the best finished point, None if no point finished with a value."""
        first = next(iter(self.ranked()), None)
        return None if first is None or first.value is None else first

    def failures(self) -> list[tuple[Outcome, str]]:
        """Return the points that ended without a value, and why; not those that were pruned."""
        failures = []
        for outcome in self.outcomes:
            if outcome.status in (FAILED, KILLED):
                failures.append((outcome, outcome.error or "the reason was not recorded"))
            elif outcome.status == FINISHED and outcome.value is None:
                failures.append((outcome, outcome.error or f"no finite value of {self.metric}"))
        return failures

    def count(self, *statuses: str) -> int:
        """Return how many points ended so."""
        return sum(outcome.status in statuses for outcome in self.outcomes)


def point_name(varied: Mapping[str, str]) -> str:
    """Return the name of a point and its run: ``lr=0.01 optim=adam``; keys and numbers short."""
    keys, values = short_keys(list(varied)), map(brief, varied.values())
    words = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
    return " ".join(words) or "the only point"


def table(summary: Summary) -> list[list[Any]]:
    """Return the names of columns, then one row a point, the best first.

    Columns: ``rank`` (of points that finished; equal ones share it), ``job``, ``status``, what
    varied by override key, the objective (such as ``val/acc (best)``) and its ``epoch``, the best
    checkpoint's metrics on the test split, the last value of every other metric (such as
    ``val/loss (last)``), ``seconds``, ``attempts``, ``run_id``, ``error``.
    """
    keys, ranks = summary.varied_keys(), summary.ranks()
    metrics = sorted(
        {name for outcome in summary.outcomes for name in outcome.metrics},
        key=lambda name: (name != "test/acc", not _of_test(name), name),
    )
    columns = [
        *("rank", "job", "status", *keys, f"{summary.metric} (best)", "epoch"),
        *(name if _of_test(name) else f"{name} (last)" for name in metrics),
        *("seconds", "attempts", "run_id", "error"),
    ]
    rows = [
        [
            *(ranks.get(outcome.job), outcome.job, outcome.status),
            *(outcome.varied.get(key) for key in keys),
            *(outcome.objective, outcome.epoch),
            *(outcome.metrics.get(name) for name in metrics),
            None if math.isnan(outcome.seconds) else outcome.seconds,
            *(outcome.attempts, outcome.run_id, outcome.error),
        ]
        for outcome in summary.ranked()
    ]
    return [columns, *rows]


def _of_test(name: str) -> bool:
    return name.startswith("test/")
