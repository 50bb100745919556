"""What happens around the loop: tracking, progress, checkpoints, stopping."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TimeRemainingColumn

from gluonexp.base.better import Better
from gluonexp.base.errors import GluonexpError
from gluonexp.base.progress import InNotebook, in_notebook, moving_bar
from gluonexp.base.text import listed
from gluonexp.training import checkpoint
from gluonexp.training.engine import State
from gluonexp.training.fingerprints import Fingerprints
from gluonexp.training.loop import Callback, Fit, StopFit

if TYPE_CHECKING:
    from gluonexp.tracking import Tracker
    from gluonexp.training.frozen import Frozen

# Seconds between two looks at the running sums, which wait for the device: on a terminal as often
# as the eye wants; elsewhere (a log file) a line now and then shows that a long epoch is alive.
REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0

# The test split after every epoch (`trainer.test_each_epoch`) has a name of its own, so that
# `test/acc` is one number: the chosen network's.
TEST_CURVE = "test_curve"


class Track(Callback):
    """Send metrics to the tracker: each epoch's, and the running means every `log_every` steps."""

    def __init__(self, tracker: Tracker, log_every: int) -> None:
        self._tracker = tracker
        self._log_every = log_every

    def batch_end(self, fit: Fit) -> None:
        """Log the epoch's running means by step (device sync, only every `log_every` steps)."""
        if fit.diverged is not None:  # nothing better will come of this epoch
            self._tracker.log_metrics({"train/loss": math.nan}, step=fit.epoch)
        if self._log_every and fit.step % self._log_every == 0:
            running = fit.engine.running().named("batch")
            self._tracker.log_metrics({**running, "batch/lr": fit.lr}, step=fit.step)

    def epoch_end(self, fit: Fit) -> None:
        """Log the epoch's metrics by epoch, and hand over everything buffered."""
        self._tracker.log_metrics(fit.metrics, step=fit.epoch)
        self._tracker.flush()


class StartUp(Callback):
    """Record and say, once, how long it took from the start of the job to its first batch.

    Parameters
    ----------
    started
        On the clock of `time.monotonic` (seconds).
    say
        Takes one line.
    """

    def __init__(self, tracker: Tracker, started: float, say: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._started: float | None = started
        self._say = say

    def epoch_start(self, fit: Fit) -> None:
        """Count until here, in the first epoch that is trained."""
        self.over()

    def over(self) -> None:
        """Count until now, unless it has been counted."""
        if self._started is None:
            return
        seconds, self._started = time.monotonic() - self._started, None
        self._tracker.log_metrics({"time/startup_s": seconds}, step=0)
        self._say(f"first batch after {seconds:.1f} s")


class Unfreezing(Callback):
    """Release frozen parameters when the epoch begins that the freeze policy states.

    Parameters
    ----------
    say
        Takes one line about each release.
    """

    def __init__(self, frozen: Frozen, say: Callable[[str], None]) -> None:
        self._frozen = frozen
        self._say = say

    def fit_start(self, fit: Fit) -> None:
        """Take up where the epochs already trained left off: what they had released, and held."""
        if begun := len(fit.history) + bool(fit.settings.done):
            self._frozen.resume(begun, fit.settings.identity.get("frozen"))

    def epoch_start(self, fit: Fit) -> None:
        """Release what is due, once it is known that nothing frozen has moved."""
        if parts := self._frozen.unfreeze(fit.epoch):
            learn = "learns" if len(parts) == 1 else "learn"
            self._say(f"epoch {fit.epoch}: {listed(parts)} {learn} now")


class StopWhenAsked(Callback):
    """Stop after the epoch in which somebody typed ``gluonexp stop RUN``, wherever that was."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def epoch_end(self, fit: Fit) -> None:
        """Raise `StopFit` where it is wanted; a store that is slow is asked the next time."""
        if (who := self._tracker.lease.stop_wanted()) is not None:
            raise StopFit(f"`gluonexp stop` by {who}")


class StopOnDivergence(Callback):
    """End the run with an error once a loss is no longer a number."""

    def batch_end(self, fit: Fit) -> None:
        """Raise if it is known of a step that its loss is NaN or infinite."""
        if fit.diverged is not None:
            step, lr = fit.diverged
            raise diverged(
                f"the loss of step {step}, in epoch {fit.epoch}, is not finite", fit, lr
            )

    def epoch_end(self, fit: Fit) -> None:
        """Raise if a loss of the epoch, in training or held out, is NaN or infinite."""
        self.batch_end(fit)
        for name, value in fit.metrics.items():
            if name.endswith("/loss") and not math.isfinite(value):
                what = f"{name} is {value} in epoch {fit.epoch}, at step {fit.step}"
                raise diverged(what, fit)


def diverged(what: str, fit: Fit, lr: float | None = None) -> GluonexpError:
    """Return the error that says what is no longer a number, with a remedy.

    Parameters
    ----------
    lr
        The learning rate then; None: that of the last step.
    """
    back = f"go back to epoch {fit.epoch - 1}, and " if fit.epoch else ""
    return GluonexpError(
        f"training diverged: {what}; {back}lower optim.lr (now {fit.lr if lr is None else lr:g}) "
        "or warm up (scheduler.warmup_epochs=1)"
    )


def check_finite(state: State, fit: Fit) -> None:
    """Raise if a parameter or a statistic is NaN or infinite.

    The training loss is of before each update, so after the last one it tells nothing; and layers
    such as ReLU hide NaN from a held-out loss.
    """
    for name, values in [*state.values.items(), *state.raw.items()]:
        if not np.isfinite(values).all():
            what = f"{name} is not finite after epoch {fit.epoch}, step {fit.step}"
            raise diverged(what, fit)


class ShowProgress(Callback):
    """A progress bar on a terminal or in a notebook, lines elsewhere; a line after each epoch.

    Parameters
    ----------
    watched
        A metric that is told after each epoch, with loss and accuracy.
    """

    def __init__(self, console: Console, watched: str = "") -> None:
        self._console = console
        self._watched = watched
        self._moves = console.is_terminal or in_notebook(console)
        self._interval = REFRESH_SECONDS if self._moves else LINE_SECONDS
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started = self._next = 0.0

    def epoch_start(self, fit: Fit) -> None:
        """Show an empty bar for this epoch."""
        self._started = time.perf_counter()
        self._next = self._started + self._interval
        if not self._moves:
            return
        total, epoch = fit.steps_per_epoch, f"{fit.epoch}/{fit.epochs - 1}"
        if self._bar is not None:
            self._bar.reset(self._task, total=total, epoch=epoch, scores="")
            return
        self._bar = moving_bar(
            self._console,
            *("epoch {task.fields[epoch]}", BarColumn(), "{task.completed}/{task.total}"),
            *("{task.fields[scores]}", TimeRemainingColumn()),
            refresh_per_second=1 / REFRESH_SECONDS,
        )
        self._task = self._bar.add_task("train", total=total, epoch=epoch, scores="")
        self._bar.start()

    def batch_end(self, fit: Fit) -> None:
        """Show the running means now and then (device sync then)."""
        if (now := time.perf_counter()) < self._next:
            return
        self._next = now + self._interval
        means = fit.engine.running()
        rate = means.samples / (now - self._started)
        scores = f"loss {means.loss:.3f}  acc {means.acc:.3f}  {rate:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=fit.done, scores=scores)
        else:
            where = f"epoch {fit.epoch}/{fit.epochs - 1}  {fit.done}/{fit.steps_per_epoch}"
            self._console.print(f"{where}  {scores}", highlight=False)

    def epoch_end(self, fit: Fit) -> None:
        """Print the epoch's line: loss, and the accuracy of each split evaluated."""
        if not isinstance(self._bar, InNotebook):  # which has one place for all epochs
            self._stop()
        accuracies = [
            f"{name} acc {fit.metrics[f'{split}/acc']:.3f}"
            for split, name in (("train", "Train"), ("val", "Val"), (TEST_CURVE, "Test"))
            if f"{split}/acc" in fit.metrics
        ]
        if self._watched in fit.metrics and not self._watched.endswith(("/loss", "/acc")):
            name = self._watched.rpartition("/")[2]
            accuracies.append(f"Val {name} {fit.metrics[self._watched]:.3f}")
        line = f"Epoch {fit.epoch}. Loss: {fit.metrics['train/loss']:.3f}, {', '.join(accuracies)}"
        self._console.print(line, highlight=False)

    def fit_end(self, fit: Fit) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Checkpoint(Callback):
    """Keep checkpoints under ``checkpoints/`` of the job's folder: the best, and the newest.

    The newest is ``last``; older ones, where more are kept, are ``epoch-0007``. Within an epoch
    ``step`` is newer, where ``trainer.checkpoint_every_steps`` asks for it. Where there is no
    validation split, a `val/` metric has no value: then the last epoch counts as the best.

    They are written while training goes on, and all of them once it has ended.

    Parameters
    ----------
    keep
        How many of the newest stay, besides the best. While a run trains there is one at least;
        0 removes it once the run is recorded.
    """

    without_validation = True

    def __init__(self, metric: str, mode: str, keep: int = 1) -> None:
        if keep < 0:
            raise GluonexpError(f"checkpoint.keep={keep}: must be at least 0")
        self._better = Better(metric, mode)
        self._writer = checkpoint.Writer()
        self.metric = metric
        self.keep = keep
        self._fingerprints = Fingerprints()

    def fit_start(self, fit: Fit) -> None:
        """Take up the best value of the epochs already trained."""
        for row in fit.history:
            self._is_best(row)
        if fit.history and not (fit.settings.done or fit.settings.extends):
            self._complete(fit.workdir / "checkpoints", len(fit.history) - 1)

    def batch_end(self, fit: Fit) -> None:
        """Save ``step`` where training can resume within the epoch (device sync only there)."""
        if fit.resumable:
            meta = {**self._meta(fit), "step": fit.done}
            folder, state = fit.workdir / "checkpoints" / checkpoint.STEP, fit.engine.state()
            check_finite(state, fit)
            self._writer.begin(partial(checkpoint.save, folder, state, meta))

    def epoch_end(self, fit: Fit) -> None:
        """Save ``last``, and ``best`` where this epoch is; raise if a parameter is not finite."""
        is_best, state = self._is_best(fit.metrics), fit.engine.state()
        check_finite(state, fit)
        meta = self._meta(fit)
        self._writer.begin(partial(self._write, fit.workdir, state, meta, is_best))

    def fit_end(self, fit: Fit) -> None:
        """Have on the disk what was begun."""
        self._writer.close()

    def _meta(self, fit: Fit) -> dict[str, Any]:
        """Return what is known now: training goes on while it is written."""
        return {
            "epoch": fit.epoch,
            "metrics": dict(fit.metrics),
            "history": list(fit.history),
            "identity": fit.settings.identity,
        }

    def _write(self, workdir: Path, state: State, meta: dict[str, Any], is_best: bool) -> None:
        self._fingerprints.write(workdir, meta["epoch"], state.values)
        folder = workdir / "checkpoints"
        best, last = folder / "best", folder / checkpoint.LAST
        # Cut off between the two, training resumes from the one, and makes the other.
        if is_best:
            checkpoint.save(best, state, meta)
            checkpoint.copy(best, last)
        else:
            checkpoint.save(last, state, meta)
        if self.keep > 1:
            checkpoint.copy(last, folder / f"epoch-{meta['epoch']:04d}")
        self._remove_old(folder, meta["epoch"])

    def _complete(self, folder: Path, epoch: int) -> None:
        """Do what a process had still to do that was killed while it saved the epoch's end."""
        found = checkpoint.newest(folder)
        newest = [each for each in found if checkpoint.progress(each)[:2] == (epoch + 1, 0)]
        if not newest or newest[0] != found[0]:  # training goes on from an older one
            return
        wanted = [folder / checkpoint.LAST]
        if self.keep > 1:
            wanted.append(folder / f"epoch-{epoch:04d}")
        for each in wanted:
            if each not in newest:
                checkpoint.copy(newest[0], each)
        self._remove_old(folder, epoch)

    def _remove_old(self, folder: Path, epoch: int) -> None:
        kept = {f"epoch-{each:04d}" for each in range(epoch + 1)[-self.keep :]}
        for old in (*folder.glob("epoch-*"), folder / checkpoint.STEP):
            if old.name not in kept and checkpoint.is_ours(old):
                shutil.rmtree(old)

    def _is_best(self, metrics: dict[str, float]) -> bool:
        return self._better.metric not in metrics or self._better.improved(metrics)


class EarlyStopping(Callback):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs."""

    def __init__(self, metric: str, mode: str, patience: int = 3, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise GluonexpError(f"early_stopping.patience={patience}: must be at least 1")
        self._better = Better(metric, mode, min_delta)
        self.metric = metric
        self._patience = patience
        self._waited = 0

    def fit_start(self, fit: Fit) -> None:
        """Count the epochs already trained as if they had just ended.

        A whole run that is trained further has used up its patience, perhaps: it starts anew.
        """
        for row in fit.history:
            self._count(row)
        if fit.settings.extends and self._waited >= self._patience:
            self._waited = 0
        self._check()

    def epoch_end(self, fit: Fit) -> None:
        """Raise `StopFit` when patience is used up."""
        self._count(fit.metrics)
        self._check()

    def _count(self, metrics: dict[str, float]) -> None:
        if self._better.metric not in metrics:  # of an epoch that was trained for another
            return
        self._waited = 0 if self._better.improved(metrics) else self._waited + 1

    def _check(self) -> None:
        if self._waited >= self._patience:
            raise StopFit(f"{self._better.metric} has not improved for {self._waited} epochs")
