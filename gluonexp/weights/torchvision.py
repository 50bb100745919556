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
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.weights.names import layout


class TorchFile(NamedTuple):
    """A published file: its name at `base`, its sha256 (or how it begins), its size in bytes."""

    name: str
    base: str
    sha256: str
    size: int | None


def _theirs(backbone: str) -> str:
    """Return torchvision's name of a network: resnet18, squeezenet1_0."""
    return backbone.removesuffix("_v1").replace(".", "_")


# The sha256 of IMAGENET1K_V1 of torchvision/models, by Gluon's names, and sizes in bytes. At least
# two independent sources agree on each size and full digest. Of the other files only the eight
# digits in the name are known: enough to detect damage, not a deliberate forgery.
_SHA256: Final = {
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
_SIZES: Final = {
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

PUBLISHED: Final[Mapping[str, TorchFile]] = {
    backbone: TorchFile(
        name=f"{'alexnet-owt' if backbone == 'alexnet' else _theirs(backbone)}-{sha256[:8]}.pth",
        base="https://download.pytorch.org/models/",
        sha256=sha256,
        size=_SIZES.get(backbone),
    )
    for backbone, sha256 in _SHA256.items()
}

# Those whose strides differ.
ADAPTED: Final = frozenset({"resnet50_v1", "resnet101_v1", "resnet152_v1"})

_RESNET_BLOCKS: Final = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
_VGG_CONVOLUTIONS: Final = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
_SQUEEZENET_FIRES: Final = {"1.0": (3, 4, 5, 7, 8, 9, 10, 12), "1.1": (3, 4, 6, 7, 9, 10, 11, 12)}
_DENSENET_LAYERS: Final = {
    "121": (6, 12, 24, 16),
    "161": (6, 12, 36, 24),
    "169": (6, 12, 32, 32),
    "201": (6, 12, 48, 32),
}

# BatchNorm's scale and shift; everything else has the same name in both.
_PARAMETERS: Final = {"gamma": "weight", "beta": "bias"}

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
    theirs = {
        _DENSENET_OLD.sub(r"\1\2.", name.removeprefix("module.")): array  # of DataParallel
        for name, array in arrays.items()
        if not name.endswith(".num_batches_tracked")
    }
    entries = layout(backbone)
    named = _named(backbone, entries)
    classifier = f"{_layers(backbone)[-1]}."
    refuse = f"{source}: not the weights of torchvision's {_theirs(backbone)}: "
    hint = _looks_like(theirs, backbone)
    ends = {
        name: wanted for name, wanted in named.items() if (wanted or "").startswith(classifier)
    }
    if not all(
        wanted in theirs and _fits(theirs[wanted], entries[name].shape, free=1)
        for name, wanted in ends.items()
    ):
        named = {name: wanted for name, wanted in named.items() if name not in ends}
    converted = {}
    for name, wanted in named.items():
        shape = entries[name].shape
        if wanted is None:
            converted[name] = np.zeros(shape, np.float32)
            continue
        if wanted not in theirs:
            raise GluonexpError(f"{refuse}it has no {wanted}{hint}")
        if not _fits(theirs[wanted], shape, free=int(name in ends)):
            found = theirs[wanted].shape
            raise GluonexpError(f"{refuse}{wanted} is {found} there, and should be {shape}{hint}")
        if theirs[wanted].dtype.kind != "f":
            raise GluonexpError(
                f"{refuse}{wanted} holds {theirs[wanted].dtype}, not floating-point numbers"
            )
        converted[name] = np.asarray(theirs[wanted], dtype=np.float32)
    for name in theirs:
        if name not in named.values() and not name.startswith(classifier):
            raise GluonexpError(f"{refuse}it also has {name}{hint}")
    return converted


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


def _named(backbone: str, entries: Iterable[str]) -> dict[str, str | None]:
    """Return torchvision's name by the zoo's; None where it has no such parameter."""
    ours = dict.fromkeys(name.rpartition(".")[0] for name in entries)
    layers = dict(zip(ours, _layers(backbone), strict=True))
    named: dict[str, str | None] = {}
    for name in entries:
        layer, _, parameter = name.rpartition(".")
        # The biases in front of BatchNorm, which takes them away again.
        missing = backbone in ADAPTED and parameter == "bias" and layer != "output"
        their = f"{layers[layer]}.{_PARAMETERS.get(parameter, parameter)}"
        named[name] = None if missing else their
    return named


def _layers(backbone: str) -> list[str]:
    """Return torchvision's names of the layers that have parameters, in the zoo's order."""
    if backbone == "alexnet":
        features = [f"features.{place}" for place in (0, 3, 6, 8, 10)]
        return [*features, "classifier.1", "classifier.4", "classifier.6"]
    family, size = re.findall(r"[a-z]+|[\d.]+", backbone)[:2]
    if family == "resnet":
        return ["conv1", "bn1", *_resnet_layers(size), "fc"]
    if family == "vgg":
        features = _vgg_layers(size, backbone.endswith("_bn"))
        return [*features, "classifier.0", "classifier.3", "classifier.6"]
    if family == "squeezenet":
        parts = ("squeeze", "expand1x1", "expand3x3")
        fires = [f"features.{fire}.{part}" for fire in _SQUEEZENET_FIRES[size] for part in parts]
        return ["features.0", *fires, "classifier.1"]
    return [*_densenet_layers(size), "classifier"]


def _resnet_layers(size: str) -> list[str]:
    convolutions = (1, 2) if size in ("18", "34") else (1, 2, 3)
    layers = []
    for stage, blocks in enumerate(_RESNET_BLOCKS[size], start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            layers += [f"{at}.{kind}{n}" for n in convolutions for kind in ("conv", "bn")]
            # Where the number of channels changes.
            if block == 0 and (stage > 1 or len(convolutions) == 3):
                layers += [f"{at}.downsample.0", f"{at}.downsample.1"]
    return layers


def _vgg_layers(size: str, batch_norm: bool) -> list[str]:
    layers, place = [], 0
    for convolutions in _VGG_CONVOLUTIONS[size]:
        for _ in range(convolutions):
            layers.append(f"features.{place}")
            if batch_norm:
                layers.append(f"features.{place + 1}")
            place += 3 if batch_norm else 2  # ReLU
        place += 1  # pooling
    return layers


def _densenet_layers(size: str) -> list[str]:
    layers = ["features.conv0", "features.norm0"]
    last = len(_DENSENET_LAYERS[size])
    for block, depth in enumerate(_DENSENET_LAYERS[size], start=1):
        for layer in range(1, depth + 1):
            at = f"features.denseblock{block}.denselayer{layer}"
            layers += [f"{at}.norm1", f"{at}.conv1", f"{at}.norm2", f"{at}.conv2"]
        if block < last:
            layers += [f"features.transition{block}.{part}" for part in ("norm", "conv")]
    return [*layers, "features.norm5"]


def _looks_like(arrays: Mapping[str, NDArray[Any]], backbone: str) -> str:
    """Say which other network these are of, last layer aside; nothing if of none."""
    for other in PUBLISHED:
        *layers, classifier = _layers(other)
        body = {name for name in arrays if not name.startswith(f"{classifier}.")}
        if other == backbone or {name.rpartition(".")[0] for name in body} != set(layers):
            continue
        entries = layout(other)
        shapes = {
            theirs: entries[name].shape
            for name, theirs in _named(other, entries).items()
            if theirs is not None and not theirs.startswith(f"{classifier}.")
        }
        if shapes == {name: arrays[name].shape for name in body}:
            return f". It looks like {_theirs(other)}: model.backbone={other}"
    return ""
