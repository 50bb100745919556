"""The ``gluonexp`` command: what surrounds a run (the run itself is ``gluonexp.run``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gluonexp import __version__
from gluonexp.base import streams
from gluonexp.base.errors import debugging, sentence
from gluonexp.base.imports import own_process
from gluonexp.cli.cache import cache
from gluonexp.cli.files import download, export
from gluonexp.cli.init import init
from gluonexp.cli.models import evaluate, predict, verify
from gluonexp.cli.options import URI, complete_overrides
from gluonexp.cli.output import JSON, write
from gluonexp.cli.push import push
from gluonexp.cli.recover import recover, stop
from gluonexp.cli.replay import replay
from gluonexp.cli.runs import compare, runs, ui

__all__ = ["compare", "main"]


class _Group(click.Group):
    """Shows what the user can mend as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        own_process()
        streams.show_all()
        try:
            return super().invoke(ctx)
        except Exception as error:
            # click takes these for `| head`, of which it says nothing, and for an answer refused.
            if (isinstance(error, BrokenPipeError) and not streams.unread()) or isinstance(
                error, EOFError
            ):
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            if debugging() or isinstance(error, click.ClickException | click.exceptions.Exit):
                raise
            if (said := sentence(error)) is None:
                raise
            raise click.ClickException(said) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gluonexp")
def main() -> None:
    """Turn a Gluon training script into a tracked experiment.

    \b
    gluonexp init NAME                       make a project of your own
    gluonexp run model=cnn optim.lr=0.003    train, track, export
    gluonexp runs                            list what was recorded
    gluonexp stop RUN_ID                     end a run after the epoch it is in
    gluonexp recover                         end runs whose processes are gone
    gluonexp compare --sweep last            what differs, and the results
    gluonexp ui                              look at the runs in MLflow
    gluonexp predict last img.png            use what was exported
    gluonexp evaluate last                   how good is it, at which classes?
    gluonexp verify last                     is it still what was trained?
    gluonexp replay last                     is it the same when it is trained again?
    gluonexp download last export --to .     copy its files here
    gluonexp cache list                      what is computed once, and kept
    gluonexp push --all                      send what was recorded offline
    gluonexp doctor                          is this machine ready?

    --json lets a command print one JSON document on standard output and nothing else there: ids
    whole, times in UTC (ISO 8601), seconds and bytes as numbers, null for what is not known or
    not a number. What went wrong is told on standard error, and by an exit status other than 0,
    as without it; where standard output is empty, there is no answer.

    Completion: eval "$(_GLUONEXP_COMPLETE=bash_source gluonexp)" (or zsh_source, fish_source).
    """  # noqa: D301 (click wants the backspace itself)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_overrides)
def run(overrides: tuple[str, ...]) -> None:
    """Train one run, or a sweep with -m (the same as python -m gluonexp.run)."""
    from gluonexp.run import start

    sys.argv = ["gluonexp run", *overrides]
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own package lies
    start("gluonexp run")


@main.command()
@click.option("--relocate", is_flag=True, help="Record where the files of a moved store are now.")
@URI
@JSON
def doctor(tracking_uri: str | None, relocate: bool, form: str | None) -> None:
    """Check Python, MXNet, devices, the MLflow store and the caches, one line each.

    A store that was moved, database and files, is read where it is. Only MLflow's own commands
    look for its files where they were: --relocate mends that, and does nothing else.
    """
    from gluonexp.cli.doctor import checks, render, told

    if relocate:
        from gluonexp import tracking

        mended = tracking.relocate(tracking_uri)
        click.echo(f"mended: {told(mended)}" if mended else "nothing to mend")
        if form == "json":
            write({"mended": [{"before": each.path, "now": each.now} for each in mended]})
        return
    found = checks(tracking_uri)
    usable = all(check.ok is not False for check in found)
    if form == "json":
        write({"usable": usable, "checks": found})
    else:
        render(found)
    sys.exit(0 if usable else 1)


for command in (
    *(runs, compare, replay, ui, stop, recover, push, predict, evaluate, verify),
    *(export, download, cache, init),
):
    main.add_command(command)
