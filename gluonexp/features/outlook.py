"""What a run can compute once, by epoch: the frozen front of its network, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gluonexp.base.errors import GluonexpError
from gluonexp.base.imports import installed
from gluonexp.config.schema import Config, FeaturesConfig
from gluonexp.data.augment import Augment, unchanged
from gluonexp.features.front import Front, find
from gluonexp.freeze import FreezePlan
from gluonexp.graph.graph import Graph
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.outline import Outline
from gluonexp.models.work import Work

# Below this share of the arithmetic `auto` leaves it: the disk's part would be more.
LEAST = 0.1

# A front that only comes up later in a run, by unfreezing, must last so many epochs for `auto`:
# to compute it costs what an epoch of computing it does.
LASTING = 2


@dataclass(frozen=True)
class Outlook:
    """The front of each epoch.

    Attributes
    ----------
    graph
        Of the whole network.
    fronts
        By the first epoch that has it, ascending, from 0 on; or why that epoch has none, a
        sentence. Empty where the freeze policy freezes nothing, and nothing is to be said.
    settings
        ``features``, its engine settled.
    """

    graph: Graph
    fronts: Mapping[int, Front | str]
    settings: FeaturesConfig

    def at(self, epoch: int) -> Front | None:
        """Return the front to train behind in this epoch."""
        found = [front for start, front in self.fronts.items() if start <= epoch]
        return found[-1] if found and isinstance(found[-1], Front) else None

    def change(self, epoch: int) -> str | None:
        """Say what becomes of it in this epoch, if that changes anything."""
        if (front := self.fronts.get(epoch)) is None:
            return None
        if isinstance(front, Front):
            return f"computed once from here on: {front.sentence()}"
        return f"nothing is computed once from here on, {front}"

    def sentence(self) -> str | None:
        """Say in a line what is computed once, or why nothing is; None where nothing is frozen."""
        if not self.fronts:
            return None
        first = self.fronts[0]
        if isinstance(first, str):
            return f"computed once: nothing, {first}"
        settings = self.settings
        until = [epoch for epoch in self.fronts if epoch > 0]
        ends = f", until epoch {until[0]}" if until else ""
        return f"computed once: {first.sentence()}{ends} ({settings.engine}, {settings.precision})"


def outlook(
    work: Work,
    outline: Outline,
    plan: FreezePlan,
    config: Config,
    steps: Preprocessing,
    augment: Augment,
    *,
    on_cpu: bool,
) -> Outlook:
    """Return what a run can compute once.

    Raises
    ------
    GluonexpError
        ``features`` asks for what is not there: an engine, a precision of it, or a front.
    """
    wanted = config.features
    settings = wanted if wanted.cache == "off" else _settled(wanted, on_cpu)
    if any(row.state == "frozen" for row in plan.rows if row.parameter in plan.audited):
        why = _refused(config, augment)
        shape = steps.channels, steps.height, steps.width
        fronts = {0: why} if why else _fronts(work, outline, plan, config, shape)
    else:
        fronts = {0: "the freeze policy freezes nothing"}
    first = fronts[0]
    if isinstance(first, Front):
        return Outlook(work.graph, fronts, settings)
    if wanted.cache == "on":
        raise GluonexpError(
            f"features.cache=on: nothing of the network can be computed once, {first}; "
            "features.cache=auto trains it all the same"
        )
    if not any(rule.state == "frozen" for rule in config.freeze.rules):
        fronts = {}  # nobody asked for it
    return Outlook(work.graph, fronts, wanted)


def _refused(config: Config, augment: Augment) -> str | None:
    """Say why nothing can be computed once, whatever the network is."""
    if config.features.cache == "off":
        return "features.cache=off"
    if augment is not unchanged:
        name = str(config.augment["_target_"]).rpartition(".")[2]
        return f"augment={name} draws at random"
    return None


def _settled(wanted: FeaturesConfig, on_cpu: bool) -> FeaturesConfig:
    """Return the settings with the engine that ``auto`` comes to: a fixed order, never a race."""
    there = len(installed("openvino", "onnx")) == 2
    engine = wanted.engine
    if engine == "auto":
        engine = "openvino" if there and on_cpu else "mxnet"
    if engine == "openvino" and not there:
        raise GluonexpError(
            "features.engine=openvino: OpenVINO and ONNX are not installed: "
            "pip install 'gluonexp[onnx]', or features.engine=mxnet"
        )
    if engine == "torch" and not installed("torch"):
        raise GluonexpError(
            "features.engine=torch: PyTorch is not installed: pip install 'gluonexp[torch]', or "
            "features.engine=mxnet"
        )
    if wanted.precision == "bfloat16" and engine == "mxnet":
        raise GluonexpError(
            "features.precision=bfloat16 is OpenVINO's, on a CPU (features.engine=openvino, "
            "pip install 'gluonexp[onnx]'), and PyTorch's (features.engine=torch, pip install "
            "'gluonexp[torch]'); MXNet computes in float32"
        )
    return replace(wanted, engine=engine)


def _fronts(
    work: Work,
    outline: Outline,
    plan: FreezePlan,
    config: Config,
    shape: tuple[int, int, int],
) -> Mapping[int, Front | str]:
    """Return the front of each epoch, for images of this shape (C, H, W)."""
    macs, shapes = work.by_node(shape), work.by_image(shape)
    names = {p.global_name: name for name, p in outline.parameters.items()}
    fronts: dict[int, Front | str] = {}
    epochs = config.trainer.epochs
    starts = [0, *(release.epoch for release in plan.releases if release.epoch < epochs)]
    for start, end in zip(starts, [*starts[1:], epochs], strict=True):
        still = {
            outline.parameters[row.parameter].global_name
            for row in plan.rows
            if row.state == "frozen" and (row.unfreeze_epoch is None or row.unfreeze_epoch > start)
        }
        front = find(work.graph, still, macs, shapes, names)
        if isinstance(front, Front) and config.features.cache == "auto":
            if front.work < LEAST:
                front = f"{front.sentence()} are too little of it ({front.stop})"
            elif start > 0 and end - start < LASTING and front not in fronts.values():
                front = "the front that is frozen then does not last"
        if not fronts or front != list(fronts.values())[-1]:
            fronts[start] = front
    return fronts
