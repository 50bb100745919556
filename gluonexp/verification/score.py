"""What runs in a clean process: an export loaded again, and real images scored with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sha256
from gluonexp.export import int8, uint8
from gluonexp.model_folder import files, guard, samples
from gluonexp.verification import runtimes

Inputs = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (N, H, W, C) to the network's input (N, C', H', W')."""

Prepare = Callable[[Path], Inputs]
"""Take the steps from an export's signature; a function that another process can import."""

# MXNet's kernels like powers of two, and more would hardly be faster; VGG has room.
BATCH: Final = 32

FILES: Final = {name: kind.files for name, kind in runtimes.RUNTIMES.items()} | uint8.FILES
"""The files that each runtime reads, and each network that takes images as they rest."""

NAMES: Final = {files.SIGNATURE, samples.SAMPLES, int8.RECORD}.union(*FILES.values())
"""The files that an export may have besides its certificate."""


@dataclass(frozen=True)
class Score:
    """What one runtime made of the samples.

    Attributes
    ----------
    logits
        (N, K).
    mean, rms
        Of the inputs it was given, by channel: the preprocessing in a few numbers.
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


def provable(folder: Path) -> dict[str, tuple[str, ...]]:
    """Name what can be proved of the export in `folder` on this machine, and the files of each.

    That is every runtime, and what takes images as they rest.
    """
    return {name: FILES[name] for name in (*runtimes.available(folder), *uint8.available(folder))}


def score(folder: Path, names: Sequence[str], prepare: Prepare) -> dict[str, Score]:
    """Score the samples of the export in `folder` with runtimes that read the same files.

    Raises
    ------
    GluonexpError
        The files cannot be loaded, or cannot take these images.
    """
    images = samples.read(folder).images
    inputs_of = _inputs(folder, images, prepare)
    onnx = None
    if all(FILES[name] == (files.ONNX,) for name in names):  # which is looked at once
        onnx = guard.check_onnx(folder / files.ONNX)
    run = {name: _loaded(folder, name, onnx) for name in names}
    del onnx
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    sums, squares, values = np.zeros(1), np.zeros(1), 0
    # The first image goes alone, as an image to predict would.
    for start, end in pairwise([0, *range(1, len(images), BATCH), len(images)]):
        inputs = inputs_of(images[start:end])
        sums = sums + inputs.sum(axis=(0, 2, 3), dtype=np.float64)
        squares = squares + np.square(inputs).sum(axis=(0, 2, 3), dtype=np.float64)
        values += inputs[:, 0].size
        for name in names:
            given = images[start:end] if name in uint8.RESTING else inputs
            began = time.perf_counter()
            logits[name].append(run[name](given))
            rates[name].append(len(inputs) / (time.perf_counter() - began))
    return {
        name: Score(
            logits=np.concatenate(logits[name]),
            mean=tuple((sums / values).tolist()),
            rms=tuple(np.sqrt(squares / values).tolist()),
            images_per_second=statistics.median(rates[name]),
            threads=runtimes.threads(),
            versions=runtimes.versions(uint8.RESTING.get(name, name)),
        )
        for name in names
    }


def one_input(folder: Path, index: int, prepare: Prepare) -> NDArray[np.float32]:
    """Return the input (1, C', H', W') that sample number `index` becomes."""
    images = samples.read(folder).images
    return _inputs(folder, images, prepare)(images[index : index + 1])


def digests(folder: Path, without: str) -> dict[str, str]:
    """Return the SHA-256 of each file in `folder` but one, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != without and path.is_file():
            try:
                found[path.name] = sha256(path)
            except OSError as error:
                raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    return found


def warm_up() -> None:
    """Import what scoring needs, as far as it is installed."""
    for name in ("mxnet", "onnx", "onnxruntime", "openvino"):
        with suppress(ImportError):
            import_module(name)


def _loaded(
    folder: Path, name: str, onnx: bytes | None
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    return uint8.load(folder, name) if name in uint8.RESTING else runtimes.load(folder, name, onnx)


def _inputs(folder: Path, images: NDArray[np.uint8], prepare: Prepare) -> Inputs:
    """Return the steps of `folder`'s signature, if they suit the images."""
    signature = files.read_signature(folder)
    image = tuple(signature["image"][side] for side in ("height", "width", "channels"))
    if images.shape[1:] != image:
        raise GluonexpError(
            f"{folder / samples.SAMPLES}: its images are {images.shape[1:]}, but {image} in "
            f"{files.SIGNATURE}"
        )
    return prepare(folder)
