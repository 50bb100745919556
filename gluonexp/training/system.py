"""How busy the machine is while a run trains, under the names that MLflow's own page shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.memory import forget_peak, peak
from gluonexp.tracking import internals
from gluonexp.tracking.read.records import PEAK_MEMORY, SYSTEM
from gluonexp.training.loop import Callback, Fit

if TYPE_CHECKING:
    from gluonexp.config.schema import TrackingConfig
    from gluonexp.tracking import Tracker

_log = logging.getLogger(__name__)


class SystemMetrics(Callback):
    """Record processor, memory, disk, network and GPUs every 10 s, and the peak of the memory.

    It looks between two steps, which takes less than a millisecond and waits for no device. The
    looks are counted, over all processes that a run had. The peak is that of the process that
    trains, in megabytes, and of none that loads data.
    """

    every_s: Final = 10.0  # as MLflow does

    def __init__(self, tracker: Tracker, monitors: Sequence[Any]) -> None:
        self._tracker = tracker
        self._monitors = list(monitors)
        points = tracker.before.points
        looks = (n for key, n in points if key.startswith(SYSTEM) and key != PEAK_MEMORY)
        self._number, self._next = 1 + max(looks, default=-1), 0.0
        peaks = (value for (key, _), value in points.items() if key == PEAK_MEMORY)
        self._peak = max(peaks, default=0.0)

    def fit_start(self, fit: Fit) -> None:
        """Let the peak count from here: a process may train several runs."""
        forget_peak()

    def batch_end(self, fit: Fit) -> None:
        """Look now and then."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every_s
        values: dict[str, float] = {}
        for monitor in list(self._monitors):
            try:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            except Exception as error:  # whatever a system or a driver does not tell
                self._monitors.remove(monitor)
                _log.warning("%s tells no more: %s", type(monitor).__name__, reason(error))
        self._tracker.log_metrics(
            {f"{SYSTEM}{key}": value for key, value in values.items()}, self._number
        )
        self._number += 1

    def epoch_end(self, fit: Fit) -> None:
        """Note the peak so far, so that a run that is killed has one."""
        self._peak = max(self._peak, peak() / 1e6)
        self._tracker.log_metrics({PEAK_MEMORY: self._peak}, fit.epoch)


def monitors(settings: TrackingConfig) -> list[Any]:
    """Return what tells how busy the machine is; nothing unless ``tracking.system_metrics``.

    Raises
    ------
    GluonexpError
        A package that it needs is not installed.
    """
    if not settings.system_metrics:
        return []
    try:
        return internals.system_monitors()
    except ImportError as error:
        raise GluonexpError(
            f"tracking.system_metrics=true: {error.name} is not installed: pip install psutil"
        ) from None
