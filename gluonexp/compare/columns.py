"""A comparison as texts under headings, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gluonexp.base.text import brief, digits, short_keys
from gluonexp.compare.comparison import Comparison
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.statuses import FINISHED

SHORT_ID = 8
_CHOICES = (".name", "._target_")


@dataclass(frozen=True)
class Column:
    """One thing about every run, by row of the comparison.

    Attributes
    ----------
    heading
        Its whole name; of a parameter, the key without the end that says it is a choice.
    short
        The name for a narrow place.
    is_number
        Whether the values are numbers, which are read from their right end.
    """

    heading: str
    short: str
    values: Sequence[str]
    is_number: bool = False

    @property
    def width(self) -> int:
        """How wide it is under its short name."""
        return max(len(self.short), *(len(value) for value in self.values))


def settings(comparison: Comparison) -> list[Column]:
    """Return what differs, in order of interest."""
    keys = [_without_choice(key) for key in comparison.keys]
    return [
        _column(name, short, [row.settings.get(key) for row in comparison.rows])
        for key, name, short in zip(comparison.keys, keys, short_keys(keys), strict=True)
    ]


def ranking(comparison: Comparison) -> list[Column]:
    """Return what the runs are ranked by, and the epoch that was reached in."""
    metric = comparison.metric
    best = [digits(row.best) for row in comparison.rows]
    epochs = ["-" if row.epoch is None else str(row.epoch) for row in comparison.rows]
    return [
        Column(f"best {metric}", metric, best, True),
        Column("in epoch", "epoch", epochs, True),
    ]


def measured(comparison: Comparison) -> list[Column]:
    """Return the other metrics, each with its last value."""
    names = [name for name in comparison.metrics if name != comparison.metric]
    return [
        Column(name, name, [digits(row.run.metrics.get(name)) for row in comparison.rows], True)
        for name in names
    ]


def identity(runs: Sequence[RunRecord]) -> list[Column]:
    """Return what names each run, and how it ended where not all are FINISHED."""
    columns = [Column("run", "run", [run.run_id[:SHORT_ID] for run in runs])]
    if any(run.status != FINISHED for run in runs):
        columns.append(Column("status", "status", [run.status for run in runs]))
    return columns


def names(runs: Sequence[RunRecord]) -> list[Column]:
    """Return what else tells the runs apart: experiments where there are several, and names.

    The names that a sweep gives say only once more what differs.
    """
    columns = []
    if len({run.experiment for run in runs}) > 1:
        columns.append(Column("experiment", "experiment", [run.experiment for run in runs]))
    if not all("gluonexp.sweep.varied" in run.tags for run in runs):
        columns.append(Column("name", "name", [run.name for run in runs]))
    return columns


def _column(name: str, short: str, values: Sequence[str | None]) -> Column:
    known = [value for value in values if value is not None]
    brief_ones = {value: _told(name, value) for value in known}
    if len(set(brief_ones.values())) < len(brief_ones):  # what differs must be seen to differ
        brief_ones = {value: value for value in known}
    texts = ["-" if value is None else brief_ones[value] for value in values]
    return Column(name, short, texts, all(map(_is_number, brief_ones.values())))


def _without_choice(key: str) -> str:
    end = next((end for end in _CHOICES if key.endswith(end)), "")
    return key.removesuffix(end)


def _told(name: str, value: str) -> str:
    """Return a value short enough for a table: of a target its own name, of a digest the start."""
    if len(value) == 64 and name.endswith(("digest", "sha256")):
        return value[:12]
    if "." in value and value.replace(".", "").isidentifier():  # gluonexp.models.cnn.cnn
        return value.rpartition(".")[2]
    return brief(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
