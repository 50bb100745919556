"""Fashion-MNIST, and the idx files it is stored in."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.download import fetch
from gluonexp.base.errors import GluonexpError
from gluonexp.data.root import data_root
from gluonexp.data.types import Samples, Spec, Split

MIRRORS = (
    # The authors' own, plain http: the digests below are what makes it safe.
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)

# sha256 of the decompressed content. Every mirror and packager compresses the same content
# differently, so digests of the .gz files would tell nothing.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

_MAX_DIMENSIONS = 32  # NumPy's own limit; another is on the sides, also of what is empty

LONGEST = 47_040_016  # bytes, of the decompressed training images

CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class FashionMNIST:
    """Fashion-MNIST (Zalando Research, MIT licence): 60,000 + 10,000 grey images, 28x28.

    The four idx files, gzipped or plain, are in ``fashion-mnist/`` under the data root, or are
    downloaded there.

    Parameters
    ----------
    root
        ``dataset.root``; None means the default data folder.
    """

    def __init__(self, root: str | None = None) -> None:
        self.folder = data_root(root) / "fashion-mnist"

    def spec(self) -> Spec:
        """Return what is known of Fashion-MNIST."""
        return Spec(28, 28, 1, CLASSES)

    def load(self) -> Samples:
        """Read and verify the four files.

        Raises
        ------
        GluonexpError
            If a file is damaged, or missing and cannot be downloaded.
        """
        return Samples(train=self._split("train"), test=self._split("t10k"), title="Fashion-MNIST")

    def _split(self, prefix: str) -> Split:
        images = self._array(f"{prefix}-images-idx3-ubyte")
        labels = self._array(f"{prefix}-labels-idx1-ubyte")
        return Split(images[..., np.newaxis], labels.astype(np.int64))

    def _array(self, name: str) -> NDArray[np.uint8]:
        path = self._found(name) or fetch(
            self.folder / f"{name}.gz",
            [f"{mirror}{name}.gz" for mirror in MIRRORS],
            check=lambda part: _verified(part, name),
            needed={
                f"{other}.gz": f"sha256 of the decompressed content {sha256}"
                for other, sha256 in FILES.items()
                if self._found(other) is None
            },
        )
        return parse_idx(_verified(path, name), path)

    def _found(self, name: str) -> Path | None:
        paths = (self.folder / name, self.folder / f"{name}.gz")
        return next((path for path in paths if path.exists()), None)


def _verified(path: Path, name: str) -> bytes:
    """Return the decompressed content of `path` if it is that of the published file `name`."""
    content = read_gzip_or_plain(path, LONGEST)
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[name]:
        raise GluonexpError(
            f"{path} is not the published {name}: sha256 of its decompressed content is {found}, "
            f"expected {FILES[name]}. Remove the file to have it downloaded again"
        )
    return content


def read_gzip_or_plain(path: Path, limit: int) -> bytes:
    """Return the content of a file, decompressed if it is gzipped, whatever it is called.

    At most one byte more than `limit` is read: a longer file is a wrong one, and shall not fill
    the memory.

    Raises
    ------
    GluonexpError
        If the file cannot be read, or its gzip data are damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(file) as unzipped:
                    return unzipped.read(limit + 1)
            return file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise GluonexpError(
            f"{path} cannot be read: {error}. Remove the file to have it downloaded again"
        ) from error


def parse_idx(content: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the array in an idx file of unsigned bytes, read-only.

    The format (http://yann.lecun.com/exdb/mnist): two zero bytes, 8 for unsigned bytes, the
    number of dimensions, each dimension as 4 bytes big-endian, then the values row by row.

    Parameters
    ----------
    content
        The decompressed file.
    path
        For messages.

    Raises
    ------
    GluonexpError
        If the content is not such a file, or has too few or too many values.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise GluonexpError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise GluonexpError(f"{path} is cut short: its idx header is incomplete")
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    if len(shape) > _MAX_DIMENSIONS or math.prod(filter(None, shape)) >= 2**63:
        raise GluonexpError(f"{path} is damaged: its header promises values of the shape {shape}")
    if len(content) - start != math.prod(shape):
        raise GluonexpError(
            f"{path} is damaged: its header promises {math.prod(shape)} values {shape}, "
            f"it holds {len(content) - start}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
