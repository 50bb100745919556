"""Classify images with an export: what was trained, used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gluonexp.data.images import SUFFIXES, decode
from gluonexp.errors import GluonexpError
from gluonexp.export.symbol import RUNTIMES, read_signature
from gluonexp.models.preprocess import Preprocess, Preprocessing
from gluonexp.mx import nd
from gluonexp.report import plots

PLOT_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg"}
BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What an export says of one image file; `true_name` is its folder's name if a class."""

    path: Path
    name: str
    probability: float
    true_name: str | None


class Classifier:
    """An export and its preprocessing, loaded.

    Parameters
    ----------
    folder
        Holds ``signature.json``, ``model-symbol.json`` and ``model-0000.params``.
    runtime
        ``module`` or ``symbolblock``.
    """

    def __init__(self, folder: Path, runtime: str = "module") -> None:
        signature = read_signature(folder)
        image = signature["image"]
        self.shape = int(image["height"]), int(image["width"]), int(image["channels"])
        self.classes: tuple[str, ...] = tuple(signature["classes"])
        height, width, channels = self.shape
        self._preprocess = Preprocess(
            Preprocessing.from_json(signature["preprocess"]),
            height=height,
            width=width,
            channels=channels,
        )
        self._run = RUNTIMES[runtime](folder)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return softmax probabilities (N, K) of images (N, H, W, C) uint8."""
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = nd.array(images[start : start + BATCH], dtype="uint8")
            parts.append(softmax(self._run(self._preprocess(pixels).asnumpy())))
        return np.concatenate(parts)


def predict_files(
    folder: Path, paths: Sequence[Path], *, runtime: str = "module", plot: Path | None = None
) -> list[Prediction]:
    """Classify the image files at (and in the folders of) `paths` with the export in `folder`.

    Parameters
    ----------
    plot
        Where to draw the images with their labels, if anywhere.
    """
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise GluonexpError(f"{plot}: name a picture ({' '.join(sorted(PLOT_SUFFIXES))})")
    classifier = Classifier(folder, runtime)
    files = image_files(paths)
    images = np.stack([decode(path, *classifier.shape) for path in files])
    names = [path.resolve().parent.name for path in files]
    folders = {folder_name(name): name for name in classifier.classes}
    predictions = [
        Prediction(path, classifier.classes[row.argmax()], float(row.max()), folders.get(name))
        for path, row, name in zip(files, classifier.probabilities(images), names, strict=True)
    ]
    if plot is not None:
        plots.prediction(
            images,
            [prediction.name for prediction in predictions],
            [prediction.probability for prediction in predictions],
            [prediction.true_name for prediction in predictions],
            plot,
        )
    return predictions


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities (N, K) of logits (N, K)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def folder_name(name: str) -> str:
    """Return the folder for examples of class `name`: one safe part of a path."""
    return re.sub(r"[^\w .\-]", "_", name).strip(". ") or "_"


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, and the images in and below the given folders, in order.

    Raises
    ------
    GluonexpError
        A path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise GluonexpError(f"{path}: no such image or folder")
        found = [path]
        if path.is_dir():
            found = sorted(
                inner
                for inner in path.rglob("*")
                if inner.suffix.lower() in SUFFIXES and inner.is_file() and inner.name[0] != "."
            )
            if not found:
                raise GluonexpError(f"{path}: no images ({' '.join(sorted(SUFFIXES))}) here")
        files += found
    return files
