"""Training behind the frozen front: features in place of images, once they are proved right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.arrays import NoCache
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import in_shell
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.export.onnx.convert import Unexportable
from gluonexp.features import kept
from gluonexp.features.front import Front
from gluonexp.features.kept import Recipe
from gluonexp.features.outlook import Outlook
from gluonexp.training.engine import Engine
from gluonexp.training.loop import Callback, Fit
from gluonexp.verification.runtimes import CannotRun

if TYPE_CHECKING:
    from gluonexp.tracking import Tracker

# How many images of the training split the gate compares, and of each other one; and how far
# their logits may be apart, as a share of the largest logit: by the precision of the arithmetic,
# and by that of what is kept.
_IMAGES: Final = 32
_OTHERS: Final = 8
LIMITS: Final = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}

TRAIN: Final = "train"
TAG: Final = "gluonexp.features"


class Differs(GluonexpError):
    """What the features lead to is not what the network says."""


class Shortcut:
    """Lets an engine train from features, as long as the front that makes them stays frozen.

    Parameters
    ----------
    recipe
        Makes the recipe of a front's features.
    tracker
        Records what was found, and how long it took.
    say
        Takes a line for people.
    """

    def __init__(
        self,
        engine: Engine,
        outlook: Outlook,
        recipe: Callable[[Front], Recipe],
        tracker: Tracker,
        say: Callable[[str], None],
    ) -> None:
        self._engine, self._outlook, self._recipe = engine, outlook, recipe
        self._tracker, self._say = tracker, say
        self._front: Front | None = None  # what the engine is behind

    def enter(self, epoch: int, splits: Mapping[str, Split]) -> dict[str, Split] | None:
        """Start the engine where this epoch's front ends; return what to train and evaluate on.

        Parameters
        ----------
        splits
            Of images, by name; ``train`` is one of them.

        Returns
        -------
        dict or None
            The splits by the same names, to be used instead until the next call or `leave`; None:
            those of before are right still.
        """
        front = self._outlook.at(epoch)
        if front == self._front:
            return None
        self.leave()
        if epoch and (text := self._outlook.change(epoch)):
            self._say(f"epoch {epoch}: {text}")
        if front is None:
            return dict(splits)
        self._front, started = front, time.perf_counter()
        try:
            found = self._proved(front, splits)
        except (NoCache, Differs, Unexportable, CannotRun) as error:
            self._engine.start(None)
            why = str(error)
            if isinstance(error, (Unexportable, CannotRun)):
                torch = isinstance(error, CannotRun) and error.runtime == "torch"
                why += f"; features.engine=mxnet {'can' if torch else 'needs no ONNX'}"
            self._say(f"features are not used: {why}. Every epoch computes all layers")
            self._tracker.log_tags({TAG: f"not used: {why}"})
            return dict(splits)
        seconds = {"time/features_s": time.perf_counter() - started}
        self._tracker.log_metrics(seconds, step=epoch)
        return found

    def leave(self) -> None:
        """Let the engine take images again."""
        if self._front is not None:
            self._engine.start(None)
            self._front = None

    def _proved(self, front: Front, splits: Mapping[str, Split]) -> dict[str, Split]:
        """Return the splits with features, by which the engine gives the network's own logits."""
        recipe = self._recipe(front)
        found = kept.features(recipe, splits, self._say)
        chosen = {
            name: spread(split.labels, _IMAGES if name == TRAIN else _OTHERS)
            for name, split in splits.items()
        }
        live = self._logits(splits, chosen)
        self._engine.start(front.end)
        behind = self._logits(found, chosen)
        settings = recipe.settings
        limit = max(LIMITS[settings.precision], LIMITS[settings.dtype])
        if not live.any():
            raise Differs("they cannot be proved right, as all logits of the network are 0")
        difference = float(np.abs(behind - live).max() / np.abs(live).max())
        if not difference <= limit:  # so written that NaN is one too
            folder = f" {in_shell('--folder', settings.folder)}" if settings.folder else ""
            raise Differs(
                f"those of {recipe.title} lead to logits that differ by {difference:.1e} from the "
                f"network's, where {limit:.0e} is allowed; to have them computed anew: "
                f"gluonexp cache clear --kind features{folder}"
            )
        self._tracker.log_tags(
            {
                TAG: f"{front.sentence()}; {settings.engine}, {settings.precision}, kept as "
                f"{settings.dtype}; logits of {len(live)} images within {difference:.1e} of the "
                f"network's (limit {limit:.0e})"
            }
        )
        return found

    def _logits(
        self, splits: Mapping[str, Split], chosen: Mapping[str, NDArray[np.intp]]
    ) -> NDArray[np.float32]:
        parts = [
            self._engine.logits(splits[name].select(rows), _IMAGES)
            for name, rows in chosen.items()
        ]
        return np.concatenate(parts)


class TrainBehind(Callback):
    """Switches the loop between images and features, where `Unfreezing` has been before."""

    def __init__(self, shortcut: Shortcut) -> None:
        self._shortcut = shortcut
        self._images: dict[str, Split] = {}

    def fit_start(self, fit: Fit) -> None:
        """Note what the loop trains and evaluates on."""
        self._images = {TRAIN: fit.train, **fit.evaluations}

    def epoch_start(self, fit: Fit) -> None:
        """Put features into the place of images, or images back."""
        with fit.settings.team.after_first():  # who computes and says so; the others find it kept
            found = self._shortcut.enter(fit.epoch, self._images)
        if found is not None:
            self._put(fit, found)

    def fit_end(self, fit: Fit) -> None:
        """Go back to images, so that nothing has the features in use any more."""
        self._shortcut.leave()
        if self._images:
            self._put(fit, self._images)

    def _put(self, fit: Fit, splits: Mapping[str, Split]) -> None:
        fit.train = splits[TRAIN]
        fit.evaluations = {name: splits[name] for name in fit.evaluations}
