"""A comparison as texts under headings, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gluonexp.base.text import brief, digits, is_number, short_keys
from gluonexp.compare.baseline import OTHER
from gluonexp.compare.comparison import BEST, Comparison
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.statuses import FINISHED

SHORT_ID = 8
_FOLDED = 16  # so wide a column need at least be that folds what is longer


@dataclass(frozen=True)
class Column:
    """One thing about every run: a heading, and a text for each.

    Attributes
    ----------
    heading
        Its whole name; of a parameter, the key without the end that says it is a choice.
    is_number
        Whether the values are numbers, which are read from their right end.
    short
        The name for a narrow place, where that is another.
    folds
        Whether a list may break its values into several lines.
    tones
        How each value stands to the baseline: `BETTER`, `WORSE`, `OTHER` or nothing; none at all
        where there is no baseline.
    """

    heading: str
    values: Sequence[str]
    is_number: bool = False
    short: str = ""
    folds: bool = False
    tones: Sequence[str] = ()

    @property
    def narrow(self) -> str:
        """The name for a narrow place."""
        return self.short or self.heading

    @property
    def width(self) -> int:
        """How wide it is, or needs to be, in a narrow place."""
        width = max(len(text) for text in (self.narrow, *self.values))
        return min(width, _FOLDED) if self.folds else width


def settings(comparison: Comparison) -> list[Column]:
    """Return what differs, in order of interest."""
    keys = [key.removesuffix(".name").removesuffix("._target_") for key in comparison.keys]
    others = [comparison.others(row) for row in comparison.rows]
    columns = []
    for key, name, short in zip(comparison.keys, keys, short_keys(keys), strict=True):
        column = _column(name, short, [row.settings.get(key) for row in comparison.rows])
        if comparison.baseline is not None:
            column = _marked(column, [OTHER if key in of_row else "" for of_row in others])
        columns.append(column)
    return columns


def ranking(comparison: Comparison) -> list[Column]:
    """Return what the runs are ranked by, and the epoch that was reached in."""
    metric = comparison.metric
    best = [digits(row.best) for row in comparison.rows]
    epochs = ["-" if row.epoch is None else str(row.epoch) for row in comparison.rows]
    return [
        _measured(Column(f"best {metric}", best, True, metric), BEST, comparison),
        Column("in epoch", epochs, True, "epoch"),
    ]


def measured(comparison: Comparison) -> list[Column]:
    """Return the other metrics, each with its last value."""
    names = [name for name in comparison.metrics if name != comparison.metric]
    return [
        _measured(Column(name, [digits(value) for value in values], True), name, comparison)
        for name in names
        for values in [[row.run.metrics.get(name) for row in comparison.rows]]
    ]


def identity(comparison: Comparison) -> list[Column]:
    """Return what names each run, and how it ended where not all are FINISHED."""
    runs = [row.run for row in comparison.rows]
    base = [" baseline" if row is comparison.baseline else "" for row in comparison.rows]
    ids = [f"{run.run_id[:SHORT_ID]}{said}" for run, said in zip(runs, base, strict=True)]
    columns = [Column("run", ids)]
    if any(run.status != FINISHED for run in runs):
        columns.append(Column("status", [run.shown_status for run in runs]))
    return columns


def names(runs: Sequence[RunRecord]) -> list[Column]:
    """Return what else tells the runs apart: experiments where there are several, and names.

    The names that a sweep gives say only once more what differs.
    """
    columns = []
    if len({run.experiment for run in runs}) > 1:
        columns.append(Column("experiment", [run.experiment for run in runs]))
    if not all("gluonexp.sweep.varied" in run.tags for run in runs):
        columns.append(Column("name", [run.name for run in runs]))
    return columns


def _column(name: str, short: str, values: Sequence[str | None]) -> Column:
    known = [value for value in values if value is not None]
    brief_ones = {value: _told(name, value) for value in known}
    if len(set(brief_ones.values())) < len(brief_ones):  # what differs must be seen to differ
        brief_ones = {value: value for value in known}
    texts = ["-" if value is None else brief_ones[value] for value in values]
    return Column(name, texts, all(map(is_number, brief_ones.values())), short)


def _measured(column: Column, name: str, comparison: Comparison) -> Column:
    """Return a metric's column with how far each value is from the baseline's beside it."""
    if comparison.baseline is None:
        return column
    changes = [comparison.changes(row).get(name) for row in comparison.rows]
    texts = ["" if change is None else change.text for change in changes]
    width = max(map(len, texts))
    values = [
        f"{value} {text:>{width}}" if width else value
        for value, text in zip(column.values, texts, strict=True)
    ]
    tones = ["" if change is None else change.tone for change in changes]
    return replace(column, values=values, tones=tones)


def _marked(column: Column, tones: Sequence[str]) -> Column:
    """Return a column with a star at what is not as in the baseline."""
    values = [
        value if not tone else f"*{value}" if column.is_number else f"{value}*"
        for value, tone in zip(column.values, tones, strict=True)
    ]
    return replace(column, values=values, tones=tones)


def _told(name: str, value: str) -> str:
    """Return a value short enough for a table: of a target its own name, of a digest the start."""
    if len(value) == 64 and name.endswith(("digest", "sha256")):
        return value[:12]
    if "." in value and value.replace(".", "").isidentifier():  # gluonexp.models.cnn.cnn
        return value.rpartition(".")[2]
    return brief(value)
