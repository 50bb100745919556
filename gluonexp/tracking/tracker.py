"""Where a run records its parameters, metrics and files: in MLflow, or nowhere."""

from __future__ import annotations

import json
import logging
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsFloat

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking import internals
from gluonexp.tracking.lease import NoLease
from gluonexp.tracking.logged_models import log_model
from gluonexp.tracking.registry import Registered, register
from gluonexp.tracking.store import impatient, reported
from gluonexp.tracking.uri import displayed, run_link
from gluonexp.tracking.values import flatten, number, one_line, sanitised, tag_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    from gluonexp.config.schema import ObjectiveConfig

_log = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_OUTAGE_S = 60.0  # between two attempts at a store that does not answer


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


class Tracker:
    """Where a run's parameters, metrics and files go; this one records nothing.

    Attributes
    ----------
    run_id, experiment_id
        None where nothing is recorded.
    status
        ``RUNNING``, then how the run ended.
    lease
        Of the run; it knows whether somebody wants it to stop.
    """

    lease: NoLease = NoLease()
    run_id: str | None = None
    experiment_id: str | None = None
    status: Status = "RUNNING"

    @property
    def link(self) -> str | None:
        """Address of the run's page on a server; None for a local store or none."""
        return None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record `params`, nested or flat; one that was recorded before is not changed."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""

    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Record numbers at `step` (buffered); what is not finite becomes NaN."""

    def log_dataset(self, data: UsedData) -> None:
        """Record which data is used, and for what."""

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> None:
        """Keep all files under `folder`, below `artifact_path` in the run."""

    def log_model(self, folder: Path, *, step: int) -> str | None:
        """Keep the finished MLflow model in `folder`, in which its ids are written.

        What the run measured at `step` becomes the model's. Returns its address,
        ``models:/m-ID``; None where nothing is recorded.
        """
        return None

    def register(
        self, name: str, model: str, value: float | None, goal: ObjectiveConfig
    ) -> Registered | None:
        """Register the model at address `model` as a version of `name`; see `registry`.

        `value` is that of the metric which `goal` names.
        """
        return None

    def flush(self) -> None:
        """Write buffered metrics now; they stay in the buffer if the store does not answer."""

    def leave(self) -> None:
        """Write what is waiting and leave the run open: another process closes it."""

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """End the run as `status`, with the traceback of `error`; a second call does nothing."""
        if self.status == "RUNNING":
            self.status = status


class MlflowTracker(Tracker):
    """Records into one run of an MLflow store; not to be shared between threads.

    Parameters
    ----------
    client, run_id
        An open store and a run in it that is RUNNING.

    Attributes
    ----------
    flush_count, flush_s
        Metrics are written once so many are waiting, or the oldest has waited so many seconds.
    """

    flush_count = 200  # one log_batch of 200 costs a tenth of 200 single calls
    flush_s = 10.0

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        run = client.get_run(run_id)
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.client = client
        self._closed = False
        self._params: dict[str, str] = dict(run.data.params)
        self._diverged = "diverged" in run.data.tags
        # What a run that goes on measures again: its epochs from the last checkpoint on.
        self._recorded = {
            (key, point.step): point.value
            for key in run.data.metrics
            for point in client.get_metric_history(run_id, key)
        }
        self._waiting: list[Metric] = []
        self._waiting_tags: list[RunTag] = []
        self._flush_at = math.inf  # time.monotonic()
        self._outage = False

    @property
    def link(self) -> str | None:
        """Address of the run's page; None for a store that is no server."""
        uri: str = self.client.tracking_uri
        return run_link(uri, self.experiment_id, self.run_id) if uri.startswith("http") else None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record `params`; one that has another value already gets a tag ``param_drift.<key>``."""
        from mlflow.entities import Param

        new: dict[str, str] = {}
        drifted: dict[str, str] = {}
        for name, value in flatten(params).items():
            key = sanitised(name)
            known = self._params.get(key, new.setdefault(key, value))
            if known != value:  # MLflow never changes a parameter; it would refuse the batch
                drifted[f"param_drift.{key}"] = f"{known} -> {value}"
        batch = [Param(key, value) for key, value in new.items() if key not in self._params]
        with reported(f"parameters of run {self.run_id} cannot be written to {self._where()}"):
            self.client.log_batch(self.run_id, params=batch)  # it sends 100 at a time
        self._params = {**new, **self._params}
        self.log_tags(drifted)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        batch = [RunTag(sanitised(key), tag_text(value)) for key, value in tags.items()]
        with reported(f"tags of run {self.run_id} cannot be written to {self._where()}"):
            self.client.log_batch(self.run_id, tags=batch)  # it sends 100 at a time

    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Buffer numbers at `step`; the first that is not finite sets the tag ``diverged``."""
        from mlflow.entities import Metric, RunTag

        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            key, finite = sanitised(name), number(value)
            if self._again(key, finite, step):
                continue
            if math.isnan(finite) and not self._diverged:
                self._diverged = True
                first = RunTag("diverged.first", f"{key} at step {step}")
                self._waiting_tags = [RunTag("diverged", "true"), first]
            self._waiting.append(Metric(key, finite, now_ms, step))
        now = time.monotonic()
        if not self._outage:
            self._flush_at = min(self._flush_at, now + self.flush_s)
        full = len(self._waiting) >= self.flush_count and not self._outage
        if full or now >= self._flush_at:
            self.flush()

    def _again(self, key: str, value: float, step: int) -> bool:
        """Tell whether a point was recorded before the run was cut off; a time stays the first."""
        before = self._recorded.get((key, step))
        if before is None:
            return False
        same = before == value or (math.isnan(before) and math.isnan(value))
        return same or key.startswith("time/")

    def log_dataset(self, data: UsedData) -> None:
        """Record a data set as an input of the run, with our digest of all its samples."""
        # Not mlflow.data.from_numpy: its digest reads only the first 10 000 numbers.
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        by_address = data.source.startswith(("http://", "https://"))
        profile = {
            "num_rows": data.rows,
            "image_shape": list(data.shape),
            "classes": list(data.classes),
        }
        dataset = Dataset(
            name=data.name[:500],
            digest=data.digest[:36],
            source_type="http" if by_address else "local",
            source=json.dumps({"url" if by_address else "uri": hide(data.source)}),
            schema=_tensor_schema(data.shape),
            profile=json.dumps(profile),
        )
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)])
        with reported(f"data set {data.name} cannot be recorded"):
            try:
                self.client.log_inputs(self.run_id, [entry])
            except MlflowException as error:
                if not internals.was_added_by_another(error):
                    raise
                self.client.log_inputs(self.run_id, [entry])

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> None:
        """Keep all files under `folder`."""
        if not folder.is_dir():  # MLflow takes it for an empty one
            raise GluonexpError(f"{folder} is no folder, so it cannot be kept in the run")
        with reported(f"files of {folder} cannot be kept in run {self.run_id}"):
            self.client.log_artifacts(self.run_id, str(folder), artifact_path)

    def log_model(self, folder: Path, *, step: int) -> str:
        """Keep the model in `folder` beside the run; what the run keeps already is linked."""
        self.flush()  # the model gets the metrics of its step
        model = log_model(self.client, self.run_id, folder, step=step)
        return str(model.model_uri)

    def register(
        self, name: str, model: str, value: float | None, goal: ObjectiveConfig
    ) -> Registered:
        """Register a model; the champion is the best by the metric of `goal`."""
        return register(self.client, self.run_id, name, model, value, goal)

    def flush(self) -> None:
        """Write what is waiting; during an outage warn once, and keep it."""
        try:
            self._write_waiting()
        except GluonexpError as error:
            if not self._outage:
                _log.warning("%s; training continues and they are sent later", error)
            self._outage = True
            self._flush_at = time.monotonic() + _OUTAGE_S

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """End the run; each step is tried even if the one before it failed.

        Raises
        ------
        GluonexpError
            Something could not be written; the first reason.
        """
        if self._closed:
            return
        self._closed = True
        steps = [self._write_waiting]
        if error is not None:
            steps.append(lambda: self._log_error(error))
        steps.append(lambda: self._terminate(status))
        failures: list[GluonexpError] = []
        with impatient(retries=1, timeout_s=20):
            for step in steps:
                try:
                    step()
                except GluonexpError as failure:
                    failures.append(failure)
        if failures:
            raise failures[0]

    def leave(self) -> None:
        """Write what is waiting and leave the run open: another process closes it."""
        self._write_waiting()
        self._closed = True

    def _write_waiting(self) -> None:
        # A batch that was written although its answer got lost may be sent again: MLflow drops
        # points that are equal in key, time, step and value.
        with reported(f"metrics of run {self.run_id} cannot be written to {self._where()}"):
            self.client.log_batch(self.run_id, metrics=self._waiting, tags=self._waiting_tags)
        self._waiting, self._waiting_tags = [], []
        self._flush_at = math.inf
        self._outage = False

    def _log_error(self, error: BaseException) -> None:
        # What is meant for users says all by itself.
        name = "" if isinstance(error, GluonexpError) else f"{type(error).__name__}: "
        self.log_tags({"error": one_line(f"{name}{error}", 500)})
        text = hide(readable("".join(traceback.format_exception(error))))
        with reported(f"the traceback cannot be kept in run {self.run_id}"):
            self.client.log_text(self.run_id, text, "error/traceback.txt")

    def _terminate(self, status: Status) -> None:
        with reported(f"run {self.run_id} cannot be marked {status} in {self._where()}"):
            self.client.set_terminated(self.run_id, status)
        self.status = status

    def _where(self) -> str:
        return displayed(self.client.tracking_uri)


def _tensor_schema(shape: tuple[int, ...]) -> str:
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))])
    labels = Schema([TensorSpec(np.dtype(np.int64), (-1,))])
    return json.dumps(TensorDatasetSchema(images, labels).to_dict())
