"""How far a runtime is from the trained network, and how far it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.model_folder.samples import ProofSamples
from gluonexp.verification.score import Score

# Logits may differ by this share of their size: other kernels sum in another order.
TOLERANCE: Final = 1e-4

# Eight bits are meant to be inexact: so much of the accuracy may be lost, and one image anyway.
INT8_DROP: Final = 0.02

# A constant answer loses nothing of an accuracy near chance. So this share of the images, and no
# more, may get another class than the float network's; fewer images than these tell too little.
INT8_OTHER: Final = 0.1
FEWEST: Final = 50

LIMITS: Final = {
    "logits": TOLERANCE,
    "int8_accuracy_drop": INT8_DROP,
    "int8_other_class": INT8_OTHER,
}

QUANTIZED: Final = frozenset({"int8"})


@dataclass(frozen=True)
class Agreement:
    """How far one runtime is from the trained network on the same images.

    Attributes
    ----------
    runtime
        Its name.
    max_absolute, max_difference
        The largest difference of any two logits; the same, relative to their size (`compare`).
    argmax_equal
        Images with the same class.
    ties
        Further images, whose two best logits are too close for the class to be certain.
    images, correct, expected_correct
        How many images; of how many the class is right, by this runtime and by the network.
    images_per_second, threads
        Its speed, and with how many threads.
    versions
        Of its libraries.
    """

    runtime: str
    max_absolute: float
    max_difference: float
    argmax_equal: int
    ties: int
    images: int
    correct: int
    expected_correct: int
    images_per_second: float
    threads: int
    versions: dict[str, str]

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is right."""
        return self.correct / self.images

    @property
    def holds(self) -> bool:
        """Whether it is the trained network, within the tolerance that its kind has."""
        if self.runtime in QUANTIZED:
            other = self.images - self.argmax_equal
            return self.accurate and (self.images < FEWEST or other <= _may_differ(self.images))
        same = self.argmax_equal + self.ties >= self.images
        return same and self.max_difference <= TOLERANCE

    @property
    def accurate(self) -> bool:
        """Whether it classifies about as well as the trained network."""
        lost = self.expected_correct - self.correct
        return math.isfinite(self.max_absolute) and lost <= may_lose(self.images)

    def sentence(self) -> str:
        """Say it for people."""
        if self.runtime in QUANTIZED:
            was = self.expected_correct / self.images
            few = f" (no limit: fewer than {FEWEST} images)" if self.images < FEWEST else ""
            return f"accuracy {self.accuracy:.4f} (float: {was:.4f}), {self._same()}{few}"
        return f"logits within {self.max_difference:.1e}, {self._same()}"

    def allowed(self) -> str:
        """Say what `holds` asks for."""
        if self.runtime in QUANTIZED:
            fewer = f"{may_lose(self.images)} images fewer right"
            other = f", another class on {_may_differ(self.images)}"
            return fewer + (other if self.images >= FEWEST else "")
        return f"{TOLERANCE:g}, all but ties"

    def _same(self) -> str:
        return f"the same class on {self.argmax_equal} of {self.images}"


def compare(runtime: str, scored: Score, known: ProofSamples) -> Agreement:
    """Return how far the logits of a runtime are from the trained network's."""
    expected, logits = known.logits, scored.logits
    if logits.shape != expected.shape:
        raise GluonexpError(
            f"{runtime} gives logits {logits.shape}, but the trained network {expected.shape}"
        )
    size = _size(expected)
    differences = np.abs(logits.astype(np.float64) - expected)  # NaN, where a logit is NaN
    best_two = np.sort(expected.astype(np.float64), axis=1)[:, -2:]
    margins = best_two[:, -1] - best_two[:, 0]
    close = margins <= 2 * TOLERANCE * _size(best_two).min(axis=1)
    same = logits.argmax(1) == expected.argmax(1)
    return Agreement(
        runtime=runtime,
        max_absolute=float(differences.max()),
        max_difference=float((differences / size).max()),
        argmax_equal=int(same.sum()),
        ties=int((~same & close).sum()),
        images=len(known),
        correct=correct(logits, known),
        expected_correct=correct(expected, known),
        images_per_second=scored.images_per_second,
        threads=scored.threads,
        versions=scored.versions,
    )


def _size(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return what a difference of each logit (N, K) is measured against.

    That is the logit itself or, where it is small, the two best of its image or of most images.
    Not the largest of all: a class that is masked by -1e9 would hide any difference of the others.
    """
    logits = logits.astype(np.float64)
    deciding = np.abs(np.sort(logits, axis=1)[:, -2:]).max(axis=1)
    usual = np.maximum(deciding, np.median(deciding))[:, None]
    smallest = np.finfo(np.float32).tiny  # what is all zero must be so exactly
    size: NDArray[np.float64] = np.maximum(np.maximum(np.abs(logits), usual), smallest)
    return size


def correct(logits: NDArray[np.float32], known: ProofSamples) -> int:
    """Return how many images are classified right."""
    return int((logits.argmax(1) == known.labels).sum())


def may_lose(images: int) -> int:
    """Return how many images fewer a quantized network may classify right."""
    return max(1, int(INT8_DROP * images))


def _may_differ(images: int) -> int:
    return int(INT8_OTHER * images)
