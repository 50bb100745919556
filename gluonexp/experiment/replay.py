"""A run trained again from what it recorded, and compared with it to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gluonexp import assembly, tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sha256, temporary
from gluonexp.base.provenance import Provenance, provenance
from gluonexp.base.text import listed, tell
from gluonexp.config import recorded
from gluonexp.config.computing import libraries
from gluonexp.config.overrides import typed
from gluonexp.config.recorded import Composed
from gluonexp.config.schema import Config, NotifyConfig, to_config
from gluonexp.experiment import execute, record
from gluonexp.tracking.artifacts import of_log, of_run
from gluonexp.tracking.logs import offline_run
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.statuses import FAILED, KILLED
from gluonexp.training import fingerprints, job_folder

# The folders of a run that are compared.
PARTS: Final = ("config", "metrics", "checkpoint", "predictions")
NEEDED: Final = ("config/resolved.yaml", "config/environment.json", fingerprints.HISTORY)

# What may change a result, by its name in `config/environment.json`.
_TELLING: Final = ("python", "platform", "cpu_count", "omp_threads")


@dataclass(frozen=True)
class Replayed:
    """What training a run again gave.

    Attributes
    ----------
    epochs
        How many were trained.
    difference
        The first thing that is not as it was recorded, in a sentence; None: all is, to the bit.
    compared
        What was compared besides the metrics of each epoch: what the run has recorded of
        ``parameters`` and ``predictions``.
    """

    epochs: int
    difference: str | None
    compared: tuple[str, ...]


def replay(
    ref: str,
    composed: Composed,
    overrides: Sequence[str],
    folders: Iterable[Path],
    console: Console,
) -> Replayed:
    """Train a run again, up to the first epoch that is another, and compare it with its record.

    Nothing of it is kept.

    Parameters
    ----------
    ref
        The run: its id, the beginning of one, or ``last``.
    composed, overrides, folders
        What is typed on top of its configuration, as of `gluonexp.experiment.extend`; the store
        is that of ``tracking.uri``.

    Raises
    ------
    GluonexpError
        There is no such run, it has not recorded enough, or its data or weights are not what they
        were.
    """
    (run,) = reader(composed.tracking.uri, alone=True).fetch([ref.removeprefix("runs:/")])
    if (log := offline_run(run.run_id, composed.tracking.uri)) is not None:
        files = of_log(log)
    else:
        files = of_run(tracking.open_store(composed.tracking.uri), run.run_id)
    with temporary() as folder:
        kept = folder / "recorded"
        for part in PARTS:
            if files.has(part):
                place = files.fetch(part, kept)
                if place != kept / part:  # it lies on this machine
                    shutil.copytree(place, kept / part)
        if tracking.OWN_LOOP in run.tags:
            raise GluonexpError(
                f"run {run.run_id} was trained by a loop of its own, which only its script can "
                f"train again: {environment(kept).get('command')}"
            )
        _check(run.run_id, run.status, run.tags.get(tracking.KIND), kept)
        before = recorded.read(kept / "config" / "resolved.yaml")
        config = to_config(recorded.with_typed(before, composed, overrides, folders))
        now = provenance(config.build.allow, libraries(config))
        for change in changes(environment(kept), now):
            tell(console, f"note: {change}")
        digest = run.params.get("data.digest")
        return _again(config, kept, digest, folder / "again", console)


def _check(run_id: str, status: str, kind: str | None, recorded: Path) -> None:
    """Refuse a run that has not recorded what it takes to train it again."""
    missing = [name for name in NEEDED if not (recorded / name).is_file()]
    if not missing:
        return
    remedy = "name another run"
    if kind == "sweep":
        remedy = "it is a sweep: name one of its runs"
    elif status in (FAILED, KILLED):
        again = typed("trainer.resume", run_id)
        remedy = f"it is {status}: python -m gluonexp.run {again} ends it first"
    raise GluonexpError(f"run {run_id} has not recorded {', '.join(missing)}; {remedy}")


def _again(
    config: Config, recorded: Path, data_digest: str | None, workdir: Path, console: Console
) -> Replayed:
    """Train what `config` says, and compare it with what lies in `recorded`."""
    history = fingerprints.history(recorded / fingerprints.HISTORY)
    again = replace(
        config,
        trainer=replace(config.trainer, resume=None, max_hours=None),
        tracking=replace(config.tracking, backend="none", run_id=None),
        export=replace(config.export, enabled=False),
        notify=NotifyConfig(),
    )
    found = assembly.data(again, assembly.components(again).source).digest
    if found != data_digest:
        raise GluonexpError(
            f"the data are not those of the run: their digest was {data_digest}, and is {found}; "
            "dataset.root=FOLDER names another place"
        )
    result = execute.run(
        again,
        workdir,
        console=console,
        against=fingerprints.StopWhereDifferent(recorded),
    )
    reason, epochs = result.ending.reason, len(result.history)
    if reason.startswith(fingerprints.DIFFERENT):
        difference: str | None = reason.removeprefix(fingerprints.DIFFERENT)
    elif epochs != len(history):
        difference = f"{epochs} epochs were trained, and {len(history)} are recorded"
    else:
        difference = next(_parted(recorded, workdir / job_folder.ARTIFACTS), None)
    compared = {
        "parameters": (recorded / fingerprints.FILE, recorded / "checkpoint"),
        "predictions": (recorded / "predictions",),
    }
    there = (name for name, places in compared.items() if any(each.exists() for each in places))
    return Replayed(epochs, difference, tuple(there))


def _parted(recorded: Path, again: Path) -> Iterator[str]:
    """Yield what of the end is not as it was."""
    then, now = (folder / "checkpoint" / record.GLUON_PARAMETERS for folder in (recorded, again))
    if then.exists() and now.exists() and sha256(then) != sha256(now):
        yield "the parameters of the best epoch differ"
    for then in sorted((recorded / "predictions").glob("*.csv")):
        now = again / "predictions" / then.name
        if not now.exists() or then.read_bytes() != now.read_bytes():
            yield f"predictions/{then.name} differs"


def changes(environment: Mapping[str, Any], now: Provenance) -> list[str]:
    """Say what in code, machine and versions is not as a run recorded it."""
    said = []
    sources = environment.get("sources") or {}
    if environment.get("code") != now.code:
        files = [
            name
            for name in sorted({*sources, *now.sources})
            if sources.get(name) != now.sources.get(name)
        ]
        if files or not sources:  # else it is a version
            said.append(f"the code has changed{f' in {listed(files)}' if sources else ''}")
    versions = environment.get("versions") or {}
    for name in sorted({*versions, *now.versions} if versions else ()):
        if (then := versions.get(name)) != (here := now.versions.get(name)):
            said.append(f"{name} was {then or 'not installed'}, and is {here or 'not installed'}")
    for name in _TELLING:
        if name in environment and environment[name] != getattr(now, name):
            said.append(f"{name} was {environment[name]}, and is {getattr(now, name)}")
    return said


def environment(recorded: Path) -> dict[str, Any]:
    """Return what a run recorded of its code, machine and versions.

    Raises
    ------
    GluonexpError
        The file is missing or damaged.
    """
    path = recorded / "config" / "environment.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = [found, *(found.get(key) or {} for key in ("versions", "sources"))]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError("a mapping is none")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise GluonexpError(f"{path}: no record of a run's environment ({error})") from None
    return found
