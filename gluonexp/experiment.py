"""One run, told top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gluonexp import build, checkpoint, freeze, loop, record, runtime, show
from gluonexp.callbacks import TEST_CURVE, ShowProgress, StopOnDivergence, Track
from gluonexp.data.types import Spec, Split
from gluonexp.errors import GluonexpError
from gluonexp.export import symbol
from gluonexp.models.preprocess import Preprocessing
from gluonexp.mx import nn
from gluonexp.predict import Classifier, softmax
from gluonexp.report import plots
from gluonexp.schema import Config
from gluonexp.tracking import Tracker, tracked_run

# The export is compared with the trained network on so many real images.
VERIFIED_IMAGES = 256


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    Attributes
    ----------
    run_id
        MLflow's id; None with ``tracking=none``.
    metrics
        By `split/name`, of the best checkpoint; `test/` was measured once, with it.
    objective
        The best value of `objective.metric`, or None where that was not measured.
    history
        The metrics of each epoch.
    folder
        The job's folder; with ``tracking=none`` it holds ``artifacts/`` and ``checkpoints/``.
    """

    run_id: str | None
    metrics: dict[str, float]
    objective: float | None
    history: list[dict[str, float]]
    folder: Path


def run(
    config: Config,
    workdir: Path,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Result:
    """Train, evaluate, export and record what `config` says.

    Parameters
    ----------
    workdir
        The job's folder, for checkpoints, and for artifacts until they are recorded.
    overrides
        What the user typed, for the record.

    Raises
    ------
    GluonexpError
        A setting, the data or the export is not right. Any exception ends the run FAILED, Ctrl-C
        and SIGTERM end it KILLED; the checkpoints stay in `workdir` then.
    """
    console = console or Console()
    artifacts = workdir / "artifacts"

    # 1. Whatever can be wrong before data are read is found before a run exists.
    device = runtime.device(config.device)
    plan = build.plan(config)
    spec = plan.source.spec()
    steps = build.preprocessing(config.dataset, spec)
    runtime.seed_everything(config.seed)
    net = build.network(config, plan.model, spec, steps, device)
    rows = freeze.plan(net)
    show.plan(console, rows)
    origin = runtime.provenance()

    with tracked_run(
        backend=config.tracking.backend,
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name,
        tags=record.tags(origin, overrides, str(device)),
    ) as tracker:
        # 2. The data; what was asked for, on which data, from which code.
        record.config(artifacts, config, overrides, origin)
        record.layers(artifacts, rows)
        data = build.data(config, plan.source)
        show.data(console, data)
        record.samples(artifacts, data)
        tracker.log_params(record.parameters(config, data, rows))
        _log_data(tracker, config, data)
        tracker.log_artifacts(artifacts)

        # 3. The epochs.
        block = build.preprocess(steps, spec)
        learner = build.learner(config, plan, net, block, device, len(data.train))
        history = _resume(config, learner, workdir, tracker)
        fit = loop.fit(
            learner,
            data.train,
            _evaluations(config, data),
            epochs=config.trainer.epochs,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            workdir=workdir,
            callbacks=[
                Track(tracker, config.trainer.log_every),
                ShowProgress(console),
                StopOnDivergence(),
                *plan.callbacks,
            ],
            augment=plan.augment,
            history=history,
        )
        show.stopped(console, fit.stopped)

        # 4. The best network, and the test split once.
        metrics, best_epoch = _restore_best(workdir, net, fit)
        name, held_out = data.held_out()
        logits = loop.predict(learner, held_out, config.trainer.batch_size)
        if data.test is not None:
            metrics |= _test_scores(logits, data.test)
            tracker.log_metrics(
                {key: metrics[key] for key in ("test/loss", "test/acc")}, step=best_epoch
            )
        record.curves(artifacts, fit.history, title=data.title)
        record.predictions(artifacts, name, held_out, softmax(logits), data.classes)

        # 5. The exported files, loaded back and proved equal to what was trained.
        if config.export.enabled:
            _export(artifacts, net, spec, steps)
            _verify(artifacts, learner, held_out, logits, tracker)
            _draw_prediction(artifacts, held_out, config.seed)
        record.parameters_file(artifacts, workdir)
        tracker.log_artifacts(artifacts)

    if tracker.run_id is not None:  # all of it is in the store now
        shutil.rmtree(artifacts)
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    show.result(console, metrics, best_epoch, tracker.run_id, artifacts)
    objective = _objective(config, fit.history)
    return Result(tracker.run_id, metrics, objective, fit.history, workdir)


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


def _evaluations(config: Config, data: build.Data) -> dict[str, Split]:
    """Return the splits to evaluate after each epoch."""
    evaluations = {} if data.val is None else {"val": data.val}
    if config.trainer.test_each_epoch and data.test is not None:
        evaluations[TEST_CURVE] = data.test
    return evaluations


def _resume(
    config: Config, learner: loop.Learner, workdir: Path, tracker: Tracker
) -> list[dict[str, float]]:
    """Put the checkpoint `trainer.resume` into `learner`; return the epochs it has behind it."""
    if config.trainer.resume is None:
        return []
    folder = Path(config.trainer.resume).expanduser()
    meta = checkpoint.load(folder, learner.net, learner.trainer)
    history: list[dict[str, float]] = meta["history"]
    if meta["seed"] != config.seed:
        raise GluonexpError(f"trainer.resume={folder}: trained with seed={meta['seed']}")
    if len(history) >= config.trainer.epochs:
        raise GluonexpError(
            f"trainer.resume={folder}: has {len(history)} epochs already; ask for more with "
            "trainer.epochs=N"
        )
    if (best := folder.parent / "best").is_dir():  # it may stay the best
        shutil.copytree(best, workdir / "checkpoints" / "best", dirs_exist_ok=True)
    for row in history:
        tracker.log_metrics(
            {key: value for key, value in row.items() if key != "epoch"}, step=int(row["epoch"])
        )
    tracker.log_tags({"gluonexp.resumed_from": str(folder)})
    return history


def _restore_best(
    workdir: Path, net: nn.HybridBlock, fit: loop.Fit
) -> tuple[dict[str, float], int]:
    """Put the best checkpoint back into `net`; return its metrics and epoch."""
    folder = workdir / "checkpoints" / "best"
    metrics, epoch = fit.metrics, fit.epoch
    if folder.exists():  # without a checkpoint callback, the last epoch is what there is
        meta = checkpoint.load(folder, net)
        metrics, epoch = meta["metrics"], meta["epoch"]
    return {k: v for k, v in metrics.items() if not k.startswith(TEST_CURVE)}, epoch


def _test_scores(logits: NDArray[np.float32], test: Split) -> dict[str, float]:
    own = softmax(logits)[np.arange(len(test)), test.labels]
    accuracy = float((logits.argmax(axis=1) == test.labels).mean())
    # A probability that underflows to 0 would make the mean infinite.
    return {
        "test/loss": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        "test/acc": accuracy,
    }


def _export(artifacts: Path, net: nn.HybridBlock, spec: Spec, steps: Preprocessing) -> None:
    symbol.export(
        net,
        artifacts / "export",
        image=(spec.height, spec.width, spec.channels),
        input_shape=(steps.channels, steps.height, steps.width),
        preprocess=steps.to_json(),
        classes=spec.classes,
    )


def _verify(
    artifacts: Path,
    learner: loop.Learner,
    held_out: Split,
    logits: NDArray[np.float32],
    tracker: Tracker,
) -> None:
    """Compare the exported files with the trained network on real images."""
    count = min(VERIFIED_IMAGES, len(held_out))
    inputs, _ = learner.put(held_out.images[:count], held_out.labels[:count])
    for agreement in symbol.verify(artifacts / "export", inputs.asnumpy(), logits[:count]):
        tracker.log_tags({f"gluonexp.export.{agreement.runtime}": agreement.sentence()})


def _draw_prediction(artifacts: Path, held_out: Split, seed: int) -> None:
    """Classify one random held-out image with the export, and draw it with both labels."""
    classifier = Classifier(artifacts / "export")
    chosen = np.random.default_rng(seed).integers(len(held_out), size=1)
    images = held_out.images[chosen]
    row = classifier.probabilities(images)[0]
    plots.prediction(
        images,
        [classifier.classes[row.argmax()]],
        [float(row.max())],
        [classifier.classes[held_out.labels[chosen[0]]]],
        artifacts / "plots" / "prediction.png",
    )


def _objective(config: Config, history: Sequence[dict[str, float]]) -> float | None:
    metric, mode = config.objective.metric, config.objective.mode
    values = [row[metric] for row in history if metric in row]
    return (max if mode == "max" else min)(values) if values else None
