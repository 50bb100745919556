"""A symbol and its values as ONNX, operator by operator, by `translators` or MXNet's exporter.

The exporter's own way through the network is not taken: it lists every weight as an input, which
keeps runtimes from computing with them in advance, takes weights apart into Python's floats,
forgets `fix_gamma`, and checks the graph against onnx's newest operator set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import draft
from gluonexp.base.mx import mx, nd
from gluonexp.export.onnx import translators
from gluonexp.export.onnx.exporter import OPERATOR_SET, mended
from gluonexp.export.onnx.layer import Layer, Shape, Value
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph
from gluonexp.model_folder.names import ONNX
from gluonexp.model_folder.network import Network

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

IR_VERSION: Final = 8  # the format of the file; onnx's own releases pair it with sets 15 to 18
OUTPUT: Final = "logits"
# Bytes of parameters: protobuf's limit, less what else is in a file.
LARGEST: Final = 2**31 - 2**20


class Unexportable(GluonexpError):
    """ONNX, or MXNet's exporter, cannot express the network; all else of a run can go on."""


def installed() -> bool:
    """Whether the library is there; without it, no ONNX is written."""
    return find_spec("onnx") is not None


def write(
    network: Network,
    folder: Path,
    input_shape: Sequence[int],
    *,
    name: str = ONNX,
    dtype: str = "float32",
) -> Path:
    """Write the network as ONNX into `folder`; return the file's path.

    The input keeps its name, the output is called ``logits``; the first dimension of both is free.

    Parameters
    ----------
    network
        Of one input, which is the only argument without a value, and one output (N, K).
    input_shape
        Of one image.
    dtype
        Of the input.

    Raises
    ------
    Unexportable
        There is no translation for an operator, or none for how it is used; it is named.
    GluonexpError
        The library is not installed.
    """
    if not installed():
        raise GluonexpError("ONNX is not installed: pip install 'gluonexp[onnx]'")
    sizes = (v.size * np.dtype(v.dtype).itemsize for v in network.values.values())
    if (size := sum(sizes)) > LARGEST:
        raise Unexportable(
            f"no ONNX: the parameters take {size / 1e9:.2f} GB, and one ONNX file holds 2"
        )
    try:
        model = _model(network, tuple(input_shape), np.dtype(dtype))
    except Unexportable:
        raise
    except Exception as error:  # onnx's, and whatever MXNet trips over
        what = f"MXNet's exporter cannot write this network ({type(error).__name__})"
        raise Unexportable(f"no ONNX: {what}: {reason(error)}") from error
    with draft(folder / name) as written:
        written.write_bytes(model.SerializeToString())
    return folder / name


def _model(network: Network, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ModelProto:
    """Return ONNX's model, checked."""
    from onnx import checker, helper, numpy_helper

    graph, values = Graph.from_symbol(network.symbol), network.values
    shapes = _shapes(network, shape)
    # The output gets this name, which a layer may have too.
    names = [f"inner_{name}" if name == OUTPUT else name for name in graph.names]
    variables = {names[at]: graph.nodes[at].name for at in graph.variables}
    weights = {name: values[own] for name, own in variables.items() if own in values}
    (entry,) = variables.keys() - weights.keys()
    types = {name: value.dtype for name, value in weights.items()} | {entry: dtype}
    steps, constants, output = _translated(graph, names, shapes, types)
    for step in steps:
        for ends in (step.input, step.output):
            ends[:] = [OUTPUT if name == output.name else name for name in ends]
    read = {name for step in steps for name in step.input}
    weights = {name: value for name, value in weights.items() if name in read}
    (head,) = graph.heads

    def declared(name: str, dtype: Any, shape: Sequence[int | str | None]) -> ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    model = helper.make_model(
        helper.make_graph(
            steps,
            "mxnet_converted_model",
            [declared(entry, dtype, ["batch", *shape])]
            + [declared(name, value.dtype, value.shape) for name, value in weights.items()],
            [declared(OUTPUT, output.dtype, ["batch", *shapes[head.node][head.index][1:]])],
            [constant for constant in constants if constant.name in read],
        ),
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        ir_version=IR_VERSION,
        producer_name="gluonexp",
    )
    checker.check_model(model)  # the weights are inputs still: it would copy what they hold
    del model.graph.input[1:]
    ones = {names[at] for at in _fixed_gammas(graph)}
    model.graph.initializer.extend(
        numpy_helper.from_array((nd.ones_like(v) if name in ones else v).asnumpy(), name)
        for name, v in weights.items()
    )
    return model


def _translated(
    graph: Graph, names: Sequence[str], shapes: Sequence[Sequence[Shape]], types: Mapping[str, Any]
) -> tuple[list[NodeProto], list[TensorProto], Value]:
    """Return ONNX's nodes, their constants, and the network's output."""
    missing = translators.missing(node.op for node in graph.nodes if node.op != VARIABLE)
    if missing:
        raise Unexportable(f"no ONNX: MXNet's exporter has no operator {', '.join(missing)}")
    steps: list[NodeProto] = []
    constants: list[TensorProto] = []
    made: list[list[Value]] = []  # what each node of the network gives
    with mended():
        for at, (node, name) in enumerate(zip(graph.nodes, names, strict=True)):
            if node.op == VARIABLE:
                made.append([Value(name, np.dtype(types[name]))])
                continue
            layer = Layer(
                node.op,
                name,
                node.attrs,
                at,
                inputs=[made[source.node][source.index] for source in node.inputs],
                given=[shapes[source.node][source.index] for source in node.inputs],
                made=shapes[at],
                constants=constants,
            )
            try:
                translation = translators.translate(layer)
                made.append(layer.outputs(*translation))
            except Exception as error:
                why = " ".join(str(error).split()) or type(error).__name__
                raise Unexportable(
                    f"no ONNX: operator {node.op} ({node.name}) cannot be translated: {why}"
                ) from error
            steps += translation[0]
    (head,) = graph.heads
    return steps, constants, made[head.node][head.index]


def _shapes(network: Network, shape: tuple[int, ...]) -> list[list[Shape]]:
    """Infer what every node gives; None is a dimension that depends on the number of images."""
    symbol, known = network.symbol, {name: v.shape for name, v in network.values.items()}
    (entry,) = {*symbol.list_inputs()} - known.keys()
    try:
        twos, threes = (symbols.shapes(symbol, {**known, entry: (n, *shape)}) for n in (2, 3))
    except mx.MXNetError as error:
        what = "the network does not take every number of images"
        raise Unexportable(f"no ONNX: {what}: {reason(error)}") from error
    return [
        [
            tuple(a if a == b else None for a, b in zip(*sizes, strict=True))
            for sizes in zip(two, three, strict=True)
        ]
        for two, three in zip(twos, threes, strict=True)
    ]


def _fixed_gammas(graph: Graph) -> set[int]:
    """Return each gamma that its BatchNorm does not multiply with: it counts as 1."""
    return {
        node.inputs[1].node
        for node in graph.nodes
        if node.op == "BatchNorm" and node.attrs.get("fix_gamma", "True") in ("True", "1")
    }
