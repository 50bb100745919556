"""Logged models: the finished model that a run keeps beside its files."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gluonexp.base.files import draft, link_or_copy, sweep, temporary
from gluonexp.tracking.places import here
from gluonexp.tracking.read.records import SYSTEM
from gluonexp.tracking.store import reported
from gluonexp.tracking.uri import local_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

_DIGEST: Final = "gluonexp.digest"  # tag: of its files, but for what is not the same twice


def log_model(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    *,
    name: str = "model",
    step: int = 0,
    digest: str | None = None,
) -> LoggedModel:
    """Keep the finished model in `folder` as a logged model of a run.

    Its files lie beside the run's artifacts. In a store on this machine's disk they are links,
    where the disk allows it, to the same files of the run or else of `folder`, which costs neither
    time nor space: do not write into these files afterwards, but replace or remove them.

    Parameters
    ----------
    folder
        Its ``MLmodel`` is completed.
    name
        Of the model; several may have the same.
    step
        Of the metrics that the run has of this network: its best epoch. They become the model's.
    digest
        Of the files: what was begun of an equal model of the run is completed, and left as it is
        where it is whole.

    Raises
    ------
    GluonexpError
        The store refuses. The model is marked FAILED then.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    with reported(f"the model of run {run_id} cannot be kept"):
        run = client.get_run(run_id)
        logged = None if digest is None else _made(client, run, digest)
        if logged is not None and logged.status == "READY":
            return logged
        logged = logged or client.create_logged_model(
            run.info.experiment_id,
            name,
            run_id,
            tags=None if digest is None else {_DIGEST: digest},
            params=run.data.params,
            model_type="classifier",
        )
        try:
            meta = Model.load(str(folder))
            meta.artifact_path, meta.run_id = logged.artifact_location, run_id
            meta.model_id = meta.model_uuid = logged.model_id
            meta.save(str(folder / "MLmodel"))
            target = local_path(here(logged.artifact_location, client.tracking_uri))
            if target is None:
                client.log_model_artifacts(logged.model_id, str(folder))
            else:
                sweep(target.parent)  # what a process left that was killed here
                if not target.exists():
                    kept = local_path(here(run.info.artifact_uri, client.tracking_uri))
                    _link_all(folder, target, kept)
            outputs = run.outputs.model_outputs if run.outputs else []
            if logged.model_id not in [made.model_id for made in outputs]:
                client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
            measured = _measured(client, run_id, list(run.data.metrics), step, logged.model_id)
            client.log_batch(run_id, metrics=measured)
        except BaseException:
            with suppress(MlflowException):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        return client.finalize_logged_model(logged.model_id, "READY")


def _made(client: MlflowClient, run: Run, digest: str) -> LoggedModel | None:
    """Return the model of `run` with that digest, if it has one."""
    made = f"source_run_id = '{run.info.run_id}' AND tags.`{_DIGEST}` = '{digest}'"
    return next(iter(client.search_logged_models([run.info.experiment_id], made)), None)


def _link_all(folder: Path, target: Path, run_folder: Path | None) -> None:
    """Make `target` of the files in `folder`, or of equal ones that the run keeps already."""
    kept = {path.name: path for path in run_folder.rglob("*")} if run_folder else {}

    def link(source: str, copy: str) -> None:
        same = kept.get(Path(source).name)
        if same is not None and same.is_file() and filecmp.cmp(source, same, shallow=False):
            source = str(same)
        link_or_copy(source, copy)

    target.parent.mkdir(parents=True, exist_ok=True)
    with draft(target) as made:
        shutil.copytree(folder, made, copy_function=link)


def _measured(
    client: MlflowClient, run_id: str, names: list[str], step: int, model_id: str
) -> list[Metric]:
    """Return what a run measured at `step`, as the model's.

    With their own times: MLflow drops a point that the run has already.
    """
    from mlflow.entities import Metric

    return [
        Metric(point.key, point.value, point.timestamp, step, model_id=model_id, run_id=run_id)
        for name in names
        if not name.startswith(SYSTEM)  # of the machine, whatever the number of the look
        for point in client.get_metric_history(run_id, name)
        if point.step == step and point.model_id is None
    ]


def logged_model(client: MlflowClient, run_id: str) -> LoggedModel | None:
    """Return the model that a run logged last and whole; None if it has not."""
    return next((model for model in models_of(client, run_id) if model.status == "READY"), None)


def models_of(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    """Return the models of a run, the last one first."""
    with reported(f"the models of run {run_id} cannot be read"):
        outputs = client.get_run(run_id).outputs
        ids = [made.model_id for made in outputs.model_outputs] if outputs else []
        models = [client.get_logged_model(model_id) for model_id in ids]
    return sorted(models, key=lambda model: model.creation_timestamp, reverse=True)


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """Yield a copy of the folder of a model whose ``MLmodel`` may be written; links otherwise."""

    def copy(source: str, target: str) -> None:
        if Path(source).name == "MLmodel":
            shutil.copyfile(source, target)
        else:
            link_or_copy(source, target)

    with temporary(folder.parent) as place:
        yield Path(shutil.copytree(folder, place / folder.name, copy_function=copy))
