"""The parent run of a sweep: opened, given the result, its report and the best point."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import temporary
from gluonexp.base.secrets import hidden_words
from gluonexp.base.text import digits, in_shell, tell
from gluonexp.config.schema import Config
from gluonexp.sweep import screen
from gluonexp.sweep.best import IsGroup, best_yaml
from gluonexp.sweep.outcomes import Outcome, Summary
from gluonexp.sweep.table import sweep_table
from gluonexp.tracking import ensure_experiment, open_store, tracked_run
from gluonexp.tracking.beginning import create_run, run_tags
from gluonexp.tracking.log import NAME, in_use
from gluonexp.tracking.patience import Patience
from gluonexp.tracking.read.runs import RunRecord, reader
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING
from gluonexp.tracking.store import reported
from gluonexp.tracking.sweeps import BEST, METRIC, MODE, SWEEP, SweepRun, argument_tags
from gluonexp.tracking.uri import displayed, resolve_uri
from gluonexp.training import job_folder

NOTE = "mlflow.note.content"  # Markdown, which MLflow shows on the run's page
NOTED = 20  # points in it


@contextmanager
def opened(
    console: Console,
    config: Config,
    arguments: Sequence[str],
    name: str,
    parent: Callable[[Callable[[], str]], str],
    folder: Path,
) -> Iterator[SweepRun | None]:
    """Open the parent run of a new sweep, or of ``sweep.resume``; None with ``tracking=none``.

    If the block ends before the answer is given, the command is told that goes on with the sweep.

    Parameters
    ----------
    name
        Of a new parent run, if ``tracking.run_name`` gives none.
    parent
        Returns the id of the parent run that all processes of the sweep share. Its argument
        creates one.
    folder
        The sweep's, where the log of the parent run lies.

    Raises
    ------
    GluonexpError
        The store cannot be opened, or ``sweep.resume`` is no sweep.
    """
    settings, resume = config.tracking, config.sweep.resume
    if settings.backend == "none":
        if resume is not None:
            raise GluonexpError("sweep.resume: with tracking=none there is nothing to resume")
        with tracked_run(settings):  # for the signals
            yield None
        return
    if settings.backend == "offline":
        raise GluonexpError("tracking=offline: a sweep needs a store, which it keeps account in")
    uri = resolve_uri(settings.uri)
    client = open_store(uri)
    tags = {
        **SWEEP,
        **argument_tags(arguments, uri),
        METRIC: config.objective.metric,
        MODE: config.objective.mode,
        "gluonexp.overrides": shlex.join(hidden_words(arguments)),
    }

    def made() -> str:
        if resume is not None:
            parent_run = reader(uri).parent(resume)
            _check_same(parent_run, config)
            return parent_run.run_id
        experiment_id = ensure_experiment(client, settings.experiment, uri)
        with reported(f"a sweep cannot be recorded in {displayed(uri)}"):
            return create_run(client, experiment_id, run_tags(tags), settings.run_name or name)

    run_id = parent(made)
    if resume is not None and run_id != made():
        raise GluonexpError(f"sweep.resume={resume}: this study belongs to sweep {run_id}")
    its, place = replace(settings, run_id=run_id), _of_log(folder.absolute())
    with tracked_run(its, tags, place, alone=False) as tracker:
        run = SweepRun(client, run_id, tracker, Patience(partial(tell, console)))
        try:
            run.lead()
            yield run
        except BaseException:
            if not run.answered:
                screen.unanswered(console, run, settings.uri)
            raise


def _of_log(folder: Path) -> Path:
    """Return the folder for this process's log of a sweep that others may lead from there too."""
    folder.mkdir(parents=True, exist_ok=True)
    if not in_use(folder / NAME):
        return folder
    return Path(tempfile.mkdtemp(prefix="process-", dir=folder))


def _check_same(parent: RunRecord, config: Config) -> None:
    """Refuse to resume a sweep with what all of its points share changed."""
    shared = {
        "tracking.experiment": (parent.experiment, config.tracking.experiment),
        "objective.metric": (parent.tags.get(METRIC), config.objective.metric),
        "objective.mode": (parent.tags.get(MODE), config.objective.mode),
    }
    for key, (before, now) in shared.items():
        if before not in (None, now):
            raise GluonexpError(
                f"sweep.resume={parent.run_id[:8]}: {key} was {before} and is {now} now; start "
                "another sweep, or leave it as it was"
            )


def command(arguments: Sequence[str]) -> str:
    """Return what starts a sweep with these overrides, but for secrets in them."""
    return in_shell("python", "-m", "gluonexp.run", "-m", *hidden_words(arguments))


def give(
    console: Console,
    run: SweepRun | None,
    config: Config,
    summary: Summary,
    is_group: IsGroup,
    *,
    interrupted: bool = False,
) -> None:
    """Record the result in the parent run, close it FAILED if there is a problem, and show it."""
    sweep_table(console, summary)
    if run is None:
        return
    best, problem, model = summary.best(), summary.problem, None
    with temporary() as place:
        _write(summary, run, best, place, is_group)
        run.tracker.log_artifacts(place, "sweep")
    tags = {NOTE: _note(summary)}
    for status in (FINISHED, PRUNED, FAILED, KILLED):
        tags[f"gluonexp.sweep.{status.lower()}"] = str(summary.count(status))
    if best is not None:
        tags[BEST] = str(best.run_id)
    run.tracker.log_tags(tags)
    status = KILLED if interrupted else FAILED if problem else FINISHED
    if summary.count(RUNNING):
        status = "is still RUNNING elsewhere"
        run.tracker.leave()  # the last process that works on this sweep closes it
    elif problem:
        run.tracker.log_tags({"error": problem})
        run.tracker.close("FAILED")
    if config.sweep.register and best is not None and status in (FINISHED, FAILED):
        description = _described(summary, run, best)
        name, run_id = config.sweep.register, str(best.run_id)
        registered = run.register(name, run_id, best.objective, config.objective, description)
        model = f"{registered.address} ({registered.sentence})"
    winner = None if best is None or not config.export.enabled else best.run_id
    screen.farewell(
        console, run, status, problem, uri=config.tracking.uri, best=winner, model=model
    )
    run.answered = True


def _described(summary: Summary, run: SweepRun, best: Outcome) -> str:
    """Return the description of the version that the best point is registered as."""
    from gluonexp.tracking.artifacts import of_run
    from gluonexp.verification import card

    won = f"{best.name}: {summary.metric} {best.objective:.4f}, sweep {run.run_id}"
    files, path = of_run(run.client, str(best.run_id)), f"export/{card.FILE}"
    if not files.has(path):
        return won
    return card.description(f"{won}\n\n{card.body(files.text(path))}")


def _write(
    summary: Summary, run: SweepRun, best: Outcome | None, folder: Path, is_group: IsGroup
) -> None:
    from gluonexp.sweep import report  # matplotlib: after the jobs is early enough

    report.results_csv(summary, folder / "results.csv")
    report.html(summary, folder / "report.html")
    if best is not None:
        text = best_yaml(run.overrides(str(best.run_id)), best, summary, is_group)
        (folder / "best.yaml").write_text(text, encoding="utf-8")


def clear(run: SweepRun, summary: Summary) -> None:
    """Remove the checkpoints of all children but the best, and but those still to be resumed."""
    ended = {one.point for one in summary.outcomes if one.status in (FINISHED, PRUNED)}
    best = summary.best()
    for attempt in run.attempts():
        is_best = best is not None and attempt.run_id == best.run_id
        if attempt.point in ended and not is_best and attempt.status != RUNNING and attempt.folder:
            job_folder.clear(attempt.folder, attempt.run_id)


def _note(summary: Summary) -> str:
    """Return the ranking as Markdown."""
    lines = [
        f"`{summary.command}`",
        "",
        f"| | | {summary.metric} | test/acc | run |",
        "| --: | --- | --: | --: | --- |",
    ]
    ranks = summary.ranks()
    for one in summary.ranked()[:NOTED]:
        value, test = digits(one.objective), digits(one.metrics.get("test/acc"))
        state = "" if one.status == FINISHED else f"{one.status} "
        link = f"[{str(one.run_id)[:8]}](#/experiments/{summary.experiment_id}/runs/{one.run_id})"
        rank = ranks.get(one.job, "-")
        name = one.name.replace("|", "\\|")
        lines.append(f"| {rank} | {state}`{name}` | {value} | {test} | {link} |")
    if len(summary.outcomes) > NOTED:
        lines += ["", f"and {len(summary.outcomes) - NOTED} more in `sweep/results.csv`"]
    return "\n".join([*lines, "", "All of it: artifact `sweep/report.html`."])
