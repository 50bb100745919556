"""What runs in a clean process: an export loaded again, and real inputs scored with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import threads
from gluonexp.model_folder import guard, samples
from gluonexp.model_folder.names import FILES, IMAGE_RUNTIMES, SAMPLES, SIGNATURE
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import ArraySignature, read
from gluonexp.verification import runtimes

# MXNet's kernels like powers of two, and more would hardly be faster; VGG has room.
BATCH: Final = 32


@dataclass(frozen=True)
class Score:
    """What one runtime made of the samples.

    Attributes
    ----------
    logits
        (N, K).
    mean, rms
        Of the inputs it was given, by channel: the preprocessing in a few numbers. Of inputs that
        are no images, over all values.
    images_per_second
        Without the preprocessing: the median over the batches.
    threads
        It was allowed to use.
    versions
        Of its libraries.
    """

    logits: NDArray[np.float32]
    mean: tuple[float, ...]
    rms: tuple[float, ...]
    images_per_second: float
    threads: int
    versions: dict[str, str]


def score(folder: Path, names: Sequence[str]) -> dict[str, Score]:
    """Score the samples of the export in `folder` with runtimes that read the same files.

    Raises
    ------
    GluonexpError
        The files cannot be loaded, or cannot take these images.
    """
    known = samples.read(folder)
    images = known.images
    prepared = _preparing(folder, images)
    own, *_ = FILES[names[0]]
    onnx = guard.check_onnx(folder / own) if own.endswith(".onnx") else None  # looked at once
    run = {name: runtimes.load(folder, name, onnx) for name in names}
    del onnx
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    sums, squares, values = np.zeros(1), np.zeros(1), 0
    for start, end in _batches(len(images)):
        inputs = prepared(images[start:end])
        channels = inputs.shape[1] if images.dtype == np.uint8 else 1
        by_channel = inputs.reshape(len(inputs), channels, -1)
        sums = sums + by_channel.sum(axis=(0, 2), dtype=np.float64)
        squares = squares + np.square(by_channel).sum(axis=(0, 2), dtype=np.float64)
        values += by_channel[:, 0].size
        for name in names:
            given = images[start:end] if name in IMAGE_RUNTIMES else inputs
            began = time.perf_counter()
            found = run[name](given).reshape(len(given), -1)
            rates[name].append(len(inputs) / (time.perf_counter() - began))
            if start == 0:  # again: what holds for the first call need not hold for the second
                again = run[name](given).reshape(len(given), -1)
                found = _worse(known.logits[:end], found, again)
            logits[name].append(found)
    return {
        name: Score(
            logits=np.concatenate(logits[name]),
            mean=tuple((sums / values).tolist()),
            rms=tuple(np.sqrt(squares / values).tolist()),
            images_per_second=statistics.median(rates[name]),
            threads=threads(),
            versions=runtimes.versions(name),
        )
        for name in names
    }


def _batches(count: int) -> Iterator[tuple[int, int]]:
    """Yield where batches of samples begin and end.

    The first image goes alone, as an image to predict would. Then two batches at least are of one
    size, if there are so many images: a runtime that can be called once proves nothing.
    """
    size = max(1, min(BATCH, (count - 1) // 2))
    return pairwise([0, *range(1, count, size), count])


def _worse(expected: NDArray[np.float32], *found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits that are farther from those expected; NaN is farthest."""
    return max(found, key=lambda each: np.nan_to_num(np.abs(each - expected), nan=np.inf).max())


def one_input(folder: Path, index: int) -> NDArray[np.float32]:
    """Return the input (1, ...) that sample number `index` becomes."""
    images = samples.read(folder).images
    return _preparing(folder, images)(images[index : index + 1])


def warm_up() -> None:
    """Import what scoring needs, as far as it is installed."""
    for name in ("mxnet", "onnx", "onnxruntime", "openvino"):
        with suppress(ImportError):
            import_module(name)


def _preparing(
    folder: Path, images: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return what `folder`'s signature makes of the samples, if it suits them."""
    signature = read(folder)
    if isinstance(signature, ArraySignature):
        if images.dtype != np.float32 or not signature.fits(images.shape):
            raise GluonexpError(
                f"{folder / SAMPLES}: holds {images.dtype} {images.shape}, but {SIGNATURE} takes "
                f"{signature.takes}"
            )
        return lambda arrays: arrays
    if images.shape[1:] != signature.image or images.dtype != np.uint8:
        raise GluonexpError(
            f"{folder / SAMPLES}: its images are {images.shape[1:]}, but {signature.image} in "
            f"{SIGNATURE}"
        )
    return Preprocess(signature.preprocess, signature.image).inputs
