"""From configuration to objects: the only place that resolves a ``_target_``.

`components` resolves and checks every constructor of a run before anything is read or recorded;
the functions after it call them once what they need (classes, steps per epoch) is known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gluonexp.assembly import networks
from gluonexp.assembly.targets import Constructor, constructor, resolve
from gluonexp.base import metrics
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon
from gluonexp.config.schema import Config
from gluonexp.data.augment import Augment
from gluonexp.data.digest import digest
from gluonexp.data.split import carve, thinned
from gluonexp.data.types import Samples, Source, Spec, Split
from gluonexp.features import compute
from gluonexp.features import outlook as outlooks
from gluonexp.features.front import Front
from gluonexp.features.kept import Recipe
from gluonexp.features.outlook import Outlook
from gluonexp.features.shortcut import Shortcut
from gluonexp.freeze import FreezePlan
from gluonexp.model_folder.signature import Preprocessing, wrong_names
from gluonexp.models.outline import Outline
from gluonexp.models.work import Work
from gluonexp.tracking import Tracker
from gluonexp.training.average import Ema
from gluonexp.training.engine import Engine
from gluonexp.training.loop import Callback
from gluonexp.training.schedules import Schedule


@dataclass(frozen=True)
class Components:
    """What a run is made of: made, or its constructor resolved; nothing is read yet.

    Attributes
    ----------
    metrics
        What is measured of held-out splits besides loss and accuracy.
    notes
        Sentences on what was asked for and is left out.
    """

    source: Source
    augment: Augment
    model: Constructor
    loss: gluon.loss.Loss
    scheduler: Constructor
    callbacks: list[Callback]
    metrics: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """The splits of a run and the digest of all their samples."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    title: str
    notes: tuple[str, ...]
    digest: str

    def splits(self) -> dict[str, Split]:
        """Return the splits that exist, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def held_out(self) -> tuple[str, Split]:
        """Return what is farthest from training and its name: test, else val, else train."""
        return list(self.splits().items())[-1]


def components(config: Config) -> Components:
    """Resolve every ``_target_`` of `config`.

    Raises
    ------
    GluonexpError
        A target that is not allowed or does not exist, an argument it does not take, a callback
        that watches a metric nobody measures; the message names the key.
    """
    allow = ["gluonexp", *config.build.allow]

    def made(node: Mapping[str, Any], key: str) -> Any:
        return constructor(node, key, allow)()

    callbacks = [
        _callback(config, node, f"callbacks.{name}", allow)
        for name, node in config.callbacks.items()
        if node
    ]
    averages = [each for each in callbacks if isinstance(each, Ema)]
    if len(averages) > 1:
        raise GluonexpError("callbacks: two of them average the weights; leave one of them out")
    callbacks = [*averages, *(each for each in callbacks if each not in averages)]  # saved by them
    source: Source = made(config.dataset.source, "dataset.source")
    classes = source.spec().classes
    for name in classes if config.export.enabled else ():  # found out later it costs the training
        if wrong := wrong_names([name]):
            raise GluonexpError(f"dataset {config.dataset.name}: the class {name!r}: {wrong}")
    measured, notes = _metrics(config, callbacks, len(classes))
    arguments = ("base_lr", "steps_per_epoch", "epochs")
    scheduler = constructor(config.scheduler, "scheduler", allow, provided=arguments)
    # Tried here, where a wrong value is still cheap; `schedule` knows the steps.
    scheduler(base_lr=config.optim.lr, steps_per_epoch=1, epochs=config.trainer.epochs)
    return Components(
        source=source,
        augment=made(config.augment, "augment"),
        model=constructor(config.model, "model", allow, provided=("classes",)),
        loss=made(config.loss, "loss"),
        scheduler=scheduler,
        callbacks=callbacks,
        metrics=measured,
        notes=notes,
    )


def data(config: Config, source: Source) -> Data:
    """Read every sample; carve the validation split, then what is trained on, from train."""
    try:
        return _data(config, source.spec(), source.load())
    except MemoryError as error:
        raise GluonexpError(
            f"dataset {config.dataset.name}: its images do not fit into memory: {error}; take "
            "smaller or fewer ones"
        ) from None


def _data(config: Config, spec: Spec, samples: Samples) -> Data:
    both = {"train": samples.train, "test": samples.test}
    published = {name: split for name, split in both.items() if split is not None}
    for name, split in published.items():
        _check_split(f"dataset {config.dataset.name}, {name} split", split, spec)
    fraction = config.dataset.val_fraction
    train, val = carve(samples.train, fraction, config.seed, "dataset.val_fraction")
    train = thinned(train, config.dataset.train_fraction, config.seed)
    found = digest(spec.classes, published)
    return Data(spec.classes, train, val, samples.test, samples.title, samples.notes, found)


def outlook(
    config: Config,
    components: Components,
    net: networks.Network,
    layers: Outline,
    plan: FreezePlan,
    steps: Preprocessing,
    device: networks.Device,
) -> Outlook:
    """Return what of `net`, frozen as `plan` says, need be computed only once.

    Raises
    ------
    GluonexpError
        ``features`` asks for what is not there.
    """
    on_cpu = device.device_type == "cpu"
    work = Work(net)
    return outlooks.outlook(work, layers, plan, config, steps, components.augment, on_cpu=on_cpu)


def shortcut(
    outlook: Outlook,
    engine: Engine,
    net: networks.Network,
    steps: Preprocessing,
    spec: Spec,
    device: networks.Device,
    tracker: Tracker,
    say: Callable[[str], None],
) -> Shortcut:
    """Return what lets `engine` train from features where `outlook` has a frozen front."""
    image, settings = (spec.height, spec.width, spec.channels), outlook.settings
    block, name = networks.preprocess(steps, spec), getattr(net, "zoo_name", type(net).__name__)
    how, where = f"{settings.engine}, {settings.precision}", str(device)
    if settings.engine == "torch":  # where it trains too; MXNet's devices are not its own
        where = engine.where if engine.where.startswith("cuda") else "cpu"

    def recipe(front: Front) -> Recipe:
        graph = outlook.graph.prefix(front.end)
        return Recipe(
            front=front,
            settings=settings,
            key={
                "front": compute.fingerprint(graph, net),
                "preprocessing": steps.to_json(),
                **compute.arithmetic(settings, where),
            },
            stream=partial(compute.stream, graph, net, block, image, device, settings, where),
            title=f"{front.layers} of {front.of} layers of {name} ({how})",
        )

    return Shortcut(engine, outlook, recipe, tracker, say)


def schedule(config: Config, components: Components, train_size: int) -> Schedule:
    """Return the learning rate by step, for so many training images."""
    made: Schedule = components.scheduler(
        base_lr=config.optim.lr,
        steps_per_epoch=-(-train_size // config.trainer.batch_size),
        epochs=config.trainer.epochs,
    )
    return made


def _callback(config: Config, node: Mapping[str, Any], key: str, allow: Sequence[str]) -> Callback:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise GluonexpError(
            f"{key} names no _target_, so that nobody reads it: choose a configuration with "
            "callbacks=NAME"
        )
    target = resolve(str(node["_target_"]), key, allow)
    if not (inspect.isclass(target) and issubclass(target, Callback)):
        raise GluonexpError(f"{key}: {node['_target_']} is no gluonexp.training.loop.Callback")
    callback: Callback = constructor(node, key, allow)()
    if (metric := getattr(callback, "metric", None)) is not None:
        metrics.check_watched(metric, f"{key}.metric")
        if (mode := node.get("mode")) in ("min", "max"):
            metrics.check_mode(metric, mode, key)
        free = getattr(callback, "without_validation", False)
        if metric.startswith("val/") and config.dataset.val_fraction == 0 and not free:
            raise GluonexpError(
                f"{key} watches {metric}, but dataset.val_fraction=0 leaves nothing to validate "
                "on; choose a train/ metric or a fraction above 0"
            )
    return callback


def _metrics(
    config: Config, callbacks: Sequence[Callback], classes: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is measured besides loss and accuracy, and sentences on what is left out."""
    watched = [getattr(callback, "metric", None) for callback in callbacks]
    needed = metrics.to_measure((), filter(None, [config.objective.metric, *watched]))
    if idle := {*needed} - {*metrics.telling(needed, classes)}:
        name = min(idle)
        raise GluonexpError(f"val/{name} says nothing of {classes} classes: watch another metric")
    names = metrics.to_measure(config.metrics.names, (f"val/{name}" for name in needed))
    kept = metrics.telling(names, classes)
    left_out = [name for name in names if name not in kept]
    notes = [f"{name} is not measured: it says nothing of {classes} classes" for name in left_out]
    objective = config.objective.metric
    if objective.startswith("val/") and not (
        config.dataset.val_fraction or config.trainer.lr_find.steps
    ):
        notes.append(
            f"objective.metric={objective} is not measured: dataset.val_fraction=0 leaves nothing "
            "to validate on"
        )
    return kept, tuple(notes)


def _check_split(what: str, split: Split, spec: Spec) -> None:
    """Refuse samples that are not what their `Spec` says: MXNet would train on them silently."""
    shape = (len(split.labels), spec.height, spec.width, spec.channels)
    if split.images.dtype != np.uint8 or split.images.shape != shape:
        raise GluonexpError(
            f"{what}: images are {split.images.dtype} {split.images.shape}, but its labels and "
            f"spec ask for uint8 {shape} (N, H, W, C)"
        )
    if not len(split):
        raise GluonexpError(f"{what}: holds no images")
    if not np.issubdtype(split.labels.dtype, np.integer) or split.labels.ndim != 1:
        raise GluonexpError(f"{what}: labels are {split.labels.dtype}, not whole numbers (N,)")
    low, high, classes = int(split.labels.min()), int(split.labels.max()), len(spec.classes)
    if low < 0 or high >= classes:
        raise GluonexpError(
            f"{what}: labels run from {low} to {high}, for {classes} classes from 0 to "
            f"{classes - 1} are right"
        )
