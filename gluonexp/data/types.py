"""The plain types that data sources hand to the rest of gluonexp."""

from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, in data-set order.

    Attributes
    ----------
    images
        (N, H, W, C) uint8.
    labels
        (N,) int64, each in [0, number of classes).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """Some samples of a split, as training sees them.

    Attributes
    ----------
    images
        (n, H, W, C) uint8; without augmentation perhaps a view of the split, not to be written to.
    labels
        (n,) int64.
    others
        (n,) int64, of the images that were blended into these.
    share
        (n,) float32 in [1/2, 1], how much of each image is its own; None where nothing is blended.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    others: NDArray[np.int64]
    share: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


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
