"""What a sweep prints while its jobs run, and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TimeElapsedColumn
from rich.text import Text

from gluonexp.base.progress import moving_bar
from gluonexp.base.secrets import hide
from gluonexp.base.text import store_option, tell
from gluonexp.config.overrides import typed
from gluonexp.sweep.outcomes import Outcome
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING
from gluonexp.tracking.sweeps import SweepRun

# Of a point that another process runs.
_OF_OTHERS: Final = (
    "if its host was lost: sweep.resume runs it half an hour later, or after `gluonexp recover "
    "--force`"
)


class Jobs:
    """One line for each job that ended; on a terminal also a bar with those that run.

    Parameters
    ----------
    total
        How many points there will be.
    metric
        Which the lines show: its best value.

    Attributes
    ----------
    bar
        Shown while its block lasts.
    """

    def __init__(self, console: Console, total: int, metric: str) -> None:
        self._console = console
        self._total = total
        self._metric = metric
        self._running: dict[int, str] = {}
        self._ended = 0
        self.bar = moving_bar(
            console,
            *(SpinnerColumn(), BarColumn(bar_width=20), "{task.completed}/{task.total}"),
            *(TimeElapsedColumn(), "{task.fields[running]}"),
        )
        self._task = self.bar.add_task("sweep", total=total, running="")

    def started(self, number: int, name: str) -> None:
        """Show that a job runs."""
        self._running[number] = name
        self._update()

    def known(self, name: str, outcome: Outcome) -> None:
        """Say that a point need not be run."""
        self._ended += 1
        if outcome.status == RUNNING:
            self._print(f"{name}  is being run by {outcome.error}")
            tell(self._console, f"      {_OF_OTHERS}")
        else:
            self._print(f"{name}  {self._result(outcome)}  (before; run {_short(outcome)})")

    def ended(self, outcome: Outcome, name: str, output: str | None) -> None:
        """Say how a job ended; where it failed, why, and where its output is."""
        self._running.pop(outcome.job, None)
        self._ended += 1
        run = f"  run {_short(outcome)}" if outcome.run_id else ""
        if outcome.status in (FINISHED, PRUNED):
            self._print(f"{name}  {self._result(outcome)}  {outcome.seconds:.0f} s{run}")
            return
        told = f": {outcome.error or ''}{run}"
        self._print(Text.assemble(f"{name}  ", (outcome.status, "red"), told))
        if output is not None:
            tell(self._console, f"      its output: {output}")

    def again(self, outcome: Outcome, name: str, output: str | None) -> None:
        """Say that a job was lost and that its point is tried again."""
        self._running.pop(outcome.job, None)
        run = f"  run {_short(outcome)}" if outcome.run_id else ""
        told = f": {outcome.error or ''}; it is tried again{run}"
        self._print(Text.assemble(f"{name}  ", (outcome.status, "yellow"), told))
        if output is not None:
            tell(self._console, f"      its output: {output}")

    def _result(self, outcome: Outcome) -> str:
        value = "none" if outcome.objective is None else f"{outcome.objective:.4f}"
        when = "" if outcome.epoch is None else f" (epoch {outcome.epoch})"
        pruned = "pruned, " if outcome.status == PRUNED else ""
        return f"{pruned}{self._metric} {value}{when}"

    def _print(self, line: str | Text) -> None:
        tell(self._console, Text.assemble(f"[{self._ended}/{self._total}] ", line))
        self._update()

    def _update(self) -> None:
        running = ", ".join(self._running.values())
        self.bar.update(self._task, completed=self._ended, running=running)


def announce(console: Console, run: SweepRun | None, description: Sequence[str]) -> None:
    """Say which sweep this is, so that it can be resumed if the process is gone, and of what."""
    name = "" if run is None else f" {run.run_id}"
    tell(console, "\n".join([f"sweep{name}: {description[0]}", *description[1:]]))


def farewell(
    console: Console,
    run: SweepRun,
    status: str,
    problem: str | None,
    *,
    uri: str | None,
    best: str | None,
    model: str | None,
) -> None:
    """Say how the sweep ended, and the commands to look at it, use it and resume it."""
    short, store = run.run_id[:8], store_option(uri)
    why = f": {problem}" if problem else ""
    lines = [f"sweep {run.run_id} {status}{why}", f"  see it:  gluonexp ui --sweep {short}{store}"]
    if (report := run.local("sweep/report.html")) is not None:
        lines.append(f"  report:  {report}")
    if best is not None:
        lines.append(f"  use it:  gluonexp predict {best[:8]}{store}")
    if model is not None:
        lines.append(f"  model:   {model}")
    if status in (FAILED, KILLED):
        lines.append(_resume(run, uri))
    tell(console, "\n".join(lines))


def unanswered(console: Console, run: SweepRun, uri: str | None) -> None:
    """Say how to go on with a sweep whose end could not be recorded."""
    tell(console, f"sweep {run.run_id} was cut off\n{_resume(run, uri)}")


def _resume(run: SweepRun, uri: str | None) -> str:
    where = f" {typed('tracking.uri', hide(uri))}" if uri else ""
    return f"  resume:  python -m gluonexp.run sweep.resume={run.run_id[:8]}{where}"


def _short(outcome: Outcome) -> str:
    return (outcome.run_id or "")[:8]
