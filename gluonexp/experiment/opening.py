"""What every run begins with: the network, the tracked run, the data; all recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gluonexp import assembly, freeze, tracking
from gluonexp.base import device, provenance, seeds
from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import Config
from gluonexp.data.types import Spec
from gluonexp.engines.mxnet import freezing
from gluonexp.experiment import record, resume, show
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.layers import outline
from gluonexp.tracking import Tracker, tracked_run
from gluonexp.training.loop import Learner


@dataclass(frozen=True)
class Job:
    """A run that is open: what it trains, on which data, where it is recorded.

    Attributes
    ----------
    config
        As composed, with what ``auto`` weights came to.
    frozen
        Carries out the freeze policy.
    macs
        Multiply-accumulates of the network for one image (forward).
    before
        The checkpoint to go on from, if any.
    identity
        What training that goes on from here must share, and what it takes over.
    artifacts
        The folder of what is to be recorded.
    """

    config: Config
    plan: assembly.Plan
    spec: Spec
    steps: Preprocessing
    learner: Learner
    frozen: freezing.Frozen
    macs: int
    data: assembly.Data
    before: resume.Earlier | None
    identity: dict[str, Any]
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
    _check_folder(workdir)
    before = resume.earlier(config)
    context = device.device(config.device)
    plan = assembly.plan(config)
    spec = plan.source.spec()
    steps = assembly.preprocessing(config.dataset, spec)
    settings = resume.settings(config, steps)
    if before is not None:
        before.check(settings)

    seeds.seed_everything(config.seed)
    net = assembly.network(config, plan.model, spec, steps)
    shape = steps.channels, steps.height, steps.width
    layers = freeze.plan(outline(net, shape), config.freeze, config.trainer.epochs)
    pretrained = assembly.initialize(
        config, net, spec, context, None if before is None else before.pretrained(config)
    )
    if pretrained is not None and pretrained.adapted:  # strides have moved, and so has the work
        layers = freeze.plan(outline(net, shape), config.freeze, config.trainer.epochs)
    config = assembly.pinned(config, pretrained)
    frozen = freezing.apply(net, layers)
    show.weights(console, pretrained, layers)
    show.plan(console, layers)
    origin = provenance.provenance(config.build.allow)

    _clear(config, workdir)
    artifacts = workdir / "artifacts"
    tags = record.tags(origin, overrides, str(context))
    tags["gluonexp.workdir"] = str(workdir.resolve())  # its checkpoints, should it be cut off
    if config.trainer.lr_find.steps:
        tags[tracking.KIND] = "lr_find"
    with tracked_run(
        backend=config.tracking.backend,
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name,
        tags=tags,
        run_id=config.tracking.run_id,
    ) as tracker:
        record.config(artifacts, config, overrides, origin)
        record.layers(artifacts, layers)
        data = assembly.data(config, plan.source)
        seen = {"the data (their digest)": data.digest}
        if before is not None:
            before.check(seen)
        identity = {
            **settings,
            **seen,
            "classes": list(spec.classes),
            "pretrained": None if pretrained is None else asdict(pretrained),
            "frozen": frozen.digests if before is None else before.identity.get("frozen"),
        }
        show.data(console, data)
        record.samples(artifacts, data)
        tracker.log_params(record.parameters(config, data, layers, pretrained))
        _log_data(tracker, config, data)
        tracker.log_artifacts(artifacts)
        block = assembly.preprocess(steps, spec)
        learner = assembly.learner(config, plan, net, block, context, len(data.train))
        yield Job(
            config=config,
            plan=plan,
            spec=spec,
            steps=steps,
            learner=learner,
            frozen=frozen,
            macs=layers.macs,
            data=data,
            before=before,
            identity=identity,
            tracker=tracker,
            workdir=workdir,
            artifacts=artifacts,
        )


def _check_folder(workdir: Path) -> None:
    """Refuse a folder with something in it that no run of ours wrote: it would be removed."""
    for name, ours in (("checkpoints", "*/meta.json"), ("artifacts", "config/resolved.yaml")):
        folder = workdir / name
        if folder.exists() and any(folder.iterdir()) and not any(folder.glob(ours)):
            raise GluonexpError(
                f"{folder} holds something that no run wrote: give the job a folder of its own"
            )


def _clear(config: Config, workdir: Path) -> None:
    """Remove what an earlier job left in this folder, unless this one goes on from it."""
    before, kept = config.trainer.resume, workdir / "checkpoints"
    if before is None or Path(before).expanduser().resolve().parent != kept.resolve():
        shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(workdir / "artifacts", ignore_errors=True)


def _log_data(tracker: Tracker, config: Config, data: assembly.Data) -> None:
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
