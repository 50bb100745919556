"""What was recorded while no store was there, sent to one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gluonexp.cli.options import URI
from gluonexp.cli.output import JSON, write

if TYPE_CHECKING:
    from gluonexp.tracking.push import Pushed


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every run whose log is on this machine.")
@click.option("--to", metavar="URI", help="The store.  [default: the one that a run was begun in]")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@URI
@JSON
def push(
    runs: tuple[str, ...],
    everything: bool,
    to: str | None,
    dry_run: bool,
    tracking_uri: str | None,
    form: str | None,
) -> None:
    """Send what runs recorded to a store that does not have it yet, each thing once.

    A RUN is an id (the first 6 or more characters of it), 'last', or the folder of a job. Its log
    lies there (run.jsonl), complete whatever became of the store. Cut off, the same command goes
    on. In the store the run has another id; commands take the one that it had, too.

    \b
    gluonexp push last
    gluonexp push 3f2a91c0 --to http://mlflow.example.org
    gluonexp push --all --dry-run
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.base.errors import GluonexpError
    from gluonexp.base.text import say
    from gluonexp.tracking import logs, push

    if bool(runs) is everything:
        raise click.UsageError("name what to send: runs, or --all")
    problems: list[str] = []
    sent: list[dict[str, Any]] = []
    known = push.every(tracking_uri, problems.append if everything else lambda line: None)
    chosen = known if everything else [logs.named(run, tracking_uri, known) for run in runs]
    stores: dict[str, push.Store] = {}
    for log in chosen:
        try:
            uri = push.target(log, to, tracking_uri)
            store = stores[uri] if uri in stores else push.Store(uri, known)
            stores[uri] = store
            done = store.push(log, rehearse=dry_run)
        except GluonexpError as error:
            problems.append(f"run {log.run_id[:8]}: {error}")
            continue
        click.echo(push.sentence(done, rehearsed=dry_run))
        sent.append(_document(done))
        if done.missing:
            problems.append(f"run {log.run_id[:8]}: {done.missing}")
    if not chosen and not problems:
        click.echo("no run has a log on this machine")
    for problem in problems:
        say(problem)
    if form == "json":
        write({"dry_run": dry_run, "runs": sent, "problems": problems})
    sys.exit(1 if problems else 0)


def _document(done: Pushed) -> dict[str, Any]:
    """Return what became of a log; its records are counted."""
    from gluonexp.tracking.uri import displayed

    return {
        "run_id": done.log.run_id,
        "name": done.log.name,
        "store": displayed(done.uri),
        "run_id_there": done.run_id,
        "records": done.last,
        "records_sent": done.last - done.before,
        "missing": done.missing,
        "newer": done.newer,
    }
