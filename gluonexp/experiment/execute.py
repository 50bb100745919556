"""One run, told top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gluonexp import assembly, tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import nn
from gluonexp.base.workers import Workers
from gluonexp.config.schema import Config
from gluonexp.data.split import spread
from gluonexp.data.types import Split
from gluonexp.engines.mxnet import freezing
from gluonexp.experiment import lr_find, record, show
from gluonexp.experiment.opening import Job, opened
from gluonexp.export import formats, symbol
from gluonexp.inference import flavor
from gluonexp.inference.predict import softmax
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.signature import Signature
from gluonexp.report import plots
from gluonexp.sweep import pruning
from gluonexp.tracking import MlflowTracker, Tracker, registry
from gluonexp.tracking.models import local_path
from gluonexp.tracking.registry import Registered
from gluonexp.tracking.statuses import FINISHED, PRUNED, Ending
from gluonexp.training import checkpoint, loop
from gluonexp.training.callbacks import (
    TEST_CURVE,
    ShowProgress,
    StopOnDivergence,
    Track,
    Unfreezing,
)
from gluonexp.verification import certificate, verify
from gluonexp.verification.certificate import Certificate


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    Attributes
    ----------
    run_id
        MLflow's id; None with ``tracking=none``.
    metrics
        By `split/name`, of the best checkpoint; `test/` was measured once, with it.
    history
        The metrics of each epoch.
    folder
        The job's folder; with ``tracking=none`` it holds ``artifacts/`` and ``checkpoints/``.
    ending
        FINISHED or PRUNED, with the objective; a pruned run has no export.
    """

    run_id: str | None
    metrics: dict[str, float]
    history: list[dict[str, float]]
    folder: Path
    ending: Ending

    @property
    def objective(self) -> float | None:
        """The best value of `objective.metric`; None where that was not measured."""
        return self.ending.objective


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
    if config.trainer.lr_find.steps:
        return _find_lr(config, workdir, overrides, console)
    # 1. The network, its pretrained weights and freeze policy; the tracked run; the data.
    formats.check(config.export)
    exported = config.export.enabled
    with ExitStack() as proofs, opened(config, workdir, overrides, console) as job:
        config, learner, data = job.config, job.learner, job.data
        tracker, artifacts = job.tracker, job.artifacts

        # 2. The epochs; what was frozen has not moved.
        fit = loop.fit(
            learner,
            data.train,
            _evaluations(config, data),
            epochs=config.trainer.epochs,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            workdir=workdir,
            callbacks=[
                Unfreezing(
                    job.frozen, say=lambda line: console.print(line, highlight=False, markup=False)
                ),
                Track(tracker, config.trainer.log_every),
                ShowProgress(console),
                StopOnDivergence(),
                *job.plan.callbacks,
                *pruning.callbacks(config),
            ],
            augment=job.plan.augment,
            history=_resume(job),
            identity=job.identity,
        )
        show.stopped(console, fit.ending.reason)
        _audit(job.frozen, console, tracker)
        objective = _objective(config, fit.history)
        ending = replace(fit.ending, objective=objective)
        record.curves(artifacts, fit.history, title=data.title)
        registered, metrics, best_epoch = None, fit.metrics, fit.epoch
        if ending.status == PRUNED:
            tracker.log_tags({tracking.PRUNED_TAG: f"epoch {fit.epoch}"})
            tracker.log_artifacts(artifacts)
        else:
            # 3. The best network, and the test split once. Clean processes warm up for 4.
            pool = proofs.enter_context(verify.workers(job.macs)) if exported else None
            if pool is not None:
                pool.start()
            metrics, best_epoch = _restore_best(workdir, learner.net, fit)
            name, held_out = data.held_out()
            logits = loop.predict(learner, held_out, config.trainer.batch_size)
            if data.test is not None:
                scores = loop.score(learner, logits, data.test)
                tested = {f"test/{key}": value for key, value in scores.items()}
                tracker.log_metrics(tested, step=best_epoch)
                metrics |= tested
            record.predictions(artifacts, name, held_out, softmax(logits), data.classes)

            # 4. The exported files, loaded back and proved equal to what was trained.
            if pool is not None:
                try:
                    proved = _export(job, held_out, logits, pool, console)
                except GluonexpError:
                    for folder in artifacts.iterdir():  # all but the export is right, and is kept
                        if folder.is_dir() and folder.name != "export":
                            tracker.log_artifacts(folder, folder.name)
                    raise
                _draw_prediction(artifacts, proved, config.seed)
            record.parameters_file(artifacts, workdir)
            tracker.log_artifacts(artifacts)
            registered = _hand_over(job, best_epoch, objective)

    if ending.status == FINISHED:
        show.result(console, metrics, best_epoch)
        show.registered(console, registered)
    _leave(job, console, usable=ending.status == FINISHED)
    return Result(tracker.run_id, metrics, fit.history, workdir, ending)


def _find_lr(config: Config, workdir: Path, overrides: Sequence[str], console: Console) -> Result:
    """Search a learning rate instead of training; no checkpoint, no test, nothing exported."""
    with opened(config, workdir, overrides, console) as job:
        wanted = config.trainer.lr_find
        curve = lr_find.search(
            job.learner,
            job.data.train,
            steps=wanted.steps,
            start=wanted.start,
            end=wanted.end,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            augment=job.plan.augment,
        )
        title = f"Learning rates on {job.data.title}"
        suggestion = lr_find.record(curve, job.artifacts, job.tracker, title)
    show.suggestion(console, suggestion)
    _leave(job, console, usable=False)
    metrics = {"lr_find/suggestion": suggestion}
    return Result(job.tracker.run_id, metrics, [], workdir, Ending(FINISHED))


def _leave(job: Job, console: Console, usable: bool = True) -> None:
    """Remove what the store has, and say where the run is; `usable`: for predictions."""
    run_id = job.tracker.run_id
    if run_id is None:
        show.untracked(console, job.artifacts)
        return
    shutil.rmtree(job.artifacts)
    shutil.rmtree(job.workdir / "checkpoints", ignore_errors=True)
    show.tracked(
        console,
        run_id,
        link=job.tracker.link,
        uri=job.config.tracking.uri,
        exported=usable and job.config.export.enabled,
    )


def _audit(frozen: freezing.Frozen, console: Console, tracker: Tracker) -> None:
    """Prove that nothing frozen has moved; a difference ends the run FAILED."""
    if unchanged := frozen.audit():
        sentence = f"clean: {unchanged} frozen parameters and statistics are unchanged"
        console.print(f"freeze audit {sentence}", highlight=False)
        tracker.log_tags({"gluonexp.freeze.audit": sentence})


def _evaluations(config: Config, data: assembly.Data) -> dict[str, Split]:
    """Return the splits to evaluate after each epoch."""
    evaluations = {} if data.val is None else {"val": data.val}
    if config.trainer.test_each_epoch and data.test is not None:
        evaluations[TEST_CURVE] = data.test
    return evaluations


def _resume(job: Job) -> list[dict[str, float]]:
    """Put the checkpoint of the earlier run into the learner; return the epochs behind it."""
    if job.before is None:
        return []
    folder = job.before.folder
    checkpoint.load(folder, job.learner.net, job.learner.trainer)
    best, target = checkpoint.find(folder.parent / "best"), job.workdir / "checkpoints" / "best"
    if best is not None and best.resolve() != target.resolve():  # it may stay the best
        shutil.copytree(best, target, dirs_exist_ok=True)
    for row in job.before.history:
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        job.tracker.log_metrics(metrics, step=int(row["epoch"]))
    job.tracker.log_tags({"gluonexp.resumed_from": str(folder)})
    return job.before.history


def _restore_best(
    workdir: Path, net: nn.HybridBlock, fit: loop.Fit
) -> tuple[dict[str, float], int]:
    """Put the best checkpoint back into `net`; return its metrics and epoch."""
    folder = workdir / "checkpoints" / "best"
    metrics, epoch = fit.metrics, fit.epoch
    if checkpoint.find(folder):  # without a checkpoint callback, the last epoch is what there is
        meta = checkpoint.load(folder, net)
        metrics, epoch = meta["metrics"], meta["epoch"]
    return {k: v for k, v in metrics.items() if not k.startswith(TEST_CURVE)}, epoch


def _export(
    job: Job,
    held_out: Split,
    logits: NDArray[np.float32],
    pool: Workers,
    console: Console,
) -> Certificate:
    """Write the export, and its certificate: every runtime says what the network says."""
    folder, net, spec, steps = job.artifacts / "export", job.learner.net, job.spec, job.steps
    image = spec.height, spec.width, spec.channels
    written = symbol.export(net, folder, Signature(image, steps, tuple(spec.classes)))
    wanted = job.config.export
    _keep_samples(job, folder, held_out, logits)
    notes = formats.write(
        folder,
        written,
        with_onnx=formats.with_onnx(wanted),
        with_graph=wanted.preprocess == "graph",
        calibration=formats.calibration_images(job.data.train) if wanted.int8 else None,
    )

    def trained(place: Path) -> None:
        net.export(str(place / names.MODEL), epoch=0)

    proved = verify.certify(folder, pool=pool, reference=trained, drop_onnx=True)
    left_out = [*notes, *proved.dropped]
    for note in (*left_out, *proved.notes):
        console.print(f"  note: {note}", highlight=False, markup=False)
    console.print(proved.sentence(), highlight=False, markup=False)
    if left_out:
        job.tracker.log_tags({"gluonexp.export.note": "; ".join(left_out)})
    job.tracker.log_tags(
        {f"gluonexp.export.{each.runtime}": each.sentence() for each in proved.agreements}
        | {tracking.CERTIFICATE_TAG: certificate.digest(folder)}
    )
    return proved


def _keep_samples(job: Job, folder: Path, held_out: Split, logits: NDArray[np.float32]) -> None:
    """Write the images by which the export is proved into its folder, and the logits for them."""
    wanted, classes = job.config.export, tuple(job.spec.classes)
    available = min(len(held_out), wanted.images or len(held_out))
    # Eight bits change what a network answers: how much, only many images tell.
    macs = 0 if wanted.int8 or wanted.images else job.macs
    kept = samples.count(available, held_out.images.shape[1:], len(classes), macs)
    chosen = spread(held_out.labels, kept)
    labels = held_out.labels[chosen].astype(np.int64)
    samples.write(
        folder, samples.ProofSamples(held_out.images[chosen], labels, logits[chosen], classes)
    )


def _hand_over(job: Job, best_epoch: int, objective: float | None) -> Registered | None:
    """Log the export as an MLflow model, and register it if that is wanted."""
    tracker, wanted = job.tracker, job.config.export
    if not isinstance(tracker, MlflowTracker) or not wanted.enabled:
        return None
    if not (wanted.mlflow_model or wanted.register):
        return None
    tracker.flush()  # the model gets the metrics of its epoch
    # From where the store has the files, they are linked: no second copy of large weights.
    stored = local_path(tracker.client.get_run(tracker.run_id).info.artifact_uri)
    export = (stored or job.artifacts) / "export"
    model = flavor.log_model(export, tracker.client, tracker.run_id, step=best_epoch)
    if wanted.register is None:
        return None
    goal = job.config.objective
    return registry.register(
        tracker.client,
        tracker.run_id,
        wanted.register,
        model.model_uri,
        metric=goal.metric,
        mode=goal.mode,
        value=objective,
    )


def _draw_prediction(artifacts: Path, proved: Certificate, seed: int) -> None:
    """Draw one random image of the proof, with its label and with what the export says."""
    known = samples.read(artifacts / "export")
    assert proved.logits is not None
    chosen = np.random.default_rng(seed).integers(len(known), size=1)
    (row,) = softmax(proved.logits[chosen])
    plots.prediction(
        known.images[chosen],
        [known.classes[row.argmax()]],
        [float(row.max())],
        [known.classes[known.labels[chosen[0]]]],
        artifacts / "plots" / "prediction.png",
    )


def _objective(config: Config, history: Sequence[dict[str, float]]) -> float | None:
    metric, mode = config.objective.metric, config.objective.mode
    values = [row[metric] for row in history if metric in row]
    return (max if mode == "max" else min)(values) if values else None
