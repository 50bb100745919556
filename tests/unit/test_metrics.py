"""Metrics beyond accuracy: scikit-learn's own figures, and a calibration error by hand."""

import re
import warnings

import numpy as np
import pytest
from sklearn import metrics as theirs
from sklearn.calibration import calibration_curve

from gluonexp.base import metrics
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import BINS, Reliability, measured, softmax


def _drawn(images, classes, seed=0):
    """Return logits that are right more often than not, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1.5
    return logits, labels


def _of(probabilities):
    return np.log(np.asarray(probabilities, np.float64)).astype(np.float32)


def test_they_are_what_scikit_learn_says():
    logits, labels = _drawn(500, 10)
    predicted, shares = logits.argmax(axis=1), softmax(logits)
    found = measured((*metrics.NAMES, "top2"), logits, labels)
    assert list(found) == [*metrics.NAMES, "top2"]
    assert found == pytest.approx(
        {
            "top5": theirs.top_k_accuracy_score(labels, logits, k=5),
            "balanced_acc": theirs.balanced_accuracy_score(labels, predicted),
            "macro_f1": theirs.f1_score(labels, predicted, average="macro"),
            "log_loss": theirs.log_loss(labels, shares),
            "ece": found["ece"],
            "top2": theirs.top_k_accuracy_score(labels, logits, k=2),
        },
        abs=1e-12,
    )
    two = logits.argsort(axis=1)[:, -2:]
    assert found["top2"] == (two == labels[:, None]).any(axis=1).mean()


def test_the_calibration_error_by_hand():
    # Bins are a fifteenth wide: 0.9 and 0.92 share one (13/15 to 14/15), 0.62 another.
    logits = _of([[0.9, 0.1], [0.08, 0.92], [0.62, 0.38], [0.62, 0.38]])
    labels = np.array([0, 0, 0, 1])
    by_hand = 2 / 4 * abs(0.91 - 0.5) + 2 / 4 * abs(0.62 - 0.5)
    assert measured(["ece"], logits, labels)["ece"] == pytest.approx(by_hand, abs=1e-6)
    found = Reliability.of(softmax(logits), labels)
    assert found.counts.tolist() == [0] * 9 + [2] + [0] * 3 + [2, 0]
    assert found.accuracy[[9, 13]].tolist() == [0.5, 0.5]
    assert found.confidence[[9, 13]] == pytest.approx([0.62, 0.91], abs=1e-6)


def test_the_bins_are_those_of_scikit_learns_calibration_curve():
    logits, labels = _drawn(400, 3)
    shares = softmax(logits)
    right, sure = shares.argmax(axis=1) == labels, shares.max(axis=1)
    found = Reliability.of(shares, labels)
    filled = found.counts > 0
    true, said = calibration_curve(right, sure, n_bins=BINS)
    assert found.accuracy[filled] == pytest.approx(true)
    assert found.confidence[filled] == pytest.approx(said)
    assert found.counts.sum() == 400


def test_a_sure_and_right_network_has_no_error_and_a_sure_and_wrong_one_all():
    logits = np.array([[60, 0], [0, 60]], np.float32)
    assert measured(["ece"], logits, np.array([0, 1]))["ece"] == pytest.approx(0)
    wrong = measured(["ece", "log_loss"], logits, np.array([1, 0]))
    assert wrong["ece"] == pytest.approx(1)
    assert np.isfinite(wrong["log_loss"]) and wrong["log_loss"] > 30


def test_classes_that_a_split_lacks_warn_of_nothing():
    logits, labels = _drawn(60, 8)
    labels[labels > 3] = 1  # four classes have no images, and are predicted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(metrics.NAMES, logits, labels)
    predicted = logits.argmax(axis=1)
    recalls = [np.mean(predicted[labels == each] == each) for each in range(4)]
    assert found["balanced_acc"] == pytest.approx(np.mean(recalls))
    assert found["macro_f1"] == pytest.approx(
        theirs.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    expected = -np.log(softmax(logits)[np.arange(60), labels]).mean()
    assert found["log_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_one_image_is_measured(classes):
    names = metrics.telling(metrics.NAMES, classes)
    assert ("top5" in names) is (classes == 8)
    logits = np.zeros((1, classes), np.float32)
    logits[0, 1] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(names, logits, np.array([1]))
    assert found["balanced_acc"] == found["macro_f1"] == 1
    sure = softmax(logits).max()
    assert found["log_loss"] == pytest.approx(-np.log(sure))
    assert found["ece"] == pytest.approx(1 - sure)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_of_logits_that_are_not_finite_nothing_is_a_number(bad):
    logits, labels = _drawn(20, 8)
    logits[3, 2] = bad
    assert all(np.isnan(value) for value in measured(metrics.NAMES, logits, labels).values())
    none = measured(metrics.NAMES, logits[:0], labels[:0])
    assert list(none) == list(metrics.NAMES) and all(np.isnan(value) for value in none.values())


def test_which_value_is_better_is_known_of_each():
    ups = ("val/acc", "test/top5", "val/top20", "val/balanced_acc", "val/macro_f1")
    assert {metrics.direction(name) for name in ups} == {"max"}
    assert {metrics.direction(f"val/{name}") for name in ("loss", "log_loss", "ece")} == {"min"}
    assert metrics.direction("val/topology") is metrics.direction("time/epoch_s") is None
    metrics.check_mode("val/ece", "min", "objective")
    metrics.check_mode("val/anything", "min", "objective")
    with pytest.raises(GluonexpError, match=re.escape("objective.mode=max: of val/ece lower is")):
        metrics.check_mode("val/ece", "max", "objective")


@pytest.mark.parametrize("name", ["top1", "top0", "top-5", "f1", "acc", "loss", "", "top5 "])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(GluonexpError, match=r"metrics\.names=.*: choose of top5, balanced_acc"):
        metrics.check_name(name, "metrics.names")


def test_what_is_watched_is_measured_too_and_each_once():
    names = metrics.to_measure(["ece", "ece"], ["val/macro_f1", "val/ece", "train/loss"])
    assert names == ("ece", "macro_f1")
    assert metrics.telling(("top5", "top2", "ece"), 3) == ("top2", "ece")
    assert metrics.telling(metrics.NAMES, 1) == ()
