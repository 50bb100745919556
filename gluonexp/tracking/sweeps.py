"""A sweep in the store: a parent run, and a child run for every attempt at one of its points.

The sweep makes a child before its job starts, so that whatever becomes of the job (it never got as
far as a run, its process was killed) has a run that says so.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import yaml
from filelock import FileLock

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import lock
from gluonexp.base.secrets import hidden_words
from gluonexp.tracking import owner
from gluonexp.tracking.artifacts import of_run
from gluonexp.tracking.beginning import create_run, run_tags
from gluonexp.tracking.burial import bury
from gluonexp.tracking.logged_models import logged_model
from gluonexp.tracking.patience import Patience
from gluonexp.tracking.places import Move, here
from gluonexp.tracking.read.records import JOB, POINT, Query
from gluonexp.tracking.read.runs import PARENT, RunRecord, reader
from gluonexp.tracking.registry import Registered, register
from gluonexp.tracking.statuses import FAILED, RUNNING, Ending
from gluonexp.tracking.store import KIND, reported
from gluonexp.tracking.tracker import Tracker
from gluonexp.tracking.uri import sqlite_path
from gluonexp.tracking.values import MAX_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gluonexp.config.schema import ObjectiveConfig

# The tag of a parent: a run with children, and without a model.
SWEEP = {KIND: "sweep"}
BEST = "gluonexp.sweep.best"  # tag of the parent: the best child's id
METRIC, MODE = "gluonexp.sweep.metric", "gluonexp.sweep.mode"  # its objective
_VARIED, _BEGUN = "gluonexp.sweep.varied", "gluonexp.sweep.jobs"  # how many there have been
_GONE = "sweep.take_over="  # of an earlier version: leases tell now
_ARGUMENTS, _HOME = "gluonexp.sweep.arguments", "gluonexp.sweep.store"


@dataclass(frozen=True)
class Attempt:
    """A child run: one attempt at a point of a sweep."""

    record: RunRecord

    @property
    def run_id(self) -> str:
        """The id of the child."""
        return self.record.run_id

    @property
    def status(self) -> str:
        """FINISHED, PRUNED, FAILED, KILLED or RUNNING."""
        return self.record.status

    @property
    def job(self) -> int:
        """Its number in the sweep; attempts count on when a sweep is resumed."""
        return int(self.record.tags.get(JOB, -1))

    @property
    def point(self) -> str:
        """Digest of the configuration."""
        return self.record.tags.get(POINT, "")

    @property
    def varied(self) -> dict[str, str]:
        """What the point chose, by override key."""
        try:
            varied = json.loads(self._tag(_VARIED) or "{}")
        except ValueError:  # too long for a tag, so cut
            return {}
        return {key: str(value) for key, value in varied.items()}

    @property
    def error(self) -> str | None:
        """Why it failed, in one line."""
        return self._tag("error")

    @property
    def code(self) -> str | None:
        """Digest of the source it ran on; None if it ended before that was recorded."""
        return self._tag("gluonexp.code")

    @property
    def data(self) -> str | None:
        """Digest of the data it ran on; None if it ended before that was recorded."""
        return self.record.params.get("data.digest")

    @property
    def folder(self) -> Path | None:
        """The job's folder; None if it ended before that was recorded."""
        folder = self.record.workdir
        return Path(folder) if folder else None

    @property
    def host(self) -> str | None:
        """The host that ran it, if that is another one than this."""
        host = self._tag(owner.HOST)
        return None if host == owner.own_tags()[owner.HOST] else host

    @property
    def told(self) -> str | None:
        """Why it failed and, if that was on another host, on which."""
        return f"{self.error} (on {self.host})" if self.error and self.host else self.error

    @property
    def where(self) -> str:
        """Which process is, or was, at work on it."""
        return owner.name(self.record.tags)

    def _tag(self, name: str) -> str | None:
        return self.record.tags.get(name)


_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def _patient(
    request: Callable[Concatenate[SweepRun, _Given], _Answer],
) -> Callable[Concatenate[SweepRun, _Given], _Answer]:
    """Let a method wait for a store that is away."""

    @functools.wraps(request)
    def waiting(run: SweepRun, /, *given: _Given.args, **named: _Given.kwargs) -> _Answer:
        return run.patience.ask(lambda: request(run, *given, **named))

    return waiting


class SweepRun:
    """The parent run, open, and its children.

    A store that is away is waited for, by all methods.

    Parameters
    ----------
    client
        Of the store.
    run_id, tracker
        Of the parent run.
    patience
        With a store that is away; None: as long as usual, but not with one in a file.

    Attributes
    ----------
    answered
        Whether people have been told how the sweep ended.
    """

    answered = False

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        tracker: Tracker,
        patience: Patience | None = None,
    ) -> None:
        self.client, self.run_id, self.tracker = client, run_id, tracker
        self.experiment_id = str(tracker.experiment_id)
        self._reader = reader(client.tracking_uri)
        self.patience = patience or Patience()
        if sqlite_path(client.tracking_uri) is not None:
            self.patience.end()

    @_patient
    def lead(self) -> None:
        """Let others know that this process is at work on the sweep; see `lease`."""
        with reported(f"sweep {self.run_id} cannot be led"):
            self.tracker.lease.lead()

    @_patient
    def attempts(self, point: str | None = None, status: str | None = None) -> list[Attempt]:
        """Return the attempts there have been, by number.

        Parameters
        ----------
        point, status
            Only those at the point of this digest, and of this status: of a thousand attempts a
            server sends 12 MB, so nobody asks for all of them once for each point.
        """
        tags = {PARENT: self.run_id} if point is None else {PARENT: self.run_id, POINT: point}
        query = Query(tags=tags, status=status, experiment_id=self.experiment_id)
        return sorted(map(Attempt, self._reader.select(query)), key=lambda one: one.job)

    @_patient
    def next_job(self) -> int:
        """Return the number of an attempt that is about to begin; it is given once.

        Only for the process that holds `lock`.
        """
        with reported(f"sweep {self.run_id} cannot be read"):
            begun = self.client.get_run(self.run_id).data.tags.get(_BEGUN)
            if begun is None:  # the first, or a sweep of an earlier version
                begun = str(max((one.job for one in self.attempts()), default=-1) + 1)
            self.client.set_tag(self.run_id, _BEGUN, str(int(begun) + 1))
        return int(begun)

    @_patient
    def elsewhere(self, attempt: Attempt) -> bool:
        """Say whether another process may still be at work on an attempt.

        One on another host may be until half an hour after its lease was last renewed: its own or,
        before the job has begun, that of the process which leads the sweep.
        """
        tags = attempt.record.tags
        if attempt.status != RUNNING or owner.is_ours(tags):
            return False
        if owner.LEASE not in tags:
            with reported(f"sweep {self.run_id} cannot be read"):
                tags = owner.of_waiting(tags, self.client.get_run(self.run_id).data.tags)
        return not owner.may_be_dead(tags)

    def begin(self, job: int, point: str, varied: Mapping[str, str], name: str) -> str:
        """Return the id of a new child, for a job that is about to start.

        `job` is a number that `next_job` gave, by which a child is found again of which the store
        could not tell that it made it.
        """
        tags = {
            PARENT: self.run_id,
            JOB: str(job),
            POINT: point,
            _VARIED: json.dumps(dict(varied)),
        }
        tried = False

        def make() -> str:
            nonlocal tried
            if tried:
                for one in self.attempts(point=point):
                    if one.job == job:
                        return one.run_id
            tried = True
            with reported(f"a child of sweep {self.run_id} cannot be made"):
                return create_run(self.client, self.experiment_id, run_tags(tags), name)

        return self.patience.ask(make)

    @_patient
    def end(self, run_id: str, ending: Ending, folder: Path | None = None) -> None:
        """End a child whose job did not end it itself; what it recorded stays.

        Where its log, on this machine, has its end, it ends so; else the reason is entered
        wherever there is none.

        Parameters
        ----------
        folder
            Where the job's log is if the store was never told.
        """
        bury(self.client, run_id, ending.reason, ending.status, ending.trace, folder)

    @_patient
    def fail(self, run_id: str, reason: str) -> None:
        """Let a child be FAILED that has ended well, as far as it could know."""
        with reported(f"run {run_id} cannot be marked FAILED"):
            self.client.set_tag(run_id, "error", reason)
            self.client.update_run(run_id, status=FAILED)

    @_patient
    def has(self, run_id: str, path: str) -> bool:
        """Tell whether a child keeps a file `path`."""
        return of_run(self.client, run_id).has(path)

    @_patient
    def read(self, run_id: str) -> Attempt:
        """Return one child, as it is recorded now."""
        query = Query(ids=[run_id], experiment_id=self.experiment_id)
        return Attempt(*(self._reader.select(query) or self._reader.fetch([run_id])))

    @_patient
    def curves(self, run_ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return `metric` by epoch for each of these children."""
        return self._reader.curves(run_ids, metric)

    def lock(self) -> FileLock:
        """Return the lock for what only one process of this host may do at a time."""
        uri: str = self.client.tracking_uri
        database = sqlite_path(uri)
        return lock(f"sweeps {uri}" if database is None else Path(f"{database}.sweeps"))

    @_patient
    def overrides(self, run_id: str) -> list[str]:
        """Return the overrides that a child was run with."""
        text = of_run(self.client, run_id).text("config/overrides.yaml")
        return [str(word) for word in yaml.safe_load(text)]

    @_patient
    def local(self, path: str) -> Path | None:
        """Return the file of an artifact of the parent, if it lies on this machine."""
        file = of_run(self.client, self.run_id).local(path)
        return file if file is not None and file.is_file() else None

    @_patient
    def register(
        self, name: str, run_id: str, value: float | None, goal: ObjectiveConfig, description: str
    ) -> Registered:
        """Register the model of child `run_id` as a version of `name`; see `registry.register`."""
        model = logged_model(self.client, run_id)
        with reported(f"run {run_id} cannot be read"):
            # A run may have been told to log no model (or is an old one): then its export is one.
            files = self.client.get_run(run_id).info.artifact_uri
        folder = f"{here(files, self.client.tracking_uri)}/export"
        source = folder if model is None else model.model_uri
        return register(self.client, run_id, name, source, value, goal, description)


def argument_tags(arguments: Sequence[str], uri: str) -> dict[str, str]:
    """Return the tags that keep what a sweep was started with; secrets are hidden.

    Parameters
    ----------
    uri
        Of its store: where a SQLite store lies is kept, too, so that paths can be found again.
    """
    kept = [word for word in arguments if not word.startswith("tracking.uri=")]
    text = json.dumps(hidden_words(kept))
    parts = [text[start : start + MAX_TAG] for start in range(0, len(text), MAX_TAG)]
    tags = {f"{_ARGUMENTS}.{index}": part for index, part in enumerate(parts)}
    database = sqlite_path(uri)
    return tags if database is None else {**tags, _HOME: str(database.parent)}


def arguments_of(parent: RunRecord, uri: str) -> list[str]:
    """Return the overrides that a sweep in the store at `uri` was started with.

    Where its store was moved, Hydra's own name files at their new places: the study's, the
    configurations of the user.

    Raises
    ------
    GluonexpError
        It does not say.
    """
    parts = itertools.takewhile(
        lambda part: part is not None,
        (parent.tags.get(f"{_ARGUMENTS}.{index}") for index in itertools.count()),
    )
    move, database = parent.move, sqlite_path(uri)
    if database is not None and _HOME in parent.tags:
        move = Move(Path(parent.tags[_HOME]), database.parent)
    try:
        # What follows is of an earlier, longer list of arguments.
        words, _ = json.JSONDecoder().raw_decode("".join(map(str, parts)))
        return [_followed(str(word), move) for word in words if not str(word).startswith(_GONE)]
    except ValueError:
        raise GluonexpError(
            f"sweep {parent.run_id} does not say what it was started with; start another one"
        ) from None


def _followed(word: str, move: Move | None) -> str:
    """Return an override with the paths in it that were moved together with the store."""
    word = word.replace("hydra.sweeper.journal=", "hydra.sweeper.storage=")  # its former name
    if move is None or not word.startswith("hydra."):
        return word
    # A path as `quoted` writes it, or one of a list of addresses.
    return re.sub(r"((?<=file://)|(?<=[=']))/[^,'\]]+", lambda path: move.follow(path[0]), word)
