"""Classify images with an export: what was trained, used."""

from __future__ import annotations

import glob
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import softmax
from gluonexp.base.progress import counting_bar
from gluonexp.data.images import (
    MAX_PIXELS,
    SUFFIXES,
    TooLargeImageError,
    UnreadableImageError,
    decode,
)
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.names import IMAGE_RUNTIMES
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Signature
from gluonexp.report import plots
from gluonexp.verification import runtimes

PLOT_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg"}
BATCH = 64
# A picture holds at most so many images.
DRAWN = 60


@dataclass(frozen=True)
class Prediction:
    """What an export says of one image.

    Attributes
    ----------
    path
        Its file; ``samples.safetensors/3`` for the fourth sample of an export.
    classes, probabilities
        Names and probabilities of all K classes, in label order.
    true_name
        The name of the file's folder, if that is a class; a sample's own class, if it has one.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    true_name: str | None

    @property
    def name(self) -> str:
        """The likeliest class."""
        return self.classes[self.probabilities.argmax()]

    @property
    def probability(self) -> float:
        """Of the likeliest class."""
        return float(self.probabilities.max())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` likeliest classes and their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[index], float(self.probabilities[index])) for index in order]


@dataclass(frozen=True)
class Predictions:
    """What an export says of many images, in their order; a sentence for each unreadable one."""

    classes: tuple[str, ...]
    answers: tuple[Prediction, ...]
    unreadable: tuple[str, ...]


class Classifier:
    """An export and its preprocessing, loaded.

    Parameters
    ----------
    folder
        Holds ``signature.json``, ``model-symbol.json`` and ``model-0000.params``.
    runtime
        One of `gluonexp.model_folder.names.FILES`.
    """

    def __init__(self, folder: Path, runtime: str = "module") -> None:
        self.folder = folder
        signature = Signature.read(folder)
        self.shape = signature.image  # (H, W, C)
        self.classes = signature.classes
        self._steps = Preprocess(signature.preprocess, signature.image)
        self._takes_images = runtime in IMAGE_RUNTIMES
        self._run = runtimes.load(folder, runtime)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, K) of images (N, H, W, C) uint8, `BATCH` by `BATCH`."""
        parts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            parts.append(self._run(part if self._takes_images else self._steps.inputs(part)))
            if parts[-1].shape[1:] != (len(self.classes),):
                raise GluonexpError(
                    f"{self.folder}: the network has {parts[-1].shape[1:]} outputs, its signature "
                    f"{len(self.classes)} classes"
                )
        return np.concatenate(parts)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return softmax probabilities (N, K) of images (N, H, W, C) uint8."""
        return softmax(self.logits(images))


def batches(count: int) -> Iterator[slice]:
    """Yield where each batch of `count` images is, and show on a terminal how many are done."""
    with counting_bar() as bar:
        task = bar.add_task("classifying", total=count)
        for start in range(0, count, BATCH):
            yield slice(start, start + BATCH)
            bar.update(task, completed=start + BATCH)


def predict_files(
    folder: Path,
    paths: Sequence[str | Path],
    *,
    runtime: str = "module",
    plot: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Predictions:
    """Classify the image files that `paths` mean with the export in `folder`.

    Parameters
    ----------
    paths
        As for `image_files`.
    plot
        Where to draw the images with their labels, if anywhere.
    max_pixels
        So many an image file may have.

    Raises
    ------
    GluonexpError
        The export, a path or `plot` is not right. A file that cannot be read as an image is no
        error: it is among the `unreadable`.
    """
    check_plot(plot)
    found = image_files(paths)
    classifier = Classifier(folder, runtime)
    places = class_places(classifier.classes)
    answers: list[Prediction] = []
    unreadable: list[str] = []
    drawn: list[NDArray[np.uint8]] = []
    for part in batches(len(found)):
        images: list[NDArray[np.uint8]] = []
        read: list[Path] = []
        for path in found[part]:
            try:
                images.append(decode(path, *classifier.shape, max_pixels=max_pixels))
            except TooLargeImageError as error:
                unreadable.append(f"{error}; allow more with --max-pixels")
            except UnreadableImageError as error:
                unreadable.append(str(error))
            else:
                read.append(path)
        if images:
            rows = classifier.probabilities(np.stack(images))
            for path, row in zip(read, rows, strict=True):
                true_name = _class_of(path, places, classifier.classes)
                answers.append(Prediction(path, classifier.classes, row, true_name))
        if plot is not None and len(drawn) < DRAWN:
            drawn += images
    if plot is not None and answers:
        # Of the images that are not drawn only the number counts: any picture stands for them.
        _draw(drawn + drawn[-1:] * (len(answers) - len(drawn)), answers, plot)
    return Predictions(classifier.classes, tuple(answers), tuple(unreadable))


def predict_samples(
    folder: Path, *, runtime: str = "module", plot: Path | None = None
) -> Predictions:
    """Classify the images that travel with the export in `folder`.

    Parameters
    ----------
    runtime, plot
        As for `predict_files`.

    Raises
    ------
    GluonexpError
        The export, its samples or `plot` is not right.
    """
    check_plot(plot)
    held = samples.read(folder)
    classifier = Classifier(folder, runtime)
    count = len(classifier.classes)
    if (
        held.images.shape[1:] != classifier.shape
        or held.images.dtype != np.uint8
        or held.classes != classifier.classes
        or not ((held.labels >= 0) & (held.labels < count)).all()
    ):
        raise GluonexpError(f"{folder / names.SAMPLES} is not of this network")
    answers = [
        Prediction(
            Path(names.SAMPLES, str(index)),
            held.classes,
            row,
            held.classes[held.labels[index]] if held.labelled else None,
        )
        for index, row in enumerate(classifier.probabilities(held.images))
    ]
    if plot is not None:
        _draw(list(held.images), answers, plot)
    return Predictions(held.classes, tuple(answers), ())


def check_plot(plot: Path | None) -> None:
    """Refuse a name that no picture can be written under."""
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise GluonexpError(f"{plot}: name a picture ({' '.join(sorted(PLOT_SUFFIXES))})")


def _draw(images: list[NDArray[np.uint8]], answers: Sequence[Prediction], plot: Path) -> None:
    plots.prediction(
        images,
        [answer.name for answer in answers],
        [answer.probability for answer in answers],
        [answer.true_name for answer in answers],
        plot,
        [answer.path.name for answer in answers],
    )


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder for examples of each class, no two the same: one safe part of a path."""
    cleaned = [re.sub(r"[^\w .\-]", "_", name).strip(". ") or "_" for name in classes]
    shared, names, taken = Counter(cleaned), Counter(classes), {*cleaned, *classes}
    folders: list[str] = []
    for name, clean in zip(classes, cleaned, strict=True):
        folder = clean
        if shared[clean] > 1 and (clean != name or names[name] > 1):
            folder = next(
                f"{clean}-{n}" for n in itertools.count(1) if f"{clean}-{n}" not in taken
            )
            taken.add(folder)
        folders.append(folder)
    return folders


def class_places(classes: Sequence[str]) -> dict[str, int]:
    """Return the place of each class by its name, and by the folder of its examples."""
    by_folder = {name: place for place, name in enumerate(folder_names(classes))}
    names = Counter(classes)
    return by_folder | {name: i for i, name in enumerate(classes) if names[name] == 1}


def _class_of(path: Path, places: Mapping[str, int], classes: Sequence[str]) -> str | None:
    """Return the class whose folder a file lies in, by the folder's own name or its target's."""
    for folder in (path.absolute().parent, path.resolve().parent):
        if (place := places.get(folder.name)) is not None:
            return classes[place]
    return None


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that `paths` mean, in order.

    Parameters
    ----------
    paths
        Files, folders (the images in and below them) and patterns such as ``photos/**/*.jpg``,
        which match what a shell would match.

    Raises
    ------
    GluonexpError
        A path that does not exist, a pattern that matches nothing, a folder without images.
    """
    files: list[Path] = []
    if "" in paths:  # which Path takes for the current folder
        raise GluonexpError("an empty name is no image or folder")
    for path in map(Path, paths):
        found = [path] if path.exists() else _matching(path)
        for each in found:
            if each.exists() and not (each.is_dir() or each.is_file()):  # a pipe would wait
                raise GluonexpError(f"{each}: neither a file nor a folder")
            files += _images_below(each, alone=len(found) == 1) if each.is_dir() else [each]
    return files


def _matching(path: Path) -> list[Path]:
    if not glob.has_magic(str(path)):
        raise GluonexpError(f"{path}: no such image or folder")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise GluonexpError(f"{path}: nothing matches this pattern")
    return found


def _images_below(folder: Path, *, alone: bool) -> list[Path]:
    found = sorted(
        inner
        for inner in folder.rglob("*")
        if inner.suffix.lower() in SUFFIXES and inner.is_file() and inner.name[0] != "."
    )
    if not found and alone:
        raise GluonexpError(f"{folder}: no images ({' '.join(sorted(SUFFIXES))}) here")
    return found
