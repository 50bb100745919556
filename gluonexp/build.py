"""From configuration to objects: the only place that resolves a ``_target_``.

`plan` resolves and checks every constructor of a run before anything is read or recorded; the
functions after it call them once what they need (classes, steps per epoch) is known.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gluonexp import optim
from gluonexp.data.augment import Augment
from gluonexp.data.digest import digest
from gluonexp.data.split import carve
from gluonexp.data.types import Source, Spec, Split
from gluonexp.errors import GluonexpError
from gluonexp.loop import Callback, Learner
from gluonexp.models.preprocess import Preprocess, Preprocessing
from gluonexp.mx import gluon, mx, nn
from gluonexp.schema import Config, DatasetConfig

Constructor = Callable[..., Any]

# The parts of gluonexp that hold what a configuration may choose.
OWN = ("data", "models", "loss", "optim", "callbacks")


@dataclass(frozen=True)
class Plan:
    """What a run is made of: made, or its constructor resolved; nothing is read yet."""

    source: Source
    augment: Augment
    model: Constructor
    loss: gluon.loss.Loss
    optimizer: mx.optimizer.Optimizer
    scheduler: Constructor
    callbacks: list[Callback]


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


def plan(config: Config) -> Plan:
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
    _check_metric(config, "objective", config.objective.metric, without_validation=True)
    arguments = ("base_lr", "steps_per_epoch", "epochs")
    scheduler = constructor(config.scheduler, "scheduler", allow, provided=arguments)
    # Tried here, where a wrong value is still cheap; `learner` knows the steps.
    scheduler(base_lr=config.optim.lr, steps_per_epoch=1, epochs=config.trainer.epochs)
    return Plan(
        source=made(config.dataset.source, "dataset.source"),
        augment=made(config.augment, "augment"),
        model=constructor(config.model, "model", allow, provided=("classes",)),
        loss=made(config.loss, "loss"),
        optimizer=optim.optimizer(**asdict(config.optim)),
        scheduler=scheduler,
        callbacks=callbacks,
    )


def constructor(
    node: Mapping[str, Any], key: str, allow: Sequence[str], provided: Collection[str] = ()
) -> Constructor:
    """Return what ``node._target_`` names, with the node's other keys as its arguments.

    Parameters
    ----------
    node
        May hold further nodes with a ``_target_``; they are resolved too, and called with it.
    key
        Where the node stands in the configuration, for messages.
    provided
        Names of the arguments that the caller of the returned function adds.
    """
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    name = node.get("_target_")
    if not isinstance(name, str):
        raise GluonexpError(f"{key} names no _target_: choose a configuration with {key}=NAME")
    target = _resolve(name, key, allow)
    takes = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for argument in [*arguments, *provided]:
            if argument not in takes:
                near = difflib.get_close_matches(argument, takes, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(takes)}"
                raise GluonexpError(f"{key}.{argument}: {name} takes no such argument; {hint}")
    given = {*arguments, *provided}
    for parameter in takes.values():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and parameter.name not in given:
            raise GluonexpError(f"{key}.{parameter.name}: {name} needs a value for it")

    def construct(**runtime: Any) -> Any:
        nested = {
            argument: constructor(value, f"{key}.{argument}", allow)()
            if isinstance(value, Mapping) and "_target_" in value
            else value
            for argument, value in arguments.items()
        }
        try:
            return target(**nested, **runtime)
        except (TypeError, ValueError) as error:
            raise GluonexpError(f"{key}: {name} refused its arguments: {error}") from error

    return construct


def preprocessing(config: DatasetConfig, spec: Spec) -> Preprocessing:
    """Return the steps from images of `spec` to the network's input."""
    channels = config.channels or spec.channels
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, channels):
            raise GluonexpError(
                f"dataset.{name}={values}: give one value, or one for each of {channels} "
                "channel(s), as in dataset.mean=[0.5] dataset.std=[0.25]"
            )
    return Preprocessing(
        height=config.resize or spec.height,
        width=config.resize or spec.width,
        channels=channels,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def preprocess(steps: Preprocessing, spec: Spec) -> Preprocess:
    """Return the block for `steps`, compiled."""
    block = Preprocess(steps, height=spec.height, width=spec.width, channels=spec.channels)
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def network(
    config: Config, construct: Constructor, spec: Spec, steps: Preprocessing, device: mx.Context
) -> nn.HybridBlock:
    """Return the network, its shapes inferred from the data's, initialized (Xavier), compiled.

    Call it under the run's seed. Parameter names do not depend on how many networks this process
    made before: the optimizer state and the exported files go by name.

    Raises
    ------
    GluonexpError
        The network cannot take the data's shape, or does not return (N, classes).
    """
    with mx.name.NameManager():
        net = construct(classes=len(spec.classes))
        if not isinstance(net, gluon.HybridBlock):
            raise GluonexpError(f"model: {config.model['_target_']} returned no HybridBlock")
        shape = (1, steps.channels, steps.height, steps.width)
        _infer_shapes(net, shape, len(spec.classes), config)
    for parameter in net.collect_params().values():
        if parameter._data is None:
            parameter.initialize(ctx=device, default_init=mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def data(config: Config, source: Source) -> Data:
    """Read every sample and carve the validation split from train, by seed and class."""
    spec, samples = source.spec(), source.load()
    for name, split in {"train": samples.train, "test": samples.test}.items():
        if split is not None:
            _check_split(f"dataset {config.dataset.name}, {name} split", split, spec)
    train, val = carve(samples.train, config.dataset.val_fraction, config.seed)
    published = {"train": samples.train, "test": samples.test}
    existing = {name: split for name, split in published.items() if split is not None}
    return Data(
        spec.classes,
        train,
        val,
        samples.test,
        samples.title,
        samples.notes,
        digest(spec.classes, existing),
    )


def learner(
    config: Config,
    plan: Plan,
    net: nn.HybridBlock,
    block: Preprocess,
    device: mx.Context,
    train_size: int,
) -> Learner:
    """Return `net` with its loss, optimizer and schedule."""
    plan.loss.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(net.collect_params(), plan.optimizer)
    schedule = plan.scheduler(
        base_lr=config.optim.lr,
        steps_per_epoch=-(-train_size // config.trainer.batch_size),
        epochs=config.trainer.epochs,
    )
    return Learner(net, block, plan.loss, trainer, schedule, device)


def _resolve(name: str, key: str, allow: Sequence[str]) -> Any:
    """Import what a dotted name says, if it is defined in an allowed package."""
    if name.partition(".")[0] not in allow:
        raise GluonexpError(
            f"{key}._target_={name}: only {', '.join(allow)} may be named; "
            f"to trust your own package: build.allow=[{name.partition('.')[0]}]"
        )
    module_name, _, attribute = name.rpartition(".")
    parts = name.split(".")
    if len(parts) < 2 or any(part.startswith("_") or not part.isidentifier() for part in parts):
        raise GluonexpError(f"{key}._target_={name}: not the name of a public class or function")
    if parts[0] == "gluonexp" and parts[1] not in OWN:
        raise GluonexpError(
            f"{key}._target_={name}: of gluonexp itself, only {', '.join(OWN)} may be named"
        )
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise GluonexpError(f"{key}._target_={name}: {error}") from None
    except AttributeError:
        raise GluonexpError(f"{key}._target_={name}: {module_name} has no {attribute}") from None
    # A module's namespace also holds what it imported: `gluonexp.x.os` is not gluonexp's.
    if str(getattr(target, "__module__", "")).partition(".")[0] not in allow:
        raise GluonexpError(f"{key}._target_={name}: not defined in {', '.join(allow)}")
    if not callable(target):
        raise GluonexpError(f"{key}._target_={name}: cannot be called")
    return target


def _callback(config: Config, node: Mapping[str, Any], key: str, allow: Sequence[str]) -> Callback:
    target = _resolve(str(node.get("_target_")), key, allow)
    if not (inspect.isclass(target) and issubclass(target, Callback)):
        raise GluonexpError(f"{key}: {node['_target_']} is no gluonexp.loop.Callback")
    callback: Callback = constructor(node, key, allow)()
    if (metric := getattr(callback, "metric", None)) is not None:
        free = getattr(callback, "without_validation", False)
        _check_metric(config, key, metric, without_validation=free)
    return callback


def _check_metric(config: Config, key: str, metric: str, *, without_validation: bool) -> None:
    """Refuse a metric that nobody measures."""
    measured = [f"{split}/{score}" for split in ("train", "val") for score in ("loss", "acc")]
    if metric not in measured:
        raise GluonexpError(f"{key}.metric={metric}: choose one of {', '.join(measured)}")
    if metric.startswith("val/") and config.dataset.val_fraction == 0 and not without_validation:
        raise GluonexpError(
            f"{key} watches {metric}, but dataset.val_fraction=0 leaves nothing to validate on; "
            "choose a train/ metric or a fraction above 0"
        )


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


def _infer_shapes(
    net: nn.HybridBlock, shape: tuple[int, ...], classes: int, config: Config
) -> None:
    """Infer every parameter's shape symbolically, without computing anything."""
    takes = "x".join(map(str, shape[1:]))  # (C, H, W)
    where = f"model {config.model['_target_'].rpartition('.')[2]} cannot take {takes} images"
    remedy = f"dataset {config.dataset.name}; change dataset.resize, dataset.channels or the model"
    try:
        output = net(mx.sym.var("data"))
    except (mx.MXNetError, TypeError, ValueError) as error:
        raise GluonexpError(f"model {config.model['_target_']}: {_reason(error)}") from error
    if isinstance(output, (list, tuple)):
        raise GluonexpError(f"model: returns {len(output)} outputs; gluonexp trains on one")
    try:
        arguments, outputs, statistics = output.infer_shape(data=shape)
    except mx.MXNetError as error:
        raise GluonexpError(f"{where} ({remedy}): {_reason(error)}") from None
    if outputs is None or any(not all(s) for s in [*arguments, *outputs, *statistics]):
        raise GluonexpError(f"{where} ({remedy}): a layer's output would be empty")
    if outputs != [(shape[0], classes)]:
        raise GluonexpError(
            f"model: gives {outputs[0][1:]} values for each image; the data set has {classes} "
            "classes, so logits of that many are needed"
        )
    names = [*output.list_arguments(), *output.list_auxiliary_states()]
    parameters = net.collect_params()
    for name, inferred in zip(names, [*arguments, *statistics], strict=True):
        if name in parameters:
            parameters[name].shape = inferred


def _reason(error: Exception) -> str:
    """Return the sentence of an MXNet error that says what is wrong."""
    text = str(error).strip().splitlines()[-1]
    reason = text.rpartition("Check failed: ")[2]
    return reason.rpartition(") : ")[2].strip() or reason or text
