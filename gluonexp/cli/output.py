"""``--json``: what a command has to say, as one document for programs.

While a command with ``--json`` works, whatever prints on standard output prints on standard error,
so that the document is alone there.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any, Final

import click

from gluonexp.base.plain import write_json

_OUT: Final = f"{__name__}.out"


def _chosen(ctx: click.Context, param: click.Parameter, form: str | None) -> None:
    """Let ``form`` be what was typed, one of them alone.

    Standard output is kept for the document, once it is known that there will be one.
    """
    before = ctx.params.setdefault("form", None)
    if form is None:
        return
    if before not in (None, form):
        raise click.UsageError("--csv and --json: name one of them")
    ctx.params["form"] = form
    if form == "json" and not ctx.resilient_parsing and _OUT not in ctx.meta:
        ctx.meta[_OUT] = sys.stdout
        ctx.with_resource(redirect_stdout(sys.stderr))


CSV = click.option(
    "--csv",
    "as_csv",
    flag_value="csv",
    expose_value=False,
    callback=_chosen,
    help="Print a table for programs.",
)
JSON = click.option(
    "--json",
    "as_json",
    flag_value="json",
    expose_value=False,
    callback=_chosen,
    help="Print everything for programs: one JSON document.",
)


def write(value: Any) -> None:
    """Write the document of a command whose ``--json`` was typed; see `gluonexp.base.plain`."""
    out = click.get_current_context().meta[_OUT]
    write_json(out, value)
    out.flush()  # what only ends when it is interrupted has said it, too
