"""One trial, seen from its job: each epoch's value is reported, and may end it early."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.sweep.study.place import Place
from gluonexp.sweep.study.storage import StoredTrial, opened, told

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)

PRUNERS = ("none", "median", "asha")


class Reporter:
    """Reports the epochs of one trial to its study; see `open_trial`."""

    def __init__(self, place: Place, trial: StoredTrial, prunes: bool) -> None:
        self._place = place
        self._trial = trial
        self._prunes = prunes
        self._known = trial.epochs()

    def report(self, value: float, epoch: int) -> bool:
        """Report the value after an epoch (from 0); return whether to end the trial.

        An epoch that the study knows already, from before the job was resumed, is not reported
        again, and ends nothing. A value that is not a number ends the trial, if any value may.
        While the study cannot be reached, training goes on.
        """
        if epoch in self._known:
            return False
        if math.isnan(value):
            return self._prunes
        try:
            with told(self._place):
                return self._trial.report(value, epoch)
        except GluonexpError as error:
            _log.warning("epoch %d is not reported: %s", epoch, error)
            return False


def open_trial(place: Place, name: str, number: int, pruner: str, epochs: int) -> Reporter:
    """Return what reports trial `number` of study `name` at a place.

    Parameters
    ----------
    pruner
        ``none``; ``median``, which ends a trial whose best value is worse than the median of the
        complete trials at that epoch, once three are complete and after a tenth of the epochs; or
        ``asha``, which lets the best quarter of the trials pass a tenth of the epochs, and of
        these the best quarter pass four tenths (asynchronous successive halving; Li et al., A
        System for Massively Parallel Hyperparameter Tuning, 2020).
    epochs
        Of a whole run.

    Raises
    ------
    GluonexpError
        There is no such trial, or it cannot be read.
    """
    import optuna

    if pruner not in PRUNERS:
        raise GluonexpError(f"pruner={pruner}: choose one of {', '.join(PRUNERS)}")
    first = max(1, round(epochs / 10))
    chosen: optuna.pruners.BasePruner
    if pruner == "median":
        chosen = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=first)
    elif pruner == "asha":
        # Gates at the first epoch and 4 times that; the next, at 16 times, is past the end.
        chosen = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=4)
    else:
        chosen = optuna.pruners.NopPruner()
    missing = GluonexpError(
        f"{place.shown} has no trial {number} of study {name}; jobs on other machines need a "
        "database: hydra.sweeper.storage=postgresql://..."
    )
    if place.file is not None and not place.file.exists():
        raise missing
    storage = opened(place, seldom=True)
    with told(place):
        try:
            study = optuna.load_study(study_name=name, storage=storage, pruner=chosen)
            return Reporter(place, StoredTrial(study, storage, number), prunes=pruner != "none")
        except KeyError:
            raise missing from None
