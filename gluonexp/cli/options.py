"""Options that several commands have, and what Tab completes; nothing heavy is loaded here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from gluonexp.base.errors import GluonexpError
from gluonexp.model_folder.names import RUNTIMES

FOLDER = click.Path(path_type=Path, file_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)

URI = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    help="The MLflow store.  [default: mlruns/mlflow.db below this folder]",
)


def complete_overrides(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete groups, their choices and keys, as Hydra itself would."""
    from gluonexp.config.hydra_private import completions
    from gluonexp.run import conf_dir

    words = [*ctx.params.get("overrides", ()), incomplete]
    return [CompletionItem(word) for word in completions(conf_dir(), words)]


def complete_experiments(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of an experiment in the store."""
    from gluonexp.tracking.read.runs import reader

    try:
        names = reader(ctx.params.get("tracking_uri")).experiments()
    except GluonexpError:  # whoever presses Tab can do nothing with a message
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_models(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete ``last``, the ids of the newest runs, the aliases of models, and folders."""
    uri, names = ctx.params.get("tracking_uri"), ["last"]
    with suppress(GluonexpError):
        if incomplete.startswith("models:"):
            from gluonexp.tracking import existing, open_store

            models = open_store(existing(uri)).search_registered_models()
            names = [
                f"models:/{model.name}@{alias}" for model in models for alias in model.aliases
            ]
        else:
            from gluonexp.tracking.read.runs import reader

            newest = reader(uri).newest(50, status="FINISHED")
            names += [run.run_id for run in newest]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


MODEL = click.argument("model", shell_complete=complete_models)
RUNTIME = click.option(
    "--runtime",
    type=click.Choice(tuple(RUNTIMES)),
    default="module",
    show_default=True,
    help="How the model is run.",
)
EXPERIMENT = click.option(
    "--experiment",
    metavar="NAME",
    shell_complete=complete_experiments,
    help="All runs of an experiment.",
)
SWEEP = click.option(
    "--sweep", metavar="PARENT", help="All runs of a sweep: its parent's id, or 'last'."
)
