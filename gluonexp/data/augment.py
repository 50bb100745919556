"""Random changes to training images, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.data import colors


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
"""(N, H, W, C) uint8 and a generator in, a batch of that shape out; the input stays as it is.

One that depends on which images it gets, and on the epoch, also has
``at(rows: NDArray[np.intp], seed: int, epoch: int) -> Augment``.
"""


def bound(augment: Augment, rows: NDArray[np.intp], seed: int, epoch: int) -> Augment:
    """Return what changes the images of these rows of a split in this epoch."""
    at: Callable[[NDArray[np.intp], int, int], Augment] | None = getattr(augment, "at", None)
    return augment if at is None else at(rows, seed, epoch)


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


def crop_color(
    smallest: float = 0.25,
    stretch: float = 1.33,
    flip: bool = True,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> Augment:
    """Return what photographs are fine-tuned with: a random part, made as large as the whole.

    Then half of the images are mirrored, and the colours of all are changed: brightness, contrast
    and saturation in that order, each by a factor around 1 (as torchvision computes them).

    Parameters
    ----------
    smallest
        The part has from so much of the image's area up to all of it, in (0, 1].
    stretch
        Its sides are to each other as those of the image, times or divided by up to this.
    flip
        Mirror left to right with probability one half.
    brightness, contrast, saturation
        How far from 1 the factors may be, in [0, 1]; 0 for none.

    Raises
    ------
    GluonexpError
        A number is out of its range.
    """
    if not 0 < smallest <= 1:
        raise GluonexpError(f"augment.smallest={smallest}: must be above 0, and at most 1")
    if not 1 <= stretch < np.inf:
        raise GluonexpError(f"augment.stretch={stretch}: must be at least 1, and finite")
    jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, value in jitter.items():
        if not 0 <= value <= 1:
            raise GluonexpError(f"augment.{name}={value}: must be in [0, 1]")

    def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        # Each draw is made whatever the settings: one that changes leaves the others as they are.
        area, shape, y, x = rng.random((4, len(images)))
        result = colors.cropped(images, area, shape, y, x, smallest, stretch)
        mirrored = rng.random(len(images)) < 0.5
        if flip:
            result[mirrored] = result[mirrored, :, ::-1]
        factors = (
            1 + (2 * rng.random((3, len(images))) - 1) * np.array([*jitter.values()])[:, None]
        )
        return colors.jittered(result, *factors) if any(jitter.values()) else result

    return augment


@dataclass(frozen=True)
class AlternatingCrop:
    """See `alternating_crop`, which makes it; called by itself it flips at random."""

    pad: int
    alternate: bool

    def at(self, rows: NDArray[np.intp], seed: int, epoch: int) -> Augment:
        """Return what changes the images of these rows of the split in an epoch."""
        if not self.alternate:
            return self
        flipped = (_coins(rows, seed) + epoch) % 2 == 1
        return lambda images, rng: self._changed(images, rng, flipped)

    def __call__(self, images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Shift, and mirror half of the images."""
        return self._changed(images, rng, rng.random(len(images)) < 0.5)

    def _changed(
        self, images: NDArray[np.uint8], rng: np.random.Generator, flipped: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        result = _shift(images, self.pad, rng, "reflect") if self.pad else images.copy()
        result[flipped] = result[flipped, :, ::-1]
        return result


def alternating_crop(pad: int = 2, alternate: bool = True) -> AlternatingCrop:
    """Return alternating flips (Jordan, 2024): each image is mirrored in every other epoch.

    So two epochs in a row show each image both ways, where coins tossed anew show the same way
    twice for half of them. With which it begins is drawn by the image's row and the run's seed.

    Parameters
    ----------
    pad
        Largest shift in each direction, pixels; what moves in is mirrored at the edge. 0 for none.
    alternate
        False: mirror at random in every epoch, as `flip_crop`.

    Raises
    ------
    GluonexpError
        If `pad` is negative.
    """
    if pad < 0:
        raise GluonexpError(f"augment.pad must be 0 or more pixels, got {pad}")
    return AlternatingCrop(pad, alternate)


def _coins(rows: NDArray[np.intp], seed: int) -> NDArray[np.uint64]:
    """Return 0 or 1 for each row, by the top bit of SplitMix64 (Steele et al., 2014)."""
    z = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(63)


def mixup(alpha: float = 0.2, first: Augment | None = None) -> Mixup:
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
    return Mixup(alpha, first or none())


@dataclass(frozen=True)
class Mixup:
    """See `mixup`, which makes it."""

    alpha: float
    first: Augment

    def at(self, rows: NDArray[np.intp], seed: int, epoch: int) -> Augment:
        """Return what changes the images of these rows of the split in an epoch."""
        return Mixup(self.alpha, bound(self.first, rows, seed, epoch))

    def __call__(self, images: NDArray[np.uint8], rng: np.random.Generator) -> Blend:
        """Change images by what comes first, and blend them."""
        changed = self.first(images, rng)
        if isinstance(changed, Blend):
            raise GluonexpError("augment.first: blends images too; choose another than mixup")
        drawn = rng.beta(self.alpha, self.alpha, size=len(images))
        # Which of the two is "its own" makes no difference, so let it be the larger part.
        share = np.maximum(drawn, 1 - drawn).astype(np.float32)
        partners = rng.permutation(len(images))
        weight = share[:, None, None, None]
        mixed = weight * changed + (1 - weight) * changed[partners]
        return Blend(np.rint(mixed).astype(np.uint8), partners, share)


def _shift(
    images: NDArray[np.uint8],
    pad: int,
    rng: np.random.Generator,
    border: Literal["constant", "reflect"] = "constant",
) -> NDArray[np.uint8]:
    """Cut every image at its own random offset out of a padded copy: by zeros, or mirrored."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), border)
    # (N, offsets y, offsets x, C, H, W) without a copy; channels last again, so that the gather
    # copies whole rows.
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # type: ignore[call-overload]
    y, x = rng.integers(0, 2 * pad + 1, size=(2, count))
    cut: NDArray[np.uint8] = windows.transpose(0, 1, 2, 4, 5, 3)[np.arange(count), y, x]
    return cut
