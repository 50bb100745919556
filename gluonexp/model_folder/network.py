"""The network of an export, read so that whatever lies there can do no harm.

A symbol is JSON, but among MXNet's operators are some that call a machine address, call Python,
open files or write where an input tells them: a graph with any but those known to be safe
(`gluonexp.model_folder.operators`) is refused before MXNet sees it. Parameters are read by
`gluonexp.model_folder.params`, which `mxnet.nd.load` is not safe enough for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import pointer
from gluonexp.base.mx import mx, nd, sym
from gluonexp.base.text import listed
from gluonexp.graph.graph import Graph
from gluonexp.graph.symbols import plain, to_symbol
from gluonexp.model_folder import extents, operators, params, structure
from gluonexp.model_folder.names import UINT8, paths

_LARGEST_SYMBOL: Final = 2**26  # bytes; that of DenseNet-201 takes 400 kB


class Network(NamedTuple):
    """A symbol and its values by name: weights, and running statistics."""

    symbol: sym.Symbol
    values: dict[str, nd.NDArray]


def read_network(folder: Path, prefix: str, name: str, shape: Sequence[int]) -> Network:
    """Return the network of ``{prefix}-symbol.json`` and ``{prefix}-0000.params``.

    Its operators have names of their own, and its dense layers a Flatten before them where they
    flatten: exports of before gluonexp 0.2, and those of others, need not.

    Parameters
    ----------
    name, shape
        Of its input, one image.

    Raises
    ------
    GluonexpError
        A file is missing, damaged or not safe to load, or they do not belong together.
    """
    dtype = "uint8" if prefix == UINT8 else "float32"
    entry = extents.Input(name, tuple(shape), dtype)
    return checked(read_pair(*paths(folder, prefix)), *paths(folder, prefix), entry)


def read_pair(graph: Path, file: Path) -> Network:
    """Return the network of two files as it lies there; it is run as `checked` returns it.

    Raises
    ------
    GluonexpError
        A file is missing, damaged or not safe to load.
    """
    return Network(read_symbol(graph), read_params(file))


def checked(network: Network, graph: Path, file: Path, image: extents.Input) -> Network:
    """Return a network that was read from `graph` and `file` as it is run on such an input.

    Raises
    ------
    GluonexpError
        The files do not belong together, or it is not safe to run.
    """
    symbol, values = network
    wanted = _shapes(graph, symbol, image.name, image.shape)
    for key, expected in wanted.items():
        if key not in values:
            raise GluonexpError(f"{file}: {key} is missing, which {graph.name} needs")
        if values[key].shape != expected:
            raise GluonexpError(
                f"{file}: {key} is {values[key].shape}, but {expected} in {graph.name}"
            )
    if wrong := extents.flaw(symbol, image, values):
        raise GluonexpError(f"{graph}: refused: {wrong}")
    return Network(to_symbol(plain(symbol, {**wanted, image.name: image.shape})), values)


def refusal(symbol: sym.Symbol, name: str, shape: Sequence[int]) -> str | None:
    """Say why `read_network` would refuse a network once it is written; None if it would not.

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
    values = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    return extents.flaw(symbol, extents.Input(name, tuple(shape), "float32"), values)


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
        raise GluonexpError(
            pointer(path) or f"{path}: not a symbol, or damaged: {error}"
        ) from None
    if unknown := operators.unknown(graph):
        raise GluonexpError(f"{path}: {_refused(unknown)}")
    if (wrong := structure.flaw(graph)) is not None:
        raise GluonexpError(f"{path}: not a symbol, or damaged: {wrong}")
    try:
        # What was looked through, and not the text: MXNet's own parser may read that otherwise.
        return to_symbol(graph)
    except (mx.MXNetError, UnicodeError) as error:
        raise GluonexpError(f"{path}: not a symbol: {reason(error)}") from None


def _refused(unknown: Sequence[str]) -> str:
    """Say why a symbol with operators that are not known to be safe is not loaded."""
    if missing := sorted({*unknown} - {*mx.operator.get_all_registered_operators()}):
        return (
            f"MXNet {mx.__version__} has no operator {listed(missing)}: the file was written by a "
            "changed MXNet or another version, or is damaged"
        )
    return (
        f"not loaded, for its operator {' and '.join(unknown[:5])} can run code or harm memory, "
        "as far as is known here; MXNet itself loads a file that you trust: mx.sym.load"
    )


def read_params(path: Path) -> dict[str, nd.NDArray]:
    """Return the weights and statistics in a file of `HybridBlock.export`, by their names.

    Raises
    ------
    GluonexpError
        No such file, another kind of file, a damaged one, or one with values that are not finite.
    """
    values: dict[str, nd.NDArray] = {}
    for key, value in params.load(path).items():
        kind, _, name = key.partition(":")
        if kind not in ("arg", "aux") or not name:
            raise GluonexpError(f"{path}: {key!r} begins with neither arg: nor aux:")
        params.check_finite(path, name, value)
        values[name] = nd.array(value, dtype=value.dtype)
    return values


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
