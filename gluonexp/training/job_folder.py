"""The folder of a job: checkpoints and artifacts, and which run they belong to."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.statuses import RUNNING, Ending
from gluonexp.training import checkpoint

CHECKPOINTS: Final = "checkpoints"
ARTIFACTS: Final = "artifacts"
_OWNER: Final = "run.json"


@dataclass(frozen=True)
class Owner:
    """The run that wrote a folder of checkpoints.

    Attributes
    ----------
    run_id
        MLflow's; None with ``tracking=none``.
    status
        FINISHED, PRUNED, or RUNNING, which a run that was cut off stays.
    stopped
        Why a callback ended its training early; empty where none did.
    """

    run_id: str | None = None
    status: str = RUNNING
    stopped: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether the run was cut off, or still runs."""
        return self.status == RUNNING


def owner(checkpoints: Path) -> Owner:
    """Return who wrote a folder of checkpoints; an unfinished run where that is not known."""
    try:
        return Owner(**json.loads((checkpoints / _OWNER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Owner()


def check(workdir: Path) -> None:
    """Refuse a folder with something in it that no run of ours wrote: it would be removed.

    Raises
    ------
    GluonexpError
        The message names it.
    """
    known = {CHECKPOINTS: (_OWNER, "*/meta.json"), ARTIFACTS: ("config/resolved.yaml",)}
    for name, ours in known.items():
        folder = workdir / name
        if not folder.exists() or not any(folder.iterdir()):
            continue
        if not any(path for pattern in ours for path in folder.glob(pattern)):
            raise GluonexpError(
                f"{folder} holds something that no run wrote: give the job a folder of its own"
            )


def take(workdir: Path, run_id: str | None, resumed: Path | None) -> Path | None:
    """Make the folder the job's of a run that is open now.

    What an earlier run left here goes, but for the checkpoints of one that can still be resumed:
    these are set aside, unless they are what is `resumed`.

    Returns
    -------
    Path or None
        Where they were put.
    """
    folder, aside = workdir / CHECKPOINTS, None
    if resumed is None or resumed.resolve().parent != folder.resolve():
        before = owner(folder)
        if before.unfinished and any(folder.glob(f"*/{checkpoint.META}")):
            aside = _aside(workdir, before.run_id)
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(workdir / ARTIFACTS, ignore_errors=True)
    _write(folder, Owner(run_id))
    return aside


def leave(workdir: Path, run_id: str | None, ending: Ending, *, keep_checkpoints: bool) -> None:
    """Note how the run ended; remove its artifacts, which are recorded, if it has an id."""
    folder = workdir / CHECKPOINTS
    if run_id is not None:
        shutil.rmtree(workdir / ARTIFACTS)
        if not keep_checkpoints:
            shutil.rmtree(folder, ignore_errors=True)
            return
    _write(folder, Owner(run_id, ending.status, ending.reason))


def of_run(workdir: Path, run_id: str) -> Path | None:
    """Return the newest checkpoint that run `run_id` left in its folder; None if there is none."""
    for folder in (workdir / CHECKPOINTS, _aside(workdir, run_id)):
        last = folder / "last"
        if owner(folder).run_id in (run_id, None) and checkpoint.find(last) is not None:
            return last
    return None


def clear(workdir: Path, run_id: str) -> None:
    """Remove the checkpoints of run `run_id` from its folder, and nothing else."""
    for folder in (workdir / CHECKPOINTS, _aside(workdir, run_id)):
        if owner(folder).run_id != run_id:
            continue
        for meta in list(folder.glob(f"*/{checkpoint.META}")):
            shutil.rmtree(meta.parent, ignore_errors=True)
        (folder / _OWNER).unlink()
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def _aside(workdir: Path, run_id: str | None) -> Path:
    return workdir / f"{CHECKPOINTS}-{(run_id or 'untracked')[:8]}"


def _write(checkpoints: Path, owner: Owner) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(owner)) + "\n"
    (checkpoints / _OWNER).write_text(text, encoding="utf-8")
