"""How far tensors are from a referee's, as a fraction of their size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]

ALIKE: Final = 1e-5  # of the size of what is compared: rounding


def distance(found: Tensor, of: Tensor, size: float) -> float:
    """Return the difference as a fraction of a size."""
    if found.shape != of.shape:
        return math.inf
    return float(torch.dist(found, of)) / max(size, 1e-30)


def norm(tensors: Tensors) -> float:
    """Return the norm of all; 0 if it is not finite, as nothing can be measured by that."""
    found = math.hypot(*(float(tensor.norm()) for tensor in tensors.values()))
    return found if math.isfinite(found) else 0.0


def apart(
    ours: Tensors, theirs: Tensors, of: Tensors, least: float = 0.0
) -> dict[str, tuple[float, float]]:
    """Return by name how far both are, as a fraction of what they are from.

    What is zero by construction, such as the gradient of a bias before a BatchNorm, is nothing
    but rounding: of 1 % of all tensors' norm at least, and of `least`.
    """
    sizes = {name: float(tensor.norm()) for name, tensor in of.items()}
    least = max(least, 0.01 * math.hypot(*sizes.values()))

    def far(found: Tensors, name: str) -> float:
        return distance(found[name], of[name], max(sizes[name], least))

    return {name: (far(ours, name), far(theirs, name)) for name in of}


def alike(ours: float, theirs: float) -> bool:
    """Say whether PyTorch is as near as MXNet is; and MXNet, else the referee shares a fault."""
    return ours <= max(2 * theirs, ALIKE) and theirs <= max(4 * ours, ALIKE)


def figures(far: Mapping[str, tuple[float, float]]) -> str:
    """Return the largest distances of what `apart` has found: ``2e-06 (MXNet 1e-06)``."""
    ours, theirs = map(max, zip(*far.values(), strict=True))
    return f"{ours:.0e} (MXNet {theirs:.0e})"
