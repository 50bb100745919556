"""A run trained again, and compared with its record."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gluonexp.cli.options import MODEL, URI, complete_overrides
from gluonexp.cli.output import JSON, write


@click.command()
@MODEL
@click.argument("overrides", nargs=-1, shell_complete=complete_overrides)
@URI
@JSON
def replay(
    model: str, overrides: tuple[str, ...], tracking_uri: str | None, form: str | None
) -> None:
    """Train a run again from its record, and say whether it is equal to the bit.

    MODEL is a run's id, the first 6 or more characters of one, or 'last'. Data and weights are
    checked by their digests. What is not equal is told: the first epoch and its parameters, and
    what has changed in code, versions and machine. Exit status 1 then. Nothing is recorded.
    OVERRIDES say where things are now (dataset.root=FOLDER), and which package of yours may be
    imported (build.allow=[mypackage]).

    \b
    gluonexp replay last
    gluonexp replay 3f2a91c0 dataset.root=/data/photos
    """  # noqa: D301 (click wants the backspace itself)
    from hydra.errors import HydraException

    from gluonexp import run
    from gluonexp.base.errors import GluonexpError
    from gluonexp.base.text import plain_console, say
    from gluonexp.config.overrides import as_typed
    from gluonexp.experiment.replay import replay as train

    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own package lies
    try:
        words = as_typed(overrides)
        composed = run.composition(words)
    except HydraException as error:
        raise GluonexpError(error) from None
    if tracking_uri is not None:
        composed.tracking.uri = tracking_uri
    try:
        found = train(model, composed, words, [Path(run.conf_dir())], plain_console())
    except SystemExit as ended:  # a signal
        say(f"{getattr(ended, 'reason', 'terminated')}: what was trained again is not compared")
        raise
    if form == "json":
        write({"equal": found.difference is None, **vars(found)})
        sys.exit(0 if found.difference is None else 1)
    if found.difference is None:
        compared = " and ".join(found.compared) or "their metrics: it has recorded nothing else"
        click.echo(f"equal to the bit: {found.epochs} epochs, {compared}")
        return
    say(f"not equal: {found.difference}")
    sys.exit(1)
