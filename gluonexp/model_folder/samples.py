"""Real inputs that travel with an export, with what the trained network said of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft, pointer
from gluonexp.model_folder.names import SAMPLES

MOST_IMAGES: Final = 256
MOST_BYTES: Final = 8 * 2**20  # of images and logits
# Multiply-accumulates of one runtime that scores them: AlexNet gets 33, MobileNet (0.25) all.
MOST_MACS: Final = 2 * 10**10
_FEWEST: Final = 33  # whatever the network computes: one alone, and a batch

# One image and its logits may be more than that. A signature takes images half as large as this,
# and far fewer names.
_LARGEST_FILE: Final = 4 * MOST_BYTES

SPLITS: Final = ("train", "val", "test")
EXAMPLE: Final = "example"
"""In a split's place: inputs that were handed over with a network, whose labels nobody knows."""

_NOT_TRAINED: Final = "of the files themselves"


@dataclass(frozen=True)
class ProofSamples:
    """Images of one split, their labels, and the trained network's logits.

    Attributes
    ----------
    images
        (N, H, W, C) uint8. Of a network that takes no images its inputs, (N, ...) float32.
    labels
        (N,) int64; of an `EXAMPLE` the class that the network itself says.
    logits
        (N, K) float32; of a network that takes no images its outputs, each in one row.
    classes
        Names of the K classes, in the order of the logits. None where outputs have no names.
    trained
        Whether the logits are the trained network's. Otherwise they are what Module made of the
        files that were at hand.
    split
        One of `SPLITS`: the one farthest from training that the data have; or `EXAMPLE`. None in
        older files.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    classes: tuple[str, ...]
    trained: bool = True
    split: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """Whether the labels are those of the data."""
        return self.split != EXAMPLE


def count(
    available: int, image: Sequence[int], classes: int = 0, macs: int = 0, size: int = 1
) -> int:
    """Return how many images are kept out of `available`; one at least.

    Parameters
    ----------
    image
        The shape of one, (H, W, C).
    classes
        How many logits are kept with each; `write` may keep fewer than without it.
    macs
        Multiply-accumulates of the network for one image, if fewer shall be kept of a network
        that computes long: every runtime scores each of them.
    size
        Of one value of `image`, bytes.
    """
    each = math.prod(image) * size + classes * np.dtype(np.float32).itemsize  # bytes
    affordable = max(_FEWEST, MOST_MACS // macs) if macs else MOST_IMAGES
    return min(available, MOST_IMAGES, affordable, max(1, MOST_BYTES // each))


def write(folder: Path, samples: ProofSamples) -> Path:
    """Write ``samples.safetensors`` into `folder`: the first images that `count` allows.

    Raises
    ------
    GluonexpError
        A single image is larger than `read` would take.
    """
    images = samples.images
    outputs = samples.logits.shape[1]
    kept = count(len(samples), images.shape[1:], outputs, size=images.itemsize)
    held = {"images": samples.images, "labels": samples.labels, "logits": samples.logits}
    if samples.images.dtype != np.uint8:
        held["inputs"] = held.pop("images")
    tensors = {name: np.ascontiguousarray(held[name][:kept], _TYPES[name]) for name in held}
    classes = json.dumps(list(samples.classes), ensure_ascii=False)
    metadata = {"format": "1", "classes": classes}
    if not samples.trained:
        metadata["logits"] = _NOT_TRAINED
    if samples.split is not None:
        metadata["split"] = samples.split
    content = save(tensors, metadata=metadata)
    if len(content) > _LARGEST_FILE:
        raise GluonexpError(
            f"images of {samples.images.shape[1:]} with {len(samples.classes)} classes are too "
            "large to travel with an export as samples"
        )
    path = folder / SAMPLES
    with draft(path) as unfinished:
        unfinished.write_bytes(content)
    return path


def read(folder: Path) -> ProofSamples:
    """Return the samples of an export.

    Raises
    ------
    GluonexpError
        There are none, or the file is not what `write` makes.
    """
    path = folder / SAMPLES
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise GluonexpError(f"{path} is larger than samples are: refused")
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names & _TYPES.keys()}
            metadata = file.metadata() or {}
            classes = json.loads(metadata.get("classes", "null"))
    except FileNotFoundError:
        raise GluonexpError(
            f"{path} is missing: without sample images an export cannot be certified"
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise GluonexpError(pointer(path) or f"{path} is not a file of samples: {error}") from None
    given = "inputs" if "inputs" in tensors else "images"
    for name in (given, "labels", "logits"):
        tensor = tensors.get(name)
        if (
            tensor is None
            or tensor.dtype != _TYPES[name]
            or tensor.ndim != _DIMENSIONS.get(name, max(1, tensor.ndim))
        ):
            raise GluonexpError(f"{path}: {name} is missing, or not {np.dtype(_TYPES[name])}")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise GluonexpError(f"{path} does not name the classes")
    split = metadata.get("split")
    if split not in (None, *SPLITS, EXAMPLE):
        raise GluonexpError(f"{path} names no split that there is: {split!r:.40}")
    trained = metadata.get("logits") != _NOT_TRAINED
    samples = ProofSamples(
        tensors[given], tensors["labels"], tensors["logits"], tuple(classes), trained, split
    )
    if not len(samples) or not len(samples) == len(samples.labels) == len(samples.logits):
        raise GluonexpError(f"{path}: images, labels and logits are not equally many")
    if samples.logits.shape[1] != len(classes) and (classes or given == "images"):
        raise GluonexpError(f"{path}: the logits are not of {len(classes)} classes")
    return samples


_TYPES: Final[dict[str, type[np.generic]]] = {
    "images": np.uint8,
    "inputs": np.float32,
    "labels": np.int64,
    "logits": np.float32,
}
_DIMENSIONS: Final = {"images": 4, "labels": 1, "logits": 2}
