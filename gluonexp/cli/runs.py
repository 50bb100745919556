"""What was recorded: listed, compared, looked at in MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gluonexp.cli.options import EXPERIMENT, NEW_FILE, SWEEP, URI
from gluonexp.cli.output import CSV, JSON, write


@click.command()
@URI
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=5000,
    show_default=True,
    help="Taken if free, else the next.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser too.")
@click.option("--sweep", metavar="PARENT", help="Compare the runs of this sweep (or of 'last').")
@JSON
def ui(
    tracking_uri: str | None,
    host: str,
    port: int,
    open_browser: bool,
    sweep: str | None,
    form: str | None,
) -> None:
    """Start MLflow's pages on the runs recorded here, and print the link to them."""
    from gluonexp.tracking.ui import serve

    announce = write if form == "json" else None
    sys.exit(serve(tracking_uri, host, port, open_browser, sweep, announce))


@click.command()
@EXPERIMENT
@SWEEP
@click.option(
    "--status",
    type=click.Choice(
        ["FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING", "lost"], case_sensitive=False
    ),
    help="Only runs that ended so.",
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@CSV
@JSON
@URI
def runs(
    experiment: str | None,
    sweep: str | None,
    status: str | None,
    limit: int,
    form: str | None,
    tracking_uri: str | None,
) -> None:
    """List the runs that were recorded, the newest first.

    A sweep is one line, with the best value of its runs; --sweep lists them.

    \b
    gluonexp runs --experiment digits
    gluonexp runs --sweep 3f2a91c0
    gluonexp runs --status failed --limit 5
    gluonexp runs --limit 1000 --csv > runs.csv
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.base.text import plain_console
    from gluonexp.compare import listing, machine
    from gluonexp.tracking.read.runs import reader

    if sweep and experiment:
        raise click.UsageError("--sweep and --experiment: name one of them")
    store = reader(tracking_uri, alone=True)
    found = listing.listed(store, limit, experiment=experiment, sweep=sweep, status=status)
    if form == "csv":
        machine.listing_csv(found, sys.stdout)
    elif form == "json":
        write(machine.listing(found))
    elif found:
        listing.render(plain_console(), store, found)
    else:
        click.echo("there are no such runs" if experiment or sweep or status else "no runs yet")


@click.command()
@click.argument("run_ids", metavar="[RUN_ID]...", nargs=-1)
@SWEEP
@EXPERIMENT
@click.option(
    "--metric", metavar="NAME", help="Rank by this.  [default: what the runs were trained for]"
)
@click.option(
    "--baseline",
    metavar="RUN",
    help="Say how far the others are from this run, or models:/NAME@ALIAS.  [default: the pinned]",
)
@click.option("--no-baseline", is_flag=True, help="Leave the pinned one out.")
@click.option(
    "--pin", metavar="RUN", help="Make it the baseline of its experiment (or of --experiment)."
)
@click.option("--unpin", metavar="NAME", help="Take the baseline off this experiment.")
@CSV
@JSON
@click.option("--html", type=NEW_FILE, help="Write a page to this file.")
@URI
def compare(
    run_ids: tuple[str, ...],
    sweep: str | None,
    experiment: str | None,
    metric: str | None,
    baseline: str | None,
    no_baseline: bool,
    pin: str | None,
    unpin: str | None,
    form: str | None,
    html: Path | None,
    tracking_uri: str | None,
) -> None:
    """Say what differs between runs and how good they are, the best run first.

    A RUN_ID is the id of a run or the first 6 or more characters of it; that of a sweep stands
    for all its runs. Settings that are the same everywhere are not shown.

    With a baseline each metric has its difference to it in per cent, or as it is where that of the
    baseline is 0, and settings that are not as there are marked. An experiment's baseline can be
    pinned: for all who use the store, every comparison of its runs has it then. What is pinned as
    models:/NAME@ALIAS is the run that the alias means at the time.

    \b
    gluonexp compare 3f2a91c0 77b01d4e
    gluonexp compare --sweep last --metric test/acc
    gluonexp compare --experiment digits --html digits.html
    gluonexp compare --sweep 3f2a91c0 --json | jq .runs[0].params
    gluonexp compare --sweep last --baseline models:/digits@champion
    gluonexp compare --pin 3f2a91c0
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp import compare as comparing
    from gluonexp.base.text import plain_console, say
    from gluonexp.compare import baseline as baselines
    from gluonexp.compare import machine, terminal
    from gluonexp.tracking.read.runs import reader

    named = sum((bool(run_ids), sweep is not None, experiment is not None))
    only_pins = (pin is not None or unpin is not None) and not run_ids and sweep is None
    if named > 1 or (not named and not only_pins):
        raise click.UsageError("name what to compare: run ids, or --sweep, or --experiment")
    if baseline is not None and no_baseline:
        raise click.UsageError("--baseline and --no-baseline: name one of them")
    store = reader(tracking_uri, alone=True)
    pins: dict[str, str | None] = {}
    if unpin is not None:
        had = baselines.unpin(store, unpin)
        pins[unpin] = None
        say(f"{unpin}: {'the baseline is taken off' if had else 'it had no baseline'}")
    if pin is not None:
        run, where = baselines.pin(store, pin, experiment)
        pins[where] = run.run_id
        what = f"run {run.run_id[:8]} ({run.name})"
        if pin.startswith("models:/"):
            follows = ", and follows the alias" if "@" in pin else ""
            say(f"{where}: {pin} is the baseline of its comparisons{follows}; now that is {what}")
        else:
            say(f"{where}: {what} is the baseline of its comparisons")
    if only_pins:
        if form == "json":
            write({"pinned": pins})
        return
    title, found = comparing.chosen(store, run_ids, sweep, experiment)
    measure = None if baseline is None else baselines.find(store, baseline)
    if measure is None and not no_baseline:
        measure = baselines.pinned(store, found)
        if measure is not None:
            say(f"baseline: run {measure.run_id[:8]}, which is pinned; --no-baseline: without it")
    comparison = comparing.compare(store, found, metric, measure)
    if html is not None:
        from gluonexp.compare import web

        web.write(title, comparison, html)
        click.echo(f"written: {html}", err=True)
    if form == "csv":
        machine.comparison_csv(comparison, sys.stdout)
    elif form == "json":
        write(machine.comparison(comparison))
    elif html is None:
        terminal.render(plain_console(), title, comparison)
