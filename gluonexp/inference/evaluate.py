"""Score an export on a split of a data set: how good it is, and at what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp import assembly
from gluonexp.assembly.targets import constructor
from gluonexp.base import metrics
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import ClassScore, Reliability, by_class, measured, softmax
from gluonexp.base.mx import nd
from gluonexp.base.text import listed
from gluonexp.config.schema import Config
from gluonexp.data.types import Source, Spec, Split
from gluonexp.inference.predict import Classifier, batches, check_plot, class_places
from gluonexp.report import plots
from gluonexp.report.reliability import draw as draw_reliability


@dataclass(frozen=True)
class Evaluation:
    """How good an export is on some images.

    Attributes
    ----------
    data, digest
        Title of the data set, and the digest of all its samples.
    split, images, total
        Which images were scored, how many, and of how many.
    loss, accuracy
        Means over the images; the loss is the configuration's.
    classes
        All K of the model, in its order; those that the data lack have no images.
    confusion
        (K, K) counts: true classes in rows, predicted ones in columns.
    metrics
        Of `gluonexp.base.metrics.NAMES`, those that say something of K classes.
    notes
        Sentences on the data, and on how their classes were matched.
    """

    data: str
    digest: str
    split: str
    runtime: str
    images: int
    total: int
    loss: float
    accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()


def evaluate(
    folder: Path,
    config: Config,
    *,
    split: str = "test",
    runtime: str = "module",
    plot: Path | None = None,
    reliability: Path | None = None,
    trained_on: str | None = None,
) -> Evaluation:
    """Score the export in `folder` on the data set of `config`.

    Of `config` count ``dataset``, ``loss``, ``seed`` (it draws the validation split) and
    ``build.allow``; nothing else of it is built.

    Parameters
    ----------
    split
        ``test``, ``val`` or ``train``, each as a run with this configuration has it; ``all`` the
        images of the data set.
    runtime
        One of `gluonexp.model_folder.names.RUNTIMES`.
    plot
        Where to draw the confusion matrix, if anywhere.
    reliability
        Where to draw the reliability diagram, if anywhere.
    trained_on
        As for `data_for`.

    Raises
    ------
    GluonexpError
        The export or the configuration is not right, or the one was not made for the data of the
        other; the message says what differs.
    """
    from sklearn.metrics import confusion_matrix

    check_plot(plot)
    check_plot(reliability)
    classifier = Classifier(folder, runtime)
    loss = constructor(config.loss, "loss", ["gluonexp", *config.build.allow])()
    validation = config.dataset.val_fraction > 0
    if split in ("test", "all"):  # the rest is not split for them
        config = replace(config, dataset=replace(config.dataset, val_fraction=0, train_fraction=1))
    data = data_for(classifier, config, trained_on)
    splits = data.splits()
    if split != "all" and split not in splits:
        others = [*splits, *(["val"] if validation and "val" not in splits else []), "all"]
        raise GluonexpError(
            f"{data.title} has no {split} split; choose --split {' or '.join(others)}"
        )
    chosen = list(splits.values()) if split == "all" else [splits[split]]
    labels = np.concatenate([part.labels for part in chosen])
    logits = np.concatenate(
        [classifier.logits(part.images[at]) for part in chosen for at in batches(len(part))]
    )
    predicted = logits.argmax(axis=1)
    losses = loss(nd.array(logits), nd.array(labels, dtype="float32")).asnumpy()
    if plot is not None:
        plots.confusion_matrix(labels, predicted, data.classes, plot)
    if reliability is not None:
        which = "all images" if split == "all" else f"{split} split"
        draw_reliability(Reliability.of(softmax(logits), labels), reliability, which)
    names = metrics.telling(metrics.NAMES, len(data.classes))
    return Evaluation(
        data=data.title,
        digest=data.digest,
        split=split,
        runtime=runtime,
        images=len(labels),
        total=sum(map(len, splits.values())),
        loss=float(losses.astype(np.float64).mean()),
        accuracy=float((predicted == labels).mean()),
        classes=by_class(data.classes, labels, predicted),
        confusion=confusion_matrix(labels, predicted, labels=range(len(data.classes))),
        metrics=measured(names, logits, labels),
        notes=data.notes,
    )


def classes_of(config: Config) -> tuple[str, ...]:
    """Return the names of the classes in the data set of `config`; no sample is read."""
    return _source(config).spec().classes


def data_for(
    classifier: Classifier, config: Config, trained_on: str | None = None
) -> assembly.Data:
    """Read the data set of `config`, if its classes are the export's, or some of them.

    Classes are matched by their names, or by the names that folders for them have; labels are in
    the order of the export's classes then. Its digest remains that of the data as they are.

    Parameters
    ----------
    trained_on
        The data set that the export's run recorded, as one would type it; for messages.

    Raises
    ------
    GluonexpError
        The data have a class that the export has not, or images of another size; or they cannot
        be read.
    """
    source = _source(config)
    spec = source.spec()
    labels = _matched(classifier.classes, spec.classes, config.dataset.name, trained_on)
    _check_size(classifier.shape, spec, config)
    data = assembly.data(config, source)
    if classifier.classes == spec.classes:
        return data
    count = len(classifier.classes)
    note = f"classes are matched by name: {len(labels)} of the model's {count}"
    relabelled: dict[str, Any] = {
        name: Split(part.images, labels[part.labels]) for name, part in data.splits().items()
    }
    return replace(data, classes=classifier.classes, notes=(*data.notes, note), **relabelled)


def _source(config: Config) -> Source:
    allow = ["gluonexp", *config.build.allow]
    source: Source = constructor(config.dataset.source, "dataset.source", allow)()
    return source


def _matched(
    ours: Sequence[str], theirs: Sequence[str], name: str, trained_on: str | None
) -> NDArray[np.int64]:
    """Return for each class of the data which of the model's it is."""
    if ours == theirs:
        return np.arange(len(ours))
    places = class_places(ours)
    unknown = [each for each in theirs if each not in places]
    if not unknown:
        return np.array([places[each] for each in theirs], np.int64)
    recorded = f"; it was trained on {trained_on}" if trained_on else ""
    raise GluonexpError(
        f"dataset={name} is not what this model was trained for: of its {len(theirs)} classes, "
        f"{listed(map(repr, unknown))} {'is' if len(unknown) == 1 else 'are'} not among the "
        f"model's {len(ours)}: {listed(map(repr, ours))}{recorded}"
    )


def _check_size(wanted: tuple[int, int, int], spec: Spec, config: Config) -> None:
    """Refuse images that the model does not take, and say which keys make them others."""
    found = spec.height, spec.width, spec.channels
    if found == wanted:
        return
    dataset, keys = config.dataset, []
    sizes = (
        ("resize", "size", found[0], wanted[0]),
        ("channels", "channels", found[2], wanted[2]),
    )
    for key, argument, has, takes in sizes:
        if has != takes and argument in dataset.source:
            follows = getattr(dataset, key) == dataset.source[argument]
            keys.append(f"dataset.{key if follows else f'source.{argument}'}={takes}")
    remedy = f"; type {' '.join(keys)}" if keys else ""
    raise GluonexpError(
        f"dataset={dataset.name}: its images are {_size(found)}, but the model takes "
        f"{_size(wanted)}{remedy}"
    )


def _size(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
