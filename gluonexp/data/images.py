"""Image files to uint8 arrays: the one decoder, for data sets and for prediction alike."""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer
from gluonexp.base.progress import counting_bar

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

# What Pillow raises for files that are damaged or no image at all (found by damaging files).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)

MAX_PIXELS = 200_000_000  # of a file, before it is made smaller: no camera makes more

# How an image is turned that lies as the EXIF standard's number says.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Of damaged EXIF, which does not matter, and of sizes, of which there is a sentence here.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_CHUNK = 256  # files a task
# Mean file size, bytes, from which threads pay: below it the interpreter lock is most of the
# work, and two threads decode 32x32 images at 0.6 times the rate of one.
_THREADS_FROM = 12_000
_MAX_THREADS = 8


class UnreadableImageError(GluonexpError):
    """A file that cannot be decoded; the message names it."""


class TooLargeImageError(UnreadableImageError):
    """An image of more pixels than may be read."""


def decode(
    path: str | Path | BinaryIO,
    height: int,
    width: int,
    channels: int,
    *,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decode an image file to an array of a given shape.

    JPEG, PNG, WebP and BMP; the first frame of an animation. The EXIF orientation is applied
    where it can be read, transparency is put on white, palettes, CMYK and 16-bit grey become
    8-bit RGB or grey (ITU-R 601 luma). Colour profiles are ignored. An image of another size is
    stretched to `height` x `width`, bilinear with antialiasing (Pillow's ``BILINEAR``); JPEGs at
    least four times too large are first decoded at a half, a quarter or an eighth of their size,
    which is nearly three times as fast (measured difference on noise: 1.2 of 255 on average).

    Parameters
    ----------
    path
        The file, or an open one.
    height, width
        Of the result, pixels.
    channels
        1 for grey, 3 for RGB.
    max_pixels
        So many the file may have: it is decoded whole.

    Returns
    -------
    (height, width, channels) uint8.

    Raises
    ------
    UnreadableImageError
        If the file is missing, damaged, too large or of another format.
    """
    # Pillow has one limit for the whole process, and refuses what has twice as many.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if (pixels := image.width * image.height) > max_pixels:
                raise Image.DecompressionBombError(pixels)
            # The larger side twice, because the orientation may still swap the sides.
            image.draft(None, (2 * max(height, width),) * 2)
            image.load()
            plain = _to_mode(_upright(image), "L" if channels == 1 else "RGB")
            if plain.size != (width, height):
                plain = plain.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(plain).reshape(height, width, channels)
    except Image.DecompressionBombError as error:
        (pixels,) = map(int, re.findall(r"\d+", str(error))[:1])
        raise TooLargeImageError(
            f"{path}: its {pixels:,} pixels are more than {max_pixels:,}, the most that are read"
        ) from error
    except UnidentifiedImageError as error:
        said = pointer(Path(path)) if isinstance(path, str | Path) else None
        raise UnreadableImageError(
            said or f"{path}: not a JPEG, PNG, WebP or BMP image"
        ) from error
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadableImageError(f"{path}: cannot be read as an image: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image as its EXIF says; where that cannot be read, take it as it lies."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow has no list of what damaged EXIF raises
        return image
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any image to 8-bit grey ("L") or "RGB", transparency on white."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        # Sixteen bits of grey: Pillow's own conversion would clip at 255 instead of scaling.
        sixteen = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((sixteen + 128) // 257).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert(mode)
    return image.convert(mode)


def decode_all(
    paths: Sequence[Path],
    height: int,
    width: int,
    channels: int,
    *,
    skip_broken: bool,
    title: str,
    max_pixels: int = MAX_PIXELS,
) -> tuple[NDArray[np.uint8], list[int]]:
    """Decode many files, in threads where that is faster; a bar on a terminal.

    Parameters
    ----------
    paths
        N files.
    height, width, channels, max_pixels
        As for `decode`.
    skip_broken
        Whether a file that cannot be decoded is left out, or raises.
    title
        In front of the bar.

    Returns
    -------
    images
        (N, height, width, channels) uint8; what belongs to a broken file is undefined.
    broken
        Positions in `paths` that could not be decoded, ascending.

    Raises
    ------
    UnreadableImageError
        For the first broken file, unless `skip_broken`.
    """
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)

    def work(start: int) -> list[int]:
        broken = []
        for index in range(start, min(start + _CHUNK, len(paths))):
            try:
                images[index] = decode(
                    paths[index], height, width, channels, max_pixels=max_pixels
                )
            except UnreadableImageError:
                if not skip_broken:
                    raise
                broken.append(index)
        return broken

    starts = range(0, len(paths), _CHUNK)
    broken: list[int] = []
    threads = _threads(paths)
    with counting_bar() as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task(title, total=len(paths))
        done = pool.map(work, starts) if threads > 1 else map(work, starts)
        for start, found in zip(starts, done, strict=True):
            broken += found
            bar.update(task, completed=start + _CHUNK)
    return images, broken


def _threads(paths: Sequence[Path]) -> int:
    """Choose by the mean size of a sample of the files; 1 means a plain loop."""
    sample = paths[:: len(paths) // 64 + 1]
    sizes = [path.stat().st_size for path in sample if path.exists()]
    large = sum(sizes) >= _THREADS_FROM * len(sizes)
    return min(os.cpu_count() or 1, _MAX_THREADS) if large else 1
