"""Where a run records its parameters, metrics and files: in a log of its own, or nowhere."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, SupportsFloat

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import link_or_copy, sha256, sync
from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking.lease import NoLease
from gluonexp.tracking.log import MODEL, Log, note_sent
from gluonexp.tracking.logs import push_command
from gluonexp.tracking.read.records import SYSTEM
from gluonexp.tracking.registry import Registered
from gluonexp.tracking.replay import Replay
from gluonexp.tracking.sender import Sender
from gluonexp.tracking.uri import displayed, run_link
from gluonexp.tracking.values import flatten, number, one_line, sanitised, tag_text

if TYPE_CHECKING:
    from gluonexp.config.schema import ObjectiveConfig

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

# How long the end of a run waits for a store that takes nothing, seconds.
_PATIENCE_S: Final = 30.0
_HURRY_S: Final = 2.5


@dataclass(frozen=True)
class UsedData:
    """Data that a run uses.

    Attributes
    ----------
    name, digest
        MLflow keeps one input for each pair; the digest is of all samples, and of it the first 36
        characters count.
    context
        For what: ``training``, ``validation``, ``testing``.
    source
        An address, a path or a name.
    rows
        The number of samples.
    shape
        That of one image, (H, W, C).
    """

    name: str
    digest: str
    context: str
    source: str
    rows: int
    shape: tuple[int, ...]
    classes: Sequence[str]


@dataclass(frozen=True)
class Recorded:
    """What a run that goes on has recorded until then.

    Attributes
    ----------
    params, diverged
        Its parameters; whether a number was not finite.
    points
        The value of each metric and step.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[tuple[str, int], float] = field(default_factory=dict)
    diverged: bool = False


class Tracker:
    """Where a run's parameters, metrics and files go; this one records nothing.

    Attributes
    ----------
    run_id, experiment_id, name
        None where nothing is recorded.
    status
        ``RUNNING``, then how the run ended.
    lease
        Of the run; it knows whether somebody wants it to stop.
    before
        What it had recorded until it went on.
    """

    before = Recorded()
    lease: NoLease = NoLease()
    run_id: str | None = None
    experiment_id: str | None = None
    name: str | None = None
    status: Status = "RUNNING"

    @property
    def registered(self) -> Registered | None:
        """The version of a registered model that it was given; known once it is closed."""
        return None

    @property
    def sent(self) -> bool:
        """Whether a store has all of it; known once it is closed."""
        return False

    def unsent(self) -> str | None:
        """Say what of the run is not sent yet; None if there is nothing."""
        return None

    @property
    def link(self) -> str | None:
        """Address of the run's page on a server; None for a local store or none."""
        return None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record `params`, nested or flat; one that was recorded before is not changed."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Record numbers at `step`; what is not finite becomes NaN."""

    def log_dataset(self, data: UsedData) -> None:
        """Record which data is used, and for what."""

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> None:
        """Keep all files under `folder`, below `artifact_path` in the run."""

    def log_model(self, folder: Path, *, step: int) -> None:
        """Keep the finished MLflow model in `folder`.

        What the run measured at `step` becomes the model's.
        """

    def register(
        self, name: str, value: float | None, goal: ObjectiveConfig, description: str = ""
    ) -> None:
        """Register the model that was kept last as a version of `name`; see `registry`.

        `value` is that of the metric which `goal` names; the description is Markdown.
        """

    def flush(self) -> None:
        """Let what was recorded be safe on the disk, and be sent from there."""

    def leave(self) -> None:
        """End recording and leave the run open: another process closes it."""

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """End the run as `status`, with the traceback of `error`; a second call does nothing."""
        if self.status == "RUNNING":
            self.status = status


class LogTracker(Tracker):
    """Records into a run's own log, which a thread sends to a store meanwhile.

    Parameters
    ----------
    log
        In the job's folder; below that the files lie that are recorded.
    run_id
        The run's own id: MLflow's, if it has been made in a store.
    uri, experiment_id
        Of that store; None if the run is offline.
    before
        What the run has recorded, if it is resumed.
    replay
        Opens the store, to send the log there; None if it is not sent.

    Attributes
    ----------
    flush_count
        Once so many points are waiting they are sent.
    """

    flush_count = 200  # one request with 200 costs a tenth of 200 single ones

    def __init__(
        self,
        log: Log,
        run_id: str,
        *,
        uri: str | None = None,
        experiment_id: str | None = None,
        before: Recorded | None = None,
        replay: Callable[[], Replay] | None = None,
    ) -> None:
        self.run_id: str = run_id
        self.experiment_id = experiment_id
        self._log, self._folder, self._uri = log, log.file.parent, uri
        self.before = before or Recorded()
        self._params = dict(self.before.params)
        self._diverged, self._closed, self._points = self.before.diverged, False, 0
        self._waiting_name: str | None = None  # of a registration
        self._digests: dict[tuple[int, int, int], str] = {}
        self._sender = None if replay is None else Sender(replay)

    @property
    def link(self) -> str | None:
        """Address of the run's page; None for a store that is no server."""
        if self._uri is None or self.experiment_id is None or not self._uri.startswith("http"):
            return None
        return run_link(self._uri, self.experiment_id, self.run_id)

    @property
    def sent(self) -> bool:
        """Whether a store has all of it; known once the run is closed."""
        replay = None if self._sender is None else self._sender.replay
        return replay is not None and replay.sent >= self._log.n

    @property
    def registered(self) -> Registered | None:
        """The version that was registered; known once the run is closed."""
        replay = None if self._sender is None else self._sender.replay
        return None if replay is None else replay.registered

    def unsent(self) -> str | None:
        """Say what is not sent yet, where it lies, and what sends it; None where all is sent."""
        if self.sent:
            return None
        sends = f"`{push_command(self._log.file, self.run_id)}` sends it"
        if self._waiting_name is not None:
            sends += f", and registers its model as {self._waiting_name}"
        if self._sender is None:
            return f"run {self.run_id} is offline: all of it lies in {self._folder}; {sends}"
        done = 0 if self._sender.replay is None else self._sender.replay.sent
        return (
            f"run {self.run_id}: {self._log.n - done} of {self._log.n} records are not in "
            f"{displayed(str(self._uri))} ({self._sender.failure}); all of it lies in "
            f"{self._folder}; {sends}"
        )

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record `params`; one that has another value already gets a tag ``param_drift.<key>``."""
        new: dict[str, str] = {}
        drifted: dict[str, str] = {}
        for name, value in flatten(params).items():
            key = sanitised(name)
            known = self._params.get(key, new.setdefault(key, value))
            if known != value:  # MLflow never changes a parameter; it would refuse the batch
                drifted[f"param_drift.{key}"] = f"{known} -> {value}"
        fresh = {key: value for key, value in new.items() if key not in self._params}
        if fresh:
            self._append("params", values=fresh)
        self._params |= fresh
        self.log_tags(drifted)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        if tags:
            values = {sanitised(key): tag_text(value) for key, value in tags.items()}
            self._append("tags", values=values)

    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Record numbers at `step`; the first that is not finite sets the tag ``diverged``."""
        now_ms = int(time.time() * 1000)
        points: list[tuple[str, float | str, int, int]] = []
        for name, value in metrics.items():
            key, finite = sanitised(name), number(value)
            if self._again(key, finite, step):
                continue
            if math.isnan(finite) and not self._diverged:
                self._diverged = True
                self.log_tags({"diverged": "true", "diverged.first": f"{key} at step {step}"})
            points.append((key, "NaN" if math.isnan(finite) else finite, now_ms, step))
        if points:
            self._log.append("metrics", points=points)
            self._points += len(points)
        if self._points >= self.flush_count:
            self._send()

    def _again(self, key: str, value: float, step: int) -> bool:
        """Tell whether a point was recorded before the run was cut off; a time stays the first."""
        before = self.before.points.get((key, step))
        if before is None:
            return False
        same = before == value or (math.isnan(before) and math.isnan(value))
        return same or key.startswith(("time/", SYSTEM))

    def log_dataset(self, data: UsedData) -> None:
        """Record a data set as an input of the run, with our digest of all its samples."""
        self._append("dataset", **asdict(replace(data, source=hide(data.source))))

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> None:
        """Keep all files under `folder`; what lies elsewhere is copied into the job's folder."""
        if not folder.is_dir():
            raise GluonexpError(f"{folder} is no folder, so it cannot be kept in the run")
        name = self._below(folder, f"kept-{self._log.n + 1}")
        sync(self._folder / name)  # before the log says that they are there
        self._append("artifacts", path=artifact_path, folder=name, files=self._listed(name))
        self._log.sync()

    def log_model(self, folder: Path, *, step: int) -> None:
        """Keep the model in `folder`, of which links are made in the job's folder."""
        shutil.rmtree(self._folder / MODEL, ignore_errors=True)
        shutil.copytree(folder, self._folder / MODEL, copy_function=link_or_copy)
        sync(self._folder / MODEL)
        self._append("model", folder=MODEL, step=step, files=self._listed(MODEL))

    def register(
        self, name: str, value: float | None, goal: ObjectiveConfig, description: str = ""
    ) -> None:
        """Register the model; the champion is the best by the metric of `goal`."""
        known = None if value is None else number(value)
        told = "NaN" if known is not None and math.isnan(known) else known
        said = {"description": description} if description else {}
        self._append("register", name=name, goal=asdict(goal), value=told, **said)
        self._waiting_name = name

    def flush(self) -> None:
        """Let what was recorded be safe on the disk, and be sent from there."""
        self._log.sync()
        self._send()

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """End the run, and send what is left; a store that takes it no more raises nothing.

        Raises
        ------
        GluonexpError
            The log itself cannot be written.
        """
        if self._closed:
            return
        try:
            trace = None
            if error is not None:
                # What is meant for users says all by itself.
                name = "" if isinstance(error, GluonexpError) else f"{type(error).__name__}: "
                self.log_tags({"error": one_line(f"{name}{error}", 500)})
                trace = hide(readable("".join(traceback.format_exception(error))))
            end = int(time.time() * 1000)
            self._log.append("status", status=status, end=end, error=trace)
            self._log.sync()
            self.status = status
        finally:
            self._finish(_HURRY_S if status == "KILLED" else _PATIENCE_S)

    def leave(self) -> None:
        """Send what is waiting and leave the run open: another process closes it."""
        if not self._closed:
            self._finish(_PATIENCE_S)

    def _finish(self, patience_s: float) -> None:
        self._closed = True
        if self._sender is not None:
            self._sender.finish(patience_s)
            replay = self._sender.replay
            if replay is not None and replay.sent:
                with suppress(OSError):
                    note_sent(self._log.file, str(self._uri), self.run_id, replay.sent)
        self._log.close()

    def _append(self, kind: str, **fields: object) -> None:
        self._log.append(kind, **fields)
        self._send()

    def _send(self) -> None:
        self._points = 0
        if self._sender is not None:
            self._sender.wake()

    def _below(self, folder: Path, name: str) -> str:
        """Return the path of a folder from the log's, below which it is or gets a copy."""
        if not folder.resolve().is_relative_to(self._folder.resolve()):
            shutil.copytree(folder, self._folder / name, copy_function=link_or_copy)
            return name
        return folder.resolve().relative_to(self._folder.resolve()).as_posix()

    def _listed(self, name: str) -> list[dict[str, object]]:
        folder = self._folder / name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            {
                "name": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "sha256": self._digest(path),
            }
            for path in files
        ]

    def _digest(self, path: Path) -> str:
        """Return the digest of a file; of links to one it is computed once."""
        known = path.stat()
        key = known.st_ino, known.st_size, known.st_mtime_ns
        if key not in self._digests:
            self._digests[key] = sha256(path)
        return self._digests[key]
