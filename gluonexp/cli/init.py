"""``gluonexp init``: a small project of one's own, whose parts run at once."""

from __future__ import annotations

import importlib.util
import keyword
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from gluonexp.base.errors import GluonexpError
from gluonexp.cli.output import JSON, write

_TEMPLATES: Final = Path(__file__).parent / "project"
_END: Final = ".jinja"
_BESIDE: Final = ("conf", "tests", "mlruns", "outputs")  # what else lies in the project's folder


@click.command()
@click.argument("name")
@JSON
def init(name: str, form: str | None) -> None:
    """Make a project in the new folder NAME: package, configuration, experiment, test.

    The package NAME has a model and a data set of its own, to be replaced by yours; conf/ says
    with which arguments they are built, conf/experiment/first.yaml what is trained. All of it
    runs at once.

    \b
    gluonexp init shapes
    cd shapes
    python -m shapes                 # train, evaluate, export, record
    python -m shapes optim.lr=0.003  # change any value
    python -m pytest
    """  # noqa: D301 (click wants the backspace itself)
    folder = Path(name)
    files = make(folder)
    for file in files:
        click.echo(f"  {folder / file}")
    click.echo(f"made: {folder}; to train:  cd {folder} && python -m {name}")
    if form == "json":
        write({"folder": folder.absolute(), "files": files, "run": f"python -m {name}"})


def make(folder: Path) -> list[str]:
    """Write the project whose package has the name of `folder`; return the paths of its files.

    Raises
    ------
    GluonexpError
        It is no name for a package, or is taken; or the folder cannot be made. Then nothing is
        left of it.
    """
    name = folder.name
    _check(str(folder))
    if folder.exists() or folder.is_symlink():
        raise GluonexpError(f"{folder} exists already: choose another name, or remove it")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise GluonexpError(f"{name}: Python has a module of this name: choose another one")
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        files = _write(draft / name, name)
        (draft / name).rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return files


def _check(name: str) -> None:
    is_name = name.isascii() and name.isidentifier() and not name.startswith("_")
    if not is_name or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise GluonexpError(
            f"{name}: no name for a package of Python: letters, digits and _, a letter first"
        )
    if name.lower() == "gluonexp" or name in _BESIDE:
        raise GluonexpError(f"{name}: this name is taken; choose another one")


def _write(folder: Path, name: str) -> list[str]:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    files = []
    for template in sorted(environment.list_templates(extensions=[_END[1:]])):
        path = template.removesuffix(_END).replace("{name}", name)
        top, _, rest = path.partition("/")
        path = f"{name}/{rest}" if top == "package" else path
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(environment.get_template(template).render(name=name), encoding="utf-8")
        files.append(path)
    return sorted(files)
