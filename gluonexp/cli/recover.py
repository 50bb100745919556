"""Runs whose processes are gone, ended; and runs told to end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gluonexp.cli.options import URI
from gluonexp.cli.output import JSON, write

if TYPE_CHECKING:
    from gluonexp.tracking.read.records import RunRecord


@click.command()
@click.option(
    "--force",
    "forced",
    is_flag=True,
    help="Do not wait half an hour for runs of other hosts that give no sign of life.",
)
@URI
@JSON
def recover(forced: bool, tracking_uri: str | None, form: str | None) -> None:
    """End the runs that are RUNNING in the store although their processes are gone.

    Each ends KILLED, with all that it had recorded, and says how many epochs it reached. What was
    killed after the end of its run is completed: what the store lacks is sent. A run of another
    host, which renews its lease every minute, is lost after three minutes without, and is
    ended after half an hour.
    """
    from gluonexp.tracking.recovery import recover
    from gluonexp.tracking.statuses import FINISHED, RUNNING

    ended: list[dict[str, Any]] = []
    for found in recover(tracking_uri, forced):
        run, go_on = found.run, None
        status = "lost" if found.status == RUNNING else found.status
        after = f" after {found.reached}" if found.reached else ""
        click.echo(f"run {run.run_id} ({run.name}) {status}{after}: {found.reason}")
        if found.status not in (RUNNING, FINISHED) and (words := _to_go_on(run)):
            go_on = f"{words}{_store(tracking_uri)}"
            click.echo(f"  to go on:  {go_on}")
        told = {"reached": found.reached, "reason": found.reason, "go_on": go_on}
        ended.append({"run_id": run.run_id, "name": run.name, "status": status, **told})
    sent = []
    for line in _completed(tracking_uri):
        click.echo(line)
        sent.append(line)
    if not ended:
        click.echo("no run is lost")
    if form == "json":
        write({"runs": ended, "completed": sent})


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--jobs", is_flag=True, help="Of a sweep, let the jobs that run end so, too.")
@URI
@JSON
def stop(run_id: str, jobs: bool, tracking_uri: str | None, form: str | None) -> None:
    """Let a run end in order after the epoch that it is in, on whatever machine it trains.

    RUN is its id, the beginning of that, or 'last': the run or sweep that trains and began last.

    It is evaluated and exported as if it had been its last epoch. A sweep starts no more jobs, and
    ends when those that run have ended.
    """
    from gluonexp.base.text import store_option
    from gluonexp.tracking.recovery import stop
    from gluonexp.tracking.store import KIND

    stopping = stop(tracking_uri, run_id, jobs)
    for run in stopping:
        sweep = run.tags.get(KIND) == "sweep"
        when = "when the jobs that run have ended" if sweep else "after the epoch that it is in"
        click.echo(f"run {run.run_id} ({run.name}) stops {when}")
        if sweep and not jobs:
            words = f"gluonexp stop {run.run_id[:8]} --jobs{store_option(tracking_uri)}"
            click.echo(f"  to end those, too, each after the epoch that it is in:  {words}")
    if form == "json":
        kinds = (run.tags.get(KIND, "run") for run in stopping)
        told = zip(stopping, kinds, strict=True)
        write({"stops": [{"run_id": r.run_id, "name": r.name, "kind": kind} for r, kind in told]})


def _completed(uri: str | None) -> Iterator[str]:
    """Complete what ended runs had still to do; say what was sent."""
    from gluonexp.base.errors import GluonexpError
    from gluonexp.tracking import logs, push
    from gluonexp.training import job_folder

    used = (
        logs.job_folders(uri, name)
        for name in ("run.jsonl", "artifacts", "checkpoints", "model", ".new-*")
    )
    for folder in dict.fromkeys(chain(*used)):
        try:
            if (done := push.rest(folder, uri)) is not None:
                yield push.sentence(done)
            job_folder.tidy(folder)
        except GluonexpError as error:
            yield str(error)


def _to_go_on(run: RunRecord) -> str | None:
    """Return the command that goes on with a run; None where there is none."""
    from gluonexp.tracking.store import KIND
    from gluonexp.training import job_folder

    if run.tags.get(KIND) == "sweep":
        return f"python -m gluonexp.run sweep.resume={run.run_id[:8]}"
    folder = run.workdir
    if run.parent_id or not folder or job_folder.of_run(Path(folder), run.run_id) is None:
        return None
    return f"python -m gluonexp.run trainer.resume={run.run_id[:8]}"


def _store(uri: str | None) -> str:
    from gluonexp.base.secrets import hide
    from gluonexp.config.overrides import typed

    return f" {typed('tracking.uri', hide(uri))}" if uri else ""
