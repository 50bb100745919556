"""Progress bars for what is slow, on a terminal and in a notebook only."""

import io
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from rich import progress
from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID, TextColumn

from gluonexp.base.text import in_kernel, plain_console

# Between two pictures of a bar in a notebook, each of which is a message to its page (seconds).
_EVERY_S: Final = 0.5
_WIDTH: Final = 100  # characters


def transient_bar(*columns: str | ProgressColumn) -> Progress:
    """Return a bar on standard error that leaves nothing behind, and is silent elsewhere."""
    return moving_bar(plain_console(stderr=True), *columns)


def moving_bar(console: Console, *columns: str | ProgressColumn, **options: Any) -> Progress:
    """Return a bar that leaves nothing behind; it is silent off a terminal and a notebook.

    `options` are those of `rich.progress.Progress`, for a terminal.
    """
    plain = [TextColumn(one, markup=False) if isinstance(one, str) else one for one in columns]
    if in_notebook(console):
        return InNotebook(*plain, console=console)
    options |= {"transient": True, "disable": not console.is_terminal}
    return Progress(*plain, console=console, **options)


def in_notebook(console: Console) -> bool:
    """Tell whether what a console prints is shown below a notebook's cell."""
    return in_kernel() and console.file in (sys.stdout, sys.stderr)


class InNotebook(Progress):
    """A bar as one output of a notebook's cell, drawn over and over, and empty at its end.

    rich's own needs another package there, and is an output for each picture without it.
    """

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self._shown: str | None = None  # by which name its page knows it
        self._next = 0.0
        super().__init__(*columns, console=console, auto_refresh=False)

    def start(self) -> None:
        """Show it, from now on in this place."""
        self._draw()

    def stop(self) -> None:
        """Empty it."""
        if self._shown is not None:
            self._publish("", {"text/html": ""})  # of which a page makes no empty box

    def refresh(self) -> None:
        """Draw it again, unless that has been done just now."""
        if self._shown is not None and time.monotonic() >= self._next:
            self._draw()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Change a task, and show that."""
        super().update(task_id, **fields)
        self.refresh()

    def _draw(self) -> None:
        text = io.StringIO()
        paper = Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False)
        paper.print(self.get_renderable())
        self._publish(text.getvalue().rstrip())
        self._next = time.monotonic() + _EVERY_S

    def _publish(self, text: str, other: Mapping[str, str] | None = None) -> None:
        import IPython.display  # it is there: we are in it

        display: Any = IPython.display.display
        known, self._shown = self._shown, self._shown or uuid.uuid4().hex
        shown, again = {"text/plain": text, **(other or {})}, known is not None
        display(shown, raw=True, display_id=self._shown, update=again)


def counting_bar() -> Progress:
    """Return such a bar that says how many are done of how many, and what each task does."""
    return transient_bar(
        *("{task.description}", progress.BarColumn()),
        *(progress.MofNCompleteColumn(), progress.TimeRemainingColumn()),
    )


def bar_of_bytes() -> Progress:
    """Return such a bar for bytes that are on their way."""
    return transient_bar(
        *("{task.description}", progress.BarColumn(), progress.DownloadColumn()),
        *(progress.TransferSpeedColumn(), progress.TimeRemainingColumn()),
    )
