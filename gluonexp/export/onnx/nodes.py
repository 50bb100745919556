"""What a translation to ONNX is made of: a node of MXNet's symbol, its inputs, and ONNX's nodes.

A node is what the symbol's JSON says of it. The `settings` that go with it are what MXNet's
exporter hands to its translations, and two more: the shapes of the node's inputs as ``given``, and
those of its outputs as ``made``.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from gluonexp.base.mx import mx

Shape = tuple[int | None, ...]
"""None is a dimension that depends on the number of images."""

Node = dict[str, Any]
Step = tuple[str, list[str], dict[str, Any]]
"""An ONNX operator, its inputs after the first, and its attributes."""

_DTYPES: Final = ("float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool")


def mapping() -> SimpleNamespace:
    """Return what onnx called `mapping` until 1.18."""
    from onnx.helper import np_dtype_to_tensor_dtype

    numbers = {np.dtype(name): np_dtype_to_tensor_dtype(np.dtype(name)) for name in _DTYPES}
    return SimpleNamespace(
        NP_TYPE_TO_TENSOR_TYPE=numbers,
        TENSOR_TYPE_TO_NP_TYPE={number: dtype for dtype, number in numbers.items()},
    )


def theirs(node: Node, **settings: Any) -> Any:
    """Translate as MXNet's exporter does, of the newest operator set that it has."""
    sets = mx.onnx.mx2onnx._export_onnx.MXNetGraph.registry_
    known = {**sets[12], **sets[13]}
    made = known[node["op"]](node, **settings)
    return made if isinstance(made, tuple) else (made, None)


def changed(node: Node, **attributes: Any) -> Node:
    """Return the node with other attributes; None removes one."""
    attrs = {**node["attrs"], **attributes}
    return {
        **node,
        "attrs": {key: str(value) for key, value in attrs.items() if value is not None},
    }


def numbers(node: Node, key: str) -> list[int]:
    """Return an attribute that is a number or several, none if it is not given."""
    return [int(number) for number in re.findall(r"-?\d+", node["attrs"].get(key, ""))]


def source(node: Node, settings: Any, position: int = 0) -> Any:
    """Return an input: its ``name`` in ONNX and its ``dtype``."""
    index, output, *_ = node["inputs"][position]
    return settings["outputs_lookup"][index][output]


def constant(node: Node, settings: Any, name: str, values: Any, dtype: Any = np.int64) -> str:
    """Add a constant to the graph, and return its name."""
    from onnx.numpy_helper import from_array

    whole = f"{node['name']}_{name}"
    settings["initializer"].append(from_array(np.array(values, dtype), whole))
    return whole


def chain(node: Node, entry: str, *steps: Step) -> list[Any]:
    """Return ONNX's nodes that take `entry`, each what the one before gives."""
    from onnx.helper import make_node

    nodes = []
    for number, (operator, constants, attributes) in enumerate(steps, 1):
        result = node["name"] if number == len(steps) else f"{node['name']}_step{number}"
        nodes.append(make_node(operator, [entry, *constants], [result], **attributes))
        entry = result
    return nodes


def variable(node: Node, **settings: Any) -> Any:
    """Translate an input or a weight to a declaration; the weights' values come last."""
    from onnx.helper import make_tensor_value_info

    name, table = node["name"], mapping()
    if settings["is_input"]:
        number, shape = settings["in_type"], settings["in_shape"]
        dtype = table.TENSOR_TYPE_TO_NP_TYPE[number]
    else:
        weight = settings["weights"][name]
        dtype, shape = np.dtype(weight.dtype), weight.shape
        number = table.NP_TYPE_TO_TENSOR_TYPE[dtype]
    return [make_tensor_value_info(name, number, shape)], (dtype,)
