"""An export that takes images as they rest: the preprocessing composed with the network.

``uint8-symbol.json`` takes uint8 images (N, H, W, C) of the data set's own size, and returns the
network's logits; ``uint8.onnx`` does the same. MXNet looks for a symbol's parameters under the
symbol's own name, so that ``uint8-0000.params`` is there too, a copy of the network's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft
from gluonexp.base.mx import mx, sym
from gluonexp.export.onnx import convert
from gluonexp.model_folder import files
from gluonexp.verification import runtimes

ONNX: Final = "uint8.onnx"

RESTING: Final = {files.UINT8: "module", ONNX: "onnx"}
"""What can be loaded here, and the runtime that it runs in."""

FILES: Final = {
    files.UINT8: tuple(path.name for path in files.paths(Path(), files.UINT8)),
    ONNX: (ONNX,),
}
"""What each of them reads."""

Preprocess = Callable[[sym.Symbol], sym.Symbol]
"""From images (N, H, W, C) uint8 to the network's input; a `HybridBlock` without parameters is."""


def write(folder: Path, preprocess: Preprocess, *, with_onnx: bool = False) -> None:
    """Write ``uint8-symbol.json`` and ``uint8-0000.params`` beside the export in `folder`.

    Parameters
    ----------
    with_onnx
        Also write ``uint8.onnx``.

    Raises
    ------
    GluonexpError
        The export in `folder` is incomplete, or `preprocess` does not give the network's input.
    Unexportable
        An operator has no translation to ONNX; the symbol is written.
    """
    symbol, values = files.paths(folder, files.UINT8)
    composed = _composed(folder, preprocess)
    with draft(symbol) as written:
        written.write_text(composed.symbol.tojson(), encoding="utf-8")
    with draft(values) as written:
        shutil.copyfile(files.paths(folder, files.MODEL)[1], written)
    if with_onnx:
        convert.write(*composed, folder, _image(folder), name=ONNX, dtype="uint8")


def available(folder: Path) -> list[str]:
    """Name which of `RESTING` are in `folder` and can run here."""
    return [
        name
        for name, runtime in RESTING.items()
        if runtimes.versions(runtime) and all((folder / file).is_file() for file in FILES[name])
    ]


def load(
    folder: Path, name: str = files.UINT8
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Load what `write` wrote: images (N, H, W, C) uint8 to logits (N, K).

    Parameters
    ----------
    name
        One of `RESTING`.

    Raises
    ------
    GluonexpError
        A file is missing, damaged or not safe to load.
    CannotRun
        ONNX Runtime says so, now or later.
    """
    if name == ONNX:
        with _told(folder):
            session = runtimes.session(folder / ONNX)

        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            with _told(folder):
                return session(images)

        return run
    entry, shape = files.read_signature(folder)["input"]["name"], (1, *_image(folder))
    network = files.read(folder, files.UINT8, entry, shape)
    return runtimes.bound(network, mx.io.DataDesc(entry, shape, "uint8"))


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except GluonexpError:
        raise
    except Exception as error:  # of the library's
        said = files.reason(error)
        raise runtimes.CannotRun(f"{folder / ONNX} cannot be run: {said}", ONNX) from None


def _composed(folder: Path, preprocess: Preprocess) -> files.Network:
    entry = files.read_signature(folder)["input"]
    name, shape = entry["name"], (1, *entry["shape"][1:])
    network = files.read(folder, files.MODEL, name, shape)
    images = sym.var(name, dtype="uint8")
    inputs = preprocess(images)
    _, given, _ = inputs.infer_shape(**{name: (1, *_image(folder))})
    if given != [shape]:
        raise GluonexpError(
            f"{folder}: the preprocessing gives {given}, the network takes {shape}"
        )
    return network._replace(symbol=network.symbol(**{name: inputs}))


def _image(folder: Path) -> tuple[int, ...]:
    """Return (H, W, C) of an image at rest."""
    image = files.read_signature(folder)["image"]
    return tuple(image[side] for side in ("height", "width", "channels"))
