"""Which parameters train: the plan, one row a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gluonexp.mx import gluon, nn


@dataclass(frozen=True)
class PlanRow:
    """One parameter under its structural name (``0.weight``), which no counter can change."""

    parameter: str
    layer: str
    shape: tuple[int, ...]
    size: int
    state: str  # "trained", "frozen", or "statistic": moved by the forward pass, not by gradients
    lr_mult: float


def plan(net: nn.HybridBlock) -> list[PlanRow]:
    """Return how each parameter of `net` (shapes known) will train, in structural order."""
    layers = _layer_types(net)
    return [
        PlanRow(
            parameter=name,
            layer=layers[name.rpartition(".")[0]],
            shape=tuple(parameter.shape),
            size=math.prod(parameter.shape),
            state=_state(parameter),
            lr_mult=parameter.lr_mult,
        )
        for name, parameter in net._collect_params_with_prefix().items()
    ]


def _state(parameter: gluon.Parameter) -> str:
    if not parameter._differentiable:
        return "statistic"
    return "frozen" if parameter.grad_req == "null" else "trained"


def _layer_types(block: nn.HybridBlock, path: str = "") -> dict[str, str]:
    types = {path: type(block).__name__}
    for name, child in block._children.items():
        types |= _layer_types(child, f"{path}.{name}" if path else name)
    return types
