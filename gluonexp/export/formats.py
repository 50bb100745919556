"""Which files an export has besides Symbol, params and signature."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import ExportConfig
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.export import int8, uint8
from gluonexp.export.onnx import convert
from gluonexp.model_folder.names import MODEL
from gluonexp.model_folder.network import Network, read_network
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Signature

# The ranges of a quantized network are those of so many training images.
CALIBRATION: Final = 256


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
    network: Network | None = None,
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
        ``uint8-symbol.json`` (and ``uint8.onnx``), which take uint8 images.
    calibration
        Training images (N, H, W, C) for ``int8-symbol.json``; None for no such file.

    Raises
    ------
    GluonexpError
        The network cannot be quantized.
    """
    notes: list[str] = []
    signature = Signature.read(folder)
    if with_onnx:
        try:
            network = network or read_network(folder, MODEL, signature.input, signature.shape)
            convert.write(network, folder, signature.shape[1:])
        except convert.Unexportable as error:  # all else of an export is of use without it
            notes.append(str(error))
    if with_graph:
        try:
            uint8.write(folder, with_onnx=with_onnx and not notes)
        except convert.Unexportable as error:
            notes.append(str(error))
    if calibration is not None:
        steps = Preprocess(signature.preprocess, signature.image)
        int8.quantize(folder, steps.inputs(calibration))
    return notes
