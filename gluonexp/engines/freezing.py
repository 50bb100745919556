"""A freeze plan carried out in a Gluon network."""

from __future__ import annotations

from collections.abc import Collection

from gluonexp.base.mx import nn
from gluonexp.freeze import FreezePlan
from gluonexp.models.layers import holders, is_statistic, walk


def apply(net: nn.HybridBlock, plan: FreezePlan) -> None:
    """Make `net` train as `plan` says when training begins.

    Parameters
    ----------
    net
        As planned, every parameter with its value; may be hybridized already.
    """
    parameters, held = net._collect_params_with_prefix(), holders(net)
    for row in plan.rows:
        parameter = parameters[row.parameter]
        if row.lr_mult:
            parameter.lr_mult = row.lr_mult
        if row.state == "frozen":
            parameter.grad_req = "null"
        if is_statistic(held, row.parameter):
            held[row.parameter][1]._kwargs["use_global_stats"] = row.state == "frozen"
    _recompile(net)


def release(net: nn.HybridBlock, names: Collection[str]) -> None:
    """Give these parameters gradients; let these statistics, and their layers, go by batches."""
    parameters, held = net._collect_params_with_prefix(), holders(net)
    for name in names:
        if is_statistic(held, name):
            held[name][1]._kwargs["use_global_stats"] = False
        else:
            parameters[name].grad_req = "write"
    _recompile(net)


def _recompile(net: nn.HybridBlock) -> None:
    """Have a hybridized network take in what changed in its layers, under the same flags."""
    for layer in walk(net).values():
        if isinstance(layer, nn.HybridBlock):
            layer._clear_cached_op()
