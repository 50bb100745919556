"""The result of a sweep as a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gluonexp.base.text import brief, digits, duration, short_keys, tell
from gluonexp.sweep.outcomes import Outcome, Summary


def sweep_table(console: Console, summary: Summary, limit: int = 20) -> None:
    """Print a sweep's points from best to worst, means over seeds, what failed, and the best."""
    ranked = summary.ranked()
    # What finds no room on a narrow terminal is in the report.
    tables = (_ranking(summary, ranked[:limit], left_out) for left_out in range(4))
    endless = console.options.update(max_width=10_000)
    for table in tables:
        if Measurement.get(console, endless, table).maximum <= console.width:
            break
    console.print(table)
    _more(console, len(ranked) - limit)
    _over_seeds(console, summary, limit)
    failures = summary.failures()
    for outcome, reason in failures[:limit]:
        name = f"{outcome.name}: " if outcome.varied else ""
        tell(console, f"job {outcome.job} {outcome.status}: {name}{reason}")
    _more(console, len(failures) - limit)
    best = summary.best()
    if best is None:
        tell(console, f"no point finished with a value of {summary.metric}")
    else:
        run = "" if best.run_id is None else f"  run {best.run_id[:8]}"
        tell(console, f"best: {best.name}  {summary.metric} {digits(best.objective)}{run}")


def _ranking(summary: Summary, shown: Sequence[Outcome], left_out: int) -> Table:
    """Return the table of points without time, epoch, then with one column for what varied."""
    ranks, keys = summary.ranks(), summary.varied_keys()
    table = Table(box=None, pad_edge=False)

    def add(heading: str, cells: Iterable[object], **style: Any) -> None:
        table.add_column(Text(heading), **style)
        columns.append([Text(str(cell)) for cell in cells])

    columns: list[list[Text]] = []
    number: dict[str, Any] = {"justify": "right", "no_wrap": True}
    add("#", (ranks.get(one.job, "") for one in shown), **number)
    if left_out == 3:
        add("point", (one.name for one in shown), overflow="fold")
    else:
        for key, short in zip(keys, short_keys(keys), strict=True):
            values = (brief(one.varied.get(key, "-")) for one in shown)
            add(short, values, overflow="fold")
    add(summary.metric, (digits(one.objective) for one in shown), **number)
    if left_out < 2:
        add("epoch", ("-" if one.epoch is None else one.epoch for one in shown), **number)
    if any("test/acc" in one.metrics for one in shown):
        add("test acc", (digits(one.metrics.get("test/acc")) for one in shown), **number)
    if left_out < 1:
        add("time", (duration(one.seconds) for one in shown), **number)
    add("status", (one.status for one in shown), no_wrap=True)
    add("run", ((one.run_id or "-")[:8] for one in shown), no_wrap=True)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _over_seeds(console: Console, summary: Summary, limit: int) -> None:
    groups = summary.over_seeds()
    if not groups:
        return
    table = Table(title="over seeds", title_justify="left", box=None, pad_edge=False)
    table.add_column("points", overflow="fold")
    for heading in ("mean", "sd", "n", "min", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in groups[:limit]:
        name = Text(group.name)
        table.add_row(name, *group.row())
    console.print(table)
    _more(console, len(groups) - limit)


def _more(console: Console, count: int) -> None:
    if count > 0:
        tell(console, f"... {count} more in sweep/results.csv")
