"""A run's log, replayed into a run of a store: what was sent once may be sent again, unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sha256, temporary
from gluonexp.base.text import listed, say
from gluonexp.tracking import internals, logged_models, owner
from gluonexp.tracking.log import Record, read
from gluonexp.tracking.places import here
from gluonexp.tracking.read.records import PARENT
from gluonexp.tracking.registry import Registered, register
from gluonexp.tracking.store import reported
from gluonexp.tracking.succession import Newer
from gluonexp.tracking.uri import displayed, local_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH: Final = 1000  # points that one request takes
_MODEL: Final = "the model"
# Two of them tell when they were made; the third's header has no order.
_NOT_THE_SAME_TWICE: Final = ("MLmodel", "certificate.json", "README.md", "samples.safetensors")
_BATCHED: Final = ("params", "tags", "metrics")
# Of several logs of a run, the newest has these.
_OF_THE_NEWEST: Final = ("open", "model", "register", "status")
# Tags that belong to a run of one store, which has them from its start.
_OF_THE_STORE: Final = (PARENT, "mlflow.runName", "mlflow.rootRunId")


class Replay:
    """Sends what a log has, in its order, to one run of a store; also while it grows.

    Sent twice, it changes nothing: MLflow drops equal points, and models and versions that a
    record has made before are found again.

    Parameters
    ----------
    file
        The log; its records name files in its folder.
    client, run_id
        A store, and the run in it that has been made with the parent that it belongs to.
    after
        The number of the last record that was sent before.
    say
        Takes a line about what cannot be sent and is left out.
    newer
        What the store has of a run that has gone on with another log: only what it lacks is sent,
        and no model, nor how this log ends.

    Attributes
    ----------
    sent
        The number of the last record that was sent.
    registered
        The version of a registered model that the last record of that kind has made.
    """

    def __init__(
        self,
        file: Path,
        client: MlflowClient,
        run_id: str,
        *,
        after: int = 0,
        say: Callable[[str], None] = say,
        newer: Newer | None = None,
    ) -> None:
        self._file, self._folder, self._newer = file, file.parent, newer
        self._answering = _Answering(client)
        self._client = cast("MlflowClient", self._answering)
        self._run_id, self._say = run_id, say
        self._offset, self._read, self._after = 0, 0, after
        self.sent = after
        self.registered: Registered | None = None
        self._model: str | None = None  # the address of the last one
        self._tidied = False
        self._kept: dict[str, str] = {}  # digests of artifacts that were sent, by their paths
        self._missing: dict[str, str] = {}  # where they should be, by their paths

    @property
    def answers(self) -> int:
        """Grows while the store takes what it is sent."""
        return self._answering.count

    def send(self) -> int:
        """Send what has not been sent; return the number of the last record.

        Raises
        ------
        GluonexpError
            The store does not take it, or the log cannot be read. The same call goes on there.
        """
        batch = _Batch()
        for record, end in read(self._file, self._offset, self._read):
            with self._understood(record):
                if record["n"] <= self._after:
                    self._offset, self._read = end, record["n"]
                elif record["kind"] in _BATCHED:
                    batch.take(record, end)
                    if batch.size >= _BATCH:
                        batch = self._flushed(batch)
                else:
                    batch = self._flushed(batch)
                    self._one(record)
                    self._done(record["n"], end)
        self._flushed(batch)
        return self.sent

    def missing(self) -> str | None:
        """Say which recorded files were not found, so not sent; None where all were."""
        if not self._missing:
            return None
        folders = listed(dict.fromkeys(self._missing.values()))
        return f"{listed(self._missing)}: no longer in {folders} as recorded, so not sent"

    def _done(self, n: int, end: int) -> None:
        self._offset, self._read, self.sent = end, n, n

    @contextmanager
    def _understood(self, record: Record) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise GluonexpError(
                f"{self._file}, line {record['n']}: this version of gluonexp does not know such "
                f"a record of kind {record['kind']}; send it with the version that wrote it"
            ) from error

    def _flushed(self, batch: _Batch) -> _Batch:
        """Send what is in a batch, and return an empty one."""
        if batch.n:
            self._write(batch)
            self._done(batch.n, batch.end)
        return _Batch()

    def _write(self, batch: _Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        if self._newer is not None:
            batch.without(self._newer)
        points, tags = batch.points, batch.tags
        with self._reported(batch.title()):
            self._client.log_batch(
                self._run_id,
                metrics=[Metric(*point) for point in points],
                params=[Param(key, value) for key, value in batch.params.items()],
                tags=[RunTag(key, value) for key, value in tags.items() if value is not None],
            )
            for key in (key for key, value in tags.items() if value is None):
                try:
                    self._client.delete_tag(self._run_id, key)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise

    def _one(self, record: Record) -> None:
        """Send a record that is a request of its own."""
        kind = record["kind"]
        if self._newer is not None and kind in _OF_THE_NEWEST:
            return
        if kind == "open":
            self._open(record)
        elif kind == "dataset":
            self._dataset(record)
        elif kind == "artifacts":
            self._artifacts(record)
        elif kind == "model":
            self._log_model(record)
        elif kind == "register":
            self._register(record)
        elif kind == "status":
            self._status(record)
        else:
            raise ValueError(kind)

    def _open(self, record: Record) -> None:
        of_an_end = ("error", *owner.OF_BURIALS)
        batch = _Batch()
        batch.tags = {
            key: text
            for key, text in record["tags"].items()
            if key not in (*_OF_THE_STORE, *of_an_end)
        }
        with self._reported("status"):
            known = self._client.get_run(self._run_id).data.tags
            self._client.update_run(self._run_id, status="RUNNING")
        batch.tags |= dict.fromkeys(key for key in of_an_end if key in known)
        self._write(batch)

    def _dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        # Not mlflow.data.from_numpy: its digest reads only the first 10 000 numbers.
        name, source, shape = record["name"], record["source"], record["shape"]
        by_address = source.startswith(("http://", "https://"))
        profile = {"num_rows": record["rows"], "image_shape": shape, "classes": record["classes"]}
        dataset = Dataset(
            name=name[:500],
            digest=record["digest"][:36],
            source_type="http" if by_address else "local",
            source=json.dumps({"url" if by_address else "uri": source}),
            schema=_tensor_schema(shape),
            profile=json.dumps(profile),
        )
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])
        with reported(f"data set {name} cannot be recorded"):
            try:
                self._client.log_inputs(self._run_id, [entry])
            except MlflowException as error:
                if not internals.was_added_by_another(error):
                    raise
                self._client.log_inputs(self._run_id, [entry])

    def _artifacts(self, record: Record) -> None:
        folder, path = self._below(record["folder"]), record["path"] or ""
        self._tidy()
        for file in record["files"]:
            source, digest = self._below(record["folder"], file["name"]), file["sha256"]
            kept = f"{path}/{file['name']}".strip("/")
            if self._kept.get(kept) == digest or (self._newer and kept in self._newer.files):
                continue
            if not _is(source, digest):  # a later record has what it became, perhaps
                self._missing[kept] = str(folder)
                continue
            with reported(f"{kept} cannot be kept in run {self._run_id}"):
                where = kept.rpartition("/")[0] or None
                self._client.log_artifact(self._run_id, str(source), where)
            self._kept[kept] = digest
            self._missing.pop(kept, None)

    def _tidy(self) -> None:
        """Remove, once, what is left of files in whose sending a process was killed."""
        if not self._tidied:
            with self._reported("the files"):
                kept = self._client.get_run(self._run_id).info.artifact_uri
            folder = local_path(here(kept, self._client.tracking_uri))
            if folder is not None:
                internals.remove_parts(folder)
            self._tidied = True

    def _log_model(self, record: Record) -> None:
        folder = self._below(record["folder"])
        if not all(_is(folder / file["name"], file["sha256"]) for file in record["files"]):
            self._missing[_MODEL] = str(folder)
            return
        with logged_models.copied(folder) as copy:
            model = logged_models.log_model(
                self._client, self._run_id, copy, step=record["step"], digest=_digest(record)
            )
        self._missing.pop(_MODEL, None)  # an earlier record had another's files, perhaps
        self._model = str(model.model_uri)

    def _register(self, record: Record) -> None:
        from gluonexp.config.schema import ObjectiveConfig  # Hydra: only where it is needed

        name, value = record["name"], record["value"]
        source = self._model or self._last_model()
        if source is None:
            self._say(f"run {self._run_id} has no model to be registered as {name}")
            return
        goal = ObjectiveConfig(**record["goal"])
        try:
            number = None if value is None else float(value)
            said = record.get("description")
            self.registered = register(
                self._client, self._run_id, name, source, number, goal, said
            )
        except GluonexpError as error:
            if not internals.is_refusal(error.__cause__):
                raise
            self._say(str(error))  # it would be refused again

    def _last_model(self) -> str | None:
        model = logged_models.logged_model(self._client, self._run_id)
        return None if model is None else str(model.model_uri)

    def _status(self, record: Record) -> None:
        status = record["status"]
        with self._reported("the end"):
            tags = self._client.get_run(self._run_id).data.tags
        if owner.BURIED in tags:  # it was taken for dead, and came to this end by itself
            batch = _Batch()
            batch.tags = dict.fromkeys(
                (*owner.OF_BURIALS, *(() if record["error"] else ["error"]))
            )
            self._write(batch)
        if record["error"]:
            with (
                reported(f"the traceback cannot be kept in run {self._run_id}"),
                temporary(self._folder) as place,
            ):
                file = place / "traceback.txt"
                file.write_text(record["error"], encoding="utf-8")
                self._client.log_artifact(self._run_id, str(file), "error")
        with reported(f"run {self._run_id} cannot be marked {status} in {self._where()}"):
            self._client.set_terminated(self._run_id, status, record["end"])

    def _below(self, *names: str) -> Path:
        """Return the path of what a record names, which is below the folder of the log."""
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(name)
        return self._folder.joinpath(*names)

    def _reported(self, what: str) -> AbstractContextManager[None]:
        return reported(f"{what} of run {self._run_id} cannot be written to {self._where()}")

    def _where(self) -> str:
        return displayed(self._client.tracking_uri)


class _Answering:
    """A client that counts what its store has answered."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        answer = method(*given, **named)
        self.count += 1
        return answer


class _Batch:
    """Records that are sent together."""

    def __init__(self) -> None:
        self.n = self.end = 0  # of the last of them
        self.params: dict[str, str] = {}
        self.tags: dict[str, str | None] = {}
        self.points: list[tuple[str, float, int, int]] = []

    @property
    def size(self) -> int:
        return len(self.params) + len(self.tags) + len(self.points)

    def take(self, record: Record, end: int) -> None:
        """Add a record that ends at the byte `end` of the log."""
        self.n, self.end = record["n"], end
        if record["kind"] == "metrics":
            self.points += [
                (key, float(value), at, step) for key, value, at, step in record["points"]
            ]
        else:
            kept: dict[str, Any] = self.params if record["kind"] == "params" else self.tags
            kept.update(record["values"])

    def without(self, known: Newer) -> None:
        """Leave out what is known."""
        self.params, self.tags = known.params(self.params), known.tags(self.tags)
        self.points = known.points(self.points)

    def title(self) -> str:
        """Say what there is."""
        named = {"parameters": self.params, "tags": self.tags, "metrics": self.points}
        return " and ".join(name for name, values in named.items() if values)


def _digest(record: Record) -> str:
    """Return the digest of what a recorded model computes: of its files, and of its step."""
    files = sorted((file["name"], file["sha256"]) for file in record["files"])
    told = [each for each in files if PurePosixPath(each[0]).name not in _NOT_THE_SAME_TWICE]
    return hashlib.sha256(json.dumps([record["step"], *told]).encode()).hexdigest()


def _is(file: Path, digest: str) -> bool:
    try:
        return sha256(file) == digest
    except OSError:
        return False


def _tensor_schema(shape: Sequence[int]) -> str:
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))])
    labels = Schema([TensorSpec(np.dtype(np.int64), (-1,))])
    return json.dumps(TensorDatasetSchema(images, labels).to_dict())
