"""The names of a zoo network's parameters, and the shapes it gives them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, sym
from gluonexp.config.schema import zoo_input


class Entry(NamedTuple):
    """One parameter of a network."""

    counted: str  # its name without the network's prefix: ``conv0_weight``
    shape: tuple[int, ...]


@functools.cache
def layout(backbone: str) -> Mapping[str, Entry]:
    """Return the parameters of zoo network `backbone` by structural name, in their order.

    The shapes are those for 1000 classes and images of the size that the zoo trained with.
    """
    try:
        net = gluon.model_zoo.vision.get_model(backbone)
    except ValueError:
        raise GluonexpError(
            f"{backbone}: no network of Gluon's model zoo (alexnet, resnet18_v1, vgg16_bn...)"
        ) from None
    side = zoo_input(backbone)
    graph = net(sym.var("data"))
    inferred, _, statistics = graph.infer_shape(data=(1, 3, side, side))  # allocates nothing
    shapes = dict(zip(graph.list_arguments(), inferred, strict=True))
    shapes |= zip(graph.list_auxiliary_states(), statistics, strict=True)
    return {
        # Which counter the prefix has (alexnet3_) depends on the process; what follows does not.
        name: Entry(parameter.name.removeprefix(net.prefix), shapes[parameter.name])
        for name, parameter in net._collect_params_with_prefix().items()
    }


def own(arrays: Iterable[str]) -> bool:
    """Whether these are names that gluonexp gives the parameters of a fine-tuned network."""
    return any(name.startswith(("backbone.", "head.", "head_")) for name in arrays)


def of_zoo(arrays: Iterable[str], backbone: str) -> bool:
    """Whether these are structural names of a zoo network, or of a fine-tuned one."""
    known = layout(backbone)
    return all(n in known or n.startswith(("backbone.", "head.")) for n in arrays)


def to_structural(
    arrays: Mapping[str, NDArray[Any]], backbone: str, source: Path | str
) -> dict[str, NDArray[np.float32]]:
    """Name `arrays` as zoo network `backbone` does, and see that they are all of it.

    Parameters
    ----------
    arrays
        By structural names (``features.0.weight``; of a fine-tuned network ``backbone.0.weight``
        and ``head.1.bias``), or by global names with any prefix or none
        (``arg:alexnet3_conv0_weight``, ``conv0_weight``).
    source
        Where they come from, for messages.

    Returns
    -------
    dict
        By structural name of the zoo's network, float32. A network cut off at its end leaves the
        rest out, ``output.`` may be for any number of classes, and the first Dense layer for
        images of any size. The parameters of a fine-tuned network's own head keep their names.

    Raises
    ------
    GluonexpError
        Another network's; the message names the first parameter that differs.
    """
    wanted = layout(backbone)
    plain = {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in arrays.items()}
    if any("." in name for name in plain):
        found = {
            f"features.{name[9:]}" if name.startswith("backbone.") else name: array
            for name, array in plain.items()
        }
    else:
        found = _from_counted(plain, wanted)
    refuse = f"{source}: not the weights of {backbone}: "
    if not found.keys() & wanted.keys():
        theirs, ours = next(iter(plain), "nothing"), next(iter(wanted))
        raise GluonexpError(f"{refuse}it has {theirs}, and no {ours}")
    last = max(place for place, name in enumerate(wanted) if name in found)
    flattened = next((name for name, entry in wanted.items() if len(entry.shape) == 2), None)
    for place, (name, entry) in enumerate(wanted.items()):
        if name not in found:
            if place < last:
                raise GluonexpError(f"{refuse}it has no {name}")
            continue
        shape, expected = found[name].shape, list(entry.shape)
        if shape and name.startswith("output."):
            expected[0] = shape[0]  # the number of classes
        if len(shape) == 2 and name == flattened:
            expected[1] = shape[1]  # it depends on the size of the images
        if shape != tuple(expected):
            raise GluonexpError(
                f"{refuse}{name} is {shape} there and {entry.shape} in the network"
            )
    for name, array in found.items():
        if name not in wanted and not name.startswith(("head.", "head_")):
            raise GluonexpError(f"{refuse}it also has {name}")
        if array.dtype.kind != "f":
            raise GluonexpError(
                f"{source}: {name} holds {array.dtype}, not floating-point numbers"
            )
    order = [name for name in wanted if name in found] + [n for n in found if n not in wanted]
    return {name: np.asarray(found[name], dtype=np.float32) for name in order}


def _from_counted(
    arrays: Mapping[str, NDArray[Any]], wanted: Mapping[str, Entry]
) -> dict[str, NDArray[Any]]:
    """Rename from global names; what the network has no name for keeps its own."""
    first = next(iter(wanted.values())).counted
    # The longer ones end like it by chance: stage1_conv0_weight.
    prefixes = [name.removesuffix(first) for name in arrays if name.endswith(first)]
    prefix = min(prefixes, key=len, default="")
    names = {prefix + entry.counted: name for name, entry in wanted.items()}
    return {names.get(name, name): array for name, array in arrays.items()}
