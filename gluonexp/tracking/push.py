"""Sends the logs of runs to a store: what was recorded offline, or while the store was away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import held, lock
from gluonexp.base.secrets import HIDDEN
from gluonexp.base.text import say
from gluonexp.tracking import owner
from gluonexp.tracking.burial import bury
from gluonexp.tracking.log import NAME, in_use, note_sent, sent, sent_as, waits
from gluonexp.tracking.logs import Logged, below, read
from gluonexp.tracking.places import settle
from gluonexp.tracking.read.records import OWN_ID, PARENT
from gluonexp.tracking.replay import Replay
from gluonexp.tracking.statuses import RUNNING
from gluonexp.tracking.store import ensure_experiment, experiments, open_store, reported
from gluonexp.tracking.succession import Newer, has_gone_on
from gluonexp.tracking.uri import deleted, displayed, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Pushed:
    """What became of one log.

    Attributes
    ----------
    log
        Whose.
    uri, run_id
        The store, and the run there; None for a run that a rehearsal would make.
    before, last
        The numbers of the last record that the store had before, and has now (or would have).
    missing
        Which recorded files were not found, so not sent, in a sentence; None if all were.
    newer
        How the run stands that another process has gone on with; None where none has.
    """

    log: Logged
    uri: str
    run_id: str | None
    before: int
    last: int
    missing: str | None = None
    newer: str | None = None


class Store:
    """A store that logs are sent to.

    Parameters
    ----------
    uri
        Made if it is a SQLite store that does not exist.
    known
        Logs that may be sent on the way: those of the parents.

    Raises
    ------
    GluonexpError
        It cannot be opened.
    """

    def __init__(
        self, uri: str, known: Sequence[Logged], say: Callable[[str], None] = say
    ) -> None:
        self.uri = resolve_uri(uri)
        self._client: MlflowClient = open_store(self.uri)
        self._known = {log.run_id: log for log in known}
        self._say = say

    def push(self, log: Logged, *, rehearse: bool = False) -> Pushed:
        """Send what the store does not have of a log, and of that of its parent before.

        It is made there under another id, which its tag ``gluonexp.run`` maps to its own. Cut off,
        the same call goes on; a run whose process was killed is ended there as KILLED. One that
        another process has gone on with is given what it lacks, and stays as it ended since.

        Parameters
        ----------
        rehearse
            Only look.

        Raises
        ------
        GluonexpError
            The log is being written or is damaged, or the store does not take it.
        """
        if in_use(log.file):
            raise GluonexpError(
                f"run {log.run_id[:8]} is still being recorded, and sends its log itself; stop it "
                "first, or wait for its end"
            )
        last = log.records[-1]["n"]
        if rehearse:
            run = self._find(log)
            run_id = None if run is None else run.info.run_id
            newer = _newer(run, log)
            return Pushed(log, self.uri, run_id, self._before(log, run), last, newer=newer)
        with held(lock(f"push {log.file.resolve()}"), f"sends {log.file}"):
            found = self._find(log)
            run, newer = found or self._make(log), _newer(found, log)
            run_id = run.info.run_id
            before = self._before(log, run)
            if found is not None and before < last:
                settle(self.uri, run_id)
            replay = Replay(
                log.file,
                self._client,
                run_id,
                after=before,
                say=self._say,
                newer=Newer(self._client, run_id) if newer and before < last else None,
            )
            try:
                last = replay.send()
            finally:
                if replay.sent > before:
                    note_sent(log.file, self.uri, run_id, replay.sent)
            if not (log.ended or newer):
                self._bury(run_id)
            return Pushed(log, self.uri, run_id, before, last, replay.missing(), newer)

    def _bury(self, run_id: str) -> None:
        with reported(f"run {run_id} cannot be read in {displayed(self.uri)}"):
            run = self._client.get_run(run_id)
        if run.info.status == RUNNING and owner.alive(run.data.tags) is not True:
            bury(self._client, run_id, "its process ended without an end of its log")

    def _find(self, log: Logged) -> Run | None:
        """Return the run that a log was sent to before; None if there is none."""
        noted = sent(log.file, self.uri)
        return self._run(log.run_id, None if noted is None else noted[0])

    def _run(self, own_id: str, run_id: str | None = None) -> Run | None:
        """Return the run with an own id, which may be known to have `run_id` here."""
        from mlflow.exceptions import MlflowException

        with reported(f"run {own_id} cannot be looked up in {displayed(self.uri)}"):
            for one in dict.fromkeys((run_id or own_id, own_id)):
                try:
                    run = self._client.get_run(one)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    continue
                if run.info.lifecycle_stage != "active":
                    gone = deleted(one, self.uri)
                    raise GluonexpError(f"{gone}, or name another store with --to")
                return run
            found = self._client.search_runs(
                list(experiments(self._client)), f"tags.`{OWN_ID}` = '{own_id}'", max_results=1
            )
        return found[0] if found else None

    def _make(self, log: Logged) -> Run:
        tags = {**log.tags, OWN_ID: log.run_id}
        if log.parent is not None:
            del tags[PARENT]
            if (parent := self._parent(log.parent)) is not None:
                tags[PARENT] = parent
            else:
                self._say(
                    f"run {log.run_id[:8]} is no child there: the log of its sweep "
                    f"{log.parent[:8]} is not on this machine, nor is it in {displayed(self.uri)}"
                )
        experiment_id = ensure_experiment(self._client, log.experiment, self.uri)
        with reported(f"run {log.run_id} cannot be made in {displayed(self.uri)}"):
            return self._client.create_run(
                experiment_id, start_time=log.start, tags=tags, run_name=log.name
            )

    def _parent(self, own_id: str) -> str | None:
        """Return the id that a parent has here; if it has none yet, its log is sent."""
        run = self._run(own_id)
        if run is None and own_id in self._known:
            return self.push(self._known[own_id]).run_id
        return None if run is None else str(run.info.run_id)

    def _before(self, log: Logged, run: Run | None) -> int:
        """Return up to which record the run of a log has it, as far as that was noted."""
        return 0 if run is None else sent_as(log.file, self.uri, run.info.run_id)


def rest(folder: Path, uri: str | None) -> Pushed | None:
    """Send what the store at `uri` lacks of the run that ended in the folder of a job.

    None if that is not such a run, or there is nothing to be sent.

    Raises
    ------
    GluonexpError
        The log is damaged, or the store does not take it.
    """
    file, store = folder / NAME, resolve_uri(uri)
    if not file.is_file() or in_use(file) or not waits(file):
        return None
    log = read(file)
    if not log.ended or log.store is None or log.store[0] != displayed(store):
        return None
    return Store(store, [log]).push(log)


def target(log: Logged, to: str | None, default: str | None) -> str:
    """Return the store to which a log is sent: `to`, or the one it is meant for, or `default`.

    Raises
    ------
    GluonexpError
        It is meant for one whose address holds a password, which no log records.
    """
    if to is not None or log.wanted is None:
        return resolve_uri(to or default)
    if HIDDEN not in log.wanted:
        return log.wanted
    if displayed(resolve_uri(default)) != log.wanted:
        raise GluonexpError(f"it is meant for {log.wanted}: name that with --to, password and all")
    return resolve_uri(default)


def every(uri: str | None, refuse: Callable[[str], None] = say) -> list[Logged]:
    """Return all logs on this machine that belong to a store, parents before their children."""
    logs = below(uri, refuse)
    return sorted(logs, key=lambda log: log.parent is not None)


def sentence(done: Pushed, *, rehearsed: bool = False) -> str:
    """Say what was sent, or would be."""
    name = f" ({done.log.name})" if done.log.name else ""
    there = f"run {done.run_id[:8]}" if done.run_id else "a new run"
    title, where = f"run {done.log.run_id[:8]}{name}", f"{there} of {displayed(done.uri)}"
    count = done.last - done.before
    if not count:
        return f"{title}: {where} has all of it"
    verb = "would send" if rehearsed else "sent"
    told = f"{title}: {verb} {count} of {done.last} records to {where}"
    if done.newer is None:
        return told
    return f"{told}; that has gone on since ({done.newer}), so how this log ends is left out"


def _newer(run: Run | None, log: Logged) -> str | None:
    """Say how a run stands that has gone on since a log; None if it has not."""
    if run is None or not has_gone_on(run, log):
        return None
    return f"{owner.name(run.data.tags)}: {run.info.status}"
