"""The data of a loop of one's own: arrays or a Gluon data set, of which a run records a digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gluonexp.assembly import Data
from gluonexp.base.errors import GluonexpError
from gluonexp.base.provenance import Provenance
from gluonexp.data.digest import digest
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.experiment import record
from gluonexp.tracking import Tracker, UsedData
from gluonexp.verification.card import Origin

_FORMS: Final = (
    "give (images, labels), a Gluon data set, a mapping of these by split, or the data's name"
)
_INPUTS: Final = (
    "give some inputs of the network: an array (N, ...), a batch (inputs, labels) as "
    "next(iter(loader)), or a Gluon data set"
)
_CONTEXTS: Final = {
    "train": "training",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    "test": "testing",
}
_MOST_CLASSES: Final = 1000  # labels that go farther are no classes of pictures


@dataclass(frozen=True)
class OwnData:
    """What a loop is given.

    Attributes
    ----------
    title
        What it is called.
    splits
        By name; empty where the data have a name only. Images are (N, ...) of any type, labels
        (N, ...).
    digest
        The SHA-256 of all of it; None of a name only.
    """

    title: str
    splits: Mapping[str, Split] = field(default_factory=dict)
    digest: str | None = None

    def record(self, tracker: Tracker, folder: Path) -> None:
        """Record parameters, an input for each split, and ``data/`` with samples of images."""
        said: dict[str, object] = {"title": self.title}
        if self.digest is not None:
            said["digest"] = self.digest
            said |= {f"{name}_images": len(split) for name, split in self.splits.items()}
        tracker.log_params({"data": said})
        for name, split in self.splits.items():
            assert self.digest is not None
            used = UsedData(
                name=f"{self.title}/{name}",
                digest=self.digest,
                context=_CONTEXTS.get(name, name),
                source=self.title,
                rows=len(split),
                shape=split.images.shape[1:],
                classes=(),
            )
            tracker.log_dataset(used)
        if (pictures := self._pictures()) is not None:
            record.samples(folder, pictures)

    def _pictures(self) -> Data | None:
        """Return the splits as those of a run of images are, if they are of images and classes."""
        shown = {name: _drawable(split) for name, split in self.splits.items()}
        known = {name: split for name, split in shown.items() if split is not None}
        if not known:
            return None
        train = known.get("train", next(iter(known.values())))
        highest = max(int(split.labels.max()) for split in known.values())
        names = tuple(map(str, range(highest + 1)))
        val = next((known[name] for name in ("val", "valid", "validation") if name in known), None)
        return Data(names, train, val, known.get("test"), self.title, (), self.digest or "")


def read(given: Any, title: str) -> OwnData | None:
    """Return what the data are that a loop was given; None where it was given none.

    Parameters
    ----------
    given
        ``(images, labels)``, a Gluon data set, a mapping of these by the name of the split, or
        the name of the data. Of a data set that transforms its samples it is those before.
    title
        What data are called that have no name.

    Raises
    ------
    GluonexpError
        It is none of these; the message names the split.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return OwnData(given)
    if not isinstance(given, Mapping):
        given = {"train": given}
    splits = {str(name): _split(f"data[{str(name)!r}]", value) for name, value in given.items()}
    if not splits:
        raise GluonexpError(f"data is empty: {_FORMS}")
    hashed: dict[str, Split] = {}
    for name, (images, labels) in splits.items():
        whole = _whole(labels)
        hashed[name] = Split(images, np.zeros(len(images), np.int64) if whole is None else whole)
        if whole is None:  # a digest of labels is of whole numbers
            hashed[f"{name} labels"] = Split(labels, np.zeros(len(labels), np.int64))
    kept = {name: Split(images, _labels(labels)) for name, (images, labels) in splits.items()}
    return OwnData(title, kept, digest((), hashed))


def origin(run_id: str | None, code: Provenance, data: OwnData | None) -> Origin:
    """Return what the card of a run's export says of the run."""
    known = data or OwnData("")
    return Origin(
        run_id=run_id,
        command=code.command,
        commit=code.git_commit,
        data=known.title or None,
        digest=known.digest,
        splits={name: len(split) for name, split in known.splits.items()},
    )


def inputs(samples: Any, most: int) -> NDArray[Any]:
    """Return at most so many inputs of a network, spread over the classes where these are known.

    Parameters
    ----------
    samples
        An array; ``(images, labels)``, as a loader gives a batch; or a Gluon data set, of which
        it is the samples before transforms.

    Raises
    ------
    GluonexpError
        It is none of these, or empty.
    """
    if isinstance(samples, tuple) and not _is_pair(samples):
        raise GluonexpError(
            f"samples is a tuple of {len(samples)}: a network of one input only can be exported; "
            f"{_INPUTS}"
        )
    if not (_is_data_set(samples) or _is_pair(samples)):
        given = _array("samples", samples, _INPUTS)
        if not given.ndim or not given.size:
            raise GluonexpError(f"samples has the shape {given.shape}: {_INPUTS}")
        return given[:most]
    given, labels = _split("samples", samples)
    whole = _whole(labels)
    return given[:most] if whole is None else given[spread(whole, most)]


def _is_pair(samples: Any) -> bool:
    """Tell a batch with its labels from two inputs."""
    if not isinstance(samples, list | tuple) or len(samples) != 2:
        return False
    given, labels = (np.shape(_plain(each)) for each in samples)
    return len(labels) == 1 < len(given) and labels[0] == given[0]


def _split(where: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    if _is_data_set(value):
        images, labels = _of_data_set(where, value)
    elif isinstance(value, list | tuple) and len(value) == 2:
        images, labels = (_array(where, each) for each in value)
    else:
        raise GluonexpError(f"{where} is a {type(value).__name__}: {_FORMS}")
    if images.ndim < 1 or labels.ndim < 1 or len(images) != len(labels) or not len(images):
        raise GluonexpError(
            f"{where}: inputs are {images.shape} and labels {labels.shape}, but each input has a "
            "label, and there is one at least"
        )
    return images, labels


def _is_data_set(value: Any) -> bool:
    """Tell a data set, which knows its length and gives samples, from arrays and their lists."""
    plain = isinstance(value, list | tuple | str | Mapping) or hasattr(value, "dtype")
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _of_data_set(where: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all samples of a data set of Gluon's, as they are before transforms."""
    if (stored := _stored(where, value)) is not None:
        return stored
    while type(value).__name__ == "_LazyTransformDataset":
        value = value._data
    try:
        pairs = [(_plain(image), _plain(label)) for image, label in _each(value)]
        return _stacked([image for image, _ in pairs]), _stacked([label for _, label in pairs])
    except (TypeError, ValueError) as error:
        raise GluonexpError(
            f"{where}: its samples are not all pairs (image, label) of one shape ({error}); name "
            "the data instead, data='photos'"
        ) from None


def _stored(where: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the samples of a data set that has them as arrays, which is soon done.

    MXNet's classes have no public name for these arrays; there will be no newer MXNet.
    """
    kind, inner = type(value).__name__, getattr(value, "_data", None)
    if kind == "_LazyTransformDataset":
        return _stored(where, inner)
    if kind in ("_SampledDataset", "_FilteredDataset"):
        whole, rows = _stored(where, value._dataset), value._indices
        return None if whole is None else (whole[0][rows], whole[1][rows])
    if inner is not None and getattr(value, "_label", None) is not None:  # MNIST, CIFAR10 ...
        return _array(where, inner), _array(where, value._label)
    if kind == "ArrayDataset" and isinstance(inner, list) and len(inner) == 2:
        return _array(where, inner[0]), _array(where, inner[1])
    return None


def _each(value: Any) -> Any:
    return (value[index] for index in range(len(value)))


def _stacked(parts: list[Any]) -> NDArray[Any]:
    return np.stack([np.asarray(part) for part in parts])


def _plain(value: Any) -> Any:
    """Return what is no array of MXNet's as it is, else a NumPy array (device sync then)."""
    return value.asnumpy() if hasattr(value, "asnumpy") else value


def _array(where: str, value: Any, forms: str = _FORMS) -> NDArray[Any]:
    try:
        array = np.asarray(_plain(value))
    except ValueError:
        raise GluonexpError(f"{where} holds inputs of unequal shapes") from None
    if array.dtype.kind not in "fiub":
        kind = type(value).__name__
        of_what = "" if array.dtype == object else f" of {array.dtype}"
        raise GluonexpError(f"{where} is a {kind}{of_what}: {forms}")
    return array


def _whole(labels: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return labels as whole numbers, (N,); None where they are others."""
    if labels.ndim != 1:
        return None
    whole = labels.astype(np.int64)
    return whole if np.array_equal(whole, labels) else None


def _labels(labels: NDArray[Any]) -> NDArray[Any]:
    whole = _whole(labels)
    return labels if whole is None else whole


def _are_images(images: NDArray[Any]) -> TypeGuard[NDArray[np.uint8]]:
    return images.dtype == np.uint8 and (
        images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    )


def _drawable(split: Split) -> Split | None:
    """Return a split whose images can be drawn below the name of their class."""
    images, labels = split.images, split.labels
    if not isinstance(images, np.ndarray) or not _are_images(images):
        return None
    if labels.ndim != 1 or labels.dtype != np.int64:
        return None
    if labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        return None
    return Split(images[..., None] if images.ndim == 3 else images, labels)
