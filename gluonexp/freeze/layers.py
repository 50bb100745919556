"""The layers of a network by structural name, and the blocks that policies count in."""

from __future__ import annotations

from collections.abc import Mapping

from gluonexp.mx import nn

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


def is_statistic(layers: Mapping[str, nn.HybridBlock], name: str) -> bool:
    """Say whether the parameter `name` is a running statistic; `layers` are what `walk` found."""
    path, _, leaf = name.rpartition(".")
    return leaf in STATISTICS and isinstance(layers[path], BATCHNORM)


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
