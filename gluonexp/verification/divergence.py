"""After a disagreement: the first layer whose output is not the trained network's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import mx
from gluonexp.graph.graph import VARIABLE, Graph, Output
from gluonexp.graph.symbols import to_symbol
from gluonexp.model_folder import signature
from gluonexp.model_folder.names import MODEL, ONNX
from gluonexp.model_folder.network import Network, read_network
from gluonexp.verification import runtimes

Outputs = Mapping[str, NDArray[np.float32]]


def first_difference(
    folder: Path,
    runtime: str,
    inputs: NDArray[np.float32],
    tolerance: float,
    reference: Path | None,
) -> str | None:
    """Say which layer's output is the first, in the graph's order, that differs in a runtime.

    Parameters
    ----------
    folder
        The export.
    inputs
        One, (1, ...), what the runtime disagrees about.
    tolerance
        What a layer's output may differ by, as a share of its largest value.
    reference
        Holds the trained network's symbol and params. Without it the runtime is compared with
        the exported symbol, operator by operator: only its own errors are found.

    Returns
    -------
    str or None
        A sentence's end; None where no output differs.
    """
    if runtime not in COMPARED:
        return None
    name = signature.read(folder).input

    def network(place: Path) -> Network:
        return read_network(place, MODEL, name, inputs.shape)

    expected = _by_block(network(reference or folder), name, inputs)
    if runtime in _IN_ONNX:
        seen = _by_onnx(_IN_ONNX[runtime], folder / ONNX, list(expected), inputs)
    else:
        seen = _by_block(network(folder), name, inputs)
    for layer, values in expected.items():
        if layer in seen and (found := _difference(seen[layer], values, tolerance)):
            return f"{layer}: {found}"
    if runtime == "module":  # then it is what Module fuses; it does so up to the output it gives
        layers = list(expected)

        def fused(index: int) -> str | None:
            seen = _fused(network(folder), name, inputs, layers[index])
            return _difference(seen, expected[layers[index]], tolerance)

        # Loading a deep network for every layer would take minutes, and what is wrong stays wrong.
        if fused(len(layers) - 1):
            first = bisect_left(range(len(layers)), True, key=lambda index: bool(fused(index)))
            return f"{layers[first]}: {fused(first)}"
    return None


def _difference(
    seen: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float
) -> str | None:
    if seen.shape != expected.shape:
        return f"{seen.shape}, not {expected.shape}"
    largest = max(float(np.abs(expected).max()), 1e-30)
    difference = float(np.abs(seen - expected).max()) / largest
    if difference <= tolerance:  # NaN is a difference
        return None
    return f"by {difference:.1e} of its largest value"


def _layers(graph: Graph) -> dict[str, Output]:
    """Return what each operator gives first, by its name, after those it is computed from."""
    return {
        f"{name}_output": Output(at)  # as MXNet calls it
        for at, (node, name) in enumerate(zip(graph.nodes, graph.names, strict=True))
        if node.op != VARIABLE
    }


def _by_block(network: Network, name: str, inputs: NDArray[np.float32]) -> Outputs:
    graph = Graph.from_symbol(network.symbol)
    layers = _layers(graph)
    symbol = to_symbol(replace(graph, heads=tuple(layers.values())))
    values = runtimes.as_block(network._replace(symbol=symbol), name)(inputs)
    return dict(zip(layers, values, strict=True))


def _fused(
    network: Network, name: str, inputs: NDArray[np.float32], layer: str
) -> NDArray[np.float32]:
    graph = Graph.from_symbol(network.symbol)
    head = to_symbol(graph.prefix(_layers(graph)[layer]))
    image = mx.io.DataDesc(name, inputs.shape)
    return runtimes.as_module(network._replace(symbol=head), image)(inputs)[0]


def _by_onnx(
    load: Callable[[bytes], runtimes.Loaded],
    path: Path,
    layers: list[str],
    inputs: NDArray[np.float32],
) -> Outputs:
    """Return what those of `layers` give that an ONNX model names; the last may be its output."""
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    made = {output for node in model.graph.node for output in node.output}
    names = {layer: own for layer in layers if (own := layer.removesuffix("_output")) in made}
    outputs = [output.name for output in model.graph.output]
    if layers[-1] not in names and len(outputs) == 1:
        names[layers[-1]] = outputs[0]
    added = sorted({*names.values()} - {*outputs})
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
    values = load(model.SerializeToString())(inputs)
    found = dict(zip([*outputs, *added], values, strict=True))
    return {layer: found[name] for layer, name in names.items()}


_IN_ONNX: Final = {"onnx": runtimes.by_onnxruntime, "openvino": runtimes.by_openvino}

# Eight bits differ everywhere; what takes uint8 images is another graph.
COMPARED: Final = frozenset({"module", "symbolblock", *_IN_ONNX})
