"""The typed part of the configuration: every field that gluonexp itself reads.

Hydra merges the YAML files under ``conf/`` into these dataclasses, so a misspelt key or a wrong
type is refused while composing, with its full name. A default stands here and nowhere else: a file
under ``conf/`` says only what differs from it. `to_config` then checks ranges and returns
plain objects: past `gluonexp.assembly` nothing knows of OmegaConf.

A ``dict[str, Any]`` field is a node of the other kind: a ``_target_`` (one of many constructors,
possibly the user's own) and its arguments, resolved by `gluonexp.assembly`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.base.errors import GluonexpError
from gluonexp.config import combinations, keys


def _ranged(
    default: Any = MISSING, *, low: float = -math.inf, below: float = math.inf, above: bool = False
) -> Any:
    """Declare a number that must lie in [low, below), or in (low, below) where `above`."""
    return field(default=default, metadata={"low": low, "below": below, "above": above})


def _chosen(default: str, *choices: str) -> Any:
    """Declare a name that must be one of `choices`."""
    return field(default=default, metadata={"choices": choices})


@dataclass
class DatasetConfig:
    """What is common to every data set; what is particular to one is under `source`."""

    name: str = MISSING
    root: str | None = None
    # Of each class of the train split, held out to choose the best epoch by.
    val_fraction: float = _ranged(0.1, low=0, below=1)
    # Of what is left, class by class; less for a quick look.
    train_fraction: float = _ranged(1.0, low=0, above=True)
    # The network's input: pixels (square) and 1 or 3 channels; null keeps the data set's own.
    resize: int | None = _ranged(None, low=1)
    channels: int | None = None
    # Subtracted and divided by, per channel, once pixels are scaled to [0, 1].
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    source: dict[str, Any] = MISSING


@dataclass
class FreezeRule:
    """What happens to the parameters whose structural name matches."""

    match: str = MISSING
    state: str = _chosen("trainable", "frozen", "trainable")
    lr_mult: float = _ranged(1.0, low=0, above=True)


@dataclass
class Unfreeze:
    """What is released when an epoch (counted from 0) begins."""

    epoch: int = _ranged(low=1)
    match: str = MISSING
    lr_mult: float = _ranged(1.0, low=0, above=True)


@dataclass
class FreezeConfig:
    """Which parameters training leaves alone, and how fast the others learn."""

    name: str = "none"
    # The first rule that matches a parameter decides; each parameter needs one.
    rules: list[FreezeRule] = field(default_factory=lambda: [FreezeRule("*")])
    # What frozen BatchNorm layers normalize by: their frozen statistics, or batches as before.
    batchnorm: str = _chosen("frozen", "frozen", "moving")
    # Multiplies the learning rate once for each block of the backbone below the classifier.
    decay: float = _ranged(1.0, low=0, above=True)
    unfreeze: list[Unfreeze] = field(default_factory=list)


@dataclass
class OptimConfig:
    """What every optimizer has."""

    name: str = _chosen(MISSING, "sgd", "nag", "adam", "adamw", "rmsprop", "adagrad")
    lr: float = _ranged(low=0, above=True)
    weight_decay: float = _ranged(0.0, low=0)
    # MXNet decays every parameter; false exempts biases and BatchNorm's gamma and beta.
    decay_bias_and_norm: bool = True
    # The longest the batch's mean gradient, of all parameters together, may be; null: any length.
    clip_norm: float | None = _ranged(None, low=0, above=True)


@dataclass
class MomentumConfig(OptimConfig):
    """SGD and Nesterov's accelerated gradient."""

    momentum: float = _ranged(0.9, low=0, below=1)


@dataclass
class AdamConfig(OptimConfig):
    """Adam and AdamW."""

    beta1: float = _ranged(0.9, low=0, below=1)
    beta2: float = _ranged(0.999, low=0, below=1)
    epsilon: float = _ranged(1e-8, low=0, above=True)


@dataclass
class RmspropConfig(OptimConfig):
    """RMSProp: `rho` decays the mean square, `momentum` is used only when `centered`."""

    rho: float = _ranged(0.9, low=0, below=1)
    momentum: float = _ranged(0.9, low=0, below=1)
    epsilon: float = _ranged(1e-8, low=0, above=True)
    centered: bool = False


@dataclass
class AdagradConfig(OptimConfig):
    """AdaGrad: `epsilon` is added to the sum of squares, under the root."""

    epsilon: float = _ranged(1e-7, low=0, above=True)


OPTIMIZERS: Final[dict[str, type[OptimConfig]]] = {
    "sgd": MomentumConfig,
    "nag": MomentumConfig,
    "adam": AdamConfig,
    "adamw": AdamConfig,
    "rmsprop": RmspropConfig,
    "adagrad": AdagradConfig,
}


@dataclass
class LrFindConfig:
    """The learning-rate range test: `steps` rates from `start` to `end`, equal ratios apart."""

    steps: int = _ranged(0, low=0)  # 0: train instead
    start: float = _ranged(1e-6, low=0, above=True)
    end: float = _ranged(10.0, low=0, above=True)


@dataclass
class TrainerConfig:
    """The epoch loop."""

    epochs: int = _ranged(20, low=1)
    batch_size: int = _ranged(32, low=1)
    # Steps between two points of the `batch/` curves; 0: none, and no sync within an epoch.
    log_every: int = _ranged(0, low=0)
    # Also evaluate the test split after each epoch, as tutorials do; nothing is chosen by it.
    test_each_epoch: bool = False
    # Within an epoch, save a checkpoint after each so many steps, and seed anew there; 0: none.
    checkpoint_every_steps: int = _ranged(0, low=0)
    # End with a checkpoint and exit code 75, for a scheduler that starts it again; null: no limit.
    max_hours: float | None = _ranged(None, low=0, above=True)
    # A checkpoint folder to resume from, or a run: its id, the beginning of one, or `last`.
    resume: str | None = None
    # Look for a learning rate instead of training; see `gluonexp.experiment.lr_find`.
    lr_find: LrFindConfig = field(default_factory=LrFindConfig)


@dataclass
class ObjectiveConfig:
    """What "better" means: chooses the best checkpoint and is what a sweep optimizes."""

    metric: str = _chosen("val/acc", "train/loss", "train/acc", "val/loss", "val/acc")
    mode: str = _chosen("max", "min", "max")


@dataclass
class TrackingConfig:
    """Where runs are recorded."""

    backend: str = _chosen("mlflow", "mlflow", "offline", "none")
    uri: str | None = None
    experiment: str = "gluonexp"
    run_name: str | None = None
    # A run that waits for this job, made by the sweep it belongs to; null: a new run.
    run_id: str | None = None
    # Also how busy processor, memory, disk, network and GPUs are, every 10 s of training.
    system_metrics: bool = False


@dataclass
class ExportConfig:
    """What is made of the trained network."""

    enabled: bool = True
    # null: where the library is installed
    onnx: bool | None = None
    # graph: also write a symbol that takes uint8 images and prepares them itself.
    preprocess: str = _chosen("signature", "signature", "graph")
    # By how many images it is proved, which travel with it: of the test split, else val, else
    # train; null: as many as 256, and fewer where the network computes long.
    images: int | None = _ranged(None, low=1, below=257)
    # Also write a network of 8-bit integers, calibrated on training images.
    int8: bool = False
    # Also write the network for PyTorch alone; null: where engine=torch trained it.
    torch: bool | None = None
    # Log the export as an MLflow model, which can be served.
    mlflow_model: bool = True
    # Register that model under this name; `champion` is the best version so far.
    register: str | None = None


@dataclass
class EngineConfig:
    """What computes a training step; but for `name` it is torch's."""

    name: str = _chosen("mxnet", "mxnet", "torch")
    # Of products and convolutions while training; parameters and evaluation are float32.
    precision: str = _chosen("float32", "float32", "bfloat16")
    compile: bool = False
    # On a GPU: only algorithms that repeat bit for bit; products may be rounded to TensorFloat-32.
    deterministic: bool = False
    tf32: bool = False


@dataclass
class FeaturesConfig:
    """What is frozen is computed once: what computes it, and where its output is kept."""

    # auto: where the frozen front of the network is a good part of its arithmetic; on: or refuse.
    cache: str = _chosen("auto", "auto", "on", "off")
    # null: the user's cache folder
    folder: str | None = None
    # What all that is kept there may take; the least recently used goes first.
    budget_gb: float = _ranged(20.0, low=0, above=True)
    # auto: openvino where it is installed, else mxnet; what it came to is recorded.
    engine: str = _chosen("auto", "auto", "mxnet", "openvino", "torch")
    # Of the arithmetic; bfloat16 is openvino's and torch's, on processors that have it.
    precision: str = _chosen("float32", "float32", "bfloat16")
    # Of what is kept.
    dtype: str = _chosen("float32", "float32", "float16")


@dataclass
class BuildConfig:
    """Which packages besides gluonexp a ``_target_`` may name."""

    allow: list[str] = field(default_factory=list)


@dataclass
class TrialConfig:
    """Which trial of which Optuna study a job is; set by the sweep for each of its jobs."""

    storage: str | None = None  # of the study: a file, a database's address, grpc://HOST:PORT
    study: str | None = None
    number: int | None = None
    pruner: str = _chosen("none", "none", "median", "asha")


@dataclass
class SweepConfig:
    """What a sweep (``--multirun``) does with its jobs; nothing to a single run."""

    # Start no job after so many have failed; fail_fast: after the first.
    max_failures: int | None = _ranged(None, low=1)
    fail_fast: bool = False
    # Run a point again, from its checkpoint, whose process or machine was lost: at most so often.
    # One that failed by itself is not tried again.
    retries: int = _ranged(0, low=0)
    # The parent run of an earlier sweep: run only what it has not finished.
    resume: str | None = None
    # Register the best point's export in the model registry, under this name.
    register: str | None = None
    # The digest of the data on other hosts; the sweep sets it for each of its jobs.
    data: str | None = None
    trial: TrialConfig = field(default_factory=TrialConfig)


@dataclass
class Config:
    """One run, whole."""

    seed: int = _ranged(0, low=0, below=2**31)
    device: str = "auto"
    engine: EngineConfig = field(default_factory=EngineConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    loss: dict[str, Any] = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    scheduler: dict[str, Any] = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


def zoo_input(backbone: str) -> int:
    """Return the input size of a model-zoo network, in pixels: ``${zoo_input:NAME}`` in YAML."""
    return 299 if backbone == "inceptionv3" else 224


def register() -> None:
    """Make the schemas and resolvers known to Hydra (idempotent)."""
    OmegaConf.register_new_resolver("zoo_input", zoo_input, replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in OPTIMIZERS.items():
        store.store(group="schema/optim", name=name, node=node)


def to_config(composed: DictConfig) -> Config:
    """Return the composed configuration as plain typed objects, every range checked.

    Raises
    ------
    GluonexpError
        A value is missing or out of its range, or nobody reads it; the message names the key.
    """
    if not issubclass(OmegaConf.get_type(composed) or dict, Config):
        raise GluonexpError(
            "this is not the configuration of gluonexp.run, but of another application: a sweep "
            "of that takes hydra/sweeper=basic, and a primary configuration of your own begins "
            "with defaults: [config]"
        )
    try:
        keys.check(composed)
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise GluonexpError(f"{missing[0]} has no value: give one with {missing[0]}=VALUE")
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # of a value that refers to another
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GluonexpError(f"{error.full_key or 'the configuration'}: {said}") from None
    except RecursionError:
        raise GluonexpError("the configuration: a value refers to itself") from None
    assert isinstance(config, Config)
    _check(config, "")
    combinations.check(config)
    return config


def _check(node: Any, prefix: str) -> None:
    for item in dataclasses.fields(node):
        value, key = getattr(node, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            _check(value, f"{key}.")
        elif isinstance(value, list):
            for index, element in enumerate(value):
                if dataclasses.is_dataclass(element):
                    _check(element, f"{key}[{index}].")
        elif "choices" in item.metadata and value not in item.metadata["choices"]:
            raise GluonexpError(
                f"{key}={value}: choose one of {', '.join(item.metadata['choices'])}"
            )
        elif "low" in item.metadata and value is not None:
            low, below, above = (item.metadata[name] for name in ("low", "below", "above"))
            # Written so that NaN fails too.
            if not ((value > low if above else value >= low) and value < below):
                floor = f"above {low:g}" if above else f"at least {low:g}"
                ceiling = f" and below {below:g}" if math.isfinite(below) else ", and finite"
                raise GluonexpError(f"{key}={value}: must be {floor}{ceiling}")
