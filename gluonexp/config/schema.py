"""The typed part of the configuration: every field that gluonexp itself reads.

Hydra merges the YAML files under ``conf/`` into these dataclasses, so a misspelt key or a wrong
type is refused while composing, with its full name. A default stands here and nowhere else: a file
under ``conf/`` says only what differs from it. `to_config` then checks ranges and returns
plain objects: past `gluonexp.assembly` nothing knows of OmegaConf.

A ``dict[str, Any]`` field is a node of the other kind: a ``_target_`` (one of many constructors,
possibly the user's own) and its arguments, resolved by `gluonexp.assembly`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.base.errors import GluonexpError
from gluonexp.config import combinations, fields, keys
from gluonexp.config.fields import chosen as _chosen
from gluonexp.config.fields import ranged as _ranged
from gluonexp.config.optimizers import OPTIMIZERS, OptimConfig


@dataclass
class DatasetConfig:
    """What is common to every data set; what is particular to one is under `source`."""

    # The data set's name, as runs record it.
    name: str = MISSING
    # Where its files are; null: nowhere, or the user's cache folder.
    root: str | None = None
    # Of each class of the train split, held out to choose the best epoch by.
    val_fraction: float = _ranged(0.1, low=0, below=1)
    # Of what is left, class by class; less for a quick look.
    train_fraction: float = _ranged(1.0, low=0, above=True)
    # The network's input, pixels (square); null keeps the data set's own size.
    resize: int | None = _ranged(None, low=1)
    # The network's input: 1 (grey) or 3 (RGB); null keeps the data set's own.
    channels: int | None = None
    # Subtracted, per channel or one for all, once pixels are scaled to [0, 1].
    mean: list[float] = field(default_factory=lambda: [0.0])
    # Divided by after that, per channel or one for all.
    std: list[float] = field(default_factory=lambda: [1.0])
    # The class that reads it, and its arguments.
    source: dict[str, Any] = MISSING


@dataclass
class FreezeRule:
    """What happens to the parameters whose structural name matches."""

    # A structural name as the plan prints them; `*` is any text, `backbone[-1]` the last block.
    match: str = MISSING
    # Whether they train.
    state: str = _chosen("trainable", "frozen", "trainable")
    # Multiplies their learning rate.
    lr_mult: float = _ranged(1.0, low=0, above=True)


@dataclass
class Unfreeze:
    """What is released when an epoch (counted from 0) begins."""

    # The epoch.
    epoch: int = _ranged(low=1)
    # Which parameters, as in a rule.
    match: str = MISSING
    # Multiplies their learning rate from then on.
    lr_mult: float = _ranged(1.0, low=0, above=True)


@dataclass
class FreezeConfig:
    """Which parameters training leaves alone, and how fast the others learn."""

    # The policy's name, as runs record it.
    name: str = "none"
    # The first rule that matches a parameter decides; each parameter needs one.
    rules: list[FreezeRule] = field(default_factory=lambda: [FreezeRule("*")])
    # What frozen BatchNorm layers normalize by: their frozen statistics, or batches as before.
    batchnorm: str = _chosen("frozen", "frozen", "moving")
    # Multiplies the learning rate once for each block of the backbone below the classifier.
    decay: float = _ranged(1.0, low=0, above=True)
    # What is released later, by epoch.
    unfreeze: list[Unfreeze] = field(default_factory=list)


@dataclass
class LrFindConfig:
    """The learning-rate range test: `steps` rates from `start` to `end`, equal ratios apart."""

    # How many rates are tried; 0: train instead.
    steps: int = _ranged(0, low=0)
    # The first rate.
    start: float = _ranged(1e-6, low=0, above=True)
    # The last, unless the loss explodes before.
    end: float = _ranged(10.0, low=0, above=True)


@dataclass
class TrainerConfig:
    """The epoch loop."""

    # How often all training images are seen.
    epochs: int = _ranged(20, low=1)
    # Images in a step, of all processes together.
    batch_size: int = _ranged(32, low=1)
    # Steps between two points of the `batch/` curves; 0: none, and no sync within an epoch.
    log_every: int = _ranged(0, low=0)
    # Also evaluate the test split after each epoch, as tutorials do; nothing is chosen by it.
    test_each_epoch: bool = False
    # Within an epoch, save a checkpoint after each so many steps, and seed anew there; 0: none.
    checkpoint_every_steps: int = _ranged(0, low=0)
    # End with a checkpoint and exit code 75, for a scheduler that starts it again; null: no limit.
    max_hours: float | None = _ranged(None, low=0, above=True)
    # Train on from a checkpoint folder, or from a run: its id, the beginning of one, or `last`.
    resume: str | None = None
    # Look for a learning rate instead of training; see `gluonexp.experiment.lr_find`.
    lr_find: LrFindConfig = field(default_factory=LrFindConfig)


@dataclass
class ObjectiveConfig:
    """What "better" means: chooses the best checkpoint and is what a sweep optimizes."""

    # Of each epoch: a loss or an accuracy, or val/ and one of what `metrics.names` can hold.
    metric: str = "val/acc"
    # Whether less or more of it is better.
    mode: str = _chosen("max", "min", "max")


@dataclass
class MetricsConfig:
    """What is measured of the held-out splits, besides loss and accuracy."""

    # top5 (or topK), balanced_acc, macro_f1, log_loss, ece; what an objective needs is added.
    names: list[str] = field(default_factory=list)


@dataclass
class TrackingConfig:
    """Where runs are recorded."""

    # A store of MLflow, the job's folder alone, or nowhere; the group's choice sets it.
    backend: str = _chosen("mlflow", "mlflow", "offline", "none")
    # The store: a database, or a server's address; null: SQLite in ./mlruns/mlflow.db.
    uri: str | None = None
    # The experiment of MLflow in which runs are listed.
    experiment: str = "gluonexp"
    # The run's name; null: one that MLflow makes up.
    run_name: str | None = None
    # A run that waits for this job, made by the sweep it belongs to; null: a new run.
    run_id: str | None = None
    # Also how busy processor, memory, disk, network and GPUs are, every 10 s of training.
    system_metrics: bool = False


@dataclass
class ExportConfig:
    """What is made of the trained network."""

    # Whether anything is made of it.
    enabled: bool = True
    # Also write ONNX; null: where the library is installed.
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

    # The group's choice sets it.
    name: str = _chosen("mxnet", "mxnet", "torch")
    # Of products and convolutions while training; parameters and evaluation are float32.
    precision: str = _chosen("float32", "float32", "bfloat16")
    # By torch.compile; only where it was measured to be faster.
    compile: bool = False
    # On a GPU: only algorithms that repeat bit for bit.
    deterministic: bool = False
    # On a GPU: products of float32 may be rounded to TensorFloat-32.
    tf32: bool = False


@dataclass
class FeaturesConfig:
    """What is frozen is computed once: what computes it, and where its output is kept."""

    # auto: where the frozen front of the network is a good part of its arithmetic; on: whatever it
    # is, and an error where nothing can be computed once; off: never.
    cache: str = _chosen("auto", "auto", "on", "off")
    # Where; null: the user's cache folder, see `gluonexp cache`.
    folder: str | None = None
    # What all that is kept there may take; the least recently used goes first.
    budget_gb: float = _ranged(20.0, low=0, above=True)
    # auto: openvino where it is installed, else mxnet; what it came to is recorded.
    engine: str = _chosen("auto", "auto", "mxnet", "openvino", "torch")
    # Of the arithmetic; bfloat16 is openvino's and torch's, and several times faster on processors
    # that have it.
    precision: str = _chosen("float32", "float32", "bfloat16")
    # Of what is kept; float16 takes half of the room.
    dtype: str = _chosen("float32", "float32", "float16")


@dataclass
class BuildConfig:
    """Which packages besides gluonexp a ``_target_`` may name."""

    # Packages besides gluonexp that a `_target_` may name, as [mypackage]: their code is run.
    allow: list[str] = field(default_factory=list)


@dataclass
class TrialConfig:
    """Which trial of which Optuna study a job is; set by the sweep for each of its jobs."""

    # Of the study: a file, a database's address, grpc://HOST:PORT.
    storage: str | None = None
    # The study's name.
    study: str | None = None
    # The trial's number in it.
    number: int | None = None
    # What ends hopeless trials early.
    pruner: str = _chosen("none", "none", "median", "asha")


@dataclass
class SweepConfig:
    """What a sweep (``--multirun``) does with its jobs; nothing to a single run."""

    # Start no job after so many have failed; null: start all.
    max_failures: int | None = _ranged(None, low=1)
    # Start no job after one has failed.
    fail_fast: bool = False
    # Run a point again, from its checkpoint, whose process or machine was lost: at most so often.
    # One that failed by itself is not tried again.
    retries: int = _ranged(0, low=0)
    # An earlier sweep, its id or `last`: run only what it has not finished.
    resume: str | None = None
    # Register the best point's export in the model registry, under this name.
    register: str | None = None
    # The digest of the data on other hosts; the sweep sets it for each of its jobs.
    data: str | None = None
    trial: TrialConfig = field(default_factory=TrialConfig)


@dataclass
class NotifyConfig:
    """Who is told how a run or a sweep ended: JSON, see `gluonexp.tracking.notify`."""

    # Where it is posted, as Slack's incoming webhooks take it: an address, which is a secret.
    # null: nowhere; callbacks=notify takes the environment's GLUONEXP_WEBHOOK.
    webhook: str | None = None
    # A program and its arguments, which reads it on standard input; no shell is asked.
    command: list[str] | None = None
    # How what is told of has ended: some of finished, pruned, failed, killed.
    when: list[str] = field(default_factory=lambda: ["finished", "pruned", "failed", "killed"])
    # Of a sweep, also tell of each job; else of the sweep as a whole.
    each_job: bool = False
    # How long one may take, seconds; then there is a warning.
    timeout_s: float = _ranged(10.0, low=0, above=True)


@dataclass
class Config:
    """One run, whole."""

    # Of Python, NumPy and the engine; an epoch depends on (seed, epoch) alone.
    seed: int = _ranged(0, low=0, below=2**31)
    # auto (a GPU where there is one), cpu, gpu or gpu:N.
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
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)


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
    fields.check(config)
    combinations.check(config)
    return config
