"""A symbol and its values as ONNX, by MXNet's own exporter, mended.

MXNet 1.9.1 translates to ONNX's operator set 13. What its exporter gets wrong with today's onnx is
put right here, while it runs only: the table `onnx.mapping` that onnx 1.19 dropped, a check of the
graph against the newest operator set instead of 13, weights taken apart into Python's floats, and
`fix_gamma` forgotten. It also lists every weight as an input of the graph, which keeps runtimes
from computing with them in advance; they are taken off that list. The operators that it gets
wrong are in `translators`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import draft
from gluonexp.base.mx import mx, nd, sym
from gluonexp.export.onnx import nodes, translators
from gluonexp.model_folder.names import ONNX

OPERATOR_SET: Final = 13
IR_VERSION: Final = 8  # the format of the file; onnx's own releases pair it with sets 15 to 18
OUTPUT: Final = "logits"
LARGEST: Final = (
    2**31 - 2**20
)  # bytes of parameters: protobuf's limit, less what else is in a file

Shapes = list[list[nodes.Shape]]
"""Of every output of every node."""


class Unexportable(GluonexpError):
    """ONNX, or MXNet's exporter, cannot express the network; all else of a run can go on."""


def installed() -> bool:
    """Whether the library is there; without it, no ONNX is written."""
    return find_spec("onnx") is not None


def write(
    symbol: sym.Symbol,
    arguments: Mapping[str, nd.NDArray],
    statistics: Mapping[str, nd.NDArray],
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
    symbol
        Of one input, whose name is the only argument not in `arguments`, and one output (N, K).
    arguments, statistics
        By name, as `gluonexp.model_folder.network.read_network` returns them.
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
    import onnx

    shape, values = tuple(input_shape), {**arguments, **statistics}
    if (size := sum(v.size * np.dtype(v.dtype).itemsize for v in values.values())) > LARGEST:
        raise Unexportable(
            f"no ONNX: the parameters take {size / 1e9:.2f} GB, and one ONNX file holds 2"
        )
    try:
        with _mended(_shapes(symbol, values, shape)):
            graph = _translated(symbol, values, shape, dtype)
        _name_ends(graph, symbol, values, (1, *shape))
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPERATOR_SET)],
            ir_version=IR_VERSION,
            producer_name="gluonexp",
        )
        onnx.checker.check_model(model)
    except Unexportable:
        raise
    except Exception as error:  # of the exporter's: asserts, and whatever it trips over
        what = f"MXNet's exporter cannot write this network ({type(error).__name__})"
        raise Unexportable(f"no ONNX: {what}: {reason(error)}") from error
    _hold(model.graph, {**values, **_fixed_gammas(symbol, values)})
    with draft(folder / name) as written:
        written.write_bytes(model.SerializeToString())
    return folder / name


def _translated(
    symbol: sym.Symbol, values: Mapping[str, nd.NDArray], shape: tuple[int, ...], dtype: str
) -> Any:
    """Return ONNX's graph, the weights as its inputs; MXNet's exporter must be mended by then."""
    import onnx

    if missing := untranslated(symbol):
        raise Unexportable(f"no ONNX: MXNet's exporter has no operator {', '.join(missing)}")
    return mx.onnx.mx2onnx._export_onnx.MXNetGraph().create_onnx_graph_proto(
        symbol,
        {key: _Declared(value.shape, value.dtype) for key, value in values.items()},
        [(1, *shape)],
        [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))],
        opset_version=OPERATOR_SET,
        dynamic=True,
        dynamic_input_shapes=[(None, *shape)],
    )


def untranslated(symbol: sym.Symbol) -> list[str]:
    """Name the operators in `symbol` for which there is no translation to ONNX."""
    used = {node["op"] for node in json.loads(symbol.tojson())["nodes"]}
    registry = mx.onnx.mx2onnx._export_onnx.MXNetGraph.registry_
    return sorted(used - set(translators.TRANSLATORS).union(*registry.values()))


def _shapes(
    symbol: sym.Symbol, values: Mapping[str, nd.NDArray], shape: tuple[int, ...]
) -> Shapes:
    """Infer what every node of `symbol` gives; None is a dimension that depends on the batch."""
    graph = json.loads(symbol.tojson())
    for index, node in enumerate(graph["nodes"]):
        if node["op"] != "null":  # several may have one name
            node["name"] = f"node {index}"
    names = [node["name"] for node in graph["nodes"]]
    inner = sym.load_json(json.dumps(graph)).get_internals()
    places = {name: index for index, name in enumerate(names)}
    known = {name: values[name].shape for name in names if name in values}
    (entry,) = set(inner.list_inputs()) - set(known)
    try:
        twos, threes = (
            inner.infer_shape_partial(**known, **{entry: (batch, *shape)})[1] for batch in (2, 3)
        )
    except mx.MXNetError as error:
        what = "the network does not take every number of images"
        raise Unexportable(f"no ONNX: {what}: {reason(error)}") from error
    found: Shapes = [[] for _ in names]
    for output, two, three in zip(inner, twos, threes, strict=True):
        sizes = zip(two, three, strict=True)
        found[places[output.name]].append(tuple(a if a == b else None for a, b in sizes))
    return found


class _Declared(NamedTuple):
    """What MXNet's exporter must know of a weight; it asks for the values, to copy them thrice."""

    shape: tuple[int, ...]
    dtype: type[np.generic]

    def asnumpy(self) -> _Declared:
        return self


def _hold(graph: Any, values: Mapping[str, nd.NDArray]) -> None:
    """Turn the inputs of `graph` that are weights into weights, and drop those nobody reads.

    The exporter lists its own constants among the inputs too; they have their values already.
    """
    read = {name for node in graph.node for name in node.input}
    constants, inputs = list(graph.initializer), list(graph.input)
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(constant for constant in constants if constant.name in read)
    for entry in inputs:
        if entry.name in values.keys() & read:
            kind = entry.type.tensor_type
            tensor = graph.initializer.add(name=entry.name, data_type=kind.elem_type)
            tensor.dims.extend(dimension.dim_value for dimension in kind.shape.dim)
            array = values[entry.name].asnumpy()
            tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        elif entry.name not in values and all(entry.name != each.name for each in constants):
            graph.input.append(entry)


def _fixed_gammas(symbol: sym.Symbol, values: Mapping[str, nd.NDArray]) -> dict[str, nd.NDArray]:
    """Return ones for each gamma that its BatchNorm does not multiply with (``scale=False``)."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return {
        gamma: nd.ones_like(values[gamma])
        for node in nodes
        if node["op"] == "BatchNorm"
        and node.get("attrs", {}).get("fix_gamma", "True") in ("True", "1")
        and (gamma := nodes[node["inputs"][1][0]]["name"]) in values
    }


def _name_ends(
    graph: Any, symbol: sym.Symbol, weights: Collection[str], shape: tuple[int, ...]
) -> None:
    """Call the output `OUTPUT`, and let the batch be of any size."""
    held = {*weights, *(tensor.name for tensor in graph.initializer)}
    (entry,) = [value for value in graph.input if value.name not in held]
    (output,) = graph.output
    if output.name != OUTPUT:
        _rename(graph, OUTPUT, f"inner_{OUTPUT}")  # there may be a layer called so
        _rename(graph, output.name, OUTPUT)
        output.name = OUTPUT
    _, outputs, _ = symbol.infer_shape(**{entry.name: shape})
    for value, sizes in ((entry, shape), (output, outputs[0])):
        dimensions = value.type.tensor_type.shape.dim
        dimensions[0].dim_param = "batch"
        for dimension, size in zip(dimensions[1:], sizes[1:], strict=True):
            dimension.dim_value = size


def _rename(graph: Any, before: str, after: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == before:
                    names[position] = after
    for tensor in graph.initializer:
        if tensor.name == before:
            tensor.name = after


@contextmanager
def _mended(shapes: Shapes) -> Iterator[None]:
    """Let MXNet's exporter find what it needs, and afterwards everything as it was."""
    import onnx

    exporter = mx.onnx.mx2onnx._export_onnx.MXNetGraph
    theirs, checks = exporter.convert_layer, onnx.checker.DEFAULT_CONTEXT
    before = checks.opset_imports, checks.ir_version

    def convert_layer(node: dict[str, Any], **settings: Any) -> Any:
        given = [shapes[source][output] for source, output, *_ in node["inputs"]]
        made = shapes[settings["idx"]] if "idx" in settings else []
        try:
            return translators.translate(node, given=given, made=made, **settings)
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise Unexportable(
                f"no ONNX: operator {node['op']} ({node['name']}) cannot be translated: {why}"
            ) from error

    names = vars(onnx)
    table = names.get("mapping")
    # It tells the root logger what it does, which would set up a log on stderr for good.
    quiet = logging.NullHandler()
    logging.getLogger().addHandler(quiet)
    try:
        names["mapping"] = nodes.mapping()
        exporter.convert_layer = staticmethod(convert_layer)
        checks.opset_imports, checks.ir_version = {"": OPERATOR_SET}, IR_VERSION
        yield
    finally:
        checks.opset_imports, checks.ir_version = before
        exporter.convert_layer = staticmethod(theirs)
        if table is None:
            del names["mapping"]
        else:
            names["mapping"] = table
        logging.getLogger().removeHandler(quiet)
