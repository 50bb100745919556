"""Random changes to training images, a whole batch at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError


@dataclass(frozen=True)
class Blend:
    """Images that each have some of another in them.

    Attributes
    ----------
    images
        (N, H, W, C) uint8, blended.
    partners
        (N,) positions in the batch of what was blended in.
    share
        (N,) float32 in [1/2, 1], how much of each image is its own.
    """

    images: NDArray[np.uint8]
    partners: NDArray[np.int64]
    share: NDArray[np.float32]


Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8] | Blend]
"""(N, H, W, C) uint8 and a generator in, a batch of that shape out; the input stays as it is."""


def none() -> Augment:
    """Return the augmentation that changes nothing and draws nothing."""
    return unchanged


def unchanged(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return `images`."""
    return images


def flip_crop(flip: bool = True, pad: int = 4) -> Augment:
    """Return the usual small-image augmentation: shift at random, then mirror half of the images.

    Parameters
    ----------
    flip
        Mirror left to right with probability one half. Turn off where that changes the class
        (digits, text).
    pad
        Largest shift in each direction, pixels; what moves in from outside is black. 0 for none.

    Raises
    ------
    GluonexpError
        If `pad` is negative.
    """
    if pad < 0:
        raise GluonexpError(f"augment.pad must be 0 or more pixels, got {pad}")

    def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        # The copy also keeps the in-place mirroring below away from the caller's batch.
        result = _shift(images, pad, rng) if pad else images.copy()
        if flip:
            mirrored = np.flatnonzero(rng.random(len(images)) < 0.5)
            result[mirrored] = result[mirrored, :, ::-1]
        return result

    return augment


def mixup(alpha: float = 0.2, first: Augment | None = None) -> Augment:
    """Return mixup (Zhang et al., 2018): blend every image with another of its batch.

    The loss blends the losses for the two labels in the same shares; for cross-entropy that is
    the loss for the blended label. Each image is counted as right by the label of its larger part.

    Parameters
    ----------
    alpha
        The shares are drawn from Beta(alpha, alpha), one for each image.
    first
        What is done to the images before.

    Raises
    ------
    GluonexpError
        If `alpha` is not above 0, or `first` blends too.
    """
    if not 0 < alpha < np.inf:
        raise GluonexpError(f"augment.alpha={alpha}: must be above 0, and finite")
    before = first or none()

    def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> Blend:
        changed = before(images, rng)
        if isinstance(changed, Blend):
            raise GluonexpError("augment.first: blends images too; choose another than mixup")
        drawn = rng.beta(alpha, alpha, size=len(images))
        # Which of the two is "its own" makes no difference, so let it be the larger part.
        share = np.maximum(drawn, 1 - drawn).astype(np.float32)
        partners = rng.permutation(len(images))
        weight = share[:, None, None, None]
        mixed = weight * changed + (1 - weight) * changed[partners]
        return Blend(np.rint(mixed).astype(np.uint8), partners, share)

    return augment


def _shift(images: NDArray[np.uint8], pad: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut every image at its own random offset out of a zero-padded copy."""
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * pad, width + 2 * pad, channels), dtype=np.uint8)
    padded[:, pad : pad + height, pad : pad + width] = images
    # (N, offsets y, offsets x, C, H, W) without a copy; channels last again, so that the gather
    # copies whole rows.
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # type: ignore[call-overload]
    y, x = rng.integers(0, 2 * pad + 1, size=(2, count))
    cut: NDArray[np.uint8] = windows.transpose(0, 1, 2, 4, 5, 3)[np.arange(count), y, x]
    return cut
