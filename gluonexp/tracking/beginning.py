"""How a run begins: its log, its run in the store, the thread that sends the one to the other."""

from __future__ import annotations

import itertools
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking import internals, logs, owner
from gluonexp.tracking.burial import bury
from gluonexp.tracking.lease import Lease
from gluonexp.tracking.log import MODEL, NAME, Log, records, sent_as, waits
from gluonexp.tracking.places import settle
from gluonexp.tracking.replay import Replay
from gluonexp.tracking.statuses import FAILED
from gluonexp.tracking.store import Unreachable, ensure_experiment, open_store, reported
from gluonexp.tracking.tracker import LogTracker, Recorded, Tracker
from gluonexp.tracking.uri import displayed, resolve_uri
from gluonexp.tracking.values import sanitised, tag_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from gluonexp.config.schema import TrackingConfig

_log = logging.getLogger(__name__)


def begun(
    settings: TrackingConfig,
    tags: Mapping[str, str],
    folder: Path,
    exists: Callable[[], None],
    *,
    alone: bool,
) -> Tracker:
    """Return the tracker of a run that is open now, whose log is in `folder`.

    Parameters
    ----------
    exists
        Called before there is a run.
    alone
        Whether the run goes on offline if its store is down.

    Raises
    ------
    GluonexpError
        The store cannot be opened, or the log cannot be written.
    """
    offline = settings.backend == "offline" or _began_offline(folder, settings.run_id)
    uri = None if offline else resolve_uri(settings.uri)
    wanted = uri or (settings.uri and resolve_uri(settings.uri))
    client = None
    experiment_id = None
    if uri is not None:
        try:
            client = open_store(uri)
            if settings.run_id is None:
                experiment_id = ensure_experiment(client, settings.experiment, uri)
        except GluonexpError as down:
            client = None
            uri = _offline(settings, uri, down, alone)
    every = run_tags(tags)
    exists()
    folder.mkdir(parents=True, exist_ok=True)
    _set_aside(folder, settings.run_id)
    log, run_id = Log(folder / NAME), settings.run_id
    try:
        if client is not None and run_id is None:
            assert experiment_id is not None and uri is not None
            try:
                with reported(f"a run cannot be started in {displayed(uri)}"):
                    leased = every | owner.lease_tag()
                    run_id = create_run(client, experiment_id, leased, settings.run_name)
            except GluonexpError as down:
                client = None
                uri = _offline(settings, uri, down, alone)
        resumed = settings.run_id is not None
        settings = replace(settings, uri=wanted, run_id=run_id)
        return _opened(settings, every, log, client, uri, resumed=resumed)
    except BaseException as error:
        log.close()
        if client is not None and run_id is not None:  # in the log there was no room for it
            with suppress(GluonexpError):
                bury(client, run_id, str(error), FAILED)
        raise


def _began_offline(folder: Path, run_id: str | None) -> bool:
    """Say whether the log in `folder` is that of run `run_id`, which no store has by that id."""
    if run_id is None or not (folder / NAME).exists():
        return False
    try:
        log = logs.read(folder / NAME)
    except GluonexpError:
        return False
    return log.run_id == run_id and log.store is None


def _offline(settings: TrackingConfig, uri: str, down: GluonexpError, alone: bool) -> str | None:
    """Return where a run is to be sent whose store is `down` while it begins, if anywhere.

    Raises
    ------
    GluonexpError
        That error, if the run cannot go on without the store.
    """
    away = isinstance(down, Unreachable) or internals.is_away(down.__cause__)
    if not (alone and away):
        raise down
    _log.warning("%s; the run goes on offline", down)
    return None if settings.run_id is None else uri


def _opened(
    settings: TrackingConfig,
    tags: Mapping[str, str],
    log: Log,
    client: MlflowClient | None,
    uri: str | None,
    *,
    resumed: bool,
) -> Tracker:
    run_id, name, start = settings.run_id, settings.run_name, int(time.time() * 1000)
    name = None if name is None else hide(readable(name))
    known, before, experiment_id = dict(tags), _recorded(log), None
    if client is not None:
        assert uri is not None and run_id is not None
        if resumed:
            settle(uri, run_id)
        with reported(f"run {run_id} cannot be begun in {displayed(uri)}"):
            if resumed:
                owner.claim(client, run_id)
            run = client.get_run(run_id)
            if resumed and log.n == 0:  # it was recorded elsewhere
                before = _of_store(client, run)
        experiment_id, start, name = run.info.experiment_id, run.info.start_time, run.info.run_name
        passing = (owner.STOP, owner.LEASE)  # what others and its processes change meanwhile
        known = {key: text for key, text in run.data.tags.items() if key not in passing}
        known |= tags
    elif name is None and log.n == 0:
        with _unseeded():
            name = internals.random_name()
    own = run_id or uuid.uuid4().hex
    meant = uri or settings.uri
    log.append(
        "open",
        run=own,
        store=meant and {"uri": displayed(meant), "run_id": None if uri is None else own},
        experiment=settings.experiment,
        name=name,
        tags=known,
        start=start,
    )

    def replay() -> Replay:
        assert uri is not None
        after = sent_as(log.file, uri, own)
        return Replay(log.file, client or open_store(uri), own, after=after)

    tracker = LogTracker(
        log,
        own,
        uri=uri,
        experiment_id=experiment_id,
        before=before,
        replay=None if uri is None else replay,
    )
    tracker.name = name
    if client is not None:
        tracker.lease = Lease(client, own)
    return tracker


def _recorded(log: Log) -> Recorded:
    """Return what a log has already."""
    params: dict[str, str] = {}
    points: dict[tuple[str, int], float] = {}
    diverged = False
    for record in records(log.file):
        if record["kind"] == "params":
            params |= record["values"]
        elif record["kind"] == "metrics":
            points |= {(key, step): float(value) for key, value, _, step in record["points"]}
        elif record["kind"] == "tags":
            diverged = diverged or "diverged" in record["values"]
    return Recorded(params, points, diverged)


def _of_store(client: MlflowClient, run: Run) -> Recorded:
    """Return what a store has of a run."""
    points = {
        (key, point.step): float(point.value)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    }
    return Recorded(run.data.params, points, "diverged" in run.data.tags)


def _set_aside(folder: Path, run_id: str | None) -> None:
    """Make room for the log of run `run_id`, None for a new one.

    Its own is continued. Another run's goes, but for one that is not sent yet: that is set aside
    with the files it names.
    """
    file = folder / NAME
    if not file.exists():
        return
    Log(file).close()  # nobody writes it, and its end is whole
    owner = next((record["run"] for record in records(file) if record["kind"] == "open"), None)
    if owner is not None and owner == run_id:
        return
    notes = file.with_suffix(".sent")
    if not waits(file):
        file.unlink()
        notes.unlink(missing_ok=True)
        return
    ends = itertools.chain([""], (f"-{count}" for count in itertools.count(2)))
    names = (f"run-{str(owner)[:8]}{end}" for end in ends)
    aside = next(path for path in map(folder.joinpath, names) if not path.exists())
    aside.mkdir()
    kept = [*folder.glob("kept-*"), folder / "artifacts", folder / MODEL, notes, file]
    for path in kept:
        with suppress(FileNotFoundError):
            path.rename(aside / path.name)
    _log.warning("run %s is not sent yet: its log and files are in %s now", owner, aside)


def create_run(
    client: MlflowClient, experiment_id: str, tags: Mapping[str, str], name: str | None
) -> str:
    """Return the id of a new run; a name MLflow makes up must not follow from the run's seed."""
    known = None if name is None else hide(readable(name))
    with _unseeded():
        run = client.create_run(experiment_id, tags=dict(tags), run_name=known)
    return str(run.info.run_id)


@contextmanager
def _unseeded() -> Iterator[None]:
    seeded = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(seeded)


def run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return `tags` with those of this process: user, source, git commit, host and process id."""
    # Without git on the PATH, GitPython and MLflow warn about it three times.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    resolved = internals.context_tags({**owner.own_tags(), **tags})
    return {sanitised(key): tag_text(value) for key, value in resolved.items()}
