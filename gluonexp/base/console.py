"""A console on which no number of a table is cut, however narrow it is."""

from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

# A table that needs as much is not squeezed below it: a terminal that has less wraps its lines.
LEAST: Final = 60


class PlainConsole(Console):
    """Prints texts as they are, and tables whole."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does."""
        if self.width < LEAST and len(objects) == 1 and isinstance(objects[0], Table):
            objects, options = (_Whole(objects[0]),), {**options, "crop": False}
        super().print(*objects, **options)


@dataclass(frozen=True)
class _Whole:
    """A table as wide as it needs to be, up to the least width there should be."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.update(width=LEAST)
        wanted = Measurement.get(console, room, self.table).maximum
        width = max(options.max_width, wanted)
        yield from console.render(self.table, options.update(width=width))
