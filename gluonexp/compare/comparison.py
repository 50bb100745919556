"""What several runs differ in, and their results."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

from gluonexp.base.aliases import current
from gluonexp.base.better import best_of
from gluonexp.base.errors import GluonexpError
from gluonexp.base.metrics import direction as declared
from gluonexp.compare.baseline import Change, change
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.read.runs import Reader
from gluonexp.tracking.store import KIND
from gluonexp.tracking.sweeps import Attempt

DEFAULT_METRIC = "val/acc"
BEST = "best"  # the best value of what runs are ranked by, among the metrics

# A group's choice is seen in one of these: `optim=adam` in optim.name, `model=cnn` in its target.
_CHOICES = (".name", "._target_")
# What follows from the rest, and is of interest last.
_DERIVED = ("data.", "network.", "weights.")
# Overrides that say where and how a run is kept, not what it computes.
_ASIDE = ("hydra", "tracking", "sweep", "build", "notify")
_SPLITS = ("test", "val", "train")
_SMALL_IS_GOOD = re.compile(r"loss|err|time|seconds|_s$")
_LARGE_IS_GOOD = re.compile(r"acc|per_s|f1")


@dataclass(frozen=True)
class Row:
    """One of the runs compared.

    Attributes
    ----------
    run
        What the store has of it.
    settings
        Its value of each key that differs; a key that it does not have is not there.
    best, epoch
        The best value of the metric, and the step it was logged with; None where it has none.
    curve
        The metric by step.
    """

    run: RunRecord
    settings: Mapping[str, str]
    best: float | None
    epoch: int | None
    curve: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Comparison:
    """Several runs, side by side.

    Attributes
    ----------
    metric, mode
        What they are ranked by, and whether the ``max`` or the ``min`` is best.
    rows
        The runs, the best first; those without the metric last, in order of their start.
    keys
        The parameters that are not the same in all runs: what users chose first, what merely
        follows from it last.
    same
        The parameters that are.
    metrics
        The names of all metrics that any of the runs has.
    modes
        Which direction is better, by the name of a metric, where that is known.
    baseline
        The row of the run that the others are measured by; None: there is none.
    """

    metric: str
    mode: str
    rows: Sequence[Row]
    keys: Sequence[str]
    same: Mapping[str, str]
    metrics: Sequence[str]
    modes: Mapping[str, str] = field(default_factory=dict)
    baseline: Row | None = None

    def changes(self, row: Row) -> dict[str, Change]:
        """Return how far each metric of a row is from the baseline's, and its ``best``.

        Empty for the baseline itself.
        """
        base = self.baseline
        if base is None or row is base:
            return {}
        ours, theirs = row.run.metrics, base.run.metrics
        found = {
            name: change(ours.get(name), theirs.get(name), self.modes.get(name))
            for name in self.metrics
        }
        found[BEST] = change(row.best, base.best, self.mode)
        return {name: each for name, each in found.items() if each is not None}

    def others(self, row: Row) -> list[str]:
        """Return the keys of which a row has another value than the baseline."""
        base = self.baseline
        if base is None or row is base:
            return []
        pairs = ((key, row.settings.get(key), base.settings.get(key)) for key in self.keys)
        return [key for key, value, other in pairs if _value(value) != _value(other)]


def chosen(
    reader: Reader, refs: Sequence[str], sweep: str | None = None, experiment: str | None = None
) -> tuple[str, list[RunRecord]]:
    """Return a headline for the runs to be compared, and the runs.

    Parameters
    ----------
    refs
        Ids of runs, or starts of ids; that of a sweep means its runs.
    sweep, experiment
        A sweep or an experiment, instead of `refs`.

    Raises
    ------
    GluonexpError
        There is no such run, sweep or experiment, or it has no runs.
    """
    if sweep is not None:
        parent, runs = reader.sweep(sweep)
        return f"{_count(runs)} of sweep {parent.run_id}", runs
    if experiment is not None:
        # Sweeps and searches are no trainings, which is what can be compared.
        runs = [run for run in reader.of_experiment(experiment) if KIND not in run.tags]
        if not runs:
            raise GluonexpError(f"experiment {experiment} has no runs to compare")
        return f"{_count(runs)} of experiment {experiment}", runs
    together: dict[str, RunRecord] = {}
    for run in reader.fetch(refs):
        is_sweep = run.tags.get(KIND) == "sweep"
        of_run = reader.sweep(run.run_id)[1] if is_sweep else [run]
        together |= {one.run_id: one for one in of_run}
    return _count(together), list(together.values())


def compare(
    reader: Reader,
    runs: Sequence[RunRecord],
    metric: str | None = None,
    baseline: RunRecord | None = None,
) -> Comparison:
    """Compare `runs` by `metric` (None: by the objective most of them were trained for).

    The `baseline` that they are measured by is one of them, or is added.

    Raises
    ------
    GluonexpError
        There is nothing to compare, or no run has a metric of that name.
    """
    if not runs:
        raise GluonexpError("there are no runs to compare")
    if baseline is not None and baseline.run_id not in {run.run_id for run in runs}:
        runs = [*runs, baseline]
    metrics = sorted({name for run in runs for name in run.metrics}, key=_by_split)
    if metric is not None and metric not in metrics:
        known = ", ".join(metrics) or "none at all"
        raise GluonexpError(f"--metric {metric}: none of these runs has it; they have {known}")
    goals = [run.params["objective.metric"] for run in runs if "objective.metric" in run.params]
    metric = metric or statistics.mode(goals or [DEFAULT_METRIC])
    mode = direction(runs, metric)
    keys, same = differences(runs)
    curves = reader.curves([run.run_id for run in runs], metric)
    rows = []
    for run in runs:
        epoch, best = best_of(curves[run.run_id], mode) or (None, None)
        chosen = settings(run)
        here = {key: chosen[key] for key in keys if key in chosen}
        rows.append(Row(run, here, best, epoch, curves[run.run_id]))
    sign = -1 if mode == "max" else 1
    rows.sort(key=lambda row: math.inf if row.best is None else sign * row.best)
    directions = ((name, known_direction(runs, name)) for name in metrics)
    modes = {name: known for name, known in directions if known is not None}
    compared = Comparison(metric, mode, rows, keys, same, metrics, modes)
    if baseline is None:
        return compared
    (row,) = (row for row in rows if row.run.run_id == baseline.run_id)
    return replace(compared, baseline=row)


def direction(runs: Iterable[RunRecord], metric: str) -> str:
    """Return whether the ``max`` or the ``min`` of `metric` is best.

    It was declared where `metric` is the objective of a run, and is known of gluonexp's own; else
    its name has to tell, and where that does not, it is the ``max``.
    """
    return known_direction(runs, metric) or "max"


def known_direction(runs: Iterable[RunRecord], metric: str) -> str | None:
    """Return what `direction` does, but None where nothing tells it."""
    for run in runs:
        mode = run.params.get("objective.mode", "")
        if run.params.get("objective.metric") == metric and mode in ("max", "min"):
            return mode
    if (known := declared(metric)) is not None:
        return known
    if _LARGE_IS_GOOD.search(metric.lower()):
        return "max"
    return "min" if _SMALL_IS_GOOD.search(metric.lower()) else None


def differences(runs: Sequence[RunRecord]) -> tuple[list[str], dict[str, str]]:
    """Return the keys whose values differ, in order of interest, and the parameters that do not.

    A run that failed before it recorded its parameters is left out, but for what its sweep chose
    for it.
    """
    recorded = [run.params for run in runs if run.params]
    silent = [asked(run) for run in runs if not run.params]
    differing, same = [], {}
    keys = dict.fromkeys(key for params in recorded or silent for key in params)
    if all(run.parent_id for run in runs):  # a sweep sets it where it tries a point again
        keys.pop("trainer.resume", None)
    for key in keys:
        values = [params.get(key) for params in recorded or silent]
        values += [chosen[key] for chosen in silent if key in chosen]
        if len(set(map(_value, values))) > 1:
            differing.append(key)
        else:
            same[key] = str(values[0])
    typed = list(dict.fromkeys(key for run in runs for key in asked(run)))
    return sorted(differing, key=lambda key: _interest(key, typed)), same


def settings(run: RunRecord) -> Mapping[str, str]:
    """Return a run's parameters; of one that failed before, what was asked for."""
    if run.params:
        return run.params
    chosen = asked(run)
    groups = {f"{key}{end}": value for key, value in chosen.items() for end in _CHOICES}
    return {**groups, **chosen}


def asked(run: RunRecord) -> dict[str, str]:
    """Return what was asked for by override key: by its sweep, then on the command line."""
    chosen = Attempt(run).varied
    overrides = run.tags.get("gluonexp.overrides", "")
    try:
        words = shlex.split(overrides)
    except ValueError:  # a quotation mark without its other half
        words = overrides.split()
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if equals and key.split(".")[0].split("/")[0] not in _ASIDE:
            chosen.setdefault(key.split("@")[0], value)
    return chosen


def _count(runs: Sized) -> str:
    return f"{len(runs)} run{'s' * (len(runs) != 1)}"


def _value(text: str | None) -> object:
    """Return what is equal for equal values: 0.001 and 1e-3, two names of the same class."""
    try:
        number = float(text or "")
    except ValueError:
        return text and current(text)
    return number if math.isfinite(number) else text


def _interest(key: str, typed: Sequence[str]) -> tuple[int, int, str]:
    """Return where `key` belongs: typed, a group's choice, of a typed group, other, derived."""
    if key in typed:
        return 0, typed.index(key), key
    if key.startswith(_DERIVED):
        return 4, 0, key
    group, _, rest = key.partition(".")
    place = typed.index(group) if group in typed else len(typed)
    if f".{rest}" in _CHOICES:
        return (0 if group in typed else 1), place, key
    return (2 if group in typed else 3), place, key


def _by_split(metric: str) -> tuple[int, str]:
    split = metric.partition("/")[0]
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS), metric
