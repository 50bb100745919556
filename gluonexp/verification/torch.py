"""The export for PyTorch, run without trust in its files.

Python is code, and an export may come from anybody: what is run is written anew from the symbol,
which is read safely, and the file must hold that very text. Values are read from safetensors.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer
from gluonexp.export.torch import convert
from gluonexp.model_folder.names import TORCH
from gluonexp.model_folder.network import Network
from gluonexp.model_folder.params import check_finite
from gluonexp.model_folder.signature import Signature

_LARGEST: Final = 2**26  # bytes of text; DenseNet-201's takes 110 kB
_AGAIN: Final = "`gluonexp export --torch` writes it again"

Run = Callable[[NDArray[Any]], Sequence[NDArray[np.float32]]]


def load(network: Network, folder: Path, signature: Signature) -> Run:
    """Return what runs ``model.py`` with the values of ``model.safetensors``.

    Parameters
    ----------
    network
        Of the symbol in the same folder.

    Raises
    ------
    GluonexpError
        A file is damaged, or is not what follows from the symbol.
    """
    text, values = (folder / name for name in TORCH)
    own = convert.content(network, signature)
    _check_text(text, own.text)
    held = _read(values, own.values)
    import torch

    space: dict[str, Any] = {"__name__": text.stem}
    exec(compile(own.text, str(text), "exec"), space)  # the text that was made here
    with torch.device("meta"):  # what would be drawn at random is not needed
        module = space[convert.CLASS]()
    module.load_state_dict({k: torch.from_numpy(v) for k, v in held.items()}, assign=True)
    module.eval()

    def run(inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [module(torch.tensor(inputs)).numpy()]

    return run


def _check_text(path: Path, own: str) -> None:
    """Refuse a file with another text; say so otherwise where another version may have made it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise GluonexpError(f"{path} is larger than any file of its kind, or none: refused")
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError) as error:
        raise GluonexpError(f"{path} cannot be read: {error}") from None
    if text == own:
        return
    if first != convert.origin() and first.startswith(convert.origin().split(" gluonexp")[0]):
        raise GluonexpError(
            f"{path} is not what follows from the network here, maybe only because another "
            f"version wrote it ({first[2:80]!r}; here {convert.origin()[2:]!r}): {_AGAIN}"
        )
    raise GluonexpError(
        f"{path} was changed: it is not what follows from the network beside it; {_AGAIN}"
    )


def _read(path: Path, like: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return the values in a file, which must be called and shaped `like` those."""
    found: dict[str, NDArray[np.float32]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            if other := sorted({*file.keys()} ^ like.keys()):
                raise GluonexpError(f"{path}: {other[0]!r:.80} is missing, or one too many")
            for key, wanted in like.items():
                part = file.get_slice(key)
                if part.get_dtype() != "F32" or tuple(part.get_shape()) != wanted.shape:
                    raise GluonexpError(f"{path}: {key} is not float32 {wanted.shape}")
                found[key] = file.get_tensor(key)
    except (OSError, ValueError, SafetensorError) as error:
        raise GluonexpError(
            pointer(path) or f"{path} cannot be read, or is damaged: {error}"
        ) from None
    for key, value in found.items():
        check_finite(path, key, value)
    return found
