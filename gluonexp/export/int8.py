"""A quantized copy of an export: 8-bit integers where oneDNN can multiply them.

It is made of the exported files. The trained network is not touched: MXNet rewrites a network for
oneDNN (`optimize_for("MKLDNN")`) such that every gradient of it is zero, silently.

A processor without instructions for it (VNNI) multiplies unsigned by signed integers in pairs and
adds each pair up in 16 bits, which hold two products of 7 and 8 bits, not of 8 and 8: what is too
large becomes the largest, silently. So that the files give the same everywhere, unsigned values
take 7 bits here, and a dense layer whose input has both signs stays float: oneDNN adds 128 to
that. Of convolutions, it halves the weights then. (oneDNN, "Nuances of int8 computations")
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import settle, temporary
from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.graph.graph import Graph, Node, Output
from gluonexp.graph.symbols import block, to_symbol
from gluonexp.model_folder.names import INT8, INT8_RECORD, MODEL, paths
from gluonexp.model_folder.network import Network, read_network
from gluonexp.model_folder.signature import Signature

BATCH: Final = 32

# Operators whose work is to multiply by weights: what there is to gain is in them.
LAYERS: Final = {"Convolution", "Deconvolution", "FullyConnected"}

# What MXNet quantizes and then cannot run: a product of signed and unsigned values, as in Swish,
# and recurrent layers.
_BROKEN: Final = ("elemwise_mul", "RNN")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What was made; written to ``int8.json``.

    Attributes
    ----------
    layers
        How many layers have weights.
    kept_float
        The names of those among them that oneDNN cannot quantize, or not for every processor.
    images
        So many images told the ranges of the layers' outputs.
    seconds
        Time all of it took.
    """

    layers: int
    kept_float: tuple[str, ...]
    images: int
    seconds: float


def unsupported() -> str | None:
    """Say why this machine or this build of MXNet cannot quantize; None where it can."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"int8 needs an x86_64 processor, not {platform.machine()}"
    features = mx.runtime.Features()
    if not features.is_enabled("MKLDNN"):
        return "int8 needs oneDNN, which this build of MXNet lacks: `pip install 'gluonexp[cpu]'`"
    return None


def quantize(folder: Path, calibration: NDArray[np.float32]) -> Quantized:
    """Write ``int8-symbol.json``, ``int8-0000.params`` and ``int8.json`` beside the export.

    The ranges are the smallest and the largest value that each layer gives for the calibration
    images; a layer's weights have one scale for each of its outputs.

    Parameters
    ----------
    folder
        Holds ``model-symbol.json``, ``model-0000.params`` and ``signature.json``.
    calibration
        (N, C, H, W), training images as the network sees them.

    Raises
    ------
    GluonexpError
        This machine or build cannot; no layer can be quantized; or the images do not fit.
    """
    started = time.perf_counter()
    if why := unsupported():
        raise GluonexpError(f"export.int8=true: {why}; or leave export.int8 off")
    signature = Signature.read(folder)
    name = signature.input
    if calibration.shape[1:] != signature.shape[1:] or not len(calibration):
        raise GluonexpError(
            f"int8: calibration images of shape {calibration.shape}, where {folder} takes "
            f"{[None, *signature.shape[1:]]}"
        )
    if not np.isfinite(calibration).all():
        raise GluonexpError("int8: calibration images with values that are not finite")
    network = read_network(folder, MODEL, name, signature.shape)
    if not (layers := _layers(Graph.from_symbol(network.symbol))):
        raise GluonexpError(f"int8: the network in {folder} has no layer with weights to quantize")
    try:
        with _silent():
            quantized = _quantized(network, name, calibration)
    except (mx.MXNetError, ValueError) as error:
        raise GluonexpError(
            f"int8: MXNet cannot quantize the network in {folder}: {reason(error)}"
        ) from None
    with temporary(folder) as draft:
        quantized.export(str(draft / INT8), epoch=0)
        path, _ = paths(draft, INT8)
        widened = _widened(sym.load(str(path)), name)
        to_symbol(widened).save(str(path))
        in_int8 = _in_int8(widened)
        kept = tuple(layer for layer in layers if layer not in in_int8)
        if len(kept) == len(layers):
            raise GluonexpError(
                f"int8: none of the {len(layers)} layers of {folder} can be quantized: "
                f"{', '.join(kept)}"
            )
        seconds = time.perf_counter() - started
        done = Quantized(len(layers), kept, len(calibration), round(seconds, 2))
        text = json.dumps(dataclasses.asdict(done), indent=2)
        (draft / INT8_RECORD).write_text(text + "\n", encoding="utf-8")
        for path in sorted(draft.iterdir()):
            settle(path, folder / path.name)
    return done


def _quantized(network: Network, name: str, images: NDArray[np.float32]) -> gluon.SymbolBlock:
    """Return the network quantized, called once."""
    signed: list[str] = []
    while True:
        with mx.name.NameManager():  # names are made from 0 on, whatever was made before
            net = mx.contrib.quantization.quantize_net_v2(
                block(network.symbol, network.values, name),
                quantized_dtype="auto",  # unsigned where a layer gives nothing negative
                quantize_mode="smart",
                quantize_granularity="channel-wise",
                exclude_layers=list(signed),
                exclude_operators=list(_BROKEN),
                calib_mode="naive",
                calib_data=mx.io.NDArrayIter({name: images}, batch_size=min(BATCH, len(images))),
                ctx=mx.cpu(),
            )
            net.hybridize()
            net(nd.array(images[:1], dtype="float32"))
            nd.waitall()  # device sync: what failed fails here
        if not (more := _signed_dense(net(sym.var(name)), name) - set(signed)):
            return net
        signed += sorted(more)


def _signed_dense(symbol: sym.Symbol, name: str) -> set[str]:
    """Return the dense layers in integers whose input has both signs, as MXNet excludes them."""
    types = _types(symbol, name)
    return {
        node.name.removeprefix("quantized_")
        for node in Graph.from_symbol(symbol).nodes
        if node.op == "_sg_mkldnn_fully_connected"
        and _is_quantized(node)
        and types[node.inputs[0]] == np.int8
    }


def _widened(symbol: sym.Symbol, name: str) -> Graph:
    """Let unsigned values take 7 bits, by ranges that are twice as wide as those measured."""
    graph, types = Graph.from_symbol(symbol), _types(symbol, name)
    nodes = list(graph.nodes)
    for at, node in enumerate(nodes):
        if types.get(Output(at)) == np.uint8 and "max_calib_range" in node.attrs:
            twice = repr(2 * float(node.attrs["max_calib_range"]))
            nodes[at] = dataclasses.replace(node, attrs={**node.attrs, "max_calib_range": twice})
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _types(symbol: sym.Symbol, name: str) -> dict[Output, type[np.generic]]:
    """Return the type of each output of each node of a network whose input is `name`."""
    everything = symbol.get_internals()  # of the same nodes, in the same order
    _, types, _ = everything.infer_type(**{name: np.float32})
    return dict(zip(Graph.from_symbol(everything).heads, types, strict=True))


@contextmanager
def _silent() -> Iterator[None]:
    """Say nothing: MXNet's C++ side logs each activation that stays float, past Python."""
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that files do not say
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _layers(graph: Graph) -> list[str]:
    """Return the names of the layers with weights, in order."""
    return [node.name for node in graph.nodes if node.op in LAYERS]


def _in_int8(graph: Graph) -> set[str]:
    """Return the names that the layers which now compute in integers had before."""
    quantized = [node for node in graph.nodes if _is_quantized(node)]
    return {name for node in quantized for inner in node.subgraphs for name in _layers(inner)}


def _is_quantized(node: Node) -> bool:
    return node.attrs.get("quantized", "").lower() == "true"
