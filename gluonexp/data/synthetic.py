"""Made-up images that a small network learns at once, for tests and benchmarks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.data import memory
from gluonexp.data.types import Samples, Spec, Split

GRID = 4  # cells a side of a class's pattern: coarse, so that pooling and resizing keep it


@dataclass(frozen=True)
class Synthetic:
    """Images of `classes` coarse random patterns under noise; separable, seeded, any size.

    Parameters
    ----------
    size
        Height and width, pixels.
    channels
        1 or 3.
    classes
        Number of classes, at least 2; each has as many samples as the others, give or take one.
    train, test
        Number of samples; `test` may be 0, which gives no test split.
    seed
        Equal arguments give equal images.
    """

    size: int = 28
    channels: int = 1
    classes: int = 10
    train: int = 1000
    test: int = 200
    seed: int = 0

    def spec(self) -> Spec:
        """Return the shape asked for and the classes ``class 0``, ``class 1`` ...

        Raises
        ------
        GluonexpError
            If a number makes no sense.
        """
        least = {"size": 1, "classes": 2, "train": self.classes, "test": 0, "seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise GluonexpError(
                    f"dataset.source.{name} must be at least {minimum}, got {getattr(self, name)}"
                )
        if self.channels not in (1, 3):
            raise GluonexpError(f"dataset.source.channels must be 1 or 3, got {self.channels}")
        names = tuple(f"class {label}" for label in range(self.classes))
        spec = Spec(self.size, self.size, self.channels, names)
        keys = "dataset.source.size, train or test"
        memory.check(self.train + self.test, spec, f"choose a smaller {keys}")
        return spec

    def load(self) -> Samples:
        """Draw the patterns, then the train and the test samples."""
        self.spec()
        rng = np.random.default_rng(self.seed)
        shape = (self.classes, GRID, GRID, self.channels)
        # Patterns span 0..191 and the noise 0..63, so their sum is a uint8 without clipping.
        coarse = rng.integers(0, 192, size=shape, dtype=np.uint8)
        cell = np.arange(self.size) * GRID // self.size
        patterns = coarse[:, cell[:, None], cell]
        train = self._draw(patterns, self.train, rng)
        test = self._draw(patterns, self.test, rng) if self.test else None
        return Samples(train, test, title="synthetic patterns")

    def _draw(self, patterns: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Split:
        labels = rng.permutation(np.arange(count, dtype=np.int64) % self.classes)
        images = patterns[labels]
        images += rng.integers(0, 64, size=images.shape, dtype=np.uint8)
        return Split(images, labels)
