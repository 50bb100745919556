"""The layers of a Gluon network by structural name, and its outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gluonexp.base.mx import gluon, nn
from gluonexp.models.outline import STATISTICS, Layer, Outline, Parameter
from gluonexp.models.work import Work

BATCHNORM = (nn.BatchNorm, nn.BatchNormReLU)
NORM = (*BATCHNORM, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm)


def outline(net: nn.HybridBlock, input_shape: Sequence[int]) -> Outline:
    """Return the outline of `net`; no value of a parameter is read.

    Parameters
    ----------
    net
        All its shapes known.
    input_shape
        Of one image, (C, H, W).
    """
    held = holders(net)
    parameters = {
        name: _parameter(parameter, name, *held[name])
        for name, parameter in net._collect_params_with_prefix().items()
    }
    work = Work(net)
    layers = {path: _layer(layer) for path, layer in walk(net).items()}
    return Outline(layers, parameters, work.macs(input_shape), work.before())


def walk(block: nn.HybridBlock, path: str = "") -> dict[str, nn.HybridBlock]:
    """Return `block` and all below it by structural name, parents first, in their order."""
    found = {path: block}
    for name, child in block._children.items():
        found |= walk(child, f"{path}.{name}" if path else name)
    return found


def holders(net: nn.HybridBlock) -> dict[str, tuple[str, nn.HybridBlock]]:
    """Return path and layer that hold each parameter, by its structural name and in that order.

    A name need not begin with a layer's path and end with its attribute: the LSTM at ``rnn`` calls
    its ``l0_i2h_weight`` ``rnn._unfused.0.i2h_weight``. So every layer is asked for its names.
    """
    found: dict[str, tuple[str, nn.HybridBlock]] = {}
    for path, layer in walk(net).items():  # parents first: the innermost layer counts
        found |= dict.fromkeys(layer._collect_params_with_prefix(path), (path, layer))
    return found


def _layer(layer: nn.HybridBlock) -> Layer:
    return Layer(
        type=type(layer).__name__,
        children=tuple(layer._children),
        batchnorm=isinstance(layer, BATCHNORM),
        normalizes=isinstance(layer, NORM),
        dense=isinstance(layer, nn.Dense),
        dropout=layer._rate if isinstance(layer, nn.Dropout) else 0.0,
    )


def _parameter(
    parameter: gluon.Parameter, name: str, path: str, layer: nn.HybridBlock
) -> Parameter:
    leaf, batchnorm = name.rpartition(".")[2], isinstance(layer, BATCHNORM)
    kind: Literal["learned", "statistic", "constant", "state"] = "learned"
    if batchnorm and leaf in STATISTICS:
        kind = "statistic"
    elif isinstance(parameter, gluon.Constant) or (batchnorm and not parameter._differentiable):
        kind = "constant"
    elif not parameter._differentiable:
        kind = "state"
    return Parameter(
        global_name=parameter.name,
        layer=path,
        shape=tuple(parameter.shape),
        kind=kind,
        frozen=(
            layer._kwargs["use_global_stats"]
            if kind == "statistic"
            else parameter.grad_req == "null"
        ),
        lr_mult=parameter.lr_mult,
        fix_gamma=batchnorm and leaf == "gamma" and layer._kwargs["fix_gamma"],
    )


def is_statistic(held: Mapping[str, tuple[str, nn.HybridBlock]], name: str) -> bool:
    """Say whether the parameter `name` is a running statistic; `held` is what `holders` found."""
    return name.rpartition(".")[2] in STATISTICS and isinstance(held[name][1], BATCHNORM)
