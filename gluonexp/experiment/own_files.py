"""The files of a run whose loop is one's own: its folder, its checkpoint, its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import draft, settle, sha256, temporary
from gluonexp.experiment import own_values
from gluonexp.experiment.record import GLUON_PARAMETERS
from gluonexp.report import series
from gluonexp.tracking.log import records
from gluonexp.training.checkpoint import META
from gluonexp.training.fingerprints import HISTORY

CHECKPOINT: Final = "checkpoint"


def new_folder() -> Path:
    """Make a new folder for a job, where those of all runs are."""
    home = Path.cwd() / "mlruns" / "hydra"
    home.mkdir(parents=True, exist_ok=True)
    while True:
        folder = home / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def checkpoint(net: Any, folder: Path, meta: Mapping[str, object]) -> None:
    """Write the parameters of a Gluon block into a folder, which is replaced, with their meta.

    Raises
    ------
    GluonexpError
        They cannot be saved.
    """
    with temporary(folder.parent.parent) as place:
        made = place / folder.name
        made.mkdir()
        file = made / GLUON_PARAMETERS
        try:
            net.save_parameters(str(file))
        except (AttributeError, RuntimeError) as error:
            if type(error).__name__ == "DeferredInitializationError":
                raise GluonexpError(
                    f"this {type(net).__name__} has no parameters yet: their shapes are known "
                    "once it has been called, net(batch); then it can be saved"
                ) from None
            raise GluonexpError(
                f"a {type(net).__name__} cannot be saved ({reason(error)}): a checkpoint is of an "
                "initialized Gluon block"
            ) from None
        text = json.dumps({**meta, "sha256": {file.name: sha256(file)}}, indent=2)
        (made / META).write_text(text + "\n", encoding="utf-8")
        replace(made, folder)


def picture(image: Any, folder: Path, name: str) -> None:
    """Write a picture, as `own_values.pixels` or a figure of matplotlib's, as ``NAME.png``."""
    path = folder / f"{name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as written:
            if hasattr(image, "savefig"):
                image.savefig(written)
            else:
                own_values.pixels(image).save(written)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise GluonexpError(f"{name!r}: a picture cannot be the folder of another") from None


def replace(made: Path, folder: Path) -> None:
    """Let a folder be what was made in a temporary one: all of the old, or all of the new."""
    if folder.exists():
        folder.rename(made.with_name("before"))
    settle(made, folder)


def curves(log: Path, folder: Path, title: str) -> None:
    """Write ``metrics/history.csv``, a row a step, and ``plots/curves.png``."""
    rows: dict[int, dict[str, float]] = {}
    for each in records(log):
        for key, value, _, step in each.get("points", ()):
            rows.setdefault(step, {})[key] = float(value)
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    table = table.rename_axis("step").reset_index()
    path = folder / HISTORY
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    series.draw(table, folder / "plots" / "curves.png", title=title)
