"""The plain types that data sources hand to the rest of gluonexp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spec:
    """What is known of a data set before any sample is read.

    Attributes
    ----------
    height, width, channels
        Shape of one uint8 image, in pixels; `channels` is 1 or 3.
    classes
        Class names in label order.
    """

    height: int
    width: int
    channels: int
    classes: tuple[str, ...]


class Selection:
    """Some rows of an array, which may be a memory map; nothing is copied until it is asked for.

    Parameters
    ----------
    array
        (M, ...) of any type; of another selection, what that has chosen.
    rows
        (N,) indices into `array`, in the order that the selection has them.
    """

    def __init__(self, array: NDArray[Any] | Selection, rows: NDArray[np.intp]) -> None:
        self.array, among = whole(array)
        self.rows = rows if among is None else among[rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), as of an array."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its values."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> Any:
        """Return a copy of the rows that an index, a slice or an array of them chooses."""
        return self.array[self.rows[chosen]]

    def __array__(self, dtype: Any = None) -> NDArray[Any]:
        """Return a copy of all rows: for NumPy's functions."""
        return np.asarray(self.array[self.rows], dtype=dtype)

    def take(self, chosen: NDArray[np.intp], axis: int = 0) -> NDArray[Any]:
        """Return a copy of these rows; `axis` is 0."""
        return self.array.take(self.rows[chosen], axis=axis)


Rows: TypeAlias = "NDArray[Any] | Selection"
"""Samples along the first axis: an array, or some rows of one."""


def whole(rows: Rows) -> tuple[NDArray[Any], NDArray[np.intp] | None]:
    """Return the array behind `rows`, and which of it they are; None: all, in order."""
    return (rows.array, rows.rows) if isinstance(rows, Selection) else (rows, None)


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, in data-set order.

    Attributes
    ----------
    images
        (N, H, W, C) uint8; what is carved from a published split is a `Selection` of it. Behind
        the frozen front of a network they are its features, (N, ...) float32 or float16.
    labels
        (N,) int64, each in [0, number of classes).
    """

    images: Rows
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: NDArray[np.intp]) -> Split:
        """Return these samples, without a copy of their images."""
        return Split(Selection(self.images, rows), self.labels[rows])


@dataclass(frozen=True)
class Batch:
    """Some samples of a split, as training sees them.

    Attributes
    ----------
    images
        (n, H, W, C) uint8, or features as of a `Split`; without augmentation perhaps a view of the
        split, not to be written to.
    labels
        (n,) int64.
    others
        (n,) int64, of the images that were blended into these.
    share
        (n,) float32 in [1/2, 1], how much of each image is its own; None where nothing is blended.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    others: NDArray[np.int64]
    share: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> Batch:
        """Return these of its samples."""
        share = None if self.share is None else self.share[rows]
        return Batch(self.images[rows], self.labels[rows], self.others[rows], share)


@dataclass(frozen=True)
class Samples:
    """What a source loads: the published train and test splits, and what to say of them.

    Attributes
    ----------
    title
        The honest name of the data for people, such as ``CIFAR-10 (JPEG)``.
    notes
        Sentences a reader of results must know (skipped files, lossy copies); often empty.
    """

    train: Split
    test: Split | None
    title: str
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Where samples come from; a user's own data set implements these two methods."""

    def spec(self) -> Spec:
        """Return shapes and class names without reading (or downloading) any sample."""

    def load(self) -> Samples:
        """Read every sample, downloading what is missing."""
