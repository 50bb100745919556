"""The one door to the inner parts of MXNet's exporter to ONNX, and to what it wants of onnx.

Read from MXNet 1.9.1, the last release (``mxnet/onnx/mx2onnx``), with onnx 1.18 to 1.23. Its
translations stand in the table `MXNetGraph.registry_`, by operator set and operator: each takes a
node as the symbol's JSON has it. They look types up in ``onnx.mapping``, which onnx 1.19 dropped.
Without the one or the other a network is refused (`convert.Unexportable`), which costs a run its
ONNX file, with a note, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gluonexp.base.mx import mx

if TYPE_CHECKING:
    from gluonexp.export.onnx.layer import Layer, Translation

OPERATOR_SET: Final = 13
"""The newest that the exporter has translations for."""

_DTYPES: Final = ("float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool")


def translated() -> set[str]:
    """Name the operators that MXNet's exporter has a translation for."""
    return set(_table())


def theirs(layer: Layer) -> Translation:
    """Translate as MXNet's exporter does; it must be `mended`.

    Raises
    ------
    Exception
        Of any type: there is no translation, and why.
    """
    import onnx

    node = {
        "op": layer.op,
        "name": layer.name,
        "attrs": dict(layer.attrs),
        "inputs": [[position, 0, 0] for position in range(len(layer.inputs))],
    }
    made = _table()[layer.op](
        node,
        outputs_lookup=[[source] for source in layer.inputs],
        initializer=layer.constants,
        idx=layer.position,
        opset_version=OPERATOR_SET,
    )
    nodes, dtypes = made if isinstance(made, tuple) else (made, None)
    # It also declares the constants that it adds.
    return [each for each in nodes if isinstance(each, onnx.NodeProto)], dtypes


@contextmanager
def mended() -> Iterator[None]:
    """Let the exporter find ``onnx.mapping``, and say nothing; afterwards all is as it was."""
    import onnx

    numbers = {
        np.dtype(name): onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in _DTYPES
    }
    names = vars(onnx)
    table = names.get("mapping")
    # It tells the root logger what it does, which would set up a log on stderr for good.
    quiet = logging.NullHandler()
    logging.getLogger().addHandler(quiet)
    try:
        names["mapping"] = SimpleNamespace(
            NP_TYPE_TO_TENSOR_TYPE=numbers,
            TENSOR_TYPE_TO_NP_TYPE={number: dtype for dtype, number in numbers.items()},
        )
        yield
    finally:
        if table is None:
            del names["mapping"]
        else:
            names["mapping"] = table
        logging.getLogger().removeHandler(quiet)


def _table() -> dict[str, Any]:
    sets = mx.onnx.mx2onnx._export_onnx.MXNetGraph.registry_
    return {**sets.get(12, {}), **sets.get(OPERATOR_SET, {})}
