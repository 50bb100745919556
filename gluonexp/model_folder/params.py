"""Read MXNet's NDArray files (``.params``).

`mxnet.nd.load` trusts the shapes it reads, so that a damaged file may ask it for any amount of
memory. Here nothing is read that the file is too short to hold.

Format: ``NDArray::Save``, ``NDArray::Load`` and ``LegacyLoad`` of MXNet 1.9.1's
``src/ndarray/ndarray.cc``; little-endian throughout.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer

_LIST: Final = 0x112  # kMXAPINDArrayListMagic
_V1: Final = 0xF993FAC8  # dimensions of 64 bits
_V2: Final = 0xF993FAC9  # and a storage type
_V3: Final = 0xF993FACA  # and NumPy's meaning of shapes
_MAX_DIMENSIONS: Final = 32  # NumPy's own limit
_LARGEST_EMPTY: Final = 2**31 - 1  # MXNet makes a negative side of more
_MAX_ARRAYS: Final = 10_000  # the deepest network of the zoo has 1200
_TYPES: Final = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")))


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an NDArray file by the names they have in it.

    Raises
    ------
    GluonexpError
        No such file, another kind of file, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).arrays()
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from error
    except _Damaged as error:
        raise GluonexpError(pointer(path) or f"{path}: {error}") from None


def check_finite(path: Path, name: str, values: NDArray[Any]) -> None:
    """Refuse an array of a file that holds NaN or infinite values: layers such as ReLU hide them.

    Raises
    ------
    GluonexpError
        Naming the array.
    """
    if not np.isfinite(values).all():
        raise GluonexpError(
            f"{path}: {name} holds values that are not finite numbers (inf or nan) as "
            f"{values.dtype}"
        )


class _Damaged(Exception):
    """Says what is wrong with the file."""


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = os.fstat(file.fileno()).st_size  # bytes not read yet

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self.left < 24 or self.numbers("QQ")[0] != _LIST:
            raise _Damaged("not a file of MXNet's NDArrays (.params)")
        (count,) = self.numbers("Q")
        if count > _MAX_ARRAYS:
            raise _Damaged(f"holds {count} arrays, which no network of the model zoo has")
        values = [self.array() for _ in range(count)]
        (named,) = self.numbers("Q")
        if named != count:
            raise _Damaged(f"holds {count} arrays, but names for {named}")
        names = [self.text() for _ in range(count)]
        return dict(zip(names, values, strict=True))

    def array(self) -> NDArray[Any]:
        (magic,) = self.numbers("I")
        if magic in (_V2, _V3) and self.numbers("i") != (0,):
            raise _Damaged("holds sparse arrays, which no network of the model zoo has")
        if magic in (_V1, _V2, _V3):
            (dimensions,), width = self.numbers("i"), "q"
        else:  # the oldest files begin with the number of dimensions
            dimensions, width = magic, "I"
        if not 0 <= dimensions <= _MAX_DIMENSIONS:
            raise _Damaged("damaged (an array without a shape)")
        shape = self.numbers(f"{dimensions}{width}")
        if not shape and magic != _V3:
            raise _Damaged("holds an array that was never filled")
        _, _, kind = self.numbers("iii")  # type and number of the device, type of the values
        if kind not in _TYPES:
            raise _Damaged(f"holds values of a type that is not read here (MXNet's {kind})")
        dtype = np.dtype(_TYPES[kind])
        if min(shape, default=0) < 0:
            raise _Damaged("damaged (an array of negative size)")
        size = math.prod(shape)  # Python's integers do not overflow
        if not size and math.prod(filter(None, shape)) > _LARGEST_EMPTY:
            raise _Damaged("damaged (an array of no values, and of a size that no array has)")
        self.take(size * dtype.itemsize)
        return np.fromfile(self.file, dtype, size).reshape(shape)

    def text(self) -> str:
        (length,) = self.numbers("Q")
        self.take(length)
        return self.file.read(length).decode(errors="replace")

    def numbers(self, layout: str) -> tuple[int, ...]:
        packed = struct.Struct(f"<{layout}")
        self.take(packed.size)
        return packed.unpack(self.file.read(packed.size))

    def take(self, size: int) -> None:
        """Refuse to go beyond the end of the file."""
        if size > self.left:
            raise _Damaged("damaged: it ends too early")
        self.left -= size
