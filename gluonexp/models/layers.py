"""The layers of a network by structural name, and the blocks that policies count in."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gluonexp.base.mx import nn

BATCHNORM = (nn.BatchNorm, nn.BatchNormReLU)
NORM = (*BATCHNORM, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm)

# What a BatchNorm layer learns in the forward pass, not by gradients.
STATISTICS = ("running_mean", "running_var")


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
    for path, layer in walk(net).items():  # parents first: the innermost layer has the last word
        found |= dict.fromkeys(layer._collect_params_with_prefix(path), (path, layer))
    return found


def is_statistic(held: Mapping[str, tuple[str, nn.HybridBlock]], name: str) -> bool:
    """Say whether the parameter `name` is a running statistic; `held` is what `holders` found."""
    return name.rpartition(".")[2] in STATISTICS and isinstance(held[name][1], BATCHNORM)


def parts(net: nn.HybridBlock, names: Collection[str]) -> list[str]:
    """Return the fewest parts of `net` that hold these parameters and nothing else that learns."""
    others = [
        f"{name}."
        for name, parameter in net._collect_params_with_prefix().items()
        if name not in names and parameter._differentiable
    ]
    found = dict[str, None]()
    for name in names:
        words = name.split(".")
        paths = (".".join(words[:end]) for end in range(1, len(words) + 1))
        whole = (path for path in paths if not any(o.startswith(f"{path}.") for o in others))
        found |= {next(whole): None}
    return list(found)


def blocks(container: nn.HybridBlock) -> list[list[str]]:
    """Return the children of `container` that hold parameters, grouped into blocks.

    A child that only normalizes belongs to the block before it (at the very start, to the one
    after it): convolution and BatchNorm are one block, whether or not the network wraps them.
    """
    counted: list[list[str]] = []
    leading = True  # nothing but normalization so far
    for name, child in container._children.items():
        owners = [layer for layer in walk(child).values() if layer._reg_params]
        if not owners:
            continue
        norm = all(isinstance(layer, NORM) for layer in owners)
        if counted and (norm or leading):
            counted[-1].append(name)
        else:
            counted.append([name])
        leading = leading and norm
    return counted
