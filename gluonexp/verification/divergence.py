"""After a disagreement: the first layer whose output is not the trained network's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.model_folder.names import MODEL, ONNX
from gluonexp.model_folder.network import Network, read_network
from gluonexp.model_folder.signature import Signature

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
        (1, C, H, W), what the runtime disagrees about.
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
    name = Signature.read(folder).input

    def network(place: Path) -> Network:
        return read_network(place, MODEL, name, inputs.shape)

    expected = _by_block(network(reference or folder), name, inputs)
    if runtime in _IN_ONNX:
        seen = _IN_ONNX[runtime](folder / ONNX, list(expected), inputs)
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


def _layers(symbol: sym.Symbol) -> list[str]:
    """Return the names of all layers' outputs, each after those it is computed from."""
    given = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    names = symbol.get_internals().list_outputs()
    return [name for name in names if name not in given and name.endswith("_output")]


def _by_block(network: Network, name: str, inputs: NDArray[np.float32]) -> Outputs:
    layers, internals = _layers(network.symbol), network.symbol.get_internals()
    heads = sym.Group([internals[layer] for layer in layers])
    block = gluon.SymbolBlock(heads, sym.var(name, dtype="float32"))
    values = {**network.arguments, **network.statistics}
    for key, parameter in block.collect_params().items():
        parameter._load_init(values[key], mx.cpu())
    outputs = block(nd.array(inputs))
    if not isinstance(outputs, list | tuple):
        outputs = [outputs]
    return {layer: value.asnumpy() for layer, value in zip(layers, outputs, strict=True)}


def _fused(
    network: Network, name: str, inputs: NDArray[np.float32], layer: str
) -> NDArray[np.float32]:
    head = network.symbol.get_internals()[layer]
    module = mx.mod.Module(head, data_names=[name], label_names=None, context=mx.cpu())
    module.bind(for_training=False, data_shapes=[(name, inputs.shape)])
    module.set_params(network.arguments, network.statistics, allow_extra=True)
    module.forward(mx.io.DataBatch([nd.array(inputs)]), is_train=False)
    output: NDArray[np.float32] = module.get_outputs()[0].asnumpy()
    return output


def _by_onnx(path: Path, layers: list[str], inputs: NDArray[np.float32]) -> Outputs:
    import onnxruntime

    model, names = _opened(path, layers)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values = session.run(list(names.values()), {session.get_inputs()[0].name: inputs})
    return dict(zip(names, values, strict=True))


def _by_openvino(path: Path, layers: list[str], inputs: NDArray[np.float32]) -> Outputs:
    import openvino

    model, names = _opened(path, layers)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    values = compiled([inputs])
    return {layer: np.array(values[name]) for layer, name in names.items()}


def _opened(path: Path, layers: list[str]) -> tuple[bytes, dict[str, str]]:
    """Return an ONNX model that gives the layers' outputs too, and how they are called there."""
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    made = {output for node in model.graph.node for output in node.output}
    already = [output.name for output in model.graph.output]
    names = {}
    for layer in layers:
        own = layer.removesuffix("_output")  # how MXNet's exporter calls it
        if found := next((name for name in (own, layer) if name in made), None):
            names[layer] = found
    if layers[-1] not in names and len(already) == 1:
        names[layers[-1]] = already[0]
    for name in names.values():
        if name not in already:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model.SerializeToString(), names


_IN_ONNX: Final[dict[str, Callable[[Path, list[str], NDArray[np.float32]], Outputs]]] = {
    "onnx": _by_onnx,
    "openvino": _by_openvino,
}

# Eight bits differ everywhere; what takes images at rest is another graph.
COMPARED: Final = frozenset({"module", "symbolblock", *_IN_ONNX})
