"""Checkpoints: parameters, optimizer state and a readable ``meta.json`` in one folder.

The same for every engine, and no pickle, which runs code when it is loaded: both tensor files are
safetensors, and carry their sha256 in ``meta.json``, because a flipped bit in them loads silently.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import (
    DRAFT,
    draft,
    link_or_copy,
    obstacle,
    rename,
    sha256,
    sync,
)
from gluonexp.config.overrides import typed
from gluonexp.training.engine import Engine, State

PARAMETERS: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
META: Final = "meta.json"

# The newest ones of a run: after its last epoch, and within the epoch that it has begun.
LAST: Final = "last"
STEP: Final = "step"

# What gluonexp 0.1 wrote, in MXNet's own format and by its optimizers' positions.
_OLD_PARAMETERS: Final = "model.params"
_KEPT: Final = re.compile(r"best|last|step|epoch-\d+")
_NAME: Final = re.compile(rf"{_KEPT.pattern}|{re.escape(DRAFT)}.*|\..+-previous")
_FILES: Final = {PARAMETERS, OPTIMIZER, META, _OLD_PARAMETERS, "optimizer.params"}

# What a meta has besides, if its writer knew it.
_KINDS: Final = {
    "sha256": dict,
    "updates": dict,
    "epoch": int,
    "step": int,
    "metrics": dict,
    "history": list,
    "identity": dict,
}
_DIGEST: Final = "meta_sha256"  # of the meta itself, without this; older ones have none


def save(folder: Path, state: State, meta: Mapping[str, Any]) -> None:
    """Write a checkpoint; `folder` either holds all of it or is as it was, also after a power cut.

    Parameters
    ----------
    folder
        Replaced if it exists.
    meta
        What a reader should know (epoch, metrics, history); JSON values.

    Raises
    ------
    GluonexpError
        The disk is full, or cannot be written for another reason.
    """
    kept = {
        f"{kind}|{name}": array
        for kind, by_name in {**state.slots, "sum": state.sums, "raw": state.raw}.items()
        for name, array in by_name.items()
    }
    with _replaced(folder) as new:
        digests = {}
        for name, tensors in ((PARAMETERS, dict(state.values)), (OPTIMIZER, kept)):
            save_file(tensors, new / name)
            digests[name] = sha256(new / name)
        written = {**meta, "updates": dict(state.updates), "sha256": digests}
        written[_DIGEST] = _digest(written)
        (new / META).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def copy(source: Path, folder: Path) -> None:
    """Make `folder` the checkpoint that `source` is; on one file system it takes no space."""
    with _replaced(folder) as new:
        for name in (PARAMETERS, OPTIMIZER, META):
            link_or_copy(source / name, new / name)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the meta of the checkpoint `folder`, once its files are known to be whole.

    Raises
    ------
    GluonexpError
        No checkpoint there, a damaged file, or one that gluonexp 0.1 wrote.
    """
    folder = find(folder) or folder
    try:
        meta = _read(folder / META)
        if _OLD_PARAMETERS in meta["sha256"]:
            instead = typed("model.weights", str(folder / _OLD_PARAMETERS))
            raise GluonexpError(
                f"{folder}: a checkpoint of gluonexp 0.1, which resumes from it; this version can "
                f"only start from its parameters ({instead})"
            )
        for name in (PARAMETERS, OPTIMIZER):
            if sha256(folder / name) != meta["sha256"][name]:
                raise GluonexpError(f"{folder / name}: damaged (its sha256 is not that of {META})")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GluonexpError(
            f"{folder}: not a complete checkpoint ({error}); resume from another"
        ) from None
    return meta


def load(folder: Path, engine: Engine, *, optimizer: bool) -> dict[str, Any]:
    """Put a checkpoint into `engine`, with `optimizer` also its optimizer state; return its meta.

    Raises
    ------
    GluonexpError
        No checkpoint there, a damaged file, or one of another network or optimizer.
    """
    meta = read_meta(folder)
    folder = find(folder) or folder
    try:
        slots: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in (load_file(folder / OPTIMIZER) if optimizer else {}).items():
            kind, _, name = key.partition("|")
            slots.setdefault(kind, {})[name] = array
        sums, raw = slots.pop("sum", {}), slots.pop("raw", {})
        state = State(load_file(folder / PARAMETERS), slots, meta["updates"], sums, raw)
        engine.load(state, optimizer=optimizer)
    except (OSError, SafetensorError, KeyError) as error:
        raise GluonexpError(
            f"{folder}: not a complete checkpoint ({error}); resume from another"
        ) from None
    except GluonexpError as error:
        raise GluonexpError(f"{folder}: {error}") from None
    return meta


def _read(path: Path) -> dict[str, Any]:
    """Return what a meta says, without its own digest; an exception where that is not right."""
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(meta, dict):
        raise ValueError(f"{META} is no mapping")
    if (digest := meta.pop(_DIGEST, None)) is not None and digest != _digest(meta):
        raise ValueError(f"{META} is damaged, or was changed by hand")
    for key, kind in _KINDS.items():
        if key in meta and not isinstance(meta[key], kind):
            raise ValueError(f"{key} in {META} is not what is written there")
    rows = meta.get("history", [])
    if not all(isinstance(row, dict) and isinstance(row.get("epoch"), int) for row in rows):
        raise ValueError(f"history in {META} has a row that is none")
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    """Return the digest of a meta as it is read back."""
    text = json.dumps(json.loads(json.dumps(meta)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find(folder: Path) -> Path | None:
    """Return where checkpoint `folder` lies: there, aside (a save was cut off), or None."""
    return next((path for path in (folder, _aside(folder)) if (path / META).is_file()), None)


def newest(checkpoints: Path) -> list[Path]:
    """Return the checkpoints in a folder, the one that was trained furthest first.

    Of a damaged one it is not known how far: it comes first if it is called ``last`` or ``step``.
    """
    names = {path.parent.name for path in checkpoints.glob(f"*/{META}")}
    names = {name.removeprefix(".").removesuffix("-previous") for name in names}
    found = [checkpoints / name for name in sorted(names) if _KEPT.fullmatch(name)]
    return sorted(found, key=progress, reverse=True)


def progress(folder: Path) -> tuple[float, int, bool]:
    """Return how many epochs are behind a checkpoint, steps of the next, and if it is the last."""
    first = folder.name in (LAST, STEP)
    try:
        meta = json.loads(((find(folder) or folder) / META).read_text(encoding="utf-8"))
        return len(meta["history"]), int(meta.get("step", 0)), first
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return float("inf") if first else -1, 0, first


def tidy(checkpoints: Path) -> None:
    """Remove from a folder what a save left that was cut off, and put back what it moved aside."""
    for left in checkpoints.glob(f"{DRAFT}*"):
        shutil.rmtree(left, ignore_errors=True)
    for aside in checkpoints.glob(".*-previous"):
        place = aside.with_name(aside.name.removeprefix(".").removesuffix("-previous"))
        if (place / META).is_file():
            shutil.rmtree(aside, ignore_errors=True)
        elif is_ours(aside):
            rename(aside, place)


class Writer:
    """Writes checkpoints in a thread of its own, one after the other, while training goes on."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Begin to write, once what was begun before is written; raise what that has raised."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._last = self._pool.submit(write)

    def wait(self) -> None:
        """Return once all is written; raise what it has raised."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None


def may_be_ours(path: Path) -> bool:
    """Tell whether a folder has the name of a checkpoint, and no files but those of one."""
    if not path.is_dir() or path.is_symlink() or not _NAME.fullmatch(path.name):
        return False
    left = path.name.startswith(DRAFT)
    inside = [file for file in path.rglob("*") if not (left and file.is_dir())]
    return all(file.name in _FILES and file.is_file() for file in inside)


def is_ours(path: Path) -> bool:
    """Tell whether all there is in the folder `path` is a checkpoint, or what a save left of one.

    Such a folder may be removed; in any other there may be something of the user's.
    """
    if not may_be_ours(path):
        return False
    left = path.name.startswith(DRAFT)
    try:
        return left or "sha256" in json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of `folder` if the block ends well."""
    aside = _aside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{DRAFT}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with draft(folder) as new:
            new.mkdir()
            yield new
            sync(new)
            # A folder cannot be replaced in one step: the old one moves aside first, and `find`
            # looks there if the process died in between.
            shutil.rmtree(aside, ignore_errors=True)
            if folder.exists():
                rename(folder, aside)
    except (OSError, SafetensorError) as error:
        why = obstacle(folder, error) if isinstance(error, OSError) else reason(error)
        raise GluonexpError(
            f"{folder}: the checkpoint cannot be written ({why}); what was there before is whole"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}-previous"
