"""The folder of a job: checkpoints and artifacts, and which run they belong to."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from gluonexp.base.errors import GluonexpError, has_no_room, is_full, reason
from gluonexp.base.files import rename, sweep, write_text
from gluonexp.base.text import readable
from gluonexp.tracking.log import MODEL, NAME, in_use, records, waits
from gluonexp.tracking.statuses import FINISHED, RUNNING, Ending
from gluonexp.training import checkpoint

CHECKPOINTS: Final = "checkpoints"
ARTIFACTS: Final = "artifacts"
CONSOLE: Final = "console.log"  # what the job of a sweep prints
GROWING: Final = "metrics"  # among these, a folder to which epochs are added
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
    artifacts
        The files that it left in ``artifacts/``; None where that is not known.
    """

    run_id: str | None = None
    status: str = RUNNING
    stopped: str = ""
    artifacts: list[str] | None = field(default=None, compare=False)

    @property
    def unfinished(self) -> bool:
        """Whether the run was cut off, or still runs."""
        return self.status == RUNNING


def owner(checkpoints: Path) -> Owner:
    """Return who wrote a folder of checkpoints; an unfinished run where that is not known."""
    try:
        found = Owner(**json.loads((checkpoints / _OWNER).read_text(encoding="utf-8")))
        texts = (found.run_id or "", found.status, found.stopped, *(found.artifacts or []))
        return found if all(isinstance(text, str) for text in texts) else Owner()
    except (OSError, ValueError, TypeError, RecursionError):
        return Owner()


def check(workdir: Path, resumed: Path | None) -> None:
    """Refuse a folder with something in it that no run of ours wrote: it would be removed.

    Raises
    ------
    GluonexpError
        The message names it.
    """
    if (name := str(workdir)) != readable(name):  # neither checkpoints nor MXNet's files
        raise GluonexpError(
            f"hydra.run.dir={readable(name)}: the job's folder cannot be written, for its name is "
            "not UTF-8; rename it, or give the job another one"
        )
    checkpoints, artifacts = workdir / CHECKPOINTS, workdir / ARTIFACTS
    foreign = [] if _holds(checkpoints, resumed) else list(_foreign(checkpoints))
    ours = checkpoints / _OWNER, artifacts / "config" / "resolved.yaml"
    if not any(path.is_file() for path in ours):  # no run was here
        foreign += _files(artifacts)
    elif (listed := owner(checkpoints).artifacts) is not None:
        foreign += [file for file in _files(artifacts) if _relative(file, artifacts) not in listed]
    for path in foreign:
        folder = artifacts if path.is_relative_to(artifacts) else checkpoints
        raise GluonexpError(
            f"{folder} holds something that no run wrote ({_relative(path, folder)}): give the "
            "job a folder of its own"
        )


def take(workdir: Path, run_id: str | None, resumed: Path | None) -> list[Path]:
    """Make the folder the job's of a run that is open now.

    What an earlier run left here goes, but for the checkpoints of one that can still be resumed:
    these are set aside, unless they are what is `resumed`. So are files of a run that died before
    it could say which are its own.

    Returns
    -------
    list of Path
        Where they were put.
    """
    folder, aside = workdir / CHECKPOINTS, []
    before = owner(folder)
    goes_on = run_id is not None and before.run_id == run_id  # and writes them again
    if not goes_on and before.artifacts is None and any(_files(workdir / ARTIFACTS)):
        aside.append(_set_aside(workdir / ARTIFACTS, before.run_id))
    for left in [*(workdir / ARTIFACTS).glob("*")]:
        if not (goes_on and left.name == GROWING):
            _remove(left)
    if not _holds(folder, resumed):
        if before.unfinished and any(folder.glob(f"*/{checkpoint.META}")):
            aside.append(_set_aside(folder, before.run_id))
        _remove_checkpoints(folder)
    checkpoint.tidy(folder)
    _write(folder, Owner(run_id))
    return aside


@contextmanager
def listed(workdir: Path) -> Iterator[None]:
    """Note, of a run that ends with an exception, which files it leaves in ``artifacts/``.

    A full disk, of which the system does not say which, is named where it is that of `workdir`.
    """
    process = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != process:  # a fork has left the block
            raise
        folder = workdir / CHECKPOINTS
        with suppress(OSError):
            _write(folder, replace(owner(folder), artifacts=_listing(workdir)))
        named = isinstance(error, GluonexpError) or getattr(error, "filename", None)
        if is_full(error) and not named and has_no_room(workdir):
            raise GluonexpError(
                f"{workdir} cannot be written, the disk is full ({reason(error)}): make room "
                "there, or give the job another folder"
            ) from error
        raise


def leave(
    workdir: Path, run_id: str | None, ending: Ending, *, keep_checkpoints: bool, sent: bool
) -> None:
    """Note how the run ended; remove its artifacts and its model, if they were sent to a store."""
    folder = workdir / CHECKPOINTS
    if sent:
        # Cut off from here on, it has ended all the same.
        _write(folder, Owner(run_id, ending.status, ending.reason, _listing(workdir)))
        shutil.rmtree(workdir / ARTIFACTS)
        shutil.rmtree(workdir / MODEL, ignore_errors=True)
        if not keep_checkpoints:
            _remove_checkpoints(folder)
            return
    elif run_id is not None and not keep_checkpoints:
        _remove_checkpoints(folder)
    _write(folder, Owner(run_id, ending.status, ending.reason, _listing(workdir)))


def tidy(workdir: Path) -> None:
    """Remove from the folder of a job what a process left that was killed, even after its run.

    That is what it had not finished to write, and what a store has of a run that has FINISHED.
    Where a process is at work, all of that stays.
    """
    inside = (path for path in (workdir / ARTIFACTS).rglob("*") if path.is_dir())
    for folder in (workdir, workdir / CHECKPOINTS, *inside):
        sweep(folder)
    log = workdir / NAME
    copies = [path for path in (workdir / ARTIFACTS, workdir / MODEL) if path.is_dir()]
    if not copies or not log.is_file() or in_use(log):
        return
    end = next((each for each in reversed([*records(log)]) if each["kind"] != "tags"), {})
    if end.get("status") != FINISHED or waits(log):
        return
    before = owner(workdir / CHECKPOINTS)
    if before.unfinished and (workdir / CHECKPOINTS).is_dir():
        _write(workdir / CHECKPOINTS, replace(before, status=FINISHED, artifacts=[]))
    for path in copies:
        _remove(path)


def console(workdir: Path, resumed: str | None) -> IO[str]:
    """Open what the job of a sweep prints; one that goes on from its own folder adds to it."""
    mode = "a" if str(resumed).startswith(f"{workdir}/") else "w"
    return (workdir / CONSOLE).open(mode, encoding="utf-8", errors="backslashreplace")


def of_run(workdir: Path, run_id: str) -> Path | None:
    """Return the newest checkpoint that run `run_id` left in its folder; None if there is none."""
    for folder in (workdir / CHECKPOINTS, _aside(workdir / CHECKPOINTS, run_id)):
        if owner(folder).run_id in (run_id, None) and (found := checkpoint.newest(folder)):
            return found[0]
    return None


def goes_on(workdir: Path, run_id: str) -> Path | None:
    """Return the newest checkpoint in a folder whose own run is `run_id`, and was cut off."""
    folder = workdir / CHECKPOINTS
    before = owner(folder)
    if before.run_id != run_id or not before.unfinished:
        return None
    return next(iter(checkpoint.newest(folder)), None)


def clear(workdir: Path, run_id: str) -> None:
    """Remove the checkpoints of run `run_id` from its folder, and nothing else."""
    for folder in (workdir / CHECKPOINTS, _aside(workdir / CHECKPOINTS, run_id)):
        if owner(folder).run_id == run_id:
            _remove_checkpoints(folder)


def _holds(checkpoints: Path, resumed: Path | None) -> bool:
    """Tell whether the checkpoint `resumed` lies among `checkpoints`, which stay then."""
    return resumed is not None and resumed.resolve().parent == checkpoints.resolve()


def _foreign(checkpoints: Path) -> Iterator[Path]:
    """Yield what no run of ours put among `checkpoints`."""
    for path in sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []:
        if not (path.name == _OWNER and path.is_file()) and not checkpoint.may_be_ours(path):
            yield path


def _remove_checkpoints(folder: Path) -> None:
    """Remove our checkpoints, and their folder if nothing else is in it."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if checkpoint.is_ours(path):
            shutil.rmtree(path, ignore_errors=True)
    (folder / _OWNER).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _listing(workdir: Path) -> list[str]:
    folder = workdir / ARTIFACTS
    return [_relative(path, folder) for path in _files(folder)]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _set_aside(folder: Path, run_id: str | None) -> Path:
    """Give a folder another name that is free, with the id of its run in it."""
    name = _aside(folder, run_id).name
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    aside = next(folder.with_name(name) for name in names if not folder.with_name(name).exists())
    rename(folder, aside)
    return aside


def _aside(folder: Path, run_id: str | None) -> Path:
    return folder.with_name(f"{folder.name}-{run_id[:8] if run_id else 'untracked'}")


def _write(checkpoints: Path, owner: Owner) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(owner)) + "\n"
    write_text(checkpoints / _OWNER, text)
