"""The learning-rate range test: which learning rate to start with (``trainer=lr_find``).

The learning rate grows exponentially from step to step; the loss first stays, then falls, then
explodes (Smith, 2015, "Cyclical Learning Rates", section 3.3). Where it falls fastest is a good
rate to train with, well below the one that breaks training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.progress import counting_bar
from gluonexp.base.seeds import seed_host
from gluonexp.config.schema import LrFindConfig
from gluonexp.data.batches import batches
from gluonexp.data.types import Batch, Split
from gluonexp.report.lr_curve import lr_curve
from gluonexp.training import loop
from gluonexp.training.engine import Engine

if TYPE_CHECKING:
    from gluonexp.tracking import Tracker

# The search ends once the smoothed loss is so many times its lowest. This factor and the bias
# correction of the running mean are those of fastai (Howard & Gugger, 2020).
EXPLODED = 4.0


@dataclass(frozen=True)
class LrCurve:
    """Loss by learning rate, one value a training step.

    Attributes
    ----------
    lrs
        (S,) growing.
    losses
        (S,) mean loss of the step's batch, before its update; the last may not be finite.
    smoothed
        (S,) exponential running mean of `losses`, its bias corrected.
    span
        A tenth of the steps that were planned: how far the running mean looks back.
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    span: int

    def suggestion(self) -> float | None:
        """Return the learning rate of the steepest fall of the loss, None if it falls nowhere.

        The fall of the running mean is measured over `span` steps, so that no single batch
        decides. The first `span` steps, where the mean is of few batches, and all beyond its
        lowest value do not count; nor does a fall within the noise of single batches (the median
        change from one to the next). What the mean shows happened `span` - 1 steps before (the
        mean age of what is in it): the answer is the learning rate of then.
        """
        if not np.isfinite(self.smoothed).any():
            return None
        lowest, span = int(np.nanargmin(self.smoothed)), self.span
        if lowest < 2 * span:
            return None
        noise = np.median(np.abs(np.diff(self.losses[: lowest + 1])))
        before = self.losses[:span].mean()
        if not before - self.smoothed[lowest] > noise + 1e-6 * abs(before):  # or of rounding
            return None
        falls = self.smoothed[span : lowest - span + 1] - self.smoothed[2 * span : lowest + 1]
        middle = span + int(np.argmax(falls)) + span // 2
        return float(self.lrs[max(middle - (span - 1), 0)])


def search(engine: Engine, train: Split, settings: loop.Settings, wanted: LrFindConfig) -> LrCurve:
    """Train for up to `steps` batches, the learning rate growing from `start` to `end`.

    The epochs of `train` are repeated as often as that takes. The search ends early when the loss
    explodes or is no number. `engine` is worn out afterwards: its parameters, its optimizer's
    state and the statistics of its layers are those of a training that diverged.
    """
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    steps, span = wanted.steps, wanted.steps // 10
    mean, best, decay = 0.0, np.inf, 1 - 1 / span
    with counting_bar() as bar:
        seen = itertools.islice(_endless(engine, train, settings), steps)
        for batch in bar.track(seen, total=steps, description="learning rate search"):
            lrs.append(wanted.start * (wanted.end / wanted.start) ** (len(lrs) / (steps - 1)))
            losses.append(engine.step(batch, lrs[-1]).loss())  # device sync
            mean = decay * mean + (1 - decay) * losses[-1]
            smoothed.append(mean / (1 - decay ** len(lrs)))
            best = min(best, smoothed[-1])
            if not smoothed[-1] <= EXPLODED * best:  # so written that NaN ends it too
                break
    return LrCurve(np.array(lrs), np.array(losses), np.array(smoothed), span)


def record(curve: LrCurve, artifacts: Path, tracker: Tracker, title: str) -> float:
    """Keep `curve` as ``lr_find/curve.csv``, a plot and metrics by step; return its suggestion.

    Raises
    ------
    GluonexpError
        The loss fell nowhere; the files and metrics are kept even so.
    """
    table = pd.DataFrame(
        {"lr": curve.lrs, "loss": curve.losses, "smoothed_loss": curve.smoothed}
    ).rename_axis("step")
    (artifacts / "lr_find").mkdir(parents=True, exist_ok=True)
    table.to_csv(artifacts / "lr_find" / "curve.csv")
    suggestion = curve.suggestion()
    picture = artifacts / "plots" / "lr_find.png"
    lr_curve(curve.lrs, curve.losses, curve.smoothed, suggestion, picture, title)
    for step, row in enumerate(table.to_dict("records")):
        tracker.log_metrics({f"lr_find/{key}": value for key, value in row.items()}, step=step)
    if suggestion is not None:
        tracker.log_metrics({"lr_find/suggestion": suggestion}, step=0)
    tracker.log_artifacts(artifacts)
    if suggestion is None:
        raise GluonexpError(
            f"trainer.lr_find: the loss fell at no learning rate from {curve.lrs[0]:g} to "
            f"{curve.lrs[-1]:g}, see plots/lr_find.png; lower trainer.lr_find.start if it was "
            "too high from the first step, or take more trainer.lr_find.steps"
        )
    return suggestion


def _endless(engine: Engine, train: Split, settings: loop.Settings) -> Iterator[Batch]:
    """Yield the batches that training would see, epoch after epoch."""
    for epoch in itertools.count():
        rng = seed_host(settings.seed, epoch)
        engine.seed(settings.seed, epoch)
        yield from batches(
            train,
            settings.batch_size,
            rng=rng,
            augment=settings.augment,
            seed=settings.seed,
            epoch=epoch,
        )
