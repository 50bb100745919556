"""Optuna's journal, and what of its storage no public class of Optuna offers.

A journal is Optuna's word for the file that keeps studies, and so the name of the settings
``hydra.sweeper.journal`` and ``sweep.trial.journal``.

`StoredTrial` uses methods of Optuna's storages that are meant for Optuna itself; read from Optuna
4.5 and 5.0. `optuna.Study.ask` gives a trial to the process that asks. Any other process, such as
the job of a trial, gets at it only through the storage: without these methods no job can report
its epochs or be pruned, and no process can take over what another one left.
"""

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


def opened(path: Path) -> JournalStorage:
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


class StoredTrial:
    """A trial of a study, whichever process asked for it; KeyError if there is none."""

    def __init__(self, study: optuna.Study, storage: JournalStorage, number: int) -> None:
        study_id = storage.get_study_id_from_name(study.study_name)
        self._id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._study = study
        self._storage = storage

    def mark(self, key: str, value: object) -> None:
        """Set an attribute of the trial."""
        self._storage.set_trial_user_attr(self._id, key, value)

    def epochs(self) -> set[int]:
        """Return the epochs that have been reported."""
        return set(self._storage.get_trial(self._id).intermediate_values)

    def report(self, value: float, epoch: int) -> bool:
        """Report an epoch; return whether the study's pruner would end the trial."""
        self._storage.set_trial_intermediate_value(self._id, epoch, value)
        trial = self._storage.get_trial(self._id)
        return bool(self._study.pruner.prune(self._study, trial))  # it may be NumPy's


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
