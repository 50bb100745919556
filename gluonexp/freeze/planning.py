"""The plan: for every parameter whether it trains, how fast, and from which epoch on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, nn
from gluonexp.base.text import listed
from gluonexp.config.schema import FreezeConfig
from gluonexp.freeze import rules
from gluonexp.models.layers import (
    BATCHNORM,
    STATISTICS,
    blocks,
    holders,
    is_statistic,
    parts,
    walk,
)
from gluonexp.models.work import Graph

# Below this multiplier a layer hardly learns; the plan says so.
HARDLY = 1e-4


@dataclass(frozen=True)
class PlanRow:
    """One parameter under its structural name (``backbone.0.weight``), which no counter changes.

    Attributes
    ----------
    layer
        Type of the layer that holds it.
    state
        When training begins: ``trained``, ``frozen``, or ``statistic`` (moved by the forward
        pass, not by gradients).
    lr_mult
        Multiplies the learning rate, from `unfreeze_epoch` on where there is one; 0 where the
        parameter is never trained.
    unfreeze_epoch
        The first epoch that trains what was frozen; None: it stays as it is.
    batchnorm
        In a BatchNorm layer, what it normalizes by when training begins: each ``batch``, or its
        ``frozen`` statistics.
    flops_share
        The layer's share of the network's multiply-accumulates (forward), on its weight's row.
    """

    parameter: str
    layer: str
    shape: tuple[int, ...]
    size: int
    state: str
    lr_mult: float
    unfreeze_epoch: int | None
    batchnorm: str
    flops_share: float


@dataclass(frozen=True)
class Plan:
    """One row a parameter, in structural order, and what else a reader should know.

    Attributes
    ----------
    notes
        Sentences for people.
    macs
        Multiply-accumulates of the network for one image (forward).
    """

    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]
    macs: int


def plan(
    net: nn.HybridBlock,
    config: FreezeConfig,
    input_shape: Sequence[int],
    epochs: int | None = None,
) -> Plan:
    """Return how each parameter of `net` will train.

    What the network itself froze (``grad_req="null"``, ``use_global_stats=True``) is frozen under
    any rule, and its own learning-rate multipliers count: plan a network as it was built, not one
    that `apply` changed.

    Parameters
    ----------
    net
        All its shapes known; no value is read.
    input_shape
        Of one image, (C, H, W).
    epochs
        How many there will be: what would be released later is noted; None where unknown.

    Raises
    ------
    GluonexpError
        A rule or an unfreeze that says nothing of this network, a parameter no rule speaks of, or
        nothing to train; the message names the key.
    """
    parameters = net._collect_params_with_prefix()
    held = holders(net)
    for position, rule in enumerate(config.rules):
        if rule.state == "frozen" and rule.lr_mult != 1:
            raise GluonexpError(
                f"freeze.rules[{position}].lr_mult={rule.lr_mult:g}: what is frozen has no "
                "learning rate; set it where it is unfrozen (freeze.unfreeze)"
            )
    assigned = rules.assign(net, [rule.match for rule in config.rules], "freeze.rules")
    ruled = {name: config.rules[position] for name, position in assigned.items()}
    states = {
        name: _state(parameter, name, held, ruled[name].state, config.batchnorm)
        for name, parameter in parameters.items()
    }
    mults = {name: rule.lr_mult for name, rule in ruled.items() if states[name] == "trained"}
    releases, notes = _unfreeze(net, config, held, states, mults)
    _agree(net, states, releases, mults)
    if "trained" not in states.values():
        raise GluonexpError(f"freeze={config.name}: nothing is left to train in the first epoch")
    depths = _depths(net, config)
    graph = Graph(net)
    macs = graph.macs(input_shape)
    total = sum(macs.values())
    rows = []
    for name, parameter in parameters.items():
        (path, layer), below = held[name], depths.get(_part(name), 0)
        learns = mults.get(name, 0.0) * parameter.lr_mult * config.decay**below
        rows.append(
            PlanRow(
                parameter=name,
                layer=type(layer).__name__,
                shape=tuple(parameter.shape),
                size=math.prod(parameter.shape),
                state=states[name],
                lr_mult=learns,
                unfreeze_epoch=releases.get(name),
                batchnorm=_batchnorm(layer, path, states),
                flops_share=macs.get(parameter.name, 0) / max(1, total),
            )
        )
    notes += [*_too_late(net, releases, epochs), *_notes(net, rows, graph)]
    return Plan(tuple(rows), tuple(notes), total)


def _state(
    parameter: gluon.Parameter,
    name: str,
    held: dict[str, tuple[str, nn.HybridBlock]],
    ruled: str,
    batchnorm: str,
) -> str:
    _, layer = held[name]
    if is_statistic(held, name):
        stays = ruled == batchnorm == "frozen" or layer._kwargs["use_global_stats"]
        return "frozen" if stays else "statistic"
    if not parameter._differentiable:
        # A constant, such as the gamma of scale=False; or an operator's state that is no layer's.
        constant = isinstance(layer, BATCHNORM) or isinstance(parameter, gluon.Constant)
        return "frozen" if constant else "statistic"
    return "frozen" if ruled == "frozen" or parameter.grad_req == "null" else "trained"


def _unfreeze(
    net: nn.HybridBlock,
    config: FreezeConfig,
    held: dict[str, tuple[str, nn.HybridBlock]],
    states: dict[str, str],
    mults: dict[str, float],
) -> tuple[dict[str, int], list[str]]:
    """Return the epoch that unfreezes each parameter, and put its multiplier into `mults`.

    One policy should suit backbones of any depth: an entry for blocks that this one lacks, or for
    what is released by then, is only noted (the second value).
    """
    parameters = net._collect_params_with_prefix()
    epochs: dict[str, int] = {}
    notes = []
    for position, entry in sorted(enumerate(config.unfreeze), key=lambda item: item[1].epoch):
        key = f"freeze.unfreeze[{position}].match"
        try:
            matching = rules.matching(net, entry.match, key)
        except rules.NoSuchBlock as error:
            notes.append(f"{error}; left out")
            continue
        frozen = [
            name
            for name in matching
            if states[name] == "frozen" and name not in epochs
            if parameters[name]._differentiable or is_statistic(held, name)
        ]
        if not frozen and epochs.keys().isdisjoint(matching):
            raise GluonexpError(
                f"{key}={entry.match}: nothing of it is frozen; remove it, or freeze it with a "
                "rule"
            )
        if not frozen:
            notes.append(f"{key}={entry.match}: changes nothing, all of it is released by then")
        epochs |= dict.fromkeys(frozen, entry.epoch)
        learning = [name for name in frozen if parameters[name]._differentiable]
        mults |= dict.fromkeys(learning, entry.lr_mult)
    return epochs, notes


def _agree(
    net: nn.HybridBlock,
    states: dict[str, str],
    epochs: dict[str, int],
    mults: dict[str, float],
) -> None:
    """Refuse rules that part what cannot be parted."""
    parameters, layers = net._collect_params_with_prefix(), walk(net)
    # Mean and variance of a BatchNorm layer; the names under which layers share one parameter.
    together = [
        [f"{path}.{leaf}".lstrip(".") for leaf in STATISTICS]
        for path, layer in layers.items()
        if isinstance(layer, BATCHNORM)
    ]
    for identity, uses in Counter(map(id, parameters.values())).items():
        if uses > 1:
            together.append([name for name, p in parameters.items() if id(p) == identity])
    for first, *others in together:
        for other in others:
            if any(of.get(first) != of.get(other) for of in (states, epochs, mults)):
                raise GluonexpError(
                    f"freeze: {first} and {other} can only be frozen, or trained, together; "
                    "write the rules so that they treat both alike"
                )
    for path, layer in layers.items():
        weight, bias = (f"{path}.{leaf}".lstrip(".") for leaf in ("weight", "bias"))
        if not isinstance(layer, nn.Dense) or bias not in states:
            continue
        begins = [0 if states[n] == "trained" else epochs.get(n, math.inf) for n in (weight, bias)]
        if begins[1] < begins[0]:
            # Measured: no error, the gradient stays 0 (MXNet 1.9.1 with oneDNN; Conv2D is right).
            raise GluonexpError(
                f"freeze: {bias} would train while {weight} is frozen, which MXNet cannot do in a "
                "Dense layer (it computes no gradient then); freeze both, or let the weight learn "
                "slowly (lr_mult)"
            )


def _depths(net: nn.HybridBlock, config: FreezeConfig) -> dict[str, int]:
    """Return how many blocks below the classifier each part of the backbone is: 1 at its top."""
    if config.decay == 1:
        return {}
    if "backbone" not in net._children:
        raise GluonexpError(
            f"freeze.decay={config.decay:g}: goes by the blocks of a backbone, and this network "
            "has none; choose a network that has one (model=alexnet_ft, model=zoo_ft), or 1"
        )
    counted = blocks(net.backbone)
    return {
        f"backbone.{child}": below
        for below, block in enumerate(reversed(counted), 1)
        for child in block
    }


def _part(name: str) -> str:
    """Return the first two parts of a structural name: ``backbone.4`` of backbone.4.1.weight."""
    return ".".join(name.split(".")[:2])


def _batchnorm(layer: nn.HybridBlock, path: str, states: dict[str, str]) -> str:
    if not isinstance(layer, BATCHNORM):
        return ""
    held = states[f"{path}.{STATISTICS[0]}".lstrip(".")] == "frozen"
    return "frozen" if held else "batch"


def _too_late(net: nn.HybridBlock, releases: dict[str, int], epochs: int | None) -> Iterator[str]:
    """Note what would only be released after the last epoch."""
    for epoch in sorted(set(releases.values())):
        if epochs is not None and epoch >= epochs:
            late = parts(net, [name for name, release in releases.items() if release == epoch])
            yield (
                f"{listed(late)} would be released in epoch {epoch}, but training ends after "
                f"epoch {epochs - 1} (trainer.epochs={epochs})"
            )


def _notes(net: nn.HybridBlock, rows: Sequence[PlanRow], graph: Graph) -> Iterator[str]:
    parameters = net._collect_params_with_prefix()
    means = [row for row in rows if row.batchnorm and row.parameter.endswith(STATISTICS[0])]
    if held := [row.parameter for row in means if row.state == "frozen"]:
        yield f"{_layers(held)} normalize by their frozen statistics, in training too"
    trained = {parameters[row.parameter].name for row in rows if row.state == "trained"}
    unreached = graph.unreached(trained)
    moving = [row.parameter for row in means if row.state == "statistic"]
    if stuck := [name for name in moving if parameters[name].name in unreached]:
        yield (
            f"{_layers(stuck)} normalize by each batch in training, but nothing trained lies "
            "before them: MXNet moves their statistics on a GPU only, and on a CPU prediction "
            "goes by the old ones"
        )
    if dropped := _dropped(net, rows):
        yield f"Dropout goes on among frozen layers: {', '.join(dropped)}"
    learning = [row for row in rows if row.lr_mult]
    slowest = min(learning, key=lambda row: row.lr_mult, default=None)
    if slowest is not None and slowest.lr_mult < HARDLY:
        yield (
            f"{slowest.parameter} learns at {slowest.lr_mult:.1g} of the learning rate, which is "
            "hardly at all; a freeze.decay nearer to 1 suits a network of many blocks"
        )


def _layers(means: Sequence[str]) -> str:
    """Name the BatchNorm layers of these running means, the first of many."""
    return f"{len(means)} BatchNorm layer(s), from {means[0].rpartition('.')[0]} on,"


def _dropped(net: nn.HybridBlock, rows: Sequence[PlanRow]) -> list[str]:
    """Return the Dropout layers that stand among frozen layers only, or right before one."""
    still = {row.parameter: row.state != "trained" for row in rows}
    layers = walk(net)
    positions = {path: position for position, path in enumerate(layers)}
    found = []
    for path, layer in layers.items():
        if not (isinstance(layer, nn.Dropout) and layer._rate > 0):
            continue
        container = path.rpartition(".")[0]
        beside = [
            still[name] for name in still if not container or name.startswith(f"{container}.")
        ]
        behind = (n for n, (p, _) in holders(net).items() if positions[p] > positions[path])
        following = next(behind, None)
        if (beside and all(beside)) or (following is not None and still[following]):
            found.append(path)
    return found
