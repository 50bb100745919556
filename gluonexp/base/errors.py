"""The one exception class whose message is meant for users; what other libraries' ones say."""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from gluonexp.base.files import obstacle, user_cache
from gluonexp.base.text import escaped, not_utf8

# As the system, NumPy, MXNet, PyTorch, safetensors, SQLite and Pillow say it.
_NO_MEMORY: Final = re.compile(
    r"out of memory|bad_alloc|(unable|failed|can(no|')t|cannot) (to )?allocate", re.IGNORECASE
)
_NO_ROOM: Final = re.compile(
    r"no space left|disk is full|quota exceeded|file too large|FileStream\.Write incomplete",
    re.IGNORECASE,
)
_HARDLY: Final = 16 << 20  # bytes
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class GluonexpError(Exception):
    """Something the user can mend; the message names key or file and the remedy.

    What it quotes may come from anybody's file: characters that command a terminal are escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(escaped(str(message)))


class Stopped(Exception):
    """Somebody typed ``gluonexp stop`` for a run whose loop is one's own.

    It leaves the run's ``with`` block, which ends the run FINISHED; what follows the block goes
    on.

    Attributes
    ----------
    run_id, who
        The run, and the process that wants it to stop.
    """

    def __init__(self, run_id: str, who: str) -> None:
        super().__init__(f"run {run_id} was told to stop: `gluonexp stop` by {who}")
        self.run_id, self.who = run_id, who


def reason(error: BaseException) -> str:
    """Return the line of a library's exception that says what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1].rpartition("Check failed: ")[2]
    return said.rpartition(" : ")[2].strip() or said.strip()


def is_full(error: BaseException) -> bool:
    """Whether an exception says that a disk has no room."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return _NO_ROOM.search(str(error)) is not None


def has_no_room(folder: Path) -> bool:
    """Whether the disk of a folder is full, or was until a draft was removed there just now."""
    try:
        return shutil.disk_usage(folder).free < _HARDLY
    except OSError:
        return False


def _fullest() -> str:
    """Say where room is to be made, of the places that are written besides a job's folder."""
    for folder in (Path(tempfile.gettempdir()), user_cache()):
        if has_no_room(folder):
            return f"in {escaped(str(folder))}"
    return "there"


def cause_of(error: BaseException) -> BaseException:
    """Return what the system, SQLite or a server has said, if that is below an error."""
    import sqlite3

    from urllib3.exceptions import HTTPError

    below = error
    while (deeper := below.__cause__ or below.__context__) is not None:
        below = deeper
    return below if isinstance(below, OSError | sqlite3.Error | HTTPError) else error


def debugging() -> bool:
    """Whether tracebacks are wanted instead of sentences (``GLUONEXP_DEBUG=1``)."""
    return os.environ.get("GLUONEXP_DEBUG", "0") not in ("", "0")


def sentence(error: BaseException) -> str | None:
    """Say in one sentence what the user can mend; None of an error that tells of a mistake here.

    That is a `GluonexpError`, no memory, no room on the disk, and what keeps a file from being
    used, whichever library raised it.
    """
    if isinstance(error, GluonexpError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return not_utf8(error)
    said = escaped(reason(error))
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    ):
        return (
            f"memory ran out ({said}): lower trainer.batch_size or dataset.resize, or stop what "
            "else runs here"
        )
    path = error.filename if isinstance(error, OSError) else None
    where = "a file" if path is None else escaped(str(path))
    if is_full(error):
        there = "there" if path is not None else _fullest()
        return f"{where} cannot be written, the disk is full ({said}): make room {there}"
    if isinstance(error, OSError) and path is not None:
        return f"{where} cannot be used: {obstacle(Path(str(path)), error)}"
    return None
