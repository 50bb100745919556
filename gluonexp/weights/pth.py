"""Read PyTorch's weight files, ``.pth`` and ``.safetensors``, without PyTorch.

A ``.pth`` file is a pickle and, beside it, the raw data of the tensors: since PyTorch 1.6 in a
zip archive, before that one after the other. What is in the pickle is not trusted (see
`gluonexp.weights.unpickle`), and its sizes are compared with those of the file before any array
is made: arrays are views of the data as read (in a type that NumPy has: bfloat16 becomes float32),
so that reading takes a few times the memory that the file is long, and no more.

Formats: ``torch/serialization.py`` of PyTorch 2.13 (``_save``, ``_legacy_save``).
"""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer
from gluonexp.base.text import listed
from gluonexp.weights import unpickle
from gluonexp.weights.unpickle import Storage, Tensor

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001

# A state dict takes some 150 bytes a tensor, and the deepest network here has 1200. The limit is
# on what a hostile one can take: seconds, and some hundred MB.
_PICKLE_LIMIT: Final = 1 << 20  # bytes

# Where a checkpoint of a training program keeps the state dict, if it keeps several (as of EMA).
_INSIDE: Final = ("state_dict", "model_state_dict", "model", "net", "network", "params")

_SAFETENSORS: Final = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bf16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "bool",
}

# What reading a damaged zip archive may raise, of any compression.
BAD_ZIP: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    KeyError,  # no such record
    NotImplementedError,  # an unknown version or compression
    OSError,  # bz2's, and a place before the file's beginning
    RuntimeError,  # encrypted
    UnicodeDecodeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)

_Fetch: TypeAlias = Callable[[Storage], bytes]  # the raw data of a storage
_Order: TypeAlias = Literal["<", ">"]  # of bytes: little-endian, big-endian


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a state dict by their names in it.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or what ``torch.save`` wrote: a state dict, or a dictionary with
        one in it, under any name; of several the one called ``state_dict``,
        ``model_state_dict``, ``model``, ``net``, ``network`` or ``params``.

    Returns
    -------
    dict
        Arrays of the types in the file, bfloat16 as float32. They may be read-only, and share
        memory where the tensors did.

    Raises
    ------
    GluonexpError
        The file cannot be read, is damaged, or holds anything but tensors. No code in it is run.
    """
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with path.open("rb") as file:
            return _read_pth(file)
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error}") from error
    except (ValueError, SafetensorError) as error:
        raise GluonexpError(
            pointer(path)
            or f"{path} is not a valid file of tensors: {error}. Nothing in it was run. If it was "
            "downloaded, download it again; if you made it, save the parameters alone: "
            "torch.save(model.state_dict(), path)"
        ) from error


def metadata(path: Path) -> dict[str, str]:
    """Return what a ``.safetensors`` file says of itself.

    Raises
    ------
    GluonexpError
        The file cannot be read, or is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise GluonexpError(f"{path} cannot be read: {error}") from error


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    # Not safetensors.numpy: it fails on bfloat16.
    arrays = {}
    for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        if tensor["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name} has the type {tensor['dtype']}, which NumPy lacks")
        values = _decode(tensor["data"], _SAFETENSORS[tensor["dtype"]], "<")
        arrays[name] = values.reshape(tensor["shape"])
    return arrays


def _read_pth(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(_PICKLE_LIMIT)
    if start.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, size)
        except BAD_ZIP as error:
            raise ValueError(f"damaged ({error})") from error
    if start.startswith(b"\x80"):
        return _read_legacy(start, file, size)
    raise ValueError("it does not begin like a file of PyTorch")


def _read_archive(archive: zipfile.ZipFile, size: int) -> dict[str, NDArray[Any]]:
    records = {record.filename: record for record in archive.infolist()}
    # PyTorch never compresses, so that nothing can become longer than the file is.
    if any(
        record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size
        for record in archive.infolist()
    ) or size < sum(record.file_size for record in archive.infolist()):
        raise ValueError("its records are compressed, or overlap")
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive, but not PyTorch's")
    folder = pickles[0].removesuffix("/data.pkl")
    if records[pickles[0]].file_size > _PICKLE_LIMIT:
        raise ValueError(f"its pickle is larger than {_PICKLE_LIMIT} bytes")
    order = b"little"  # what older versions wrote without saying so
    if f"{folder}/byteorder" in records:
        order = archive.read(f"{folder}/byteorder")
    if order not in (b"little", b"big"):
        raise ValueError(f"it has the unknown byte order {order[:20]!r}")

    def fetch(storage: Storage) -> bytes:
        return archive.read(f"{folder}/data/{storage.key}")

    state, _ = unpickle.load(io.BytesIO(archive.read(pickles[0])))
    return _arrays(state, fetch, "<" if order == b"little" else ">")


def _read_legacy(start: bytes, file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    head = io.BytesIO(start)
    if unpickle.load(head).value != _MAGIC or unpickle.load(head).value != _PROTOCOL:
        raise ValueError("it is a pickle, but not PyTorch's")
    unpickle.load(head)  # the sizes of C's integers where it was written: of no use for the data
    state, storages = unpickle.load(head)
    keys = unpickle.load(head).value
    if (
        type(keys) is not list
        or not all(type(key) is str for key in keys)
        or len(keys) != len(storages)
        or set(keys) != storages.keys()
    ):
        raise ValueError("it lists other data than those of its tensors")
    places, place = {}, head.tell()
    for key in keys:
        file.seek(place)
        count = int.from_bytes(file.read(8), "little", signed=True)
        place += 8
        if count != storages[key].size or place + _bytes(storages[key]) > size:
            raise ValueError("it is cut short, or damaged")
        places[key] = place
        place += _bytes(storages[key])

    def fetch(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(_bytes(storage))

    return _arrays(state, fetch, "<")


def _arrays(state: Any, fetch: _Fetch, order: _Order) -> dict[str, NDArray[Any]]:
    """Return the tensors of a state dict, fetching each of their storages once."""
    data: dict[Storage, NDArray[Any]] = {}
    arrays = {}
    for name, tensor in _state_dict(state).items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{str(name)[:80]!r} in it is no tensor")
        storage = tensor.storage
        if storage not in data:
            raw = fetch(storage)
            if len(raw) != _bytes(storage):
                raise ValueError(f"the data of {name[:80]!r} are not of the size it states")
            data[storage] = _decode(raw, storage.dtype, order)
        arrays[name] = _view(tensor, data[storage])
    return arrays


def _state_dict(saved: Any) -> dict[Any, Any]:
    """Return the dictionary of tensors that was saved, or is in what was."""
    level = [("", saved)] if isinstance(saved, dict) else []
    for _ in range(3):  # in a dictionary in a dictionary
        if found := [(key, held) for key, held in level if _holds_tensors(held)]:
            names = [key for key, _ in found]
            one = names if len(names) == 1 else [k for k in _INSIDE if names.count(k) == 1]
            if not one:
                raise ValueError(
                    f"it holds several state dicts: {listed(repr(key[:40]) for key in names)}"
                )
            chosen = dict(found)[one[0]]
            # Beside the one that is meant there may be tensors which count epochs.
            return next((chosen[k] for k in _INSIDE if _holds_tensors(chosen.get(k))), chosen)
        # Each once: a small pickle may refer to the same any number of times.
        inside = {
            id(value): (str(key), value)
            for _, held in level
            for key, value in held.items()
            if isinstance(value, dict)
        }
        level = [*inside.values()]
    raise ValueError("it holds no state dict")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())


def _bytes(storage: Storage) -> int:
    return storage.size * _stored(storage.dtype).itemsize


def _stored(dtype: str) -> np.dtype[Any]:
    """Return the NumPy type of the bytes in the file."""
    return np.dtype({"bf16": "u2", "bool": "u1"}.get(dtype, dtype))


def _decode(raw: bytes | bytearray, dtype: str, order: _Order) -> NDArray[Any]:
    """Return the elements (n,) that `raw` holds in byte order ``<`` or ``>``."""
    stored = np.frombuffer(raw, dtype=_stored(dtype).newbyteorder(order))
    if dtype == "bf16":  # the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if dtype == "bool":
        return np.not_equal(stored, 0)
    return stored.astype(_stored(dtype), copy=False)  # to the byte order of this computer


def _view(tensor: Tensor, data: NDArray[Any]) -> NDArray[Any]:
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype=data.dtype)
    width = data.itemsize
    # NumPy checks once more that this lies within the data. The stride of a dimension of length 1
    # is never used, and may be anything.
    return np.ndarray(
        tensor.shape,
        dtype=data.dtype,
        buffer=data.data,
        offset=tensor.offset * width,
        strides=[
            stride * width if n > 1 else 0
            for n, stride in zip(tensor.shape, tensor.strides, strict=True)
        ],
    )
