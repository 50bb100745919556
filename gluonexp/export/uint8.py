"""An export that takes uint8 images: the preprocessing composed with the network.

``uint8-symbol.json`` takes uint8 images (N, H, W, C) of the data set's own size, and returns the
network's logits; ``uint8.onnx`` does the same. MXNet looks for a symbol's parameters under the
symbol's own name, so that ``uint8-0000.params`` is there too, a copy of the network's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gluonexp.base.files import draft
from gluonexp.base.mx import sym
from gluonexp.export.onnx import convert
from gluonexp.model_folder.names import MODEL, UINT8, UINT8_ONNX, paths
from gluonexp.model_folder.network import read_network
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Signature


def write(folder: Path, *, with_onnx: bool = False) -> None:
    """Write ``uint8-symbol.json`` and ``uint8-0000.params`` beside the export in `folder`.

    Parameters
    ----------
    with_onnx
        Also write ``uint8.onnx``.

    Raises
    ------
    GluonexpError
        The export in `folder` is incomplete.
    Unexportable
        An operator has no translation to ONNX; the symbol is written.
    """
    signature = Signature.read(folder)
    name = signature.input
    network = read_network(folder, MODEL, name, signature.shape)
    inputs = Preprocess(signature.preprocess, signature.image)(sym.var(name, dtype="uint8"))
    composed = network._replace(symbol=network.symbol(**{name: inputs}))
    symbol, values = paths(folder, UINT8)
    with draft(symbol) as written:
        written.write_text(composed.symbol.tojson(), encoding="utf-8")
    with draft(values) as written:
        shutil.copyfile(paths(folder, MODEL)[1], written)
    if with_onnx:
        convert.write(composed, folder, signature.image, name=UINT8_ONNX, dtype="uint8")
