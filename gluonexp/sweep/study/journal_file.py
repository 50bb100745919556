"""The journal file of studies: opened, and read without Optuna's own news."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileSymlinkLock


def storage(path: Path) -> JournalStorage:
    """Return what keeps studies in the file at `path`, which is made with its folder."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileSymlinkLock(str(path))
        if path.exists():
            _check_end(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise GluonexpError(f"{path}: the study's journal cannot be opened: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise GluonexpError(
            f"{path} is damaged, or no journal of a study ({error}); move it away or choose "
            "another file"
        ) from error


def _check_end(path: Path, lock: JournalFileSymlinkLock) -> None:
    """Raise ValueError if the last line is not whole: what is appended to it would be lost too."""
    lock.acquire()
    try:
        last = path.read_bytes().splitlines(keepends=True)[-1:]
    finally:
        lock.release()
    for line in last:
        json.loads(line)
        if not line.endswith(b"\n"):
            raise ValueError("its last line is cut off")


def trial_id(storage: JournalStorage, study: optuna.Study, number: int) -> int:
    """Return the journal's own number of a trial; KeyError if the study has no such trial."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling about each study and trial; its warnings stay."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
