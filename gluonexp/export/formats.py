"""Which files an export has besides Symbol, params and signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.workers import Workers
from gluonexp.config.schema import ExportConfig
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.export import int8, uint8
from gluonexp.export.onnx import convert
from gluonexp.model_folder import files
from gluonexp.verification import verify
from gluonexp.verification.agreement import Certificate
from gluonexp.verification.runtimes import CannotRun

# The ranges of a quantized network are those of so many training images.
CALIBRATION: Final = 256

# What is of no use where a runtime cannot run its file.
_WITHOUT: Final = {
    "onnx": (files.ONNX, uint8.ONNX),
    "openvino": (files.ONNX, uint8.ONNX),
    uint8.ONNX: (uint8.ONNX,),
}


def check(wanted: ExportConfig) -> None:
    """Refuse what this machine cannot write, before anything is trained.

    Raises
    ------
    GluonexpError
        ONNX is asked for and not installed, or int8 is and cannot be computed here.
    """
    if not wanted.enabled:
        return
    if wanted.onnx and not convert.installed():
        raise GluonexpError("export.onnx=true: onnx is missing: pip install 'gluonexp[onnx]'")
    if wanted.int8 and (why := int8.unsupported()):
        raise GluonexpError(f"export.int8=true: {why}")


def calibration_images(train: Split) -> NDArray[np.uint8]:
    """Return the training images that tell the ranges of a quantized network, of all classes."""
    return train.images[spread(train.labels, CALIBRATION)]


def with_onnx(wanted: ExportConfig) -> bool:
    """Say whether ONNX is wanted; where nothing is said, it is if it can be had."""
    return convert.installed() if wanted.onnx is None else wanted.onnx


def write(
    folder: Path,
    network: files.Network | None = None,
    *,
    with_onnx: bool,
    with_graph: bool,
    calibration: NDArray[np.uint8] | None,
) -> list[str]:
    """Write what is wanted beside the network in `folder`; return what could not be, and why.

    Parameters
    ----------
    network
        What the symbol and the params in `folder` hold; it is read from there if not given.
    with_onnx
        ``model.onnx``.
    with_graph
        ``uint8-symbol.json`` (and ``uint8.onnx``), which take images as they rest.
    calibration
        Training images (N, H, W, C) for ``int8-symbol.json``; None for no such file.

    Raises
    ------
    GluonexpError
        The network cannot be quantized.
    """
    notes: list[str] = []
    signature = files.read_signature(folder)
    if with_onnx:
        name, (_, *shape) = signature["input"]["name"], signature["input"]["shape"]
        try:
            network = network or files.read(folder, files.MODEL, name, (1, *shape))
            convert.write(*network, folder, shape)
        except convert.Unexportable as error:  # all else of an export is of use without it
            notes.append(str(error))
    if with_graph:
        try:
            uint8.write(folder, verify.steps(folder), with_onnx=with_onnx and not notes)
        except convert.Unexportable as error:
            notes.append(str(error))
    if calibration is not None:
        int8.quantize(folder, verify.prepare(folder)(calibration))
    return notes


def certify(
    folder: Path, *, pool: Workers, reference: Callable[[Path], object]
) -> tuple[Certificate, list[str]]:
    """Certify the export in `folder`; ONNX files that cannot be run are removed before.

    MXNet's translation is wrong for some layers, so wrong that nothing loads the file. Like a
    layer without a translation, that is no reason to lose a run.

    Returns
    -------
    tuple
        The certificate, and what was removed, with the reason.

    Raises
    ------
    GluonexpError
        A runtime disagrees, or cannot run the network itself.
    """
    notes: list[str] = []
    while True:
        try:
            return verify.certify(folder, pool=pool, reference=reference), notes
        except CannotRun as error:
            useless = _WITHOUT.get(error.runtime, ())
            removed = [name for name in useless if (folder / name).exists()]
            if not removed:
                raise
            for name in removed:
                (folder / name).unlink()
            notes.append(f"no {' and '.join(removed)}: {error}")
