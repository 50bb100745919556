"""What a notebook shows of a loop of one's own: its run."""

from __future__ import annotations

from gluonexp.base.errors import GluonexpError
from gluonexp.experiment.own_loop import TrackedLoop


class ShownLoop(TrackedLoop):
    """A `TrackedLoop` that shows itself as `gluonexp.api.Run` does."""

    def __repr__(self) -> str:
        stands = "ended" if self._ended else "open"
        known = "not begun" if self._tracker is None else f"{self.id[:8]}, {stands}"
        return f"<TrackedLoop {self._name!r}: {known}>"

    def _repr_html_(self) -> str:
        from gluonexp.api import html
        from gluonexp.api.recorded import Run

        try:
            return Run(self.id, self._settings.uri)._repr_html_()
        except GluonexpError:  # it has not begun, or no store has it
            return html.code(repr(self))
