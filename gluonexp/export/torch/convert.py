"""``model.py`` and ``model.safetensors``: a network for those who leave MXNet.

The file is plain PyTorch: people read it, import it and train the network further. It follows from
the export's symbol and signature alone, so that who does not trust it can write it again.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gluonexp import __version__
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft
from gluonexp.engines.torch import library
from gluonexp.graph import structure
from gluonexp.graph.graph import Graph
from gluonexp.model_folder.names import TORCH
from gluonexp.model_folder.network import Network
from gluonexp.model_folder.signature import Signature

INSTALL: Final = library.INSTALL
CLASS: Final = "Network"
"""The name of the class in the file."""


class Unwritable(GluonexpError):
    """The files cannot be written for this network; all else of a run can go on."""


class Content(NamedTuple):
    """What the two files hold.

    Attributes
    ----------
    text
        Of the first, without its first line, which says who wrote it.
    values
        Of the second: the state_dict.
    """

    text: str
    values: dict[str, NDArray[np.float32]]


def installed() -> bool:
    """Whether PyTorch is there."""
    return find_spec("torch") is not None


def origin() -> str:
    """Return the first line of the file, which says who wrote it."""
    return f"# Written by gluonexp {__version__} with PyTorch {version('torch')}."


def write(network: Network, folder: Path, signature: Signature) -> None:
    """Write the two files into `folder`.

    Raises
    ------
    Unwritable
        PyTorch has no such operator, or it is not known how that is written.
    GluonexpError
        PyTorch is not installed.
    """
    made = content(network, signature)
    text, values = (folder / name for name in TORCH)
    with draft(text) as written:
        written.write_text(f"{origin()}\n{made.text}", encoding="utf-8")
    with draft(values) as written:
        save_file(made.values, written, {"format": "pt"})


def content(network: Network, signature: Signature) -> Content:
    """Return what the two files of a network hold; see `write`."""
    library.load("export.torch=true", "export.torch=false")
    from gluonexp.export.torch import calls, source
    from gluonexp.export.torch.layers import Places

    graph, values = Graph.from_symbol(network.symbol), network.values
    if others := sorted({str(np.dtype(v.dtype)) for v in values.values()} - {"float32"}):
        raise Unwritable(f"no {TORCH[0]}: it has parameters of {', '.join(others)}")
    shapes = {name: value.shape for name, value in values.items()}
    try:
        found = calls.recorded(network, signature.shape[1:])
        places = Places(found.calls, structure.structural_names(graph), shapes)
        statistics = network.symbol.list_auxiliary_states()
        text = source.written(found, places, shapes, statistics, signature)
    except calls.Untold as error:
        raise Unwritable(f"no {TORCH[0]}: {error}") from None
    held = {key: values[name].asnumpy() for name, key in places.keys.items()}
    held |= {key: np.ones(count, np.float32) for key, count in places.ones.items()}
    return Content(text, held)
