"""A network trained by gluonexp, whichever engine it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ours import QUIET, Clock

from gluonexp import assembly, run
from gluonexp.assembly import engines, networks
from gluonexp.config.schema import TrackingConfig
from gluonexp.data.types import Spec, Split
from gluonexp.tracking import tracked_run
from gluonexp.training import callbacks, loop


class Trained:
    """An engine with its network, and images to train it on."""

    def __init__(self, overrides: Sequence[str], images: np.ndarray, labels: np.ndarray) -> None:
        self.config = run.compose("device=cpu", *overrides)
        self.train = Split(np.asarray(images), np.asarray(labels, dtype=np.int64))
        self.parts = assembly.components(self.config)
        spec = Spec(*self.train.images.shape[1:], tuple("0123456789"))
        device = engines.device(self.config)
        networks.seed(self.config.seed)
        steps = networks.preprocessing(self.config.dataset, spec)
        net = networks.network(self.config, self.parts.model, spec, steps)
        networks.initialize(self.config, net, spec, device)
        self.engine = engines.engine(self.config, self.parts, net, steps, spec, device)

    def epoch(self) -> float:
        """Train an epoch; return its seconds, what follows its last batch not counted."""
        with tempfile.TemporaryDirectory() as folder:
            fit = self._fit(Path(folder), 1, [callbacks.ShowProgress(QUIET)])
        seconds: float = fit.history[-1]["time/epoch_s"]
        return seconds

    def tracked_epoch(self) -> float:
        """Train two epochs, tracked and kept; return the seconds between their starts."""
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            tracking = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="bench")
            with tracked_run(tracking) as tracker:
                track = callbacks.Track(tracker, self.config.trainer.log_every)
                others = [callbacks.ShowProgress(QUIET), callbacks.StopOnDivergence()]
                self._fit(Path(folder), 2, [clock, track, *others, *self.parts.callbacks])
        return clock.starts[1] - clock.starts[0]

    def _fit(self, folder: Path, epochs: int, chosen: Sequence[loop.Callback]) -> loop.Fit:
        settings = loop.Settings(
            epochs=epochs,
            batch_size=self.config.trainer.batch_size,
            seed=self.config.seed,
            schedule=assembly.schedule(self.config, self.parts, len(self.train)),
            workdir=folder,
            augment=self.parts.augment,
        )
        return loop.fit(self.engine, self.train, {}, settings, chosen)
