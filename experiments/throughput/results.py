"""What was measured, as rows of a table: medians over the rounds, with their range."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGES = ("gluonexp", "mxnet", "mlflow", "numpy", "openvino", "torch", "lightning")


@dataclass(frozen=True)
class Row:
    """A number of the comparison.

    Attributes
    ----------
    part
        Its table.
    row
        What was timed.
    setting
        Precision and optimizer.
    side
        Whose it is; of a ratio, whom gluonexp is compared with.
    value, lowest, highest
        Median and range over the rounds.
    unit
        Of the value; a ratio is the side's time over gluonexp's.
    asked
        What the ratio is to reach; empty where nothing is asked.
    note
        How it was measured, or why it was not.
    """

    part: str
    row: str
    setting: str
    side: str
    value: float | None
    unit: str
    lowest: float | None = None
    highest: float | None = None
    asked: str = ""
    note: str = ""


def row(
    part: str,
    name: str,
    setting: str,
    side: str,
    values: Sequence[float],
    unit: str,
    asked: str = "",
    note: str = "",
) -> Row:
    """Return the row of the values of all rounds."""
    median = statistics.median(values)
    return Row(part, name, setting, side, median, unit, min(values), max(values), asked, note)


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the rows, a table for each part."""
    for part in dict.fromkeys(row.part for row in rows):
        table = Table(title=part, title_justify="left")
        for heading in ("row", "setting", "side"):
            table.add_column(heading)
        for heading in ("median", "rounds", "asked"):
            table.add_column(heading, justify="right")
        table.add_column("note", overflow="fold")
        for one in (row for row in rows if row.part == part):
            median = "-" if one.value is None else f"{_digits(one.value)} {one.unit}"
            spread = (
                ""
                if one.lowest is None or one.highest is None or one.lowest == one.highest
                else f"{_digits(one.lowest)} to {_digits(one.highest)}"
            )
            table.add_row(one.row, one.setting, one.side, median, spread, one.asked, one.note)
        console.print(table)


def machine(script: str = "experiments/throughput/bench.py") -> list[Row]:
    """Return what the numbers were measured on, by which script, and when."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "written by": script,
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return [Row("machine", name, "", "", None, "", note=text) for name, text in facts.items()]


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV."""
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for one in rows:
            values = asdict(one)
            for name in ("value", "lowest", "highest"):
                values[name] = None if values[name] is None else f"{values[name]:.5g}"
            writer.writerow(values)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
