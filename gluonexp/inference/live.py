"""A network in memory becomes an export: traced, written, and proved by an example of its input.

For `gluonexp.mlflow_gluon`, to which users hand networks that they trained by scripts of their
own. The network stays as it is: it is neither hybridized nor cast.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence, Set
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import autograd, gluon, mx, nd, sym
from gluonexp.export import heads, symbol
from gluonexp.export.foreign import INPUT, preprocessing
from gluonexp.graph import images
from gluonexp.graph.graph import Graph
from gluonexp.graph.symbols import block, classic, plain, to_symbol
from gluonexp.model_folder import extents, network, samples
from gluonexp.model_folder.names import MODEL, paths
from gluonexp.model_folder.network import Network
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.samples import EXAMPLE, ProofSamples
from gluonexp.model_folder.signature import ArraySignature, Preprocessing, Signature, as_float
from gluonexp.verification import card, verify
from gluonexp.verification.card import Origin


def export(
    net: gluon.HybridBlock,
    folder: Path,
    example: NDArray[Any] | None,
    *,
    classes: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    sides: Sequence[int | None] | None = None,
    origin: Origin | None = None,
) -> NDArray[np.float32] | None:
    """Write a network into `folder`, with a certificate if there is an example of its input.

    Parameters
    ----------
    net
        Initialized. It takes one array of float32, with the batch as its first axis.
    example
        What it is given, (N, ...); or images (N, H, W, C) uint8, for which the preprocessing of
        `mean` and `std` stands before the network: scaled to [0, 1], (N, C, H, W).
    classes
        Names of the outputs; of images "0", "1" ... without them. A softmax or a sigmoid at the
        end of a network of images is cut off: an export gives logits.
    mean, std
        Of values from 0 to 1, one number or one for each channel. Where they are given, an
        `example` (N, C, H, W) of float32 is of such images after these steps.
    sides
        Of one input that takes no images, where they are known better than by the example: None
        for any length.
    origin
        For the card.

    Returns
    -------
    numpy.ndarray or None
        What the network makes of the example.

    Raises
    ------
    GluonexpError
        It is no network that can be kept; a sentence says why.
    """
    if not isinstance(net, gluon.HybridBlock):
        raise GluonexpError(
            f"{type(net).__name__} cannot be kept: it must be a HybridBlock (for nn.Sequential "
            "write nn.HybridSequential), whose graph can be written to a file"
        )
    named = _names(classes)
    try:
        parameters = net.collect_params()
    except AssertionError as error:  # two parameters of one name
        raise GluonexpError(f"{type(net).__name__} cannot be kept: {reason(error)}") from None
    kinds = {np.dtype(parameter.dtype).name for parameter in parameters.values()}
    if other := sorted(kinds & {"float16", "float64"}):
        raise GluonexpError(
            f"{type(net).__name__} computes in {' and '.join(other)}, an export in float32: "
            "net.cast('float32') first"
        )
    with classic():
        given = _given(example, mean, std)
    # By the user's semantics of arrays, for which the network was written.
    answers = None if given is None else _answers(net, given.prepared)
    traced = _traced(net)
    with classic():
        return _written(folder, traced, given, answers, named, sides, origin)


def _names(classes: Any) -> tuple[str, ...]:
    listed = hasattr(classes, "__iter__") and not isinstance(classes, str | bytes | Mapping | Set)
    if classes is not None and not listed:
        raise GluonexpError(
            f"classes={classes!r}: give a list, the names of the outputs in their order"
        )
    named = tuple(map(str, () if classes is None else classes))
    if (twice := next((name for name in named if named.count(name) > 1), None)) is not None:
        raise GluonexpError(f"classes: {twice!r} is the name of several outputs")
    return named


class _Given(NamedTuple):
    """An example of the input: as it is kept, as the network gets it, and what is between."""

    inputs: NDArray[Any]
    prepared: NDArray[np.float32]
    steps: Preprocessing | None = None
    whole: bool = False


def _given(
    example: NDArray[Any] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> _Given | None:
    if example is None:
        if mean is not None or std is not None:
            raise GluonexpError("mean and std are of images: give some of them as input_example")
        return None
    if not example.size:
        raise GluonexpError(f"input_example is empty: {example.dtype} {example.shape}")
    images, steps = _images(example, mean, std)
    if images is None or steps is None:
        inputs = _as_float(example)
        return _Given(inputs, inputs, whole=example.dtype.kind in "iu")
    height, width, channels = images.shape[1:]
    return _Given(images, Preprocess(steps, (height, width, channels)).inputs(images), steps)


def _written(
    folder: Path,
    traced: Network,
    given: _Given | None,
    answers: NDArray[np.float32] | None,
    classes: tuple[str, ...],
    sides: Sequence[int | None] | None,
    origin: Origin | None,
) -> NDArray[np.float32] | None:
    """Write the export; return the network's answers to the example, of images the logits."""
    changes: list[str] = []
    if given is not None and answers is not None:
        if given.steps is not None:
            traced, answers = _logits(traced, given.prepared, answers, changes)
        known = {name: value.shape for name, value in traced.values.items()}
        known[INPUT] = (1, *given.prepared.shape[1:])
        traced = traced._replace(symbol=to_symbol(plain(traced.symbol, known)))
    signature = _signature(given, answers, classes, sides, changes)
    folder.mkdir(parents=True, exist_ok=True)
    symbol.write(traced, folder)
    signature.write(folder)
    _check(folder, signature)
    if given is not None and answers is not None:
        _keep(folder, given.inputs, answers, signature.classes)
        verify.certify(folder, origin=origin)
    else:
        card.write(folder, None, origin)
    return answers


def _images(
    example: NDArray[Any],
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> tuple[NDArray[np.uint8] | None, Preprocessing | None]:
    """Return the images of an example, and what is done to them; nothing if it is of none."""
    given = mean is not None or std is not None
    means, stds = (
        tuple(map(float, np.atleast_1d(default if value is None else value)))
        for value, default in ((mean, 0.0), (std, 1.0))
    )
    if example.ndim == 4 and example.dtype == np.uint8 and example.shape[3] in (1, 3):
        height, width, channels = example.shape[1:]
        size = height, width, channels
        return example, preprocessing(size, (channels, height, width), means, stds)
    if not given:
        return None, None
    if example.ndim != 4 or example.shape[1] not in (1, 3):
        raise GluonexpError(
            f"mean and std are of images, but input_example is {example.dtype} {example.shape}: "
            "give (N, H, W, C) of uint8, or (N, C, H, W) of float32"
        )
    channels, height, width = example.shape[1:]
    steps = preprocessing((height, width, channels), (channels, height, width), means, stds)
    before = example * np.reshape(steps.std, (-1, 1, 1)) + np.reshape(steps.mean, (-1, 1, 1))
    if not (before.min() >= -0.01 and before.max() <= 1.01):
        raise GluonexpError(
            f"input_example is not of images with mean {list(means)} and std {list(stds)}: before "
            f"these steps it was from {before.min():.3g} to {before.max():.3g}, not from 0 to 1"
        )
    pixels = np.clip(np.rint(before * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), steps


def _as_float(example: NDArray[Any]) -> NDArray[Any]:
    """Return an example as a network gets it that takes no images."""
    if example.dtype.kind not in "fiub" or not example.ndim or not example.size:
        raise GluonexpError(
            f"input_example is {example.dtype} {example.shape}, but must hold numbers, (N, ...)"
        )
    return as_float(example)


def _answers(net: gluon.HybridBlock, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the network makes of inputs, (N, ...), if each has an answer of its own."""
    what = type(net).__name__

    def graph() -> tuple[Graph, dict[str, nd.NDArray]]:
        traced = _traced(net)
        return Graph.from_symbol(traced.symbol), traced.values

    try:
        with autograd.pause(train_mode=False), redirect_stdout(io.StringIO()):
            device = next(iter(net.collect_params().values())).list_ctx()[0]
            several = [_run(net, part, device) for part in _parts(inputs)]
            for made, part in zip(several, _parts(inputs), strict=True):
                if len(made) != len(part):
                    raise GluonexpError(
                        f"{what} makes {made.shape} of inputs {part.shape}: the first axis of "
                        "both must be that of the batch"
                    )
            answers = np.concatenate(several)
            if not np.isfinite(answers).all():
                raise GluonexpError(
                    f"{what} answers input_example with numbers that are not finite"
                )
            mixed = images.flaw(
                lambda given: _run(net, given, device), graph, INPUT, inputs, "input"
            )
    except StopIteration:
        raise GluonexpError(f"{what} has no parameters: nothing to keep") from None
    except GluonexpError:
        raise
    except Exception as error:  # whatever its code does with arrays
        raise GluonexpError(
            f"{what} cannot be run on input_example, float32 {inputs.shape}: {reason(error)}"
        ) from None
    if mixed is not None:
        raise GluonexpError(
            f"{what}: {mixed}; or the first axis of input_example is not that of the batch"
        )
    return answers


def _parts(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [inputs[at : at + extents.BATCH] for at in range(0, len(inputs), extents.BATCH)]


def _run(net: gluon.HybridBlock, inputs: NDArray[np.float32], device: Any) -> NDArray[np.float32]:
    array = mx.np.array if mx.util.is_np_array() else nd.array
    made = net(array(inputs, ctx=device, dtype="float32"))
    if not isinstance(made, nd.NDArray):
        raise GluonexpError(
            f"{type(net).__name__} has {len(made)} outputs, not one: wrap it in a HybridBlock "
            "that returns the one to keep"
        )
    outputs: NDArray[np.float32] = np.atleast_1d(made.asnumpy())
    return outputs


def _traced(net: gluon.HybridBlock) -> Network:
    """Return the graph of a network, and its values on the CPU."""
    what = type(net).__name__
    try:
        with mx.name.NameManager(), redirect_stdout(io.StringIO()):
            entry = sym.var(INPUT)
            traced = net(entry.as_np_ndarray() if mx.util.is_np_array() else entry)
    except Exception as error:  # whatever its code does with a symbol
        raise GluonexpError(
            f"{what} cannot be written as a graph of one input: {reason(error)}"
        ) from None
    if not isinstance(traced, sym.Symbol) or len(traced.list_outputs()) != 1:
        raise GluonexpError(f"{what} must have one output; wrap it in a HybridBlock that does")
    needed = {*traced.list_arguments(), *traced.list_auxiliary_states()} - {INPUT}
    values: dict[str, nd.NDArray] = {}
    for name, parameter in net.collect_params().items():
        if name not in needed:
            continue
        try:
            own = parameter.data(parameter.list_ctx()[0])
            value = own.as_in_context(mx.cpu()).as_nd_ndarray()
        except gluon.parameter.DeferredInitializationError:
            raise GluonexpError(
                f"{what}: the shape of {name} is not known yet: give input_example, or call the "
                "network once"
            ) from None
        except RuntimeError:
            raise GluonexpError(
                f"{what} is not initialized ({name}): net.initialize(), or load_parameters()"
            ) from None
        if value.dtype != np.float32:
            kind = np.dtype(value.dtype).name
            raise GluonexpError(f"{what}: {name} is {kind}: net.cast('float32') first")
        if not np.isfinite(value.asnumpy()).all():
            raise GluonexpError(f"{what}: {name} holds numbers that are not finite")
        values[name] = value
    if missing := sorted(needed - values.keys()):
        raise GluonexpError(
            f"{what} has another input or values that are no parameters: {', '.join(missing)}"
        )
    return Network(traced.as_nd_ndarray(), values)


def _logits(
    traced: Network,
    prepared: NDArray[np.float32],
    answers: NDArray[np.float32],
    changes: list[str],
) -> tuple[Network, NDArray[np.float32]]:
    """Return a network of images without the softmax or sigmoid at its end, and its logits."""
    graph, sigmoid = heads.logits(Graph.from_symbol(traced.symbol), changes)
    graph = heads.flat(graph, answers.shape, changes)
    if sigmoid and answers.shape[1] == 1:
        graph = heads.two_classes(graph, changes)
    if not changes:
        return traced, answers
    cut = to_symbol(graph)
    values = {name: traced.values[name] for name in cut.list_inputs() if name != INPUT}
    net = block(cut, values, INPUT)
    made = [net(nd.array(part)).asnumpy() for part in _parts(prepared)]
    return Network(cut, values), np.concatenate(made)


def _signature(
    given: _Given | None,
    answers: NDArray[np.float32] | None,
    names: tuple[str, ...],
    sides: Sequence[int | None] | None,
    changes: Sequence[str],
) -> Signature | ArraySignature:
    if answers is not None and names and answers.shape[1:] != (len(names),):
        raise GluonexpError(
            f"{len(names)} classes are named, but the network makes {answers.shape} of "
            f"{len(answers)} inputs"
        )
    if given is not None and given.steps is not None and answers is not None:
        if answers.ndim != 2 or answers.shape[1] < 2:
            raise GluonexpError(
                f"the network makes {answers.shape} of {len(answers)} images, so it is no "
                "classifier of images: give input_example as what the network itself takes, "
                "(N, C, H, W) of float32, without mean and std"
            )
        height, width, channels = given.inputs.shape[1:]
        names = names or tuple(map(str, range(answers.shape[1])))
        adopted = {"changes": list(changes)} if changes else None
        return Signature((height, width, channels), given.steps, names, INPUT, adopted)
    if sides is None and given is not None:
        sides = given.inputs.shape[1:]
    whole = given is not None and given.whole
    made = ArraySignature(None if sides is None else tuple(sides), names, INPUT, whole)
    if given is not None and not made.fits(given.inputs.shape):
        raise GluonexpError(
            f"input_example is {given.inputs.shape}, but {made.takes} are said to be taken"
        )
    return made


def _check(folder: Path, signature: Signature | ArraySignature) -> None:
    """Refuse what could not be loaded again."""
    try:
        if isinstance(signature, Signature):
            network.read_network(folder, MODEL, INPUT, signature.shape)
        else:
            network.read_pair(*paths(folder, MODEL))
    except GluonexpError as error:
        told = str(error).replace(f"{paths(folder, MODEL)[0]}: ", "")
        raise GluonexpError(f"the network cannot be kept: {told}") from None


def _keep(
    folder: Path, inputs: NDArray[Any], answers: NDArray[np.float32], classes: Sequence[str]
) -> None:
    """Write the example into the export's folder, with the network's answers to it."""
    rows = answers.reshape(len(answers), -1)
    labels = rows.argmax(axis=1)
    samples.write(folder, ProofSamples(inputs, labels, rows, tuple(classes), split=EXAMPLE))
