"""The run that others are measured by: named, or pinned to an experiment; and how far they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import in_shell, say
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.read.runs import Reader
from gluonexp.tracking.store import KIND, open_store, reported
from gluonexp.tracking.sweeps import BEST
from gluonexp.tracking.uri import displayed

PINNED: Final = "gluonexp.baseline"  # the tag of an experiment that names its baseline
BETTER, WORSE, OTHER = "better", "worse", "other"  # the tones of what is compared with it


@dataclass(frozen=True)
class Change:
    """How far a value is from that of the baseline.

    Attributes
    ----------
    difference
        The value minus the baseline's.
    percent
        The same in per cent of the baseline's size; None where that is 0.
    better
        None where it is the same, or where it is not known which direction is better.
    """

    difference: float
    percent: float | None
    better: bool | None

    @property
    def text(self) -> str:
        """For a table: ``+1.3%``, ``=``; the difference itself where the baseline is 0."""
        if self.difference == 0:
            return "="
        if self.percent is None:
            return f"{self.difference:+.4g}"
        size = abs(self.percent)
        places = 0 if size >= 100 else 1 if size >= 10 else 2
        return f"{self.percent:+.{places}f}%" if size >= 0.005 else f"{self.percent:+.1g}%"

    @property
    def tone(self) -> str:
        """`BETTER`, `WORSE`, or nothing."""
        return "" if self.better is None else BETTER if self.better else WORSE


def change(value: float | None, base: float | None, mode: str | None) -> Change | None:
    """Return how far `value` is from `base`; None where either is not known.

    Parameters
    ----------
    mode
        Whether the ``max`` or the ``min`` is better; None if that is not known.
    """
    if value is None or base is None or not (math.isfinite(value) and math.isfinite(base)):
        return None
    difference = value - base
    percent = 100 * difference / abs(base) if base else math.nan
    better = None if mode is None or not difference else (difference > 0) is (mode == "max")
    return Change(difference, percent if math.isfinite(percent) else None, better)


def find(reader: Reader, ref: str) -> RunRecord:
    """Return the run that `ref` means.

    Parameters
    ----------
    ref
        A run's id, the start of one, ``last``, ``runs:/ID``, or ``models:/NAME@ALIAS`` (the run
        that made it); a sweep means its best run.

    Raises
    ------
    GluonexpError
        There is no such run.
    """
    if ref.startswith("models:/"):
        from gluonexp.tracking.references import run_of

        made = run_of(open_store(reader.uri), ref)
        if made is None:
            raise GluonexpError(f"{ref}: the run that made it is not in {displayed(reader.uri)}")
        ref = str(made.info.run_id)
    (run,) = reader.fetch([ref.removeprefix("runs:/")])
    if run.tags.get(KIND) != "sweep":
        return run
    if BEST not in run.tags:
        raise GluonexpError(f"sweep {run.run_id} has no best run yet: name one of its runs")
    (best,) = reader.fetch([run.tags[BEST]])
    return best


def pinned(reader: Reader, runs: Sequence[RunRecord]) -> RunRecord | None:
    """Return the baseline of the experiment that `runs` are of; None where none is pinned.

    Where they are of experiments with several baselines, and where the run is gone, that is said.
    """
    known = reader.experiments()
    names = {run.experiment for run in runs if run.experiment in known}
    found = {name: reader.tag_of_experiment(name, PINNED) for name in sorted(names)}
    refs = {ref for ref in found.values() if ref}
    if len(refs) > 1:
        experiments = ", ".join(name for name, ref in found.items() if ref)
        say(f"note: {experiments} have different baselines: --baseline names one")
    if len(refs) != 1:
        return None
    (ref,) = refs
    try:
        return find(reader, ref)
    except GluonexpError as gone:
        where = " and ".join(
            in_shell("gluonexp", "compare", "--unpin", name) for name, its in found.items() if its
        )
        say(f"note: the pinned baseline is not there ({gone}); to take it off: {where}")
        return None


def pin(reader: Reader, ref: str, experiment: str | None = None) -> tuple[RunRecord, str]:
    """Pin a run, or what a name in the registry stands for, as an experiment's baseline.

    Parameters
    ----------
    ref
        As of `find`. Of ``models:/NAME@ALIAS`` the name is pinned, and means another run when the
        alias moves.
    experiment
        None: that of the run.

    Returns
    -------
    The run, and the experiment's name.

    Raises
    ------
    GluonexpError
        There is no such run or experiment, or the store does not answer.
    """
    run = find(reader, ref)
    experiment = run.experiment if experiment is None else experiment
    experiment_id = reader.experiment_id(experiment)
    with reported(f"the baseline of {experiment} cannot be pinned"):
        value = ref if ref.startswith("models:/") else run.run_id
        open_store(reader.uri).set_experiment_tag(experiment_id, PINNED, value)
    return run, experiment


def unpin(reader: Reader, experiment: str) -> bool:
    """Take the baseline off an experiment; say whether it had one.

    Raises
    ------
    GluonexpError
        There is no such experiment, or the store does not answer.
    """
    experiment_id = reader.experiment_id(experiment)
    if reader.tag_of_experiment(experiment, PINNED) is None:
        return False
    with reported(f"the baseline of {experiment} cannot be unpinned"):
        open_store(reader.uri).delete_experiment_tag(experiment_id, PINNED)
    return True
