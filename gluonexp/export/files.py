"""The files of an export, read so that whatever lies there can do no harm.

A symbol is JSON, but MXNet has operators whose attributes are machine addresses to call
(``_Native``, ``_NDArray``), or which call Python or open files: a graph with one is refused before
MXNet sees it. Parameters are read by `gluonexp.export.params`, which `mxnet.nd.load` is not safe
enough for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, NamedTuple

from gluonexp.errors import GluonexpError
from gluonexp.export import params, structure
from gluonexp.mx import mx, nd, sym

MODEL: Final = "model"  # float32 NCHW
UINT8: Final = "uint8"  # images at rest, uint8 NHWC
INT8: Final = "int8"  # float32 NCHW, computed in eight bits
ONNX: Final = "model.onnx"
SIGNATURE: Final = "signature.json"

_HARMFUL: Final = {
    *("_Native", "_NDArray"),  # call the address in their attribute `info`
    *("Custom", "_npi_Custom", "_CustomFunction"),  # call Python
    *("_cvimread", "_npi_cvimread"),  # open a file
    *("_CachedOp", "_CachedOpThreadSafe", "_FusedOp", "_TensorRT"),  # belong to one process
}


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
    return network


def read_symbol(path: Path) -> sym.Symbol:
    """Return the symbol in a JSON file.

    Raises
    ------
    GluonexpError
        No such file, no symbol, or one with an operator that is not safe to run.
    """
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise GluonexpError(f"{path}: not a symbol's JSON ({error})") from None
    if harmful := sorted(name for name in set(_operators(graph)) if _is_harmful(name)):
        raise GluonexpError(
            f"{path}: not loaded, for its operator {' and '.join(harmful)} can run code or open "
            "files; no network for images needs it"
        )
    if (wrong := structure.flaw(graph)) is not None:
        raise GluonexpError(f"{path}: not a symbol, or damaged: {wrong}")
    try:
        # What was looked through, and not the text: MXNet's own parser may read that otherwise.
        return sym.load_json(json.dumps(graph, ensure_ascii=False))
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
    try:
        signature: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GluonexpError(
            f"{folder}: no export here ({SIGNATURE} is missing); name a run, or the folder that "
            "holds model-symbol.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise GluonexpError(f"{path}: cannot be read: {error}") from None
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
        sizes = [*shape, *(image[side] for side in ("height", "width", "channels"))]
        numbers = [*steps["mean"], *steps["std"]]
        names = [entry["name"], *signature["classes"]]
        if entry["shape"] != [None, *shape]:
            return "its input is not what its preprocessing gives"
        if not all(type(size) is int and size > 0 for size in sizes):
            return "a size is not a positive number"
        if not all(type(number) in (int, float) for number in numbers):
            return "mean and std must be numbers"
        if not all(isinstance(name, str) for name in names):
            return "a name is not a text"
        if signature["output"]["shape"] != [None, len(signature["classes"])]:
            return "not as many outputs as classes"
    except (KeyError, TypeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _is_harmful(operator: str) -> bool:
    # The gradient of `_Native` calls its address just so; a trained network has no gradients.
    return operator in _HARMFUL or operator.startswith("_backward")


def _operators(value: Any) -> Iterator[str]:
    """Name every operator in a graph's JSON, those of graphs within it too."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("op"), str):
                yield value["op"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


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
