"""Pretrained features under a new classifier: any network of Gluon's model zoo, cut and topped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nn

# The convolutions of AlexNet and the Flatten behind them: 9,216 features of a 224x224 image. The
# zoo's `features` also hold the two Dense(4096), which fine-tuning replaces.
ALEXNET_CONVOLUTIONS = 9


@dataclass(frozen=True)
class Weights:
    """Pretrained parameters of a zoo network.

    Attributes
    ----------
    choice
        What was found, in a form that finds it again.
    title
        What it is, for people.
    sha256
        Of the file, hexadecimal; None where there is none.
    arrays
        By the zoo's structural names (``features.0.weight``); of a run that fine-tuned the
        network also ``head.1.bias``. Empty for none.
    adapted
        Whether they are for torchvision's form of the network; see `FineTune.adapt`.
    classes
        Of a fine-tuned network, in the order of its logits; None: unknown.
    warning
        A sentence that the user should read.
    """

    choice: str
    title: str
    sha256: str | None
    arrays: Mapping[str, NDArray[np.float32]]
    adapted: bool = False
    classes: tuple[str, ...] | None = None
    warning: str | None = None


class FineTune(nn.HybridBlock):
    """Images (N, 3, H, W) to logits (N, classes): `backbone`, then `head`.

    What the zoo calls ``features.5.weight`` is ``backbone.5.weight`` here. Pretrained parameters
    are not loaded on construction; see `adopt`.

    Attributes
    ----------
    zoo_name
        The zoo's name of the network whose features `backbone` is.
    weights, sha256
        The pretrained parameters wanted, as `gluonexp.weights.find` takes them.
    """

    def __init__(
        self,
        zoo_name: str,
        backbone: Sequence[nn.HybridBlock],
        head: nn.HybridSequential,
        weights: str,
        sha256: str | None,
    ) -> None:
        super().__init__(prefix="")
        self.zoo_name, self.weights, self.sha256 = zoo_name, weights, sha256
        self.backbone = nn.HybridSequential(prefix="")
        self.backbone.add(*backbone)
        self.head = head

    def hybrid_forward(self, F, x):  # type: ignore[no-untyped-def]
        """Return the logits; `F` is `nd` or `sym`."""
        return self.head(self.backbone(x))

    def needed(self) -> set[str]:
        """Return the zoo's names of the parameters in `backbone`."""
        names = self._collect_params_with_prefix()
        return {
            name.replace("backbone.", "features.", 1)
            for name in names
            if name.startswith("backbone.")
        }

    def adapt(self) -> None:
        """Move strides to where torchvision has them, in the networks where that differs."""
        adapt(self.backbone)

    def adopt(self, weights: Weights, classes: Sequence[str]) -> str:
        """Take pretrained parameters over; the shapes of this network's must be known.

        The backbone's must all be there. A head of the same shapes (of an earlier run) is taken
        too, if it is for the same classes; any other is left to be initialized.

        Returns
        -------
        str
            What was taken: ``nothing``, ``backbone`` or ``backbone and head``.

        Raises
        ------
        GluonexpError
            A parameter of the backbone is missing, or has another shape.
        """
        if not weights.arrays:
            return "nothing"
        if weights.adapted:
            self.adapt()
        arrays = {
            re.sub(r"^features\.", "backbone.", name): array
            for name, array in weights.arrays.items()
        }
        mine = self._collect_params_with_prefix()
        for name, parameter in mine.items():
            if not name.startswith("backbone."):
                continue
            found = f"{arrays[name].shape}" if name in arrays else "not"
            if found != f"{parameter.shape}":
                raise GluonexpError(
                    f"model.weights={weights.choice}: {name} is {found} there, but "
                    f"{parameter.shape} in {self.zoo_name} as it is cut here"
                )
        head = [name for name in mine if name.startswith("head.")]
        whole = weights.classes in (None, tuple(classes)) and all(
            name in arrays and arrays[name].shape == mine[name].shape for name in head
        )
        for name, parameter in mine.items():
            if name not in head or whole:
                parameter.initialize(mx.init.Constant(mx.nd.array(arrays[name])))
        return "backbone and head" if whole else "backbone"


class SpatialMean(nn.HybridBlock):
    """The mean over all pixels: (N, C, ...) to (N, C). What has no pixels stays as it is.

    MXNet's own global pooling makes small networks several times slower to train on a CPU.
    """

    def hybrid_forward(self, F, x):  # type: ignore[no-untyped-def]
        """Return the means; `F` is `nd` or `sym`."""
        return F.mean(F.reshape(x, shape=(0, 0, -1)), axis=2)


def alexnet_ft(
    classes: int,
    head: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
    weights: str = "auto",
    sha256: str | None = None,
) -> FineTune:
    """Return AlexNet's convolutions (Krizhevsky, 2014) under a new classifier.

    Parameters
    ----------
    head
        Units of the hidden Dense layers, each with ReLU and dropout.
    weights, sha256
        Which pretrained parameters are wanted, as `gluonexp.weights.find` takes them.
    """
    backbone = _features("alexnet", ALEXNET_CONVOLUTIONS)
    return FineTune("alexnet", backbone, _head(classes, head, dropout), weights, sha256)


def zoo_ft(
    classes: int,
    backbone: str,
    cut: int | None = None,
    pool: bool = True,
    head: Sequence[int] = (),
    dropout: float = 0.5,
    weights: str = "auto",
    sha256: str | None = None,
) -> FineTune:
    """Return the features of any classifier of the model zoo under a new classifier.

    Parameters
    ----------
    backbone
        The zoo's name, such as ``resnet18_v1``.
    cut
        Number of the zoo's feature layers to keep; None keeps all.
    pool
        Average what the backbone returns over its pixels before the first Dense layer.
    head
        Units of the hidden Dense layers, each with ReLU and dropout; none: a linear classifier.
    weights, sha256
        Which pretrained parameters are wanted, as `gluonexp.weights.find` takes them.
    """
    layers = _features(backbone, cut)
    return FineTune(backbone, layers, _head(classes, head, dropout, pool), weights, sha256)


def adapt(features: nn.HybridSequential) -> None:
    """Move the strides of a zoo network to where torchvision has them, in place.

    In the deeper ResNets Gluon strides in the first 1x1 convolution of a block, torchvision in the
    3x3 one. All other networks stay as they are, and so does one that was adapted before. A
    hybridized network must not have run yet: its compiled form would keep the old strides.

    Parameters
    ----------
    features
        ``features`` of the zoo's network, or the first of its children.
    """

    def move(block: nn.HybridBlock) -> None:
        if isinstance(block, gluon.model_zoo.vision.BottleneckV1):
            first, second = block.body[0]._kwargs, block.body[3]._kwargs
            second["stride"] = max(first["stride"], second["stride"])
            first["stride"] = (1, 1)

    features.apply(move)


def zoo_names() -> list[str]:
    """Return the names of the classifiers in Gluon's model zoo."""
    return sorted(gluon.model_zoo.model_store._model_sha1)


def _features(name: str, cut: int | None) -> list[nn.HybridBlock]:
    names = zoo_names()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names)}"
        raise GluonexpError(f"model.backbone={name}: not in the model zoo; {hint}")
    layers = list(gluon.model_zoo.vision.get_model(name).features)
    if cut is not None and not 1 <= cut <= len(layers):
        raise GluonexpError(
            f"model.cut={cut}: {name} has {len(layers)} feature layers; keep 1 to {len(layers)}"
        )
    return layers[:cut]


def _head(
    classes: int, hidden: Sequence[int], dropout: float, pool: bool = False
) -> nn.HybridSequential:
    if not isinstance(hidden, Sequence) or not all(isinstance(n, int) and n > 0 for n in hidden):
        raise GluonexpError(f"model.head={hidden}: a list of layer sizes, such as [4096, 4096]")
    if not 0 <= dropout < 1:
        raise GluonexpError(f"model.dropout={dropout}: must be at least 0 and below 1")
    head = nn.HybridSequential(prefix="head_")
    with head.name_scope():
        if pool:
            head.add(SpatialMean())
        for units in hidden:
            head.add(nn.Dense(units, activation="relu"))
            head.add(nn.Dropout(dropout))
        head.add(nn.Dense(classes))
    return head
