"""Images in class folders."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.arrays import ArrayCache, NoCache
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import COMMANDING, listed, readable, say
from gluonexp.config.schema import FeaturesConfig
from gluonexp.data import decoded, memory
from gluonexp.data.decoded import Decoding
from gluonexp.data.images import MAX_PIXELS, SUFFIXES, TooLargeImageError, UnreadableImageError
from gluonexp.data.root import data_root
from gluonexp.data.split import held_out
from gluonexp.data.types import Samples, Spec, Split

# Fewer images are decoded in less time than it takes to have them on the disk for good.
KEPT_FROM = 256
KEPT_FROM_BYTES = 8 << 20

_LESS = "choose a smaller dataset.resize, or fewer images"

TEST_SEED = 0  # fixed, so that the test split does not change with the run's own seed


@dataclass(frozen=True)
class ImageFolder:
    """A folder of image files, one folder a class.

    Either ``train/<class>/*`` and ``test/<class>/*``, or just ``<class>/*``, of which
    `test_fraction` of each class becomes the test split, always the same files. Class names are
    the folder names, sorted; samples are ordered by class, then by file name. JPEG, PNG, WebP and
    BMP files are read (`gluonexp.data.images.decode` says how). Hidden files and folders are
    passed over silently; anything else is left out and counted in the notes.

    Images are decoded once: as long as their files stay as they are, what was decoded is read from
    a cache, and takes no memory. A few images, and all where it cannot be kept, are decoded into
    memory each time: samples x size x size x channels bytes.

    Parameters
    ----------
    root
        ``dataset.root``. With `folder`, None means the default data folder.
    size
        Height and width to keep the images in, pixels; those of another size are stretched.
    channels
        1 (grey) or 3 (RGB).
    on_error
        What a file that cannot be decoded does: ``fail``, or ``skip`` it and count it.
    max_pixels
        So many an image file may have, before it is made smaller: it is decoded whole.
    test_fraction
        In [0, 1), for a folder without ``train`` and ``test``; 0 means no test split.
    title
        Name for people; by default the folder's.
    folder
        Where the images are under `root`; by default `root` itself.
    note
        A sentence that belongs to every result on this data.
    cache
        ``off`` keeps nothing of what is decoded.
    cache_folder
        Where it is kept; None means the user's cache.
    cache_gb
        What all that is kept there may take, GB.
    """

    root: str | None
    size: int | None
    channels: int | None = 3
    on_error: Literal["fail", "skip"] = "fail"
    test_fraction: float = 0.2
    title: str | None = None
    folder: str | None = None
    note: str | None = None
    max_pixels: int = MAX_PIXELS
    cache: Literal["auto", "on", "off"] = "auto"
    cache_folder: str | None = None
    cache_gb: float = FeaturesConfig.budget_gb

    def spec(self) -> Spec:
        """Read the class names off the folders, and count the images; no file is opened.

        Raises
        ------
        GluonexpError
            If an argument makes no sense, the folder is missing or not laid out as described,
            train and test have different classes, or the images take more memory than there is,
            and more than may be kept.
        """
        if self.size is None or self.size < 1:
            raise GluonexpError(
                f"dataset.resize is the size of these images in pixels, such as 224; "
                f"got {'null' if self.size is None else self.size}"
            )
        if self.channels not in (1, 3):
            raise GluonexpError(
                f"dataset.channels must be 1 or 3 for a folder of images, "
                f"got {'null' if self.channels is None else self.channels}"
            )
        if self.on_error not in ("fail", "skip"):
            raise GluonexpError(
                f"dataset.source.on_error must be fail or skip, got {self.on_error}"
            )
        if self.max_pixels < 1:
            raise GluonexpError(
                f"dataset.source.max_pixels must be at least 1, got {self.max_pixels}"
            )
        if self.cache not in ("auto", "on", "off"):  # what YAML makes of off is false
            raise GluonexpError(
                f"dataset.source.cache must be auto, on or off (in quotes in a file), "
                f"got {self.cache}"
            )
        train, test = self._layout()
        classes = _folders(train)
        if len(classes) < 2:
            raise GluonexpError(
                f"{train} has too few class folders{_such_as(classes)}: a classifier needs two or "
                "more. Point dataset.root (or GLUONEXP_DATA) at the folder that "
                "holds train/<class>/ and test/<class>/, or <class>/"
            )
        for name in classes:
            if name != readable(name):
                raise GluonexpError(
                    f"{readable(str(train / name))}: the name of this class is not UTF-8, so it "
                    "cannot be recorded; rename the folder"
                )
            if COMMANDING.search(name):
                raise GluonexpError(
                    f"{train}: the name of the class folder {name!r} holds characters that "
                    "command a terminal; rename the folder"
                )
        if test is not None and _folders(test) != classes:
            only_train = sorted(set(classes) - set(_folders(test)))
            only_test = sorted(set(_folders(test)) - set(classes))
            raise GluonexpError(
                f"{train} and {test} must have the same class folders; "
                f"only in train: {', '.join(only_train) or 'none'}; "
                f"only in test: {', '.join(only_test) or 'none'}"
            )
        spec = Spec(self.size, self.size, self.channels, tuple(classes))
        count = sum(
            _is_image(entry)
            for split in filter(None, (train, test))
            for name in classes
            for entry in _visible(split / name)
        )
        if self.cache == "off" or memory.needed(count, spec) > self.cache_gb * 1e9:
            memory.check(count, spec, _LESS)
        return spec

    def load(self) -> Samples:
        """Decode every image.

        Raises
        ------
        GluonexpError
            As `spec`; if a class folder has no image; or for a file that cannot be decoded, with
            ``on_error=fail``.
        """
        spec = self.spec()
        train_folder, test_folder = self._layout()
        notes = [self.note] if self.note else []
        said: set[str] = set()
        for name in ("val", "valid", "validation"):
            if test_folder is not None and (train_folder.parent / name).is_dir():
                notes.append(f"{name}/ is not used: dataset.val_fraction carves from train/")
        train = _list(train_folder, spec.classes, notes)
        if test_folder is None:
            marks = held_out(
                train.labels, self.test_fraction, TEST_SEED, "dataset.source.test_fraction"
            )
            train, test = train.where(~marks), train.where(marks)
        else:
            test = _list(test_folder, spec.classes, notes)
        return Samples(
            train=self._decode(train, spec, "train", notes, said),
            test=self._decode(test, spec, "test", notes, said) if test.paths else None,
            title=self._title(),
            notes=tuple(notes),
        )

    def _title(self) -> str:
        return self.title or self._base().resolve().name

    def _base(self) -> Path:
        if self.folder is not None:
            return data_root(self.root) / self.folder
        if not self.root:
            raise GluonexpError(
                "dataset.root is not set: point it (or GLUONEXP_DATA) at the folder that holds "
                "train/<class>/ and test/<class>/, or <class>/"
            )
        return data_root(self.root)

    def _layout(self) -> tuple[Path, Path | None]:
        """Return the train and the test folder, or the one folder and None."""
        base = self._base()
        if not base.is_dir():
            raise GluonexpError(
                f"there is no folder {base}: put the images there, or point dataset.root "
                "(or GLUONEXP_DATA) at where they are"
            )
        train, test = base / "train", base / "test"
        if train.is_dir() and test.is_dir():
            return train, test
        # A class may be called "train", but it would hold images, not folders.
        if train.is_dir() and _folders(train):
            raise GluonexpError(
                f"{base} has train/ but no test/: add test/ with the same class folders, or "
                f"point dataset.root at {train} to have a test split taken from it"
            )
        return base, None

    def _decode(
        self, files: "_Files", spec: Spec, name: str, notes: list[str], said: set[str]
    ) -> Split:
        """Decode one split; what was left out goes to `notes`."""
        try:
            images, broken = self._images(files, spec, name, said)
        except TooLargeImageError as error:
            raise GluonexpError(
                f"{error}. Allow more with dataset.source.max_pixels=N, or leave such files out "
                "with dataset.source.on_error=skip"
            ) from error
        except UnreadableImageError as error:
            raise GluonexpError(
                f"{error}. Mend or remove it, or leave such files out with "
                "dataset.source.on_error=skip"
            ) from error
        if not broken:
            return Split(images, files.labels)
        examples = _such_as([files.paths[index] for index in broken])
        labels = np.delete(files.labels, broken)
        lost = np.setdiff1d(files.labels, labels)
        if len(lost):
            raise GluonexpError(
                f"not one {name} image of class {spec.classes[lost[0]]} can be read{examples}"
            )
        notes.append(
            f"{name}: {len(broken)} of {len(files.paths)} images cannot be read and are left out"
            f"{examples}."
        )
        return Split(images, files.labels).select(np.delete(np.arange(len(images)), broken))

    def _images(
        self, files: "_Files", spec: Spec, name: str, said: set[str]
    ) -> tuple[NDArray[np.uint8], list[int]]:
        """Return the images of one split, and which could not be decoded."""
        how = Decoding(
            *(spec.height, spec.width, spec.channels), self.on_error == "skip", self.max_pixels
        )
        count = len(files.paths)
        size = memory.needed(count, spec)
        if self.cache != "off" and (count >= KEPT_FROM or size >= KEPT_FROM_BYTES):
            base = self._base()
            cache = ArrayCache.configured(self.cache_folder, self.cache_gb)
            title = f"{self._title()}: {name}, {'x'.join(map(str, how.image))}"
            try:
                return decoded.kept(files.paths, base, how, cache, f"{name} images", title)
            except NoCache as error:
                if str(error) not in said:
                    say(f"{error}. Images are decoded into memory")
                said.add(str(error))
        memory.check(count, spec, _LESS)
        images = np.zeros((count, *how.image), dtype=np.uint8)
        return images, decoded.decode_all(files.paths, how, images, f"reading {name} images")


@dataclass(frozen=True)
class _Files:
    """The image files of one split, in data-set order."""

    paths: list[str]
    labels: NDArray[np.int64]

    def where(self, marks: NDArray[np.bool_]) -> "_Files":
        return _Files([self.paths[index] for index in np.flatnonzero(marks)], self.labels[marks])


def _list(folder: Path, classes: Sequence[str], notes: list[str]) -> _Files:
    """List the images of every class; what is left out goes to `notes`."""
    paths: list[str] = []
    counts: list[int] = []
    others: list[str] = []
    for class_name in classes:
        inside = folder / class_name
        visible = _visible(inside)
        names = [entry.name for entry in visible if _is_image(entry)]
        if not names:
            raise GluonexpError(
                f"{inside} holds no JPEG, PNG, WebP or BMP file: put images of "
                f"class {class_name} there, or remove the folder"
            )
        paths += [f"{inside}/{name}" for name in names]
        counts.append(len(names))
        left = {entry.name for entry in visible}.difference(names)
        others += [f"{class_name}/{name}" for name in left]
    if others:
        notes.append(
            f"{folder.name}: {len(others)} entries are not JPEG, PNG, WebP or BMP files and are "
            f"left out{_such_as(sorted(others))}."
        )
    return _Files(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _folders(folder: Path) -> list[str]:
    """Return the names of the visible folders in `folder`, sorted."""
    return [entry.name for entry in _visible(folder) if _is(entry, os.DirEntry.is_dir)]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if entry.name[0] != "."]
    except OSError as error:
        raise GluonexpError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    is_named = os.path.splitext(entry.name)[1].lower() in SUFFIXES
    return is_named and _is(entry, os.DirEntry.is_file)


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Ask what an entry is; a link that leads nowhere, or to itself, is nothing."""
    try:
        return kind(entry)
    except OSError:
        return False


def _such_as(examples: Sequence[object]) -> str:
    """Return the first of `examples` in brackets, or nothing."""
    return f" ({listed(examples)})" if examples else ""
