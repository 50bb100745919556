"""Dense layers on flattened pixels: how small a model file is."""

from collections.abc import Sequence

from gluonexp.base.mx import nn


def mlp(classes: int, hidden: Sequence[int] = (128, 64)) -> nn.HybridBlock:
    """Return Dense layers with ReLU of `hidden` units each, then Dense to `classes` logits."""
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Flatten())
        for units in hidden:
            net.add(nn.Dense(units, activation="relu"))
        net.add(nn.Dense(classes))
    return net
