"""Arrays that were computed once and are kept: listed, verified, removed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gluonexp.cli.options import FOLDER
from gluonexp.cli.output import JSON, write

if TYPE_CHECKING:
    from gluonexp.base.arrays import ArrayCache, Kept

_DAY = 24 * 3600.0  # seconds


def _folder(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--folder",
        type=FOLDER,
        help="What features.folder names.  [default: the user's cache folder]",
    )(command)


@click.group()
def cache() -> None:
    """What is computed once and kept: decoded images, and the features of frozen networks.

    Runs make what is missing and remove what was used least recently, so that all of it takes no
    more than features.budget_gb. Nothing is lost with it: a run makes again what it needs. What is
    in use by a run is never removed. features.cache=off does without.

    \b
    gluonexp cache list
    gluonexp cache verify --remove
    gluonexp cache clear --kind features --unused 30
    """  # noqa: D301 (click wants the backspace itself)


@cache.command("list")
@_folder
@JSON
def list_(folder: Path | None, form: str | None) -> None:
    """Say what is kept, how large it is and when it was used."""
    from rich.table import Table

    from gluonexp.base.text import in_bytes, moment, plain_console

    store = _opened(folder)
    kept = store.entries()
    if form == "json":
        write({**_totals(store, kept), "budget": store.budget, "arrays": list(map(_told, kept))})
        return
    if kept:
        table = Table(box=None, pad_edge=False)
        table.add_column("kind")
        table.add_column("of", overflow="fold")
        table.add_column("size", justify="right", no_wrap=True)
        for name in ("made", "used"):
            table.add_column(name, no_wrap=True)
        now = datetime.now(timezone.utc)
        for one in reversed(kept):
            made, used = (
                "-" if at is None else moment(datetime.fromtimestamp(at, timezone.utc), now)
                for at in (one.made, one.used)
            )
            table.add_row(
                one.kind, _title(one), in_bytes(one.size), made, "now" if one.in_use else used
            )
        plain_console().print(table)
    size = in_bytes(sum(one.size for one in kept))
    budget = f"{in_bytes(store.budget)} (features.budget_gb={store.budget / 1e9:g})"
    click.echo(f"{store.folder}: {_arrays(len(kept))}, {size} of {budget}")


@cache.command()
@click.option("--remove", is_flag=True, help="Remove what is damaged.")
@_folder
@JSON
def verify(remove: bool, folder: Path | None, form: str | None) -> None:
    """Read all that is kept; exit code 1 if any is damaged.

    Everything is compared with the SHA-256 that was recorded when it was made. Runs do so with
    what they open, and make again what is damaged.
    """
    from gluonexp.base.text import in_bytes

    store = _opened(folder)
    kept, damaged = store.entries(), list[dict[str, Any]]()
    for one in kept:
        if damage := store.verify(one.folder):
            removed = remove and store.remove(one.folder)
            damaged.append({**_told(one), "damage": damage, "removed": removed})
            done = "; removed" if removed else ""
            click.echo(f"{one.folder} is damaged: {damage}{done}")
    size = in_bytes(sum(one.size for one in kept))
    click.echo(f"{store.folder}: {_arrays(len(kept))}, {size}; {len(damaged) or 'none'} damaged")
    if form == "json":
        write({**_totals(store, kept), "damaged": damaged})
    sys.exit(1 if damaged else 0)


@cache.command()
@click.option("--kind", type=click.Choice(["features", "images"]), help="Only those.")
@click.option(
    "--unused",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Only those that no run has opened for so many days.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_folder
@JSON
def clear(
    kind: str | None, unused: float | None, yes: bool, folder: Path | None, form: str | None
) -> None:
    """Remove what is kept, unless a run uses it.

    \b
    gluonexp cache clear
    gluonexp cache clear --kind images --yes
    gluonexp cache clear --unused 30
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.base.text import in_bytes

    store = _opened(folder)
    since = time.time() - (unused or 0) * _DAY
    chosen = [
        one
        for one in store.entries()
        if kind in (None, one.kind) and (unused is None or one.used <= since)
    ]
    size = in_bytes(sum(one.size for one in chosen))
    if chosen and not yes:
        click.confirm(f"remove {_arrays(len(chosen))} from {store.folder}, {size}?", abort=True)
    stays = [one for one in chosen if not store.remove(one.folder)]
    gone = [one for one in chosen if one not in stays]
    if form == "json":
        write({**_totals(store, gone), "removed": list(map(_told, gone)), "in_use": len(stays)})
        return
    if not chosen:
        click.echo(f"{store.folder}: there is nothing to remove")
        return
    size = in_bytes(sum(one.size for one in gone))
    in_use = f"; in use, and left: {len(stays)}" if stays else ""
    click.echo(f"{store.folder}: {_arrays(len(gone))} removed, {size}{in_use}")


def _opened(folder: Path | None) -> ArrayCache:
    from gluonexp.base.arrays import ArrayCache
    from gluonexp.config.schema import FeaturesConfig

    named = None if folder is None else str(folder)
    store = ArrayCache.configured(named, FeaturesConfig.budget_gb)
    store.remove_drafts()
    return store


def _totals(store: ArrayCache, of: Sequence[Kept]) -> dict[str, Any]:
    return {"folder": store.folder, "count": len(of), "size": sum(one.size for one in of)}


def _told(one: Kept) -> dict[str, Any]:
    """Return what is known of an array; sizes in bytes."""
    made, used = (
        None if at is None else datetime.fromtimestamp(at, timezone.utc)
        for at in (one.made, one.used)
    )
    names = {"folder": one.folder, "kind": one.kind, "title": _title(one), "size": one.size}
    return {**names, "made": made, "used": used, "in_use": one.in_use}


def _title(one: Kept) -> str:
    if one.made is None:
        return f"damaged: {one.folder.name}"
    return str(one.notes.get("title", one.folder.name))


def _arrays(count: int) -> str:
    return "1 array" if count == 1 else f"{count} arrays"
