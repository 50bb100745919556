"""Take part of a split, class by class, the same part each time."""

import math

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.data.types import Split


def held_out(
    labels: NDArray[np.int64], fraction: float, seed: int, key: str = "fraction"
) -> NDArray[np.bool_]:
    """Mark the samples to hold out: `fraction` of every class, rounded, drawn by `seed`.

    Every class keeps at least one sample that is not held out.

    Parameters
    ----------
    labels
        (N,) class indices.
    fraction
        In [0, 1).
    seed
        In [0, 2**32). Equal seeds and labels give equal marks.
    key
        Of the configuration, which sets `fraction`.

    Returns
    -------
    (N,) bool, True where held out.

    Raises
    ------
    GluonexpError
        If `fraction` is outside [0, 1), or above 0 and too small to hold out a single sample.
    """
    if not 0 <= fraction < 1:
        raise GluonexpError(f"{key}={fraction}: must be in [0, 1)")
    marks = _drawn(labels, fraction, seed)
    if fraction > 0 and not marks.any():
        largest = _largest_class(labels)
        enough = f"{math.ceil(500 / largest) / 1000:g} or more, or " if largest > 1 else ""
        raise GluonexpError(
            f"{key}={fraction} takes none of any class, of which the largest has {largest} of the "
            f"{len(labels)} samples: use {enough}0 to hold out nothing"
        )
    return marks


def _drawn(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark `fraction` of every class, rounded; all but one at most."""
    marks = np.zeros(len(labels), dtype=np.bool_)
    # RandomState, whose stream is frozen: default_rng may split differently in a later NumPy.
    rng = np.random.RandomState(seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(int(fraction * len(members) + 0.5), len(members) - 1)
        marks[rng.permutation(members)[:count]] = True
    return marks


def _largest_class(labels: NDArray[np.int64]) -> int:
    return int(np.unique(labels, return_counts=True)[1].max())


def spread(labels: NDArray[np.int64], count: int) -> NDArray[np.intp]:
    """Choose samples that are spread over the classes as evenly as the classes allow.

    The first samples of a data set may all be of one class: that is how folders are read.

    Parameters
    ----------
    labels
        (N,) class indices.
    count
        How many; all where there are fewer.

    Returns
    -------
    (min(N, count),) increasing indices: the first samples of each class.
    """
    ranks = np.empty(len(labels), dtype=np.intp)  # the first of its class, the second...
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return np.sort(np.argsort(ranks, kind="stable")[:count])


def carve(
    split: Split, fraction: float, seed: int, key: str = "fraction"
) -> tuple[Split, Split | None]:
    """Carve a validation split from `split`, stratified by class.

    The two parts are disjoint, together they are `split`, and each keeps data-set order. They are
    views: no image is copied.

    Parameters
    ----------
    split
        What to divide.
    fraction
        Of each class, to the second part; in [0, 1). 0 gives None and `split` itself.
    seed
        Decides which samples go.
    key
        Of the configuration, which sets `fraction`.

    Raises
    ------
    GluonexpError
        As `held_out`.
    """
    marks = held_out(split.labels, fraction, seed, key)
    if fraction == 0:
        return split, None
    return split.select(np.flatnonzero(~marks)), split.select(np.flatnonzero(marks))


def thinned(split: Split, fraction: float, seed: int) -> Split:
    """Return `fraction` of every class of `split`, rounded, and one sample of each at least.

    Parameters
    ----------
    fraction
        ``dataset.train_fraction``, in (0, 1].
    seed
        Decides which samples stay.

    Raises
    ------
    GluonexpError
        If `fraction` is below 1, and too large to leave out a single sample.
    """
    if fraction == 1:
        return split
    marks = _drawn(split.labels, 1 - fraction, seed)
    if not marks.any():
        largest = _largest_class(split.labels)
        enough = f"{1 - math.ceil(500 / largest) / 1000:g} or less, or " if largest > 1 else ""
        raise GluonexpError(
            f"dataset.train_fraction={fraction} leaves out none of any class, of which the "
            f"largest has {largest} of the {len(split)} training samples: use {enough}1 to train "
            "on all"
        )
    return split.select(np.flatnonzero(~marks))
