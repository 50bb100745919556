"""Which files an export has besides Symbol, params and signature."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import ExportConfig
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.export import int8, uint8
from gluonexp.export.onnx import convert
from gluonexp.export.torch import convert as torch
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
        ONNX or PyTorch is asked for and not installed, or int8 is and cannot be computed here.
    """
    if not wanted.enabled:
        return
    if wanted.onnx and not convert.installed():
        raise GluonexpError("export.onnx=true: onnx is missing: pip install 'gluonexp[onnx]'")
    if wanted.torch and not torch.installed():
        raise GluonexpError(f"export.torch=true: PyTorch is missing: {torch.INSTALL}")
    if wanted.int8 and (why := int8.unsupported()):
        raise GluonexpError(f"export.int8=true: {why}")


def write(
    folder: Path, wanted: ExportConfig, train: Split | None, network: Network | None = None
) -> list[str]:
    """Write what is wanted beside the network in `folder`; return what could not be, and why.

    Parameters
    ----------
    wanted
        Of it count ``onnx``, ``preprocess``, ``int8`` and ``torch``. ONNX is written where it can
        be had if nothing is said of it.
    train
        Some of these images calibrate ``int8-symbol.json``; None will do without that.
    network
        What the symbol and the params in `folder` hold; it is read from there if not given.

    Raises
    ------
    GluonexpError
        The network cannot be quantized.
    """
    notes: list[str] = []
    signature = Signature.read(folder)
    with_onnx = convert.installed() if wanted.onnx is None else wanted.onnx
    if with_onnx:
        try:
            network = network or read_network(folder, MODEL, signature.input, signature.shape)
            convert.write(network, folder, signature.shape[1:])
        except convert.Unexportable as error:  # all else of an export is of use without it
            notes.append(str(error))
    no_onnx = bool(notes)
    if wanted.torch:
        try:
            network = network or read_network(folder, MODEL, signature.input, signature.shape)
            torch.write(network, folder, signature)
        except torch.Unwritable as error:
            notes.append(str(error))
    if wanted.preprocess == "graph":
        try:
            uint8.write(folder, with_onnx=with_onnx and not no_onnx)
        except convert.Unexportable as error:
            notes.append(str(error))
    if wanted.int8:
        assert train is not None
        images = train.images[spread(train.labels, CALIBRATION)]  # of all classes
        steps = Preprocess(signature.preprocess, signature.image)
        int8.quantize(folder, steps.inputs(images))
    return notes
