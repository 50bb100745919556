"""Networks trained elsewhere: a symbol and its parameters become an export like our own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import draft
from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.base.text import listed
from gluonexp.export import heads
from gluonexp.export.symbol import export
from gluonexp.graph import images
from gluonexp.graph.graph import VARIABLE, Graph, Node
from gluonexp.graph.symbols import block, to_symbol
from gluonexp.model_folder import extents, params
from gluonexp.model_folder.network import Network, read_symbol
from gluonexp.model_folder.params import check_finite
from gluonexp.model_folder.signature import Preprocessing, Signature

# The export's input has this name, whatever it had.
INPUT: Final = "data"

# Operators whose first input is what they work on, while the others are parameters.
_LAYERS: Final = {
    *("Convolution", "Deconvolution", "FullyConnected", "Embedding", "LeakyReLU"),
    *("BatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm"),
}

# Mean and std of values from 0 to 1 are not so far from 0, those of values up to 255 are farther.
_FARTHEST: Final = 4.0

# What a network may need for the results of all its layers on two images.
_LARGEST: Final = 4 << 30  # bytes


def adopt(
    symbol: Path,
    params: Path,
    to: Path,
    *,
    image: tuple[int, int, int],
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | None = None,
    data_classes: Sequence[str] = (),
    output: str | None = None,
) -> Path:
    """Make an export of a network for images that was not trained here.

    It is renamed and cut where that makes it like our own: the input is called ``data``, the
    output is logits. What was done is said in ``signature.json``, as ``adopted``.

    Parameters
    ----------
    symbol, params
        ``NAME-symbol.json`` and ``NAME-0000.params``: of Gluon's `export`, of Module's
        `save_checkpoint`, or parameters under the symbol's own names.
    to
        The folder to make; it must not hold anything yet.
    image
        (H, W, C) of an image, uint8.
    input_shape
        (C, H, W) of the network's input, float32.
    mean, std
        Per channel (or one for all), of values scaled to [0, 1]: divide by 255 what a network
        for values up to 255 was trained with. For one that takes such values as they are, mean 0
        and std 1 / 255.
    classes
        Their names, in the order of the outputs.
    data_classes
        Those of data that the network is for: its names where `classes` are not given and there
        is one for each output. Else they are "0", "1" ...
    output
        The one to take of several, or a layer within; by its name.

    Returns
    -------
    Path
        `to`, with ``model-symbol.json``, ``model-0000.params`` and ``signature.json``.

    Raises
    ------
    GluonexpError
        The files are damaged, not safe to load, do not belong together, or hold no classifier of
        such images. Nothing is written then.
    """
    steps = preprocessing(image, input_shape, mean, std)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise GluonexpError(f"{to} exists: name a new folder for the export")
    changes: list[str] = []  # what was done, for people
    network, sigmoid = _read(symbol, params, output, changes)
    shape = _check_shapes(network, symbol, params, input_shape)
    graph = _ranged(Graph.from_symbol(network.symbol), steps, changes)
    graph, outputs = heads.flat(graph, shape, changes), shape[1]
    if outputs == 1 and not sigmoid:
        raise GluonexpError(
            f"{symbol} gives one value for an image, and no sigmoid that would make it the "
            "probability of a class: no classifier"
        )
    if outputs == 1:
        graph, outputs = heads.two_classes(graph, changes), 2
    elif sigmoid:
        changes.append("each class had a probability of its own; now they add up to 1")
    names = [str(index) for index in range(outputs)] if classes is None else list(classes)
    if classes is None and len(data_classes) == outputs:
        names = list(data_classes)
        changes.append(
            f"the outputs are taken for the classes of the data, in their order: {listed(names)}"
        )
    if len(names) != outputs:
        raise GluonexpError(f"{symbol} has {outputs} outputs, but {len(names)} classes are named")
    graph = _noted(graph, network.values)
    net = _called(network._replace(symbol=to_symbol(graph)), symbol, params, input_shape)
    to.parent.mkdir(parents=True, exist_ok=True)
    origin = {"symbol": symbol.name, "params": params.name, "changes": changes}
    with draft(to) as made:
        export(net, made, Signature(image, steps, tuple(names), adopted=origin))
    return to


def preprocessing(
    image: tuple[int, int, int],
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Preprocessing:
    """Return the preprocessing, checked."""
    channels, height, width = input_shape
    if min(*image, *input_shape) < 1:
        raise GluonexpError(f"images {image}, input {input_shape}: sizes are 1 or more")
    if image[2] != channels and {image[2], channels} != {1, 3}:
        raise GluonexpError(
            f"images of {image[2]} channels cannot become an input of {channels}; only 1 and 3 "
            "can become each other"
        )
    given = {"mean": list(map(float, mean)), "std": list(map(float, std))}
    for name, numbers in given.items():
        if len(numbers) not in (1, channels) or not all(map(math.isfinite, numbers)):
            raise GluonexpError(f"{name} {numbers}: give 1 number, or {channels}")
    if min(given["std"]) <= 0:
        raise GluonexpError(f"std {given['std']}: must be above 0")
    _check_scale(given)
    return Preprocessing(height, width, channels, tuple(given["mean"]), tuple(given["std"]))


def _check_scale(given: Mapping[str, Sequence[float]]) -> None:
    """Refuse a mean and std of values up to 255; say what they are of values from 0 to 1."""
    far = [name for name, numbers in given.items() if max(map(abs, numbers)) > _FARTHEST]
    if not far:
        return
    words = []
    for name, numbers in given.items():
        # Beside such a mean, a std of 1 is of the same values: nothing was divided.
        divided = name in far or (name == "std" and set(numbers) == {1.0})
        scaled = [number / 255 if divided else number for number in numbers]
        words.append(f"--{name} {','.join(f'{number:.4g}' for number in scaled)}")
    raise GluonexpError(
        f"{far[0]} {given[far[0]]} is of values up to 255, where mean and std of values from 0 to "
        f"1 are asked for; divided by 255: {' '.join(words)}"
    )


def _read(
    path: Path, source: Path, output: str | None, changes: list[str]
) -> tuple[Network, bool]:
    """Read the two files, and make of them a network whose one free argument is `INPUT`.

    Also say whether it ended in a sigmoid.
    """
    symbol = read_symbol(path)
    graph, sigmoid = heads.logits(heads.output(symbol, output, path, changes), changes)
    # Without what only other outputs are computed from.
    needless = _names(symbol) - _names(to_symbol(graph))
    values = {k: v for k, v in _values(source, changes).items() if k not in needless}
    name = _input(graph, values, path, source)
    if name != INPUT:
        changes.append(f"the input {name} is called {INPUT}")
        if any(graph.nodes[at].name == INPUT for at in graph.variables):
            raise GluonexpError(f"{path}: {INPUT} is a parameter, not the input {name}")
    # Shapes, types and devices noted in variables are of the training that was.
    nodes = (
        Node(VARIABLE, INPUT if node.name == name else node.name)
        if node.op == VARIABLE
        else _single(node)
        for node in graph.nodes
    )
    return Network(to_symbol(replace(graph, nodes=tuple(nodes))), values), sigmoid


def _single(node: Node) -> Node:
    """Let a node make float32 where it made half or double precision, as the parameters are."""
    if node.attrs.get("dtype") not in ("float16", "float64"):
        return node
    return replace(node, attrs={**node.attrs, "dtype": "float32"})


def _ranged(graph: Graph, steps: Preprocessing, changes: list[str]) -> Graph:
    """Let images be quantized by the range that they can have.

    Without one MXNet takes that of the images which are given at once, and an image's answer
    depends on the others.
    """
    mean, std = np.broadcast_arrays(steps.mean, steps.std)
    low, high = float((-mean / std).min()), float(((1 - mean) / std).max())
    given = {"min_calib_range": repr(low), "max_calib_range": repr(high), "out_type": "int8"}
    nodes = list(graph.nodes)
    for at, node in enumerate(nodes):
        if node.op == "_contrib_quantize_v2" and "min_calib_range" not in node.attrs:
            source = graph.nodes[node.inputs[0].node]
            if source.op == VARIABLE and source.name == INPUT:
                nodes[at] = replace(node, attrs={**node.attrs, **given})
                changes.append(
                    f"{node.name} quantizes all that images can be: {low:g} to {high:g}"
                )
    return replace(graph, nodes=tuple(nodes))


def _names(symbol: sym.Symbol) -> set[str]:
    return {*symbol.list_arguments(), *symbol.list_auxiliary_states()}


def _values(path: Path, changes: list[str]) -> dict[str, nd.NDArray]:
    """Return the parameters and statistics by the names the symbol has for them."""
    values: dict[str, nd.NDArray] = {}
    narrowed = set()
    for key, value in params.load(path).items():
        name = key.removeprefix("arg:").removeprefix("aux:")
        if name in values:
            raise GluonexpError(f"{path}: holds {name} twice")
        if value.dtype.kind != "f":
            raise GluonexpError(
                f"{path}: {name} is {value.dtype}, where only networks of floats can be taken"
            )
        if value.dtype != np.float32:
            narrowed.add(str(value.dtype))
        with np.errstate(over="ignore"):  # of a float64 that is too large
            single = value.astype(np.float32)
        check_finite(path, name, single)
        values[name] = nd.array(single, dtype="float32")
    changes += [f"{dtype} parameters are float32" for dtype in sorted(narrowed)]
    return values


def _input(graph: Graph, values: Mapping[str, object], path: Path, source: Path) -> str:
    """Return the name of the only argument that is no parameter; everything else has values."""
    weights = {
        graph.nodes[parameter.node].name
        for node in graph.nodes
        if node.op in _LAYERS
        for parameter in node.inputs[1:]
    }
    symbol = to_symbol(graph)
    arguments, statistics = symbol.list_arguments(), symbol.list_auxiliary_states()
    free = [name for name in arguments if name not in values]
    missing = [name for name in free if name in weights]
    missing += [name for name in statistics if name not in values]
    extra = [name for name in values if name not in {*arguments, *statistics}]
    complaints = []
    if missing:
        complaints.append(f"{source} lacks {listed(missing)}, which {path.name} needs")
    if extra:
        complaints.append(f"{source} holds {listed(extra)}, which {path.name} does not know")
    if any("." in name for name in extra):
        complaints.append(
            "names with dots are of Gluon's save_parameters: export() writes a pair that fits"
        )
    if complaints:
        raise GluonexpError("; ".join(complaints))
    inputs = [name for name in free if name not in weights]
    if not inputs:
        raise GluonexpError(f"{path} has no input: {source} holds values for all its arguments")
    if len(inputs) > 1:
        labels = [name for name in inputs if "label" in name]
        remedy = (
            f"; {listed(labels)} is a label, which only training has: name with --output a layer "
            "that does without it"
        )
        raise GluonexpError(
            f"{path} has {len(inputs)} inputs, not one: {listed(inputs)} (arguments that "
            f"{source.name} does not hold){remedy if labels else ''}"
        )
    return str(inputs[0])


def _check_shapes(
    network: Network, path: Path, source: Path, input_shape: tuple[int, int, int]
) -> tuple[int, ...]:
    """Return the shape of the output; nothing is computed, and no memory taken.

    All is inferred for two images, so that a network for one image only is found out.
    """
    symbol, values = network.symbol, network.values
    known: dict[str, tuple[int, ...]] = {INPUT: (2, *input_shape)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is not inferred
            if wrong := _misfits(network, {**known, **_slopes(network)}):
                raise GluonexpError(
                    f"{source} does not fit {path.name} with an input of {input_shape}: "
                    f"{listed(wrong)}"
                )
            known |= {name: value.shape for name, value in values.items()}
            _, outputs, _ = symbol.infer_shape(**known)
            _, everything, _ = symbol.get_internals().infer_shape(**known)
    except (mx.MXNetError, TypeError) as error:  # TypeError: an argument called self
        raise GluonexpError(
            f"{path} does not take images of {input_shape} in any number: {reason(error)}"
        ) from None
    if outputs is None or everything is None:
        raise GluonexpError(f"{path}: the shape of its output does not follow from the input's")
    needs = sum(math.prod(shape) for shape in everything) * 4  # bytes
    if needs > _LARGEST:
        raise GluonexpError(f"{path} needs {needs >> 30} GiB of memory for two images")
    (shape,) = outputs
    if len(shape) < 2 or shape[0] != 2 or shape[1] < 1 or math.prod(shape[2:]) != 1:
        raise GluonexpError(
            f"{path} makes {shape} of two images, not (2, number of classes): no classifier"
        )
    image = extents.Input(INPUT, (1, *input_shape), "float32")
    if (unsafe := extents.flaw(symbol, image, values)) is not None:
        raise GluonexpError(f"{path}: refused: {unsafe}")
    return tuple(shape)


def _slopes(network: Network) -> dict[str, tuple[int, ...]]:
    """Return the slopes of PReLU layers that have one for all channels: no shape is inferred."""
    nodes = Graph.from_symbol(network.symbol).nodes
    slopes = {
        nodes[node.inputs[1].node].name
        for node in nodes
        if node.op == "LeakyReLU" and len(node.inputs) > 1
    }
    return {
        name: (1,) for name in slopes if name in network.values and network.values[name].size == 1
    }


def _misfits(network: Network, known: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Say which parameters have other shapes than follow from the input's, as far as any do."""
    symbol, values = network
    try:
        arguments, _, statistics = symbol.infer_shape_partial(**known)
    except mx.MXNetError:  # not without the parameters' own shapes
        return []
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    return [
        f"{name} is {values[name].shape}, not {shape}"
        for name, shape in zip(names, [*arguments, *statistics], strict=True)
        if name != INPUT and shape and min(shape) > 0 and shape != values[name].shape
    ]


def _noted(graph: Graph, values: Mapping[str, nd.NDArray]) -> Graph:
    """Note in variables their shapes, which do not all follow from the input's."""
    nodes = (
        replace(node, attrs={"__shape__": str(values[node.name].shape)})
        if node.op == VARIABLE and node.name in values
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def _called(
    network: Network, path: Path, source: Path, input_shape: tuple[int, int, int]
) -> gluon.SymbolBlock:
    """Return the network as a block that was called, and so can be exported."""
    try:
        net = block(network.symbol, network.values, INPUT)
        net.hybridize()
        noise = images.noise(input_shape)
        logits = net(nd.array(noise)).asnumpy()
        if np.isnan(logits).any():
            raise GluonexpError(f"{path} answers noise with nan: it, or {source.name}, is damaged")
        mixed = images.flaw(
            lambda given: net(nd.array(given)).asnumpy(),
            lambda: (Graph.from_symbol(network.symbol), network.values),
            INPUT,
            noise,
        )
    except mx.MXNetError as error:
        raise GluonexpError(f"{path} cannot be run: {reason(error)}") from None
    if mixed is not None:
        raise GluonexpError(f"{path}: {mixed}; an export must answer for each image by itself")
    if logits.dtype != np.float32:
        raise GluonexpError(f"{path}: its output is {logits.dtype}, not float32")
    return net
