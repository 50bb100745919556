"""What every run begins with: the network, the tracked run, the data; all recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from gluonexp import build, checkpoint, freeze, record, runtime, show
from gluonexp.data.types import Spec
from gluonexp.errors import GluonexpError
from gluonexp.loop import Learner
from gluonexp.models.preprocess import Preprocessing
from gluonexp.schema import Config
from gluonexp.tracking import Tracker, tracked_run


@dataclass(frozen=True)
class Job:
    """A run that is open: what it trains, on which data, where it is recorded.

    Attributes
    ----------
    config
        As composed, with what ``auto`` weights came to.
    frozen
        Carries out the freeze policy.
    artifacts
        The folder of what is to be recorded.
    """

    config: Config
    plan: build.Plan
    spec: Spec
    steps: Preprocessing
    learner: Learner
    frozen: freeze.Frozen
    data: build.Data
    tracker: Tracker
    workdir: Path
    artifacts: Path


@contextmanager
def opened(
    config: Config, workdir: Path, overrides: Sequence[str], console: Console
) -> Iterator[Job]:
    """Open a run; it ends FINISHED with the block, FAILED or KILLED with an exception.

    Raises
    ------
    GluonexpError
        A setting or the data are not right. Whatever can be found out before data are read is
        found before a run exists.
    """
    artifacts = workdir / "artifacts"
    _clear(config, workdir)
    config = _pinned(config)
    device = runtime.device(config.device)
    plan = build.plan(config)
    spec = plan.source.spec()
    steps = build.preprocessing(config.dataset, spec)
    runtime.seed_everything(config.seed)
    net, pretrained = build.network(config, plan.model, spec, steps, device)
    config = build.pinned(config, pretrained)
    layers = freeze.plan(net, config.freeze, (steps.channels, steps.height, steps.width))
    frozen = freeze.apply(net, layers)
    show.weights(console, pretrained)
    show.plan(console, layers)
    origin = runtime.provenance()
    with tracked_run(
        backend=config.tracking.backend,
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name,
        tags=record.tags(origin, overrides, str(device)),
    ) as tracker:
        record.config(artifacts, config, overrides, origin)
        record.layers(artifacts, layers)
        data = build.data(config, plan.source)
        show.data(console, data)
        record.samples(artifacts, data)
        tracker.log_params(record.parameters(config, data, layers, pretrained))
        _log_data(tracker, config, data)
        tracker.log_artifacts(artifacts)
        block = build.preprocess(steps, spec)
        learner = build.learner(config, plan, net, block, device, len(data.train))
        yield Job(config, plan, spec, steps, learner, frozen, data, tracker, workdir, artifacts)


def _clear(config: Config, workdir: Path) -> None:
    """Remove what an earlier job left in this folder, unless this one goes on from it."""
    resume = config.trainer.resume
    if resume is not None and checkpoint.find(Path(resume).expanduser()) is None:
        raise GluonexpError(f"trainer.resume={resume}: no complete checkpoint there")
    # Only what a run of ours wrote is removed: `workdir` may be any folder of the caller's.
    for name, ours in (("checkpoints", "*/meta.json"), ("artifacts", "config/resolved.yaml")):
        folder = workdir / name
        if folder.exists() and any(folder.iterdir()) and not any(folder.glob(ours)):
            raise GluonexpError(
                f"{folder} holds something that no run wrote: give the job a folder of its own"
            )
    kept = workdir / "checkpoints"
    if resume is None or Path(resume).expanduser().resolve().parent != kept.resolve():
        shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(workdir / "artifacts", ignore_errors=True)


def _pinned(config: Config) -> Config:
    """Settle on the weights of the run that this one goes on from, where only ``auto`` is said."""
    if config.trainer.resume is None or config.model.get("weights") != "auto":
        return config
    model = checkpoint.read_meta(Path(config.trainer.resume).expanduser())["identity"]["model"]
    settled = {key: model[key] for key in ("weights", "sha256") if key in model}
    return replace(config, model={**config.model, **settled})


def _log_data(tracker: Tracker, config: Config, data: build.Data) -> None:
    contexts = {"train": "training", "val": "validation", "test": "testing"}
    for name, split in data.splits().items():
        tracker.log_dataset(
            # MLflow keeps one input for each name and digest: the split belongs to the name.
            name=f"{config.dataset.name}/{name}",
            digest=data.digest,
            context=contexts[name],
            source=data.title,
            rows=len(split),
            shape=split.images.shape[1:],
            classes=data.classes,
        )
