"""The lease of a run: a sign of life for other hosts, and how these reach the run."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from gluonexp.tracking import owner
from gluonexp.tracking.store import impatient

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_PARTING_S: Final = 2.0  # that the end of a run waits for a store which does not answer
_HURRY_S: Final = 0.5  # that the end of a run waits for one if it was interrupted
_ANSWER_S: Final = 0.25  # that the end of an epoch waits for one
_GLANCE_S: Final = 5.0  # between two looks at the store because epochs end


class NoLease:
    """The lease of a run that is recorded nowhere."""

    def begin(self) -> None:
        """Begin to renew it."""

    def lead(self) -> None:
        """Let it count, from now on, for jobs too that wait for their processes."""

    def stop_wanted(self) -> str | None:
        """Return who wants the run to stop, as far as the store has told; None if nobody does."""
        return None

    def end(self, *, hurry: bool = False) -> None:
        """Renew it no more."""


class Lease(NoLease):
    """A thread that renews, every minute, the sign that this process is at work on a run.

    A run that another host took for dead meanwhile is taken back. While the store does not answer,
    nothing is said: the next minute will do.

    Parameters
    ----------
    client, run_id
        A run that belongs to this process; its lease begins now.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        # Of the system's clock: the time asleep counts.
        self._renewed = self._looked = time.time()
        self._stop: str | None = None
        self._leads = False
        self._wake, self._answered = threading.Event(), threading.Event()
        self._ended = False
        name = f"lease of {run_id}"
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def lead(self) -> None:
        """Let it count, from now on, for jobs too that wait for their processes."""
        self._leads = True
        owner.renew(self._client, self._run_id, leads=True)

    def stop_wanted(self) -> str | None:
        """Return who wants the run to stop; a store that is slow is asked the next time."""
        if time.time() - self._looked > _GLANCE_S:
            self._looked = time.time()  # one that hangs is not waited for after each epoch
            self._answered.clear()
            self._wake.set()
            self._answered.wait(_ANSWER_S)
        return self._stop

    def end(self, *, hurry: bool = False) -> None:
        """Stop the thread; what had to be taken back is, before the run is closed in no hurry."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_HURRY_S if hurry else _PARTING_S)
        overdue = time.time() - self._renewed > owner.EXPIRED_S
        if overdue and not hurry and not self._thread.is_alive():
            with impatient(retries=0, timeout_s=int(_PARTING_S)):
                self.look()

    def look(self) -> None:
        """See what others did to the run: take it back where it was buried; renew what is due."""
        try:
            tags = self._client.get_run(self._run_id).data.tags
            self._stop = self._stop or tags.get(owner.STOP)
            if owner.BURIED in tags:
                _log.warning(
                    "run %s was taken for dead (by %s) and goes on; it is RUNNING again",
                    *(self._run_id, tags[owner.BURIED]),
                )
                owner.claim(self._client, self._run_id)
            elif time.time() - self._renewed >= owner.RENEWED_S:
                owner.renew(self._client, self._run_id, self._leads)
                self._renewed = time.time()
        except Exception as error:  # whatever a store raises: no run ends for that
            _log.debug("the lease of run %s was not renewed: %s", self._run_id, error)
        self._looked = time.time()

    def _keep(self) -> None:
        while True:
            self._wake.wait(owner.RENEWED_S)
            self._wake.clear()
            if self._ended:
                return
            self.look()
            self._answered.set()
