"""One run, told top to bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gluonexp import tracking
from gluonexp.assembly import Data
from gluonexp.base.measures import measured, softmax
from gluonexp.base.streams import lasting
from gluonexp.base.text import plain_console, tell
from gluonexp.config.schema import Config
from gluonexp.data.types import Split
from gluonexp.experiment import exporting, lr_find, record, resume, show
from gluonexp.experiment.opening import OpenRun, opened
from gluonexp.export import formats
from gluonexp.features.shortcut import TRAIN, TrainBehind
from gluonexp.sweep import pruning
from gluonexp.tracking import Tracker
from gluonexp.tracking.statuses import FINISHED, PRUNED, Ending
from gluonexp.training import checkpoint, job_folder, loop, system
from gluonexp.training.callbacks import (
    TEST_CURVE,
    ShowProgress,
    StartUp,
    StopOnDivergence,
    StopWhenAsked,
    Track,
    Unfreezing,
    check_finite,
    diverged,
)
from gluonexp.training.engine import score
from gluonexp.training.frozen import Frozen
from gluonexp.training.stopping import EndInTime
from gluonexp.training.team import ALONE, Team
from gluonexp.verification import verify


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


@lasting()
def run(
    config: Config,
    workdir: Path,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    started: float | None = None,
    team: Team = ALONE,
    against: loop.Callback | None = None,
) -> Result:
    """Train, evaluate, export and record what `config` says.

    Parameters
    ----------
    workdir
        The job's folder, for checkpoints, and for artifacts until they are recorded. A run that
        goes on as itself has its own.
    overrides
        What the user typed, for the record.
    started
        When the job began, on the clock of `time.monotonic` (seconds); None: now.
    team
        The processes that train it together, of which this is rank 0; the others
        `gluonexp.experiment.together.follow`.
    against
        Compares each epoch with a recorded run. Then nothing of this one is kept.

    Raises
    ------
    GluonexpError
        A setting, the data or the export is not right. Any exception ends the run FAILED, Ctrl-C
        and SIGTERM end it KILLED; the checkpoints stay in `workdir` then.
    Requeue
        SIGUSR1 came, or ``trainer.max_hours`` are over: it is KILLED, and resumes from there.
    """
    console = console or plain_console()
    started = time.monotonic() if started is None else started
    workdir = resume.home(config, workdir)
    if config.trainer.lr_find.steps:
        return _find_lr(config, workdir, overrides, console, started, team)
    # 1. The network, its pretrained weights and freeze policy; the tracked run; the data.
    formats.check(config.export)
    monitors = system.monitors(config.tracking)
    ending_in_time = EndInTime(config.trainer.max_hours, started, team)
    with (
        ExitStack() as proofs,
        ending_in_time,
        opened(config, workdir, overrides, console, team) as run,
    ):
        config, engine, data = run.config, run.engine, run.data
        tracker, artifacts = run.tracker, run.artifacts

        # 2. The epochs; what was frozen has not moved.
        fit = loop.fit(
            engine,
            data.train,
            evaluations(config, data),
            run.settings,
            callbacks=[
                Unfreezing(run.frozen, say=partial(tell, console)),
                TrainBehind(run.shortcut),
                StartUp(tracker, started, say=partial(tell, console)),
                Track(tracker, config.trainer.log_every),
                _Telling(config, run.told.facts),
                ShowProgress(console, config.objective.metric),
                StopOnDivergence(),
                StopWhenAsked(tracker),
                *run.components.callbacks,
                *pruning.callbacks(config),
                *([] if against is None else [against]),
                *([system.SystemMetrics(tracker, monitors)] if monitors else []),
                ending_in_time,
            ],
        )
        team.close()
        ending = replace(fit.ending, objective=_objective(config, fit.history))
        show.stopped(console, ending.reason)
        run.told.status, run.told.reason = ending.status, ending.reason
        _audit(run.frozen, console, tracker)
        record.curves(artifacts, fit.history, title=data.title)
        if ending.status == PRUNED:
            tracker.log_tags({tracking.PRUNED_TAG: f"epoch {fit.epoch}"})
            tracker.log_artifacts(artifacts)
        else:
            # 3. The best network, and the test split once. Clean processes warm up for 4.
            pool = None
            if config.export.enabled:
                pool = proofs.enter_context(verify.workers(run.macs))
                pool.start()
            metrics, best_epoch = _restore_best(run, fit)
            name, held_out = data.held_out()
            logits = engine.logits(held_out, config.trainer.batch_size)
            if not np.isfinite(logits).all():
                raise diverged(f"logits of the {name} split are not finite", fit)
            if data.test is not None:
                tested = score(engine, logits, data.test.labels).named("test")
                extra = measured(run.settings.metrics, logits, data.test.labels)
                tested |= {f"test/{metric}": value for metric, value in extra.items()}
                tracker.log_metrics(tested, step=best_epoch)
                metrics |= tested
            run.told.facts["metrics"] = metrics
            probabilities = softmax(logits)
            record.predictions(artifacts, name, held_out, probabilities, data.classes)
            if "ece" in run.settings.metrics:
                record.reliability(artifacts, name, held_out, probabilities)

            # 4. The exported files, loaded back and proved equal to what was trained.
            engine.publish()
            record.checkpoint(artifacts, run.net, workdir)
            if pool is not None:
                exporting.export(run, logits, pool, console, overrides)
            tracker.log_artifacts(artifacts)
            exporting.hand_over(run, best_epoch, ending.objective)

    # Only now is the run closed, and what the store has can go.
    if ending.status == PRUNED:
        if against is None:
            run.leave(console, ending, usable=False)
        return Result(tracker.run_id, fit.metrics, fit.history, workdir, ending)
    show.result(console, metrics, best_epoch)
    show.registered(console, tracker.registered)
    if against is None:
        run.leave(console, ending, usable=True)
    return Result(tracker.run_id, metrics, fit.history, workdir, ending)


def _find_lr(
    config: Config,
    workdir: Path,
    overrides: Sequence[str],
    console: Console,
    started: float,
    team: Team,
) -> Result:
    """Search a learning rate instead of training; no checkpoint, no test, nothing exported."""
    with opened(config, workdir, overrides, console, team) as run:
        with team.after_first():
            found = run.shortcut.enter(0, {TRAIN: run.data.train})
        train = run.data.train if found is None else found[TRAIN]
        StartUp(run.tracker, started, say=partial(tell, console)).over()
        curve = lr_find.search(run.engine, train, run.settings, config.trainer.lr_find)
        run.shortcut.leave()
        team.close()
        title = f"Learning rates on {run.data.title}"
        suggestion = lr_find.record(curve, run.artifacts, run.tracker, title)
    show.suggestion(console, suggestion)
    ending = Ending(FINISHED)
    run.leave(console, ending, usable=False)
    return Result(run.tracker.run_id, {"lr_find/suggestion": suggestion}, [], workdir, ending)


class _Telling(loop.Callback):
    """Keeps what somebody is told of the epochs, should the run end in the next one."""

    def __init__(self, config: Config, facts: dict[str, Any]) -> None:
        self._config, self._facts = config, facts

    def epoch_end(self, fit: loop.Fit) -> None:
        """Take the metrics of the epoch, and the best value of the objective until now."""
        self._facts["metrics"] = dict(fit.metrics)
        self._facts["objective"] = _objective(self._config, fit.history)
        self._facts["objective_metric"] = self._config.objective.metric


def _audit(frozen: Frozen, console: Console, tracker: Tracker) -> None:
    """Prove that nothing frozen has moved; a difference ends the run FAILED."""
    if unchanged := frozen.audit():
        sentence = f"clean: {unchanged} frozen parameters and statistics are unchanged"
        tell(console, f"freeze audit {sentence}")
        tracker.log_tags({"gluonexp.freeze.audit": sentence})


def evaluations(config: Config, data: Data) -> dict[str, Split]:
    """Return the splits to evaluate after each epoch."""
    evaluations = {} if data.val is None else {"val": data.val}
    if config.trainer.test_each_epoch and data.test is not None:
        evaluations[TEST_CURVE] = data.test
    return evaluations


def _restore_best(run: OpenRun, fit: loop.Fit) -> tuple[dict[str, float], int]:
    """Put the best checkpoint back into the network; return its metrics and epoch."""
    folder = run.workdir / job_folder.CHECKPOINTS / "best"
    metrics, epoch = fit.metrics, fit.epoch
    if checkpoint.find(folder):  # without a checkpoint callback, the last epoch is what there is
        meta = checkpoint.load(folder, run.engine, optimizer=False)
        metrics, epoch = meta["metrics"], meta["epoch"]
    else:
        check_finite(run.engine.state(), fit)
    return {k: v for k, v in metrics.items() if not k.startswith(TEST_CURVE)}, epoch


def _objective(config: Config, history: Sequence[dict[str, float]]) -> float | None:
    metric, mode = config.objective.metric, config.objective.mode
    values = [row[metric] for row in history if metric in row]
    return (max if mode == "max" else min)(values) if values else None
