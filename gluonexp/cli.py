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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gluonexp")
def main() -> None:
    r"""Turn a Gluon training script into a tracked experiment.

    \b
    gluonexp run model=cnn optim.lr=0.003    train, track, export
    gluonexp ui                              look at the runs in MLflow
    gluonexp predict last img.png            use what was exported
    gluonexp doctor                          is this machine ready?

    Completion: eval "$(_GLUONEXP_COMPLETE=bash_source gluonexp)" (or zsh_source, fish_source).
    """


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
def ui(tracking_uri: str | None, host: str, port: int, open_browser: bool) -> None:
    """Start MLflow's pages on the runs recorded here, and print the link to them."""
    from gluonexp.tracking.ui import serve

    sys.exit(serve(tracking_uri, host=host, port=port, open_browser=open_browser))


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
