"""The ``gluonexp`` command: what surrounds a run (the run itself is ``gluonexp.run``)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from gluonexp import __version__
from gluonexp.errors import GluonexpError

URI = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    help="The MLflow store.  [default: mlruns/mlflow.db below this folder]",
)


class _Group(click.Group):
    """Shows a `GluonexpError` as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GluonexpError as error:
            raise click.ClickException(str(error)) from None


def _overrides(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete groups, their choices and keys, as Hydra itself would."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.plugins import Plugins
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from gluonexp.run import conf_dir

    Plugins.instance()
    plugin = DefaultCompletionPlugin(ConfigLoaderImpl(create_config_search_path(conf_dir())))
    words = [*ctx.params.get("overrides", ()), incomplete]
    return [CompletionItem(word) for word in plugin._query("config", " ".join(words))]


def _experiments(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of an experiment in the store."""
    from gluonexp.tracking.runs import reader

    try:
        names = reader(ctx.params.get("tracking_uri")).experiments()
    except GluonexpError:  # whoever presses Tab can do nothing with a message
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


EXPERIMENT = click.option(
    "--experiment", metavar="NAME", shell_complete=_experiments, help="All runs of an experiment."
)
SWEEP = click.option(
    "--sweep", metavar="PARENT", help="All runs of a sweep: its parent's id, or 'last'."
)
CSV = click.option("--csv", "form", flag_value="csv", help="Print a table for programs.")
JSON = click.option("--json", "form", flag_value="json", help="Print everything for programs.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gluonexp")
def main() -> None:
    """Turn a Gluon training script into a tracked experiment.

    \b
    gluonexp run model=cnn optim.lr=0.003    train, track, export
    gluonexp runs                            list what was recorded
    gluonexp compare --sweep last            what differs, and what came of it
    gluonexp ui                              look at the runs in MLflow
    gluonexp predict last img.png            use what was exported
    gluonexp doctor                          is this machine ready?

    Completion: eval "$(_GLUONEXP_COMPLETE=bash_source gluonexp)" (or zsh_source, fish_source).
    """  # noqa: D301 (click wants the backspace itself)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=_overrides)
def run(overrides: tuple[str, ...]) -> None:
    """Train one run, or a sweep with -m (the same as python -m gluonexp.run)."""
    from gluonexp.run import start

    sys.argv = ["gluonexp run", *overrides]
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own package lies
    start("gluonexp run")


@main.command()
@URI
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, help="Taken if free, else the next.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser too.")
@click.option("--sweep", metavar="PARENT", help="Compare the runs of this sweep (or of 'last').")
def ui(
    tracking_uri: str | None, host: str, port: int, open_browser: bool, sweep: str | None
) -> None:
    """Start MLflow's pages on the runs recorded here, and print the link to them."""
    from gluonexp.tracking.ui import serve

    sys.exit(serve(tracking_uri, host, port, open_browser, sweep))


@main.command()
@EXPERIMENT
@SWEEP
@click.option(
    "--status",
    type=click.Choice(["FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING"], case_sensitive=False),
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
    from rich.console import Console

    from gluonexp.compare import listing, machine
    from gluonexp.tracking.runs import reader

    if sweep and experiment:
        raise click.UsageError("--sweep and --experiment: name one of them")
    store = reader(tracking_uri)
    found = listing.listed(store, limit, experiment=experiment, sweep=sweep, status=status)
    if form == "csv":
        machine.listing_csv(found, sys.stdout)
    elif form == "json":
        machine.listing_json(found, sys.stdout)
    elif found:
        listing.render(Console(), store, found)
    else:
        click.echo("there are no such runs" if experiment or sweep or status else "no runs yet")


@main.command()
@click.argument("run_ids", metavar="[RUN_ID]...", nargs=-1)
@SWEEP
@EXPERIMENT
@click.option(
    "--metric", metavar="NAME", help="Rank by this.  [default: what the runs were trained for]"
)
@CSV
@JSON
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page to this file."
)
@URI
def compare(
    run_ids: tuple[str, ...],
    sweep: str | None,
    experiment: str | None,
    metric: str | None,
    form: str | None,
    html: Path | None,
    tracking_uri: str | None,
) -> None:
    """Say what differs between runs, and what came of it, the best run first.

    A RUN_ID is the id of a run or the first 6 or more characters of it; that of a sweep stands
    for all its runs. Settings that are the same everywhere are not shown.

    \b
    gluonexp compare 3f2a91c0 77b01d4e
    gluonexp compare --sweep last --metric test/acc
    gluonexp compare --experiment digits --html digits.html
    gluonexp compare --sweep 3f2a91c0 --json | jq .runs[0].params
    """  # noqa: D301 (click wants the backspace itself)
    from rich.console import Console

    from gluonexp import compare as comparing
    from gluonexp.compare import machine, terminal
    from gluonexp.tracking.runs import reader

    if sum((bool(run_ids), sweep is not None, experiment is not None)) != 1:
        raise click.UsageError("name what to compare: run ids, or --sweep, or --experiment")
    store = reader(tracking_uri)
    title, found = comparing.chosen(store, run_ids, sweep, experiment)
    comparison = comparing.compare(store, found, metric)
    if html is not None:
        from gluonexp.compare import web

        web.write(title, comparison, html)
        click.echo(f"written: {html}", err=True)
    if form == "csv":
        machine.comparison_csv(comparison, sys.stdout)
    elif form == "json":
        machine.comparison_json(comparison, sys.stdout)
    elif html is None:
        terminal.render(Console(), title, comparison)


@main.command()
@click.argument("run_or_folder")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the answers.")
@click.option(
    "--runtime",
    type=click.Choice(["module", "symbolblock"]),
    default="module",
    show_default=True,
    help="How the export is loaded.",
)
@URI
def predict(
    run_or_folder: str,
    images: tuple[Path, ...],
    plot: Path | None,
    runtime: str,
    tracking_uri: str | None,
) -> None:
    """Classify IMAGES (files or folders) with the export of RUN_OR_FOLDER.

    RUN_OR_FOLDER is a run's id, the start of one, 'last', or a folder that holds signature.json.
    Without IMAGES, the run's own example images are classified. An image whose folder has the
    name of a class is shown with that as its true label.
    """
    from rich.console import Console

    from gluonexp import predict as use
    from gluonexp import show, tracking

    with tempfile.TemporaryDirectory() as temporary:
        folder, given = Path(run_or_folder), list(images)
        if folder.is_dir():
            export = folder / "export" if (folder / "export").is_dir() else folder
            given = given or [export.parent / "data" / "examples"]
        else:
            client = tracking.open_store(tracking.existing(tracking_uri))
            run_id = tracking.find_run(client, run_or_folder).info.run_id
            export = tracking.download(client, run_id, "export", Path(temporary))
            if not given:
                given = [tracking.download(client, run_id, "data/examples", Path(temporary))]
        predictions = use.predict_files(export, given, runtime=runtime, plot=plot)
        show.predictions(Console(), predictions)
        if plot is not None:
            click.echo(f"drawn: {plot}")


@main.command()
@URI
def doctor(tracking_uri: str | None) -> None:
    """Check Python, MXNet, devices, the MLflow store and the caches, one line each."""
    from gluonexp import doctor as checkup

    checks = checkup.checks(tracking_uri)
    checkup.render(checks)
    sys.exit(1 if any(check.ok is False for check in checks) else 0)


if __name__ == "__main__":
    main()
