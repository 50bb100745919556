"""The callback of a search's job: it reports each epoch to the study, which may end the job."""

from __future__ import annotations

import math

from gluonexp.base.better import Better
from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import Config
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.reporter import Reporter, open_trial
from gluonexp.tracking.statuses import PRUNED
from gluonexp.training.loop import Callback, Fit, StopFit


def callbacks(config: Config) -> list[Callback]:
    """Return what reports to the study that this run is a trial of; nothing if it is none."""
    trial, objective = config.sweep.trial, config.objective
    if trial.number is None:
        return []
    assert trial.storage is not None and trial.study is not None
    reporter = open_trial(
        place(trial.storage), trial.study, trial.number, trial.pruner, config.trainer.epochs
    )
    return [Prune(reporter, objective.metric, objective.mode)]


class Prune(Callback):
    """Report each epoch to the study that the run is a trial of, and end it early if that says so.

    The best value so far is reported: a run is ranked by it, and one bad epoch does not end it.
    """

    def __init__(self, reporter: Reporter, metric: str, mode: str) -> None:
        self._reporter = reporter
        self._better = Better(metric, mode)

    def fit_start(self, fit: Fit) -> None:
        """Report the epochs already trained, as far as the study does not know them."""
        for row in fit.history:
            self._report(row, int(row["epoch"]))

    def epoch_end(self, fit: Fit) -> None:
        """End training as PRUNED where the study says so; never after the last epoch."""
        behind = self._report(fit.metrics, fit.epoch)
        if behind and fit.epoch + 1 < fit.epochs:
            best = f"{self._better.metric} {self._better.value:.4g}"
            raise StopFit(f"pruned, {best} after epoch {fit.epoch} is behind other trials", PRUNED)

    def _report(self, metrics: dict[str, float], epoch: int) -> bool:
        if self._better.metric not in metrics:
            raise GluonexpError(
                f"objective.metric={self._better.metric} is not measured, so there is nothing to "
                "search by; choose another one, or a dataset.val_fraction above 0"
            )
        self._better.improved(metrics)
        best = self._better.value
        return self._reporter.report(best if math.isfinite(best) else math.nan, epoch)
