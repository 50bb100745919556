"""What is refused in a model folder before anything in it is opened or parsed.

A model folder may come from anybody. Nothing in it is imported, unpickled or executed: what is
read is JSON, MXNet's NDArrays, ONNX and safetensors. `network` and `params` read the network
itself; here is what concerns the folder, and ONNX, which may keep its weights in any file of the
machine that its author names.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer

# A certificate takes a few kB.
LARGEST_JSON: Final = 2**22  # bytes

_MOST_ENTRIES: Final = 10_000  # of an export's folder, which holds a dozen


def check_files(folder: Path) -> None:
    """Refuse a folder that holds, at any depth, links to the outside or what is no file.

    Opening a pipe would wait for ever; a link would have a file of this machine read and hashed.
    Links to files within the folder are followed, and hard links are files like others.

    Raises
    ------
    GluonexpError
        Naming the entry, or that there is no such folder.
    """
    try:
        whole = folder.resolve(strict=True)
        waiting, seen = [folder], 0
        while waiting:
            for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
                path, seen = Path(entry.path), seen + 1
                if seen > _MOST_ENTRIES:
                    raise GluonexpError(f"{folder} holds more files than any export: refused")
                if entry.is_symlink() and not path.resolve().is_relative_to(whole):
                    raise GluonexpError(
                        f"{path} is a link that leaves the folder: refused; put the file itself "
                        "there"
                    )
                mode = entry.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise GluonexpError(f"{path} is neither a file nor a folder: refused")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    except OSError as error:
        where = error.filename or folder
        raise GluonexpError(f"{where}: cannot be read: {error.strerror}") from None
    except RuntimeError as error:  # a link to itself, before Python 3.13
        raise GluonexpError(f"{folder}: cannot be read: {error}") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    GluonexpError
        No such file; not JSON, too large or too deep.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GluonexpError(f"{path} cannot be read: it is not a file")
        if status.st_size > LARGEST_JSON:
            raise GluonexpError(f"{path} is larger than any file of its kind: refused")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise GluonexpError(f"{path} is nested too deeply: refused") from None
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise GluonexpError(
            pointer(path) or f"{path} cannot be read: it is not JSON: {error}"
        ) from None


def check_onnx(path: Path) -> bytes:
    """Refuse an ONNX file which keeps weights elsewhere or asks for other operators than ONNX's.

    Returns
    -------
    bytes
        What was looked at: a runtime that is given the path again may read something else.

    Raises
    ------
    GluonexpError
        Naming the reason; also where the package `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise GluonexpError(
            f"{path}: ONNX files are looked at with the package onnx: pip install 'gluonexp[onnx]'"
        ) from None
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content, format="protobuf")
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError:
        raise GluonexpError(
            pointer(path) or f"{path} is not an ONNX file, or a damaged one"
        ) from None
    if not model.HasField("graph"):
        raise GluonexpError(f"{path} is not an ONNX file, or a damaged one: it holds no graph")
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            raise GluonexpError(
                f"{path} keeps the tensor {message.name!r} in another file: refused; the weights "
                "must be in the ONNX file itself"
            )
        if isinstance(message, onnx.NodeProto) and message.domain not in ("", "ai.onnx"):
            raise GluonexpError(
                f"{path} asks for operators of {message.domain!r}, which are not ONNX's own: "
                "refused"
            )
    return content


def _messages(message: Any) -> Iterator[Any]:
    """Return all messages inside a protobuf message: graphs in graphs, functions, tensors."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield inner
                yield from _messages(inner)
