"""The report of a sweep: one table as CSV, and one page that needs nothing else."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from gluonexp.base.text import brief, digits, duration, short_keys
from gluonexp.report.charts import Line, curves, spread
from gluonexp.report.choices import Dot, Scale, against, parallel
from gluonexp.report.page import Code, Facts, Pictures, Section, Table, Text, page
from gluonexp.sweep.outcomes import Summary, table
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING

# A status by a sign and a word: no reader needs to see colours.
SIGNS = {FINISHED: "✓", PRUNED: "✂", FAILED: "✗", KILLED: "■", RUNNING: "…"}
MOST_GROUPS = 30  # drawn; the table has all


def results_csv(summary: Summary, path: Path) -> None:
    """Write the `table` of a sweep, one row a point, the best first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(summary))


def html(summary: Summary, path: Path) -> None:
    """Write the page: the winner, the ranked table, what failed, curves, choices, seeds."""
    sections = [
        _answer(summary),
        Section("All points", [_table(summary)]),
        *_failures(summary),
        *_tried_again(summary),
        *_pictures(summary),
        *_over_seeds(summary),
        _meaning(summary),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(summary.title, sections, _counts(summary))
    path.write_text(text, encoding="utf-8", errors="replace")


def _counts(summary: Summary) -> str:
    total = len(summary.outcomes)
    parts = [
        f"{summary.count(status)} {status.lower()}" for status in SIGNS if summary.count(status)
    ]
    return f"{total} point{'s' * (total != 1)}: {', '.join(parts)}" if parts else "no points"


def _answer(summary: Summary) -> Section:
    best = summary.best()
    if best is None:
        return Section("", [Text(f"No point finished with a value of {summary.metric}.")])
    facts = [
        (f"best {summary.metric}", digits(best.objective)),
        ("with", best.name),
        ("epoch", "-" if best.epoch is None else str(best.epoch)),
    ]
    tests = [name for name in _tests(summary) if name in best.metrics]
    facts += [(name, digits(best.metrics[name])) for name in tests]
    if best.run_id is not None:
        facts.append(("run", best.run_id))
    parts: list[Facts | Text] = [Facts(facts)]
    ties = sum(rank == 1 for rank in summary.ranks().values())
    if ties > 1:
        parts.append(Text(f"{ties} points share this value; the first of them is named.", True))
    return Section("", parts)


def _tests(summary: Summary) -> list[str]:
    """Return the metrics of the test split that are told: accuracy, and what was ranked by."""
    return [*dict.fromkeys(("test/acc", f"test/{summary.metric.rpartition('/')[2]}"))]


def _table(summary: Summary) -> Table:
    keys, ranks = summary.varied_keys(), summary.ranks()
    tests = [
        name
        for name in _tests(summary)
        if any(name in outcome.metrics for outcome in summary.outcomes)
    ]
    numbers = [summary.metric, "epoch", *tests, "time"]
    best = summary.best()
    rows = []
    for outcome in summary.ranked():
        again = f" (attempt {outcome.attempts})" if outcome.attempts > 1 else ""
        rows.append(
            [
                str(ranks.get(outcome.job, "")),
                *(brief(outcome.varied.get(key, "-")) for key in keys),
                digits(outcome.objective),
                "-" if outcome.epoch is None else str(outcome.epoch),
                *(digits(outcome.metrics.get(name)) for name in tests),
                duration(outcome.seconds),
                f"{SIGNS[outcome.status]} {outcome.status.lower()}{again}",
                outcome.run_id or "-",
            ]
        )
    return Table(
        ["rank", *short_keys(keys), *numbers, "status", "run"],
        rows,
        right=["rank", *numbers],
        ids=["run"],
        marked=[] if best is None else [0],
    )


def _pictures(summary: Summary) -> list[Section]:
    best, metric = summary.best(), summary.metric
    lines, dots = [], []
    for one in summary.ranked():
        name, ended = one.name, "" if one.status == FINISHED else one.status.lower()
        lines.append(Line(name, one.curve, one is best, ended))
        # The value of a pruned point is shown; the numbers of a failed one mean nothing.
        value = one.objective if one.status == PRUNED else one.value
        dots.append(Dot(name, one.varied, value, one is best, ended))
    title = "Curves and choices"
    if not any(line.points for line in lines) and all(math.isnan(dot.height) for dot in dots):
        return [Section(title, [Text("There is no value to draw.", quiet=True)])]
    keys = [
        key
        for key in summary.varied_keys()
        # A seed is no choice: it has a section of its own.
        if key != "seed" and len({one.varied.get(key) for one in summary.outcomes}) > 1
    ]
    by_key = []
    for key in keys:
        having = [dot for dot in dots if key in dot.chosen]
        # More names than these are not legible side by side; parallel coordinates have room.
        if len(Scale.of(key, [dot.chosen[key] for dot in having]).names) <= 8:
            by_key.append(against(key, having, metric, summary.mode, joined=len(keys) == 1))
    wide = len(by_key) > 0 and len(by_key) % 2 == 0  # the others stand in twos without the curves
    pictures = [curves(lines, metric, summary.mode, wide), *by_key]
    if len(keys) > 1:
        pictures.append(parallel(keys, dots, metric, summary.mode))
    return [Section(title, [Pictures(pictures)])]


def _over_seeds(summary: Summary) -> list[Section]:
    groups = summary.over_seeds()
    if not groups:
        return []
    headings = ["mean", "standard deviation", "n", "min", "max"]
    rows = [[group.name, *group.row()] for group in groups]
    marked = [0] if groups[0].values else []
    table = Table(["points", *headings], rows, right=headings, marked=marked)
    drawn = groups[:MOST_GROUPS]
    names, values = [group.name for group in drawn], [group.values for group in drawn]
    picture = spread(names, values, summary.metric)
    note = "Over the seeds of points that finished; the deviation is a sample's (n - 1)."
    return [Section("Over the seeds", [table, Text(note, True), Pictures([picture])])]


def _failures(summary: Summary) -> list[Section]:
    failures = summary.failures()
    if not failures:
        return []
    rows = [
        [
            str(outcome.job),
            outcome.name,
            f"{SIGNS[outcome.status]} {outcome.status.lower()}",
            reason,
            outcome.run_id or "-",
        ]
        for outcome, reason in failures
    ]
    headings = ["job", "point", "status", "reason", "run"]
    return [Section("What failed", [Table(headings, rows, verbatim=["reason"], ids=["run"])])]


def _tried_again(summary: Summary) -> list[Section]:
    rows = [
        [outcome.name, f"{SIGNS[status]} {status.lower()}", reason, run_id or "-"]
        for outcome in summary.outcomes
        for run_id, status, reason in outcome.earlier
    ]
    headings = ["point", "status", "reason", "run"]
    table = Table(headings, rows, verbatim=["reason"], ids=["run"])
    note = Text("Earlier tries of points; the last of each is in the table of all points.", True)
    return [Section("What was tried again", [table, note])] if rows else []


def _meaning(summary: Summary) -> Section:
    which = "highest" if summary.mode == "max" else "lowest"
    text = (
        f"The objective is {summary.metric}: of each point, its {which} value of all epochs. "
        "The network of that epoch is the point's result, and the test split was measured once, "
        "with it; no choice was made by the test split."
    )
    parts: list[Text | Code] = [Text(text), Text("The same sweep again:"), Code(summary.command)]
    if summary.parent_id is not None:
        parts.append(Text(f"Parent run: {summary.parent_id}", True))
    return Section("How to read and repeat this", parts)
