"""Runs whose processes are gone, ended; and runs told to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gluonexp.cli.options import URI

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
def recover(forced: bool, tracking_uri: str | None) -> None:
    """End the runs that are RUNNING in the store although their processes are gone.

    Each ends KILLED, with all that it had recorded, and says how many epochs it reached. A run of
    another host, which renews its lease every minute, is lost after three minutes without, and is
    ended after half an hour.
    """
    from gluonexp.tracking.recovery import recover
    from gluonexp.tracking.statuses import RUNNING

    count = 0
    for found in recover(tracking_uri, forced):
        count += 1
        run = found.run
        status = "lost" if found.status == RUNNING else found.status
        after = f" after {found.reached}" if found.reached else ""
        click.echo(f"run {run.run_id} ({run.name}) {status}{after}: {found.reason}")
        if found.status != RUNNING and (words := _to_go_on(run)):
            click.echo(f"  to go on:  {words}{_store(tracking_uri)}")
    if not count:
        click.echo("no run is lost")


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
    from gluonexp.base.text import redact
    from gluonexp.config.overrides import typed

    return f" {typed('tracking.uri', redact(uri))}" if uri else ""
