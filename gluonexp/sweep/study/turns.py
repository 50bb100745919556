"""Whose turn it is to choose a point of a study, and which process is still at work on one."""

from __future__ import annotations

import logging
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final

from gluonexp.base import files
from gluonexp.base.processes import is_alive, this_boot, this_process
from gluonexp.sweep.study.place import Place
from gluonexp.sweep.study.storage import locked, quiet
from gluonexp.tracking.owner import EXPIRED_S, LEASE, PATIENCE_S, RENEWED_S, lease_tag, silence

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.02
_OWNER: Final = "owner"


def own() -> dict[str, str]:
    """Return what names this process to others that work on the study."""
    return {"host": platform.node(), "boot": this_boot(), "process": this_process()}


def alive(owner: Mapping[str, str]) -> bool | None:
    """Say whether a process is alive that `own` named; None if it is not of this host."""
    return is_alive(owner["host"], owner.get("boot", ""), owner["process"])


def turn_of(
    place: Place, storage: BaseStorage, name: str
) -> Callable[[], AbstractContextManager[object]]:
    """Return what gives the lock of study `name`, which one process of all hosts has at a time."""
    from optuna.storages import RDBStorage

    if place.file is not None:  # the kernel releases it with the process
        lock = files.lock(place.file.with_name(f"{place.file.name}.ask"))
        return lambda: lock
    if isinstance(storage, RDBStorage) and storage.engine.dialect.name == "postgresql":
        return partial(locked, storage.engine, f"study {name}")
    turns = Turns(storage, name)
    return lambda: turns


class Turns(AbstractContextManager[object]):
    """A lock where hosts have nothing in common but Optuna's storage: through its proxy, in MySQL.

    Whoever wants it adds a trial to a study of its own, ``NAME.turns``: Optuna numbers them one
    after the other, and the lowest that has not ended has its turn. One whose process is dead is
    ended by the next; one of another host that stays for three minutes, too.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        import optuna

        with quiet():
            self._study = optuna.create_study(
                storage=storage, study_name=f"{name}.turns", load_if_exists=True
            )
        self._mine: int | None = None

    def __enter__(self) -> None:
        import optuna
        from optuna.trial import TrialState

        ticket = uuid.uuid4().hex
        new = optuna.create_trial(
            state=TrialState.RUNNING, user_attrs={"ticket": ticket, _OWNER: own()}
        )
        before, since = -1, time.monotonic()
        while True:
            waiting = self._waiting()
            if all(one.user_attrs["ticket"] != ticket for one in waiting):
                self._study.add_trial(new)
                continue
            first = waiting[0]
            if first.user_attrs["ticket"] == ticket:
                self._mine = first.number
                return
            if first.number != before:
                before, since = first.number, time.monotonic()
            if alive(first.user_attrs[_OWNER]) is False or time.monotonic() - since > EXPIRED_S:
                self._end(first.number)
            else:
                time.sleep(_POLL_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._mine is not None
        self._end(self._mine)
        self._mine = None

    def _waiting(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _end(self, number: int) -> None:
        from optuna.trial import TrialState

        with quiet():
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


class Presence:
    """The sign of life of this process for other hosts, which it gives every minute in a thread.

    A study in a file is of one host, whose processes see each other: it needs none.
    """

    def __init__(self, place: Place, study: optuna.Study) -> None:
        self._study = study
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)
        if place.file is None:
            self._renew()
            self._thread.start()

    def lost(self, owner: Mapping[str, str]) -> bool:
        """Say whether a process that `own` named counts as dead.

        One of another host does after half an hour without a sign of life.
        """
        if (lives := alive(owner)) is not None:
            return not lives
        silent = silence({LEASE: self._study.user_attrs.get(_key(owner), "")})
        return silent is not None and silent > PATIENCE_S

    def end(self) -> None:
        """Give no more signs of life."""
        self._ended.set()

    def _renew(self) -> None:
        self._study.set_user_attr(_key(own()), lease_tag()[LEASE])

    def _keep(self) -> None:
        while not self._ended.wait(RENEWED_S):
            try:
                self._renew()
            except Exception as error:  # whatever a database raises: the next minute will do
                _log.debug("no sign of life in study %s: %s", self._study.study_name, error)


def _key(owner: Mapping[str, str]) -> str:
    return f"lease of {owner['process']} on {owner['host']}"
