"""Progress bars for what is slow, on a terminal only."""

from rich import progress
from rich.progress import Progress, ProgressColumn, TextColumn

from gluonexp.base.text import plain_console


def transient_bar(*columns: str | ProgressColumn) -> Progress:
    """Return a bar on standard error that leaves nothing behind, and is silent off a terminal."""
    console = plain_console(stderr=True)
    plain = [TextColumn(one, markup=False) if isinstance(one, str) else one for one in columns]
    return Progress(*plain, console=console, transient=True, disable=not console.is_terminal)


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
