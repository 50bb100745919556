"""Parts of images enlarged, and their colours changed: a batch at a time, nothing drawn here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601 luma


def cropped(
    images: NDArray[np.uint8],
    area: NDArray[np.float64],
    shape: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    smallest: float,
    stretch: float,
) -> NDArray[np.uint8]:
    """Return a part of each image, in the size of the whole: bilinear, with antialiasing.

    Parameters
    ----------
    images
        (N, H, W, C); C is 1 or 3.
    area, shape, y, x
        (N,) in [0, 1): how large each part is between `smallest` and all of the area, how
        stretched between 1 / `stretch` and `stretch`, and where it lies. A side that would be
        longer than the image's is as long.
    """
    count, height, width, _ = images.shape
    share = smallest + (1 - smallest) * area
    ratio = stretch ** (2 * shape - 1)  # as likely wider as higher
    wide = width * np.minimum(np.sqrt(share * ratio), 1)
    high = height * np.minimum(np.sqrt(share / ratio), 1)
    left, top = (width - wide) * x, (height - high) * y
    # Pillow refuses what is rounded to beyond the edge.
    boxes = np.stack([left, top, np.minimum(left + wide, width), np.minimum(top + high, height)])
    result = np.empty_like(images)
    for number in range(count):
        image = images[number]
        made = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).resize(
            (width, height), Image.Resampling.BILINEAR, box=tuple(boxes[:, number].tolist())
        )
        result[number] = np.asarray(made).reshape(image.shape)
    return result


def jittered(
    images: NDArray[np.uint8],
    brightness: NDArray[np.float64],
    contrast: NDArray[np.float64],
    saturation: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Return images (N, H, W, C) with each of these multiplied by a factor (N,), in that order.

    Contrast is the distance from the mean grey of an image, saturation that from its own grey;
    images of one channel have no saturation.
    """
    b, c, s = (
        f.astype(np.float32)[:, None, None, None] for f in (brightness, contrast, saturation)
    )
    made = np.clip(images * b, 0, 255)
    middle = _grey(made).mean(axis=(1, 2, 3), keepdims=True)
    made = np.clip(middle + c * (made - middle), 0, 255)
    if images.shape[-1] == 3:
        grey = _grey(made)
        made = np.clip(grey + s * (made - grey), 0, 255)
    result: NDArray[np.uint8] = np.rint(made).astype(np.uint8)
    return result


def _grey(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, H, W, 1)."""
    return images @ _GREY[:, None] if images.shape[-1] == 3 else images
