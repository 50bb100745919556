"""What is measured of logits and labels besides loss and accuracy.

The figures are scikit-learn's; the calibration error is that of Guo et al. (2017).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.metrics import top

BINS: Final = 15  # of the calibration error


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities (N, K) of logits (N, K)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def measured(
    names: Collection[str], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Return the metrics by name.

    Parameters
    ----------
    names
        Of `gluonexp.base.metrics.NAMES`, each fit for K classes.
    logits, labels
        (N, K) and (N,). Where a logit is not finite, no metric is a number.

    Notes
    -----
    Balanced accuracy is the mean recall of the classes that have images; the macro F1 is the mean
    over the classes that have images or were predicted. The calibration error takes `BINS` bins
    of equal width of the predicted class's probability.
    """
    if not names:
        return {}
    if not len(labels) or not np.isfinite(logits).all():
        return dict.fromkeys(names, float("nan"))
    return {name: float(_measure(name, logits, labels)) for name in names}


def _measure(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    from sklearn import metrics

    predicted, known = logits.argmax(axis=1), np.arange(logits.shape[1])
    made: Any
    if name == "balanced_acc":  # balanced_accuracy_score warns of classes without images
        present = np.unique(labels)
        made = metrics.recall_score(
            labels, predicted, labels=present, average="macro", zero_division=0
        )
    elif name == "macro_f1":
        made = metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    elif name == "log_loss":
        made = metrics.log_loss(labels, softmax(logits), labels=known) if len(known) > 1 else 0.0
    elif name == "ece":
        made = Reliability.of(softmax(logits), labels).error
    else:
        made = metrics.top_k_accuracy_score(labels, logits, k=top(name), labels=known)
    return float(made)


@dataclass(frozen=True)
class ClassScore:
    """One class: the shares (0 where nothing is to be shared), and how many images it has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def by_class(
    names: Sequence[str], labels: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[ClassScore, ...]:
    """Return the scores of each class, given the true and the predicted ones, (N,)."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassScore(*row) for row in rows)


@dataclass(frozen=True)
class Reliability:
    """How often a network is right that is so sure, by bins of equal width.

    Attributes
    ----------
    counts
        (B,) images whose predicted class has a probability in the bin: above its lower edge, up
        to its upper edge.
    confidence, accuracy
        (B,) mean probability of the predicted class, and how often that is the true one; NaN
        where there are no images.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @classmethod
    def of(
        cls, probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = BINS
    ) -> Reliability:
        """Sort predictions, probabilities (N, K) for labels (N,), into bins."""
        sure = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        inner = np.linspace(0, 1, bins + 1)[1:-1]
        where = np.searchsorted(inner, sure)

        def summed(weights: NDArray[Any] | None = None) -> NDArray[Any]:
            return np.bincount(where, weights, minlength=bins)

        counts = summed()
        with np.errstate(invalid="ignore"):
            confidence, accuracy = summed(sure) / counts, summed(right) / counts
        return cls(counts, confidence, accuracy)

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of the two, weighted by images."""
        filled = self.counts > 0
        gaps = np.abs(self.confidence - self.accuracy)[filled]
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())
