"""Score an export on a split of a data set: how good it is, and at what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from gluonexp import build
from gluonexp.data.types import Spec, Split
from gluonexp.errors import GluonexpError
from gluonexp.mx import nd
from gluonexp.predict import BATCH, PLOT_SUFFIXES, Classifier
from gluonexp.progress import transient_bar
from gluonexp.report import plots
from gluonexp.schema import Config

SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class ClassScore:
    """One class: the shares (0 where nothing is to be shared), and how many images it has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """What an export is worth on some images.

    Attributes
    ----------
    data, digest
        Title of the data set, and the digest of all its samples.
    loss, accuracy
        Means over the images; the loss is the configuration's.
    confusion
        (K, K) counts: true classes in rows, predicted ones in columns.
    """

    data: str
    digest: str
    split: str
    runtime: str
    loss: float
    accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many were scored."""
        return int(self.confusion.sum())


def evaluate(
    folder: Path,
    config: Config,
    *,
    split: str = "test",
    runtime: str = "module",
    plot: Path | None = None,
) -> Evaluation:
    """Score the export in `folder` on the data set of `config`.

    Of `config` count ``dataset``, ``loss``, ``seed`` (it draws the validation split) and
    ``build.allow``; nothing else of it is built.

    Parameters
    ----------
    split
        ``test``, ``val`` or ``train``, each as a run with this configuration has it.
    runtime
        One of `gluonexp.export.runtimes.RUNTIMES`.
    plot
        Where to draw the confusion matrix, if anywhere.

    Raises
    ------
    GluonexpError
        The export or the configuration is not right, or the one was not made for the data of the
        other; the message says what differs.
    """
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise GluonexpError(f"{plot}: name a picture ({' '.join(sorted(PLOT_SUFFIXES))})")
    classifier = Classifier(folder, runtime)
    loss = build.constructor(config.loss, "loss", ["gluonexp", *config.build.allow])()
    data = data_for(classifier, config)
    chosen = data.splits().get(split)
    if chosen is None:
        raise GluonexpError(
            f"{data.title} has no {split} split; choose --split {' or '.join(data.splits())}"
        )
    logits = _logits(classifier, chosen)
    predicted = logits.argmax(axis=1)
    losses = loss(nd.array(logits), nd.array(chosen.labels, dtype="float32")).asnumpy()
    if plot is not None:
        plots.confusion_matrix(chosen.labels, predicted, data.classes, plot)
    return Evaluation(
        data=data.title,
        digest=data.digest,
        split=split,
        runtime=runtime,
        loss=float(losses.astype(np.float64).mean()),
        accuracy=float((predicted == chosen.labels).mean()),
        classes=_scores(data.classes, chosen.labels, predicted),
        confusion=_confusion(len(data.classes), chosen.labels, predicted),
    )


def data_for(classifier: Classifier, config: Config) -> build.Data:
    """Read the data set of `config`, if it is one that the export was made for."""
    allow = ["gluonexp", *config.build.allow]
    source = build.constructor(config.dataset.source, "dataset.source", allow)()
    _check(classifier, source.spec(), config.dataset.name)
    return build.data(config, source)


def _check(classifier: Classifier, spec: Spec, name: str) -> None:
    """Refuse data that the export was not made for, before any is read."""
    ours, theirs = classifier.classes, spec.classes
    if ours != theirs:
        if sorted(ours) == sorted(theirs):
            what = "the same classes in another order"
        elif len(ours) != len(theirs):
            what = f"{len(theirs)} classes, the model {len(ours)}"
        else:
            index = next(
                i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1
            )
            what = f"{theirs[index]!r} as class {index}, the model {ours[index]!r}"
        raise GluonexpError(
            f"dataset={name} is not what this model was trained for: it has {what}; name the data "
            "set it is for, as in dataset=fashion_mnist"
        )
    shape = spec.height, spec.width, spec.channels
    if shape != classifier.shape:
        raise GluonexpError(
            f"dataset={name}: its images are {_size(shape)}, but the model takes "
            f"{_size(classifier.shape)}"
        )


def _size(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def _logits(classifier: Classifier, split: Split) -> NDArray[np.float32]:
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with transient_bar(*columns) as bar:
        starts = range(0, len(split), BATCH)
        task = bar.add_task("classifying", total=len(split))
        parts = []
        for start in starts:
            parts.append(classifier.logits(split.images[start : start + BATCH]))
            bar.update(task, completed=start + BATCH)
    return np.concatenate(parts)


def _scores(
    names: tuple[str, ...], labels: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[ClassScore, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    return tuple(
        ClassScore(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    )


def _confusion(
    count: int, labels: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.int64]:
    from sklearn.metrics import confusion_matrix

    matrix: NDArray[np.int64] = confusion_matrix(labels, predicted, labels=range(count))
    return matrix
