"""The plan: for every parameter whether it trains, how fast, and from which epoch on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import listed
from gluonexp.config.schema import FreezeConfig
from gluonexp.freeze import rules
from gluonexp.models.outline import STATISTICS, Layer, Outline, Parameter

# Below this multiplier a layer hardly learns; the plan says so.
HARDLY = 1e-4


@dataclass(frozen=True)
class FreezeRow:
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
class Release:
    """What begins to learn with an epoch.

    Attributes
    ----------
    parts
        The fewest parts of the network that hold these parameters and nothing else that learns.
    """

    epoch: int
    parameters: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class FreezePlan:
    """One row a parameter, in structural order, and what else a reader should know.

    Attributes
    ----------
    audited
        What is frozen when training begins, and must stay bit for bit as it is until its release:
        all that is frozen but the gammas that MXNet takes for 1, and may overwrite.
    releases
        In the order of their epochs.
    notes
        Sentences for people.
    macs
        Multiply-accumulates of the network for one image (forward).
    """

    rows: tuple[FreezeRow, ...]
    audited: tuple[str, ...]
    releases: tuple[Release, ...]
    notes: tuple[str, ...]
    macs: int


def plan(outline: Outline, config: FreezeConfig, epochs: int | None = None) -> FreezePlan:
    """Return how each parameter of a network will train.

    What the network itself froze (``grad_req="null"``, ``use_global_stats=True``) is frozen under
    any rule, and its own learning-rate multipliers count.

    Parameters
    ----------
    outline
        Of the network as it was built, not one that a plan has changed.
    epochs
        How many there will be: what would be released later is noted; None where unknown.

    Raises
    ------
    GluonexpError
        A rule or an unfreeze that says nothing of this network, a parameter no rule speaks of, or
        nothing to train; the message names the key.
    """
    for position, rule in enumerate(config.rules):
        if rule.state == "frozen" and rule.lr_mult != 1:
            raise GluonexpError(
                f"freeze.rules[{position}].lr_mult={rule.lr_mult:g}: what is frozen has no "
                "learning rate; set it where it is unfrozen (freeze.unfreeze)"
            )
    parameters = outline.parameters
    assigned = rules.assign(outline, [rule.match for rule in config.rules], "freeze.rules")
    ruled = {name: config.rules[position] for name, position in assigned.items()}
    states = {
        name: _state(parameter, ruled[name].state, config.batchnorm)
        for name, parameter in parameters.items()
    }
    mults = {name: rule.lr_mult for name, rule in ruled.items() if states[name] == "trained"}
    epoch_of, notes = _unfreeze(outline, config, states, mults)
    _agree(outline, states, epoch_of, mults)
    if "trained" not in states.values():
        raise GluonexpError(f"freeze={config.name}: nothing is left to train in the first epoch")
    depths = _depths(outline, config)
    total = sum(outline.macs.values())
    rows = []
    for name, parameter in parameters.items():
        layer, below = outline.layers[parameter.layer], depths.get(_part(name), 0)
        rows.append(
            FreezeRow(
                parameter=name,
                layer=layer.type,
                shape=parameter.shape,
                size=math.prod(parameter.shape),
                state=states[name],
                lr_mult=mults.get(name, 0.0) * parameter.lr_mult * config.decay**below,
                unfreeze_epoch=epoch_of.get(name),
                batchnorm=_batchnorm(layer, parameter.layer, states),
                flops_share=outline.macs.get(parameter.global_name, 0) / max(1, total),
            )
        )
    releases = []
    for epoch in sorted(set(epoch_of.values())):
        due = [name for name in parameters if epoch_of.get(name) == epoch]
        releases.append(Release(epoch, tuple(due), tuple(outline.parts(due))))
    frozen = [name for name, state in states.items() if state == "frozen"]
    return FreezePlan(
        rows=tuple(rows),
        audited=tuple(name for name in frozen if not parameters[name].fix_gamma),
        releases=tuple(releases),
        notes=(*notes, *_too_late(releases, epochs), *_notes(outline, rows)),
        macs=total,
    )


def _state(parameter: Parameter, ruled: str, batchnorm: str) -> str:
    """Return the state of a parameter for which a rule says `ruled`, when training begins."""
    match parameter.kind:
        case "statistic":
            stays = parameter.frozen or ruled == batchnorm == "frozen"
            return "frozen" if stays else "statistic"
        case "learned":
            return "frozen" if parameter.frozen or ruled == "frozen" else "trained"
        case "constant":
            return "frozen"
        case "state":
            return "statistic"


def _unfreeze(
    outline: Outline, config: FreezeConfig, states: dict[str, str], mults: dict[str, float]
) -> tuple[dict[str, int], list[str]]:
    """Return the epoch that unfreezes each parameter, and put its multiplier into `mults`.

    One policy should suit backbones of any depth: an entry for blocks that this one lacks, or for
    what is released by then, is only noted (the second value).
    """
    epochs: dict[str, int] = {}
    notes = []
    for position, entry in sorted(enumerate(config.unfreeze), key=lambda item: item[1].epoch):
        key = f"freeze.unfreeze[{position}].match"
        try:
            matching = rules.matching(outline, entry.match, key)
        except rules.NoSuchBlock as error:
            notes.append(f"{error}; left out")
            continue
        kinds = {name: outline.parameters[name].kind for name in matching}
        frozen = [
            name
            for name, kind in kinds.items()
            if states[name] == "frozen" and name not in epochs and kind != "constant"
        ]
        if not frozen and epochs.keys().isdisjoint(matching):
            raise GluonexpError(
                f"{key}={entry.match}: nothing of it is frozen; remove it, or freeze it with a "
                "rule"
            )
        if not frozen:
            notes.append(f"{key}={entry.match}: changes nothing, all of it is released by then")
        epochs |= dict.fromkeys(frozen, entry.epoch)
        learning = [name for name in frozen if kinds[name] == "learned"]
        mults |= dict.fromkeys(learning, entry.lr_mult)
    return epochs, notes


def _agree(
    outline: Outline, states: dict[str, str], epochs: dict[str, int], mults: dict[str, float]
) -> None:
    """Refuse rules that separate parameters which only train together."""
    # Mean and variance of a BatchNorm layer; the names under which layers share one parameter.
    together = [
        [f"{path}.{leaf}".lstrip(".") for leaf in STATISTICS]
        for path, layer in outline.layers.items()
        if layer.batchnorm
    ]
    shared: dict[str, list[str]] = {}
    for name, parameter in outline.parameters.items():
        shared.setdefault(parameter.global_name, []).append(name)
    for first, *others in [*together, *shared.values()]:
        for other in others:
            if any(of.get(first) != of.get(other) for of in (states, epochs, mults)):
                raise GluonexpError(
                    f"freeze: {first} and {other} can only be frozen, or trained, together; "
                    "write the rules so that they treat both alike"
                )
    for path, layer in outline.layers.items():
        weight, bias = (f"{path}.{leaf}".lstrip(".") for leaf in ("weight", "bias"))
        if not layer.dense or bias not in states:
            continue
        begins = [0 if states[n] == "trained" else epochs.get(n, math.inf) for n in (weight, bias)]
        if begins[1] < begins[0]:
            # Measured: no error, the gradient stays 0 (MXNet 1.9.1 with oneDNN; Conv2D is right).
            raise GluonexpError(
                f"freeze: {bias} would train while {weight} is frozen, which MXNet cannot do in a "
                "Dense layer (it computes no gradient then); freeze both, or let the weight learn "
                "slowly (lr_mult)"
            )


def _depths(outline: Outline, config: FreezeConfig) -> dict[str, int]:
    """Return how many blocks below the classifier each part of the backbone is: 1 at its top."""
    if config.decay == 1:
        return {}
    if "backbone" not in outline.layers:
        raise GluonexpError(
            f"freeze.decay={config.decay:g}: goes by the blocks of a backbone, and this network "
            "has none; choose a network that has one (model=alexnet_ft, model=zoo_ft), or 1"
        )
    return {
        f"backbone.{child}": below
        for below, block in enumerate(reversed(outline.blocks("backbone")), 1)
        for child in block
    }


def _part(name: str) -> str:
    """Return the first two parts of a structural name: ``backbone.4`` of backbone.4.1.weight."""
    return ".".join(name.split(".")[:2])


def _batchnorm(layer: Layer, path: str, states: dict[str, str]) -> str:
    if not layer.batchnorm:
        return ""
    held = states[f"{path}.{STATISTICS[0]}".lstrip(".")] == "frozen"
    return "frozen" if held else "batch"


def _too_late(releases: Sequence[Release], epochs: int | None) -> Iterator[str]:
    """Note what would only be released after the last epoch."""
    for release in releases:
        if epochs is not None and release.epoch >= epochs:
            yield (
                f"{listed(release.parts)} would be released in epoch {release.epoch}, but "
                f"training ends after epoch {epochs - 1} (trainer.epochs={epochs})"
            )


def _notes(outline: Outline, rows: Sequence[FreezeRow]) -> Iterator[str]:
    arrays = {name: parameter.global_name for name, parameter in outline.parameters.items()}
    means = [row for row in rows if row.batchnorm and row.parameter.endswith(STATISTICS[0])]
    if held := [row.parameter for row in means if row.state == "frozen"]:
        yield f"{_layers(held)} normalize by their frozen statistics, in training too"
    unreached = outline.unreached({arrays[r.parameter] for r in rows if r.state == "trained"})
    moving = [row.parameter for row in means if row.state == "statistic"]
    if stuck := [name for name in moving if arrays[name] in unreached]:
        yield (
            f"{_layers(stuck)} normalize by each batch in training, but nothing trained lies "
            "before them: MXNet moves their statistics on a GPU only, and on a CPU prediction "
            "uses the old ones"
        )
    if dropped := _dropped(outline, rows):
        yield f"Dropout stays active among frozen layers: {', '.join(dropped)}"
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


def _dropped(outline: Outline, rows: Sequence[FreezeRow]) -> list[str]:
    """Return the Dropout layers that stand among frozen layers only, or right before one."""
    still = {row.parameter: row.state != "trained" for row in rows}
    positions = {path: position for position, path in enumerate(outline.layers)}
    found = []
    for path, layer in outline.layers.items():
        if not layer.dropout:
            continue
        container = path.rpartition(".")[0]
        beside = [
            still[name] for name in still if not container or name.startswith(f"{container}.")
        ]
        behind = (
            still[name]
            for name, parameter in outline.parameters.items()
            if positions[parameter.layer] > positions[path]
        )
        if (beside and all(beside)) or next(behind, False):
            found.append(path)
    return found
