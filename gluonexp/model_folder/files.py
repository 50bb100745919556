"""The files of an export, read so that whatever lies there can do no harm.

A symbol is JSON, but among MXNet's operators are some that call a machine address, call Python,
open files or write where an input tells them: a graph with any but those known to be safe
(`gluonexp.model_folder.operators`) is refused before MXNet sees it. Parameters are read by
`gluonexp.model_folder.params`, which `mxnet.nd.load` is not safe enough for.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import mx, nd, sym
from gluonexp.graph.graph import Graph
from gluonexp.graph.symbols import to_symbol
from gluonexp.model_folder import extents, guard, operators, params, structure

MODEL: Final = "model"  # float32 NCHW
UINT8: Final = "uint8"  # images at rest, uint8 NHWC
INT8: Final = "int8"  # float32 NCHW, computed in eight bits
ONNX: Final = "model.onnx"
SIGNATURE: Final = "signature.json"

LARGEST_IMAGE: Final = 2**24
"""Values of an image or an input: 2048 x 2048 of three channels are less."""

# Control characters, ends of lines, what turns the direction of writing, halves of characters.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LARGEST_NUMBER: Final = 3e38  # float32 holds it
_LARGEST_SYMBOL: Final = 2**26  # bytes; that of DenseNet-201 takes 400 kB

# What `gluonexp.export.symbol` writes, as far as it is the same in every signature.
_CONSTANTS: Final = {
    "image": {"dtype": "uint8", "layout": "NHWC"},
    "input": {"dtype": "float32", "layout": "NCHW"},
    "output": {"meaning": "logits"},
}
STEPS: Final = ("scale to [0, 1]", "channels", "normalize", "resize (bilinear)", "NCHW")


class Network(NamedTuple):
    """A symbol and its values: weights by argument, running statistics by auxiliary state."""

    symbol: sym.Symbol
    arguments: dict[str, nd.NDArray]
    statistics: dict[str, nd.NDArray]


def paths(folder: Path, prefix: str) -> tuple[Path, Path]:
    """Return where the symbol and the parameters of `prefix` are, as MXNet names them."""
    return folder / f"{prefix}-symbol.json", folder / f"{prefix}-0000.params"


def read(folder: Path, prefix: str, name: str, shape: Sequence[int]) -> Network:
    """Return the network of ``{prefix}-symbol.json`` and ``{prefix}-0000.params``.

    Parameters
    ----------
    name, shape
        Of its input, one image.

    Raises
    ------
    GluonexpError
        A file is missing, damaged or not safe to load, or they do not belong together.
    """
    graph, values = paths(folder, prefix)
    symbol = read_symbol(graph)
    network = Network(symbol, *read_params(values))
    wanted = _shapes(graph, symbol, name, tuple(shape))
    given = {**network.arguments, **network.statistics}
    for key, expected in wanted.items():
        if key not in given:
            raise GluonexpError(f"{values}: {key} is missing, which {graph.name} needs")
        if given[key].shape != expected:
            raise GluonexpError(
                f"{values}: {key} is {given[key].shape}, but {expected} in {graph.name}"
            )
    image = extents.Input(name, tuple(shape), "uint8" if prefix == UINT8 else "float32")
    types = {key: value.dtype for key, value in given.items()}
    if wrong := extents.flaw(network.symbol, image, wanted, types):
        raise GluonexpError(f"{graph}: refused: {wrong}")
    return network


def refusal(symbol: sym.Symbol, name: str, shape: Sequence[int]) -> str | None:
    """Say why `read` would refuse a network once it is written; None if it would not.

    Parameters
    ----------
    symbol
        Of one input, for which all shapes can be inferred.
    name, shape
        Of its input, one image.
    """
    graph = Graph.from_symbol(symbol)
    if unknown := operators.unknown(graph):
        return (
            f"operator {' and '.join(unknown[:5])} is not among those that are loaded from files"
        )
    if (wrong := structure.flaw(graph)) is not None:
        return wrong
    shapes = _shapes(Path("model"), symbol, name, tuple(shape))
    image = extents.Input(name, tuple(shape), "float32")
    return extents.flaw(symbol, image, shapes, dict.fromkeys(shapes, np.float32))


def read_symbol(path: Path) -> sym.Symbol:
    """Return the symbol in a JSON file.

    Raises
    ------
    GluonexpError
        No such file, no symbol, or one with an operator that is not safe to run.
    """
    try:
        if path.stat().st_size > _LARGEST_SYMBOL:
            raise GluonexpError(f"{path} is larger than any symbol: refused")
        graph = Graph.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise GluonexpError(f"{path}: not a symbol, or damaged: {error}") from None
    if unknown := operators.unknown(graph):
        raise GluonexpError(
            f"{path}: not loaded, for its operator {' and '.join(unknown[:5])} can run code or "
            "harm memory, as far as is known here; MXNet itself loads a file that you trust: "
            "mx.sym.load"
        )
    if (wrong := structure.flaw(graph)) is not None:
        raise GluonexpError(f"{path}: not a symbol, or damaged: {wrong}")
    try:
        # What was looked through, and not the text: MXNet's own parser may read that otherwise.
        return to_symbol(graph)
    except (mx.MXNetError, UnicodeError) as error:
        raise GluonexpError(f"{path}: not a symbol: {reason(error)}") from None


def read_params(path: Path) -> tuple[dict[str, nd.NDArray], dict[str, nd.NDArray]]:
    """Return the arguments and the auxiliary states in a file of `HybridBlock.export`.

    Raises
    ------
    GluonexpError
        No such file, another kind of file, or a damaged one.
    """
    arguments: dict[str, nd.NDArray] = {}
    statistics: dict[str, nd.NDArray] = {}
    for key, value in params.load(path).items():
        kind, _, name = key.partition(":")
        if kind not in ("arg", "aux") or not name:
            raise GluonexpError(f"{path}: {key!r} begins with neither arg: nor aux:")
        target = arguments if kind == "arg" else statistics
        target[name] = nd.array(value, dtype=value.dtype)
    return arguments, statistics


def read_signature(folder: Path) -> dict[str, Any]:
    """Return the signature of the export in `folder`; what is read from it elsewhere is there.

    Raises
    ------
    GluonexpError
        It is missing or damaged.
    """
    path = folder / SIGNATURE
    if not path.exists():
        raise GluonexpError(
            f"{folder}: no export here ({SIGNATURE} is missing); name a run, or the folder that "
            "holds model-symbol.json"
        )
    signature: dict[str, Any] = guard.read_json(path)
    if wrong := _wrong(signature):
        raise GluonexpError(f"{path}: damaged ({wrong})")
    return signature


def reason(error: Exception) -> str:
    """Return the line of a library's exception that says what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1].rpartition("Check failed: ")[2]
    return said.rpartition(" : ")[2].strip() or said.strip()


def _wrong(signature: Any) -> str | None:
    try:
        image, steps, entry = signature["image"], signature["preprocess"], signature["input"]
        shape = [steps[side] for side in ("channels", "height", "width")]
        sizes = [image[side] for side in ("channels", "height", "width")]
        names = [entry["name"], *signature["classes"]]
        if type(signature["format"]) is not int or signature["format"] != 1:
            return f"format {signature['format']!r}, where only 1 is known"
        if entry["shape"] != [None, *shape]:
            return "its input is not what its preprocessing gives"
        if not all(type(size) is int and size > 0 for size in [*shape, *sizes]):
            return "a size is not a positive number"
        for what, extent in (("input", shape), ("image", sizes)):
            if math.prod(extent) > LARGEST_IMAGE:
                return f"its {what} is too large: refused"
        if wrong := _wrong_numbers(steps):
            return wrong
        if steps.get("steps", list(STEPS)) != list(STEPS):
            return "other steps than are known"
        for part, fields in _CONSTANTS.items():
            for field, constant in fields.items():
                if signature[part][field] != constant:
                    return f"{part}.{field} is {signature[part][field]!r}, not {constant!r}"
        if not all(isinstance(name, str) for name in names):
            return "a name is not a text"
        if any(_UNPRINTABLE.search(name) for name in names):
            return "a name holds characters that command a terminal"
        if signature["output"]["shape"] != [None, len(signature["classes"])]:
            return "not as many outputs as classes"
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _wrong_numbers(steps: Mapping[str, Any]) -> str | None:
    for name in ("mean", "std"):
        numbers = steps[name]
        if not isinstance(numbers, list) or len(numbers) not in (1, steps["channels"]):
            return f"{name} must be 1 number, or one for each channel"
        if not all(type(number) in (int, float) for number in numbers):
            return f"{name} must be numbers"
        # A whole number of any length can be compared where it could not become a float.
        if not all(abs(number) <= _LARGEST_NUMBER for number in numbers):
            return f"{name} must be finite in float32"
    if not all(number > 0 for number in steps["std"]):
        return "std must be above 0"
    return None


def _shapes(
    path: Path, symbol: sym.Symbol, name: str, shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each argument and auxiliary state but the input."""
    if name not in symbol.list_arguments():
        raise GluonexpError(f"{path}: has no input {name!r}")
    try:
        with redirect_stdout(io.StringIO()):  # where it tells of a failure besides raising it
            arguments, outputs, statistics = symbol.infer_shape(**{name: shape})
    except mx.MXNetError as error:
        raise GluonexpError(f"{path}: does not take {shape} images: {reason(error)}") from None
    if outputs is None:
        raise GluonexpError(f"{path}: the shapes of its parameters do not follow from the input's")
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    shapes = dict(zip(names, [*arguments, *statistics], strict=True))
    del shapes[name]
    return shapes
