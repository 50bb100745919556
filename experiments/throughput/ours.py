"""gluonexp on AlexNet: each part of a run by itself, through the objects that a run is made of."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from material import MEAN, STD
from rich.console import Console
from sides import BATCH, LR

from gluonexp import assembly, run
from gluonexp.base.errors import GluonexpError
from gluonexp.experiment.opening import OpenRun, opened
from gluonexp.training import callbacks, loop

QUIET = Console(quiet=True)
FEW = 2 * BATCH  # images: what is left of the time a part takes is what starting takes


class Clock(loop.Callback):
    """Notes when epochs start, so that all that happens between two of them counts."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def epoch_start(self, fit: loop.Fit) -> None:
        """Note it."""
        self.starts.append(time.perf_counter())


def overrides(part: Path, folder: Path) -> list[str]:
    """Return what the recipe is told: the part of the data, and where runs are recorded."""
    return [
        *("experiment=cifar10_alexnet", "dataset=cifar10_images", f"dataset.root={part}"),
        *("device=cpu", f"optim.lr={LR}", f"trainer.batch_size={BATCH}"),
        *(f"dataset.mean={[*MEAN]}", f"dataset.std={[*STD]}"),
        *(f"tracking.uri=sqlite:///{folder}/mlflow.db", "features.cache=on"),
    ]


class Ours:
    """Two runs that are open: float32 without momentum, and bfloat16 with momentum 0.9."""

    def __init__(self, part: Path, folder: Path) -> None:
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        self.folder = folder
        self.runs: dict[str, OpenRun] = {}
        self.behind: dict = {}
        self.lacks = ""
        held, given = ExitStack(), overrides(part, folder)
        for precision, momentum in (("float32", 0), ("bfloat16", 0.9)):
            settings = [*given, f"optim.momentum={momentum}", f"features.precision={precision}"]
            try:
                self._open(held, precision, settings)
            except GluonexpError as error:  # no OpenVINO, or a processor without bfloat16
                self.lacks = str(error)
                self._open(held, precision, settings[:-1])
            self._entered(precision, FEW)  # what computes features is imported

    def _open(self, held: ExitStack, precision: str, settings: list[str]) -> None:
        config = run.compose(*settings, f"features.folder={self._cache(precision)}")
        workdir = self.folder / "jobs" / precision
        self.runs[precision] = held.enter_context(opened(config, workdir, settings, QUIET))

    def _cache(self, precision: str) -> Path:
        return self.folder / f"features-{precision}"

    def without_bfloat16(self) -> str:
        """Say why bfloat16 cannot be measured, if it cannot."""
        return self.lacks

    def engine(self) -> str:
        """Return what computes features."""
        return self.runs["float32"].config.features.engine

    def save_weights(self, file: Path) -> None:
        """Write all parameters by structural name."""
        np.savez(file, **self.runs["float32"].engine.state().values)

    def read(self) -> float:
        """Return the seconds that reading an image takes the first time."""
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
        source = assembly.components(self.runs["float32"].config).source
        started = time.perf_counter()
        samples = source.load()
        seconds = time.perf_counter() - started
        return seconds / (len(samples.train) + len(samples.test))

    def compute(self, precision: str) -> dict[str, float]:
        """Compute the features of the training images, and find them again.

        Returns
        -------
        dict
            Seconds: `start` and `again` for a run, `once` and `again_image` for an image.
        """
        images = len(self.runs[precision].data.train)
        few, few_again = self._entered(precision, FEW)
        many, many_again = self._entered(precision, images)
        more = images - FEW
        return {
            "start": few,
            "once": max(0.0, many - few) / more,
            "again": few_again,
            "again_image": max(0.0, many_again - few_again) / more,
        }

    def _entered(self, precision: str, images: int) -> tuple[float, float]:
        """Return the seconds until training may begin: computing features, and finding them."""
        opened = self.runs[precision]
        splits = {
            "train": opened.data.train.select(np.arange(len(opened.data.train))[:images]),
            "test": opened.data.test.select(np.arange(BATCH)),
        }
        opened.shortcut.leave()
        self.behind.pop(precision, None)
        shutil.rmtree(self._cache(precision), ignore_errors=True)
        times = []
        for _ in range(2):
            started = time.perf_counter()
            found = opened.shortcut.enter(0, splits)
            times.append(time.perf_counter() - started)
            if found is None or found["train"].images.dtype == np.uint8:
                raise RuntimeError("gluonexp trains on images, not on features")
            opened.shortcut.leave()
        return times[0], times[1]

    def train(self, precision: str, epochs: int = 3) -> dict[str, float]:
        """Train behind the frozen front; return the seconds of an image, and of an epoch's end."""
        opened, clock = self.runs[precision], Clock()
        splits = {"train": opened.data.train, "test": opened.data.test}
        self.behind[precision] = opened.shortcut.enter(0, splits)
        fit = loop.fit(
            opened.engine,
            self.behind[precision]["train"],
            {},
            replace(opened.settings, epochs=epochs, workdir=opened.workdir),
            callbacks=[
                clock,
                callbacks.Track(opened.tracker, opened.config.trainer.log_every),
                callbacks.ShowProgress(QUIET),
                callbacks.StopOnDivergence(),
                *opened.components.callbacks,
            ],
        )
        between = [after - before for before, after in itertools.pairwise(clock.starts)]
        epochs_s = [row["time/epoch_s"] for row in fit.history]
        ends = [whole - epoch for whole, epoch in zip(between, epochs_s, strict=False)]
        samples = len(self.behind[precision]["train"])
        return {
            "train": statistics.median(epochs_s[1:]) / samples,
            "epoch": statistics.median(ends),
        }

    def score(self, precision: str) -> float:
        """Return the seconds of an image that is scored from its features."""
        opened, test = self.runs[precision], self.behind[precision]["test"]
        started = time.perf_counter()
        opened.engine.evaluate(test, BATCH)
        return (time.perf_counter() - started) / len(test)

    def live(self, precision: str, images: int) -> float:
        """Return the seconds of an image that the whole network scores, as after training."""
        opened = self.runs[precision]
        opened.shortcut.leave()
        self.behind.pop(precision, None)
        test = opened.data.test.select(np.arange(len(opened.data.test))[:images])
        opened.engine.logits(test.select(np.arange(BATCH)), BATCH)
        started = time.perf_counter()
        opened.engine.logits(test, BATCH)
        return (time.perf_counter() - started) / len(test)
