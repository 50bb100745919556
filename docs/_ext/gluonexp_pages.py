"""What these pages take from the repository while they are built."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click
import configuration
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[2]
_PAGE = re.compile(r"<!-- page: (\S+) -->\n")
_KEYS = "<!-- keys -->"
_PARTS = 4  # in so many, or more, Sphinx divides pages for two processes
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx read pages through us."""
    app.connect("builder-inited", _quiet_kernels)
    app.connect("env-before-read-docs", _dealt)
    app.connect("source-read", _read)
    app.connect("sphinx-click-process-description", _described)
    app.connect("sphinx-click-process-options", _plain)
    return {"parallel_read_safe": True}


def _quiet_kernels(app: Sphinx) -> None:
    """Let the notebooks' kernels say errors alone, and keep nothing in the user's home."""
    home = Path(app.doctreedir) / "ipython"
    file = home / "profile_default" / "ipython_kernel_config.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('get_config().IPKernelApp.log_level = "ERROR"\n', "utf-8")
    os.environ["IPYTHONDIR"] = str(home)


def _dealt(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Let the notebooks, which are neighbours by name, be in different parts of ``-j``."""
    docnames[:] = [name for first in range(_PARTS) for name in docnames[first::_PARTS]]


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    if found := _PAGE.fullmatch(content[0]):
        content[0] = elsewhere(ROOT / found[1], Path(app.srcdir, docname).parent)
        app.env.note_dependency(str(ROOT / found[1]))
    elif _KEYS in content[0]:
        content[0] = content[0].replace(_KEYS, configuration.page())
        app.env.note_reread()


def _described(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Show as code what click prints as it stands; the rest of a help text is no markup."""
    shown: list[str] = []
    for line in lines:
        if line.startswith("| "):
            if not (shown and shown[-1].startswith("   ")):
                shown += ["", ".. code-block:: text", ""]
            shown.append(f"   {line[2:]}")
        else:
            shown.append(_no_markup(line))
    lines[:] = shown


def _plain(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    lines[:] = [line if ".. option::" in line else _no_markup(line) for line in lines]


def _no_markup(line: str) -> str:
    return re.sub(r"(?<!`)([*|])(?!`)", r"\\\1", line) if "``" not in line else line


def elsewhere(page: Path, folder: Path) -> str:
    """Return a page of the repository with its links as they are from a folder of ``docs/``.

    A link to a study leads to its page here, one to any other file to a copy of the file.
    """

    def link(found: re.Match[str]) -> str:
        target = (page.parent / found[1]).resolve()
        if target.parent == ROOT / "experiments" and (target / "README.md").exists():
            target = ROOT / "docs" / "studies" / f"{target.name}.md"
        return f"]({os.path.relpath(target, folder)}"

    return _LINK.sub(link, page.read_text("utf-8"))
