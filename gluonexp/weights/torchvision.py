"""torchvision's networks in Gluon's model zoo: its published files, their names, one stride.

Where a network is in `PUBLISHED`, the two libraries mean the same by it, but for one thing: in
the deeper ResNets Gluon strides in the first 1x1 convolution of a block, which has a bias, and
torchvision in the 3x3 one, without any; `gluonexp.models.finetune.adapt` moves those strides.

Compared were torchvision 0.28 (``torchvision/models``) and MXNet 1.9.1
(``gluon/model_zoo/vision``): the epsilon of BatchNorm (1e-5) and its momentum (0.9 is PyTorch's
0.1), paddings, pooling that rounds up in SqueezeNet, and the order of a flattened image are the
same. torchvision ends convolutions by adaptive pooling, Gluon by pooling of a fixed size or none:
that is the same for images of 224x224 pixels, which all of these were trained with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.weights.names import layout

SERVER: Final = "https://download.pytorch.org/models/"

# The sha256 of IMAGENET1K_V1 of torchvision/models, by Gluon's names, and sizes in bytes. At least
# two independent sources agree on each size and full digest. Of the other files only the eight
# digits in the name are known: enough to detect damage, not a deliberate forgery.
PUBLISHED: Final[dict[str, str]] = {
    "alexnet": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "resnet18_v1": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet34_v1": "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "resnet50_v1": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "resnet101_v1": "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    "resnet152_v1": "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
    "vgg11": "8a719046",
    "vgg13": "19584684",
    "vgg16": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "vgg19": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    "vgg11_bn": "6002323d",
    "vgg13_bn": "abd245e5",
    "vgg16_bn": "6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
    "vgg19_bn": "c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
    "squeezenet1.0": "b66bff10",
    "squeezenet1.1": "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    "densenet121": "a639ec97d7c33b07ae66f0b5fb7d0192f95a3b11b7576c66c0126c2a727c4395",
    "densenet161": "8d451a50",
    "densenet169": "b2777c0a",
    "densenet201": "c1103571",
}
SIZES: Final = {
    "alexnet": 244_408_911,
    "resnet18_v1": 46_830_571,
    "resnet34_v1": 87_319_819,
    "resnet50_v1": 102_530_333,
    "vgg16": 553_433_881,
    "vgg19": 574_673_361,
    "vgg16_bn": 553_507_836,
    "vgg19_bn": 574_769_405,
    "squeezenet1.1": 4_958_839,
    "densenet121": 32_342_954,
}

# Those whose strides differ.
ADAPTED: Final = frozenset({"resnet50_v1", "resnet101_v1", "resnet152_v1"})

# BatchNorm's scale and shift; everything else has the same name in both.
_PARAMETERS: Final = {"gamma": "weight", "beta": "bias"}

_LAST: Final = "output."  # the zoo's last layer, or the layers in it

# torchvision's DenseNet files have names of before PyTorch 0.4.
_DENSENET_OLD: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def convert(
    arrays: Mapping[str, NDArray[Any]], backbone: str, source: str = "the weights"
) -> dict[str, NDArray[np.float32]]:
    """Rename the parameters of a torchvision network as Gluon's `backbone` does.

    Of a backbone in `ADAPTED` they are right only for a network with torchvision's strides.

    Parameters
    ----------
    arrays
        A torchvision state dict. Its last layer may be missing, or be anything.
    backbone
        The zoo's name, one of `PUBLISHED`.
    source
        Where the arrays come from, for messages.

    Returns
    -------
    dict
        By structural name (``features.0.weight``), all of the zoo's network, in its order;
        without ``output.`` if the last layer is not like the zoo's, for any number of classes.
        They may share the memory of `arrays`, and be read-only.

    Raises
    ------
    GluonexpError
        torchvision has no such network, or the arrays are another's; the message names the
        first that differs, and the network that they look like.
    """
    check(backbone)
    entries, named = layout(backbone), _named(backbone)
    prefix = _prefix(arrays, next(iter(named.values())))
    theirs = {
        _DENSENET_OLD.sub(r"\1\2.", name.removeprefix(prefix)): array
        for name, array in arrays.items()
        if not name.endswith(".num_batches_tracked")
    }

    def refusal(fault: str) -> GluonexpError:
        head = f"{source}: not the weights of torchvision's {_their_name(backbone)}"
        return GluonexpError(f"{head}: {fault}{_looks_like(theirs, backbone)}")

    fits = all(
        named[name] in theirs and _fits(theirs[named[name]], entry.shape, free=1)
        for name, entry in entries.items()
        if name.startswith(_LAST)
    )
    converted = {}
    for name, entry in entries.items():
        if name.startswith(_LAST) and not fits:
            continue
        if name not in named:  # a bias in front of BatchNorm, which takes it away again
            converted[name] = np.zeros(entry.shape, np.float32)
            continue
        wanted = named[name]
        if wanted not in theirs:
            raise refusal(f"it has no {wanted}")
        found = theirs[wanted]
        if not _fits(found, entry.shape, free=int(name.startswith(_LAST))):
            raise refusal(f"{wanted} is {found.shape} there, and should be {entry.shape}")
        if found.dtype.kind != "f":
            raise refusal(f"{wanted} holds {found.dtype}, not floating-point numbers")
        converted[name] = np.asarray(found, dtype=np.float32)
    known = {*named.values()}
    for name in _body(theirs, named):
        if name not in known:
            raise refusal(f"it also has {name}")
    return converted


def _prefix(names: Iterable[str], first: str) -> str:
    """Return what is before all names where the network was a part: ``module.``, ``model.``."""
    ends = (name.removesuffix(first) for name in names if f".{name}".endswith(f".{first}"))
    return min(ends, key=len, default="")  # layer1.0.conv1.weight ends like conv1.weight too


def _fits(array: NDArray[Any], shape: tuple[int, ...], free: int = 0) -> bool:
    """Whether an array has a shape, whatever its first `free` dimensions are."""
    return array.ndim == len(shape) and array.shape[free:] == shape[free:]


def check(backbone: str) -> None:
    """Refuse a zoo network that torchvision does not have.

    Raises
    ------
    GluonexpError
        It says why.
    """
    if backbone in PUBLISHED:
        return
    layout(backbone)  # it refuses a name that the zoo does not have either
    if re.fullmatch(r"resnet\d+_v2", backbone):
        why = "torchvision has no ResNet whose activations come before the convolutions"
    elif backbone.startswith("mobilenet"):
        why = "torchvision has no MobileNet 1, and its MobileNet 2 and 3 have other layers"
    else:
        why = f"torchvision's network of that name has not been shown to equal Gluon's {backbone}"
    raise GluonexpError(
        f"{backbone} cannot have weights of torchvision: {why}. Those that can are "
        f"{', '.join(PUBLISHED)}"
    )


def file_name(backbone: str) -> str:
    """Return the name of the file that torchvision published for a network."""
    stem = "alexnet-owt" if backbone == "alexnet" else _their_name(backbone)
    return f"{stem}-{PUBLISHED[backbone][:8]}.pth"


def _their_name(backbone: str) -> str:
    """Return torchvision's name of a network: resnet18, squeezenet1_0."""
    return backbone.removesuffix("_v1").replace(".", "_")


def _named(backbone: str) -> dict[str, str]:
    """Return torchvision's name of each parameter by the zoo's, of those that both have."""
    names = [name.rpartition(".") for name in layout(backbone)]
    ours = list(dict.fromkeys(layer for layer, _, _ in names))
    layers = dict(zip(ours, _layers(backbone, ours), strict=True))
    return {
        f"{layer}.{parameter}": f"{layers[layer]}.{_PARAMETERS.get(parameter, parameter)}"
        for layer, _, parameter in names
        if not (backbone in ADAPTED and parameter == "bias" and layer != "output")
    }


def _layers(backbone: str, ours: list[str]) -> list[str]:
    """Return torchvision's names of the layers that have parameters, in the zoo's order."""
    if backbone == "alexnet":
        features = [f"features.{place}" for place in (0, 3, 6, 8, 10)]
        return [*features, "classifier.1", "classifier.4", "classifier.6"]
    if backbone.startswith("vgg"):
        return [*ours[:-3], "classifier.0", "classifier.3", "classifier.6"]
    if backbone.startswith("resnet"):
        return ["conv1", "bn1", *map(_resnet_layer, ours[2:-1]), "fc"]
    if backbone.startswith("squeezenet"):
        return ["features.0", *map(_squeezenet_layer, ours[1:-1]), "classifier.1"]
    dense = map(_densenet_layer, ours[2:-2])
    return ["features.conv0", "features.norm0", *dense, "features.norm5", "classifier"]


def _resnet_layer(ours: str) -> str:
    """``features.4.0.body.3`` is ``layer1.0.conv2``."""
    _, stage, block, part, place = ours.split(".")
    if part == "body":  # convolution, BatchNorm, ReLU, convolution...
        part, place = ("conv", "bn")[int(place) % 3], str(int(place) // 3 + 1)
    else:
        part += "."
    return f"layer{int(stage) - 3}.{block}.{part}{place}"


def _squeezenet_layer(ours: str) -> str:
    """``features.3.1.0.0`` is ``features.3.expand1x1``."""
    features, fire, part = ours.split(".", 2)
    theirs = {"0.0": "squeeze", "1.0.0": "expand1x1", "1.1.0": "expand3x3"}[part]
    return f"{features}.{fire}.{theirs}"


def _densenet_layer(ours: str) -> str:
    """``features.4.0.1.2`` is ``features.denseblock1.denselayer1.conv1``."""
    features, stage, *layer, place = ours.split(".")
    block = int(stage) // 2 - 1
    if not layer:
        return f"{features}.transition{block}.{'conv' if int(place) else 'norm'}"
    part = {"0": "norm1", "2": "conv1", "3": "norm2", "5": "conv2"}[place]
    return f"{features}.denseblock{block}.denselayer{int(layer[0]) + 1}.{part}"


def _body(theirs: Iterable[str], named: Mapping[str, str]) -> list[str]:
    """Return those of torchvision's names that are not of the network's last layer."""
    classifier = next(name for ours, name in named.items() if ours.startswith(_LAST))
    return [name for name in theirs if not name.startswith(classifier.rpartition(".")[0] + ".")]


def _looks_like(arrays: Mapping[str, NDArray[Any]], backbone: str) -> str:
    """Say which other network these are of, last layer aside; nothing if of none."""
    for other in PUBLISHED:
        named, entries = _named(other), layout(other)
        shapes = {theirs: entries[ours].shape for ours, theirs in named.items()}
        body = {name: shapes[name] for name in _body(shapes, named)}
        if other != backbone and body == {n: arrays[n].shape for n in _body(arrays, named)}:
            return f". It looks like {_their_name(other)}: model.backbone={other}"
    return ""
