"""A progress bar for slow reading, on a terminal only."""

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def transient_bar(*columns: str | ProgressColumn) -> Progress:
    """Return a bar on standard error that leaves nothing behind, and is silent off a terminal."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
