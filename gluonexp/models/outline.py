"""A network as plain data: its layers, its parameters and its work; `layers.outline` reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

# What a BatchNorm layer learns in the forward pass, not by gradients.
STATISTICS: Final = ("running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A layer of a network, known by its structural path (``backbone.0``).

    Attributes
    ----------
    type
        Name of its class.
    children
        Names of its direct children: ``backbone`` has the child ``0``.
    normalizes
        It is a normalization of any kind.
    dropout
        The share of values that a Dropout layer zeroes; 0 in all others.
    """

    type: str
    children: tuple[str, ...]
    batchnorm: bool
    normalizes: bool
    dense: bool
    dropout: float


@dataclass(frozen=True)
class Parameter:
    """A parameter of a network, known by its structural name (``backbone.0.weight``).

    Attributes
    ----------
    global_name
        Its name in the network's symbol; layers that share a parameter share this name.
    layer
        Path of the layer that holds it.
    kind
        ``learned`` by gradients; a ``statistic`` of BatchNorm, learned in the forward pass; a
        ``constant``; or the ``state`` of some other operator.
    frozen
        The network itself keeps it from changing: ``grad_req="null"``, or for a statistic
        ``use_global_stats=True``.
    lr_mult
        The network's own multiplier of the learning rate.
    fix_gamma
        The gamma of a BatchNorm layer without scale: 1 is used, whatever its value.
    """

    global_name: str
    layer: str
    shape: tuple[int, ...]
    kind: Literal["learned", "statistic", "constant", "state"]
    frozen: bool
    lr_mult: float
    fix_gamma: bool


@dataclass(frozen=True)
class Outline:
    """All that is to be known of a network without computing with it.

    Attributes
    ----------
    layers
        By path, parents first; the network itself is ``""``.
    parameters
        By structural name, in structural order.
    macs
        Multiply-accumulates of one image in the forward pass, by the weight's global name.
    before
        For each running mean of a BatchNorm layer, every parameter that the layer's output
        depends on, by global names. A layer that is called twice stands here twice.
    """

    layers: Mapping[str, Layer]
    parameters: Mapping[str, Parameter]
    macs: Mapping[str, int]
    before: Sequence[tuple[str, frozenset[str]]]

    def blocks(self, path: str) -> list[list[str]]:
        """Return the children of the layer at `path` that hold parameters, grouped into blocks.

        A child that only normalizes belongs to the block before it (at the very start, to the one
        after it): convolution and BatchNorm are one block, whether or not the network wraps them.
        """
        counted: list[list[str]] = []
        leading = True  # nothing but normalization so far
        for child in self.layers[path].children:
            inside = f"{path}.{child}".lstrip(".")
            holders = {
                parameter.layer
                for parameter in self.parameters.values()
                if f"{parameter.layer}.".startswith(f"{inside}.")
            }
            if not holders:
                continue
            norm = all(self.layers[holder].normalizes for holder in holders)
            if counted and (norm or leading):
                counted[-1].append(child)
            else:
                counted.append([child])
            leading = leading and norm
        return counted

    def parts(self, names: Collection[str]) -> list[str]:
        """Return the fewest parts that hold these parameters and nothing else that learns."""
        others = [
            f"{name}."
            for name, parameter in self.parameters.items()
            if name not in names and parameter.kind == "learned"
        ]
        found = dict[str, None]()
        for name in names:
            words = name.split(".")
            paths = (".".join(words[:end]) for end in range(1, len(words) + 1))
            whole = (path for path in paths if not any(o.startswith(f"{path}.") for o in others))
            found |= {next(whole): None}
        return list(found)

    def unreached(self, trained: Collection[str]) -> set[str]:
        """Return the running means of BatchNorm layers that no gradient passes.

        Parameters
        ----------
        trained
            The parameters that have gradients. They and the means go by their global names.
        """
        return {mean for mean, before in self.before if before.isdisjoint(trained)}
