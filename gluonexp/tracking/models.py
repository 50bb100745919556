"""Where an export lies, whatever names it: a run, a registered model, a folder."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft, link_or_copy
from gluonexp.model_folder.names import SIGNATURE
from gluonexp.tracking.registry import FORMS, find_model
from gluonexp.tracking.store import find_run, reported, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

# Where a run has it, where a model of MLflow's has it, and where it is itself.
_INSIDE = ("export", "data", "")


def local_export(ref: str) -> Path | None:
    """Return the export in folder `ref`; None if `ref` is no folder.

    Raises
    ------
    GluonexpError
        It is one, without an export.
    """
    folder = Path(ref).expanduser()
    if not folder.is_dir():
        return None
    for inside in _INSIDE:
        if (folder / inside / SIGNATURE).is_file():
            return folder / inside
    raise GluonexpError(_nothing(str(folder), (folder / "MLmodel").is_file()))


def fetch(client: MlflowClient, ref: str, dest: Path) -> Path:
    """Return the folder of the export that `ref` means.

    It is found by the names of its files, which are only read: what an ``MLmodel`` beside them
    asks to be imported is not.

    Parameters
    ----------
    ref
        A run's id, the first 6 or more characters of one, ``last``; ``runs:/ID``, perhaps with
        the path of a folder or the name of a logged model; ``models:/NAME@ALIAS``,
        ``models:/NAME/VERSION``, ``models:/m-ID``; or a folder.
    dest
        It is downloaded below this folder, unless it lies on this machine.

    Raises
    ------
    GluonexpError
        There is no such thing, or no export in it.
    """
    here = local_export(ref)
    if here is not None:
        return here
    tried: list[str] = []
    for root in _roots(client, ref):
        tried.append(root)
        for inside in _INSIDE:
            uri = f"{root.rstrip('/')}/{inside}".rstrip("/")
            if SIGNATURE in _files(client, uri, ref):
                return _copy(client, uri, dest, ref)
    if any("MLmodel" in _files(client, root, ref) for root in tried):
        raise GluonexpError(_nothing(ref, foreign=True))
    if ref.startswith("models:/"):
        raise GluonexpError(_nothing(ref, foreign=False))
    name, path = _run_and_path(ref)
    info = find_run(client, name).info
    where = f" in {path}/" if path else ""
    why = "export=none?" if info.status == "FINISHED" else f"it is {info.status}"
    raise GluonexpError(
        f"run {info.run_id[:8]} has no export{where} ({why}); name another run, or the folder "
        "that holds model-symbol.json"
    )


def run_of(client: MlflowClient, ref: str) -> Run | None:
    """Return the run that made what `ref` means; None where nobody knows, or it is gone."""
    if Path(ref).expanduser().is_dir():
        return None
    if not ref.startswith("models:/"):
        return find_run(client, _run_and_path(ref)[0])
    run_id = find_model(client, ref).run_id
    try:
        return find_run(client, run_id) if run_id else None
    except GluonexpError:
        return None


def logged_model(client: MlflowClient, run_id: str) -> LoggedModel | None:
    """Return the model that a run logged last and whole; None if it has not."""
    return next((model for model in _logged(client, run_id) if model.status == "READY"), None)


def log_model(
    client: MlflowClient, run_id: str, folder: Path, *, name: str = "model", step: int = 0
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
        logged = client.create_logged_model(
            run.info.experiment_id, name, run_id, params=run.data.params, model_type="classifier"
        )
        try:
            meta = Model.load(str(folder))
            meta.artifact_path, meta.run_id = logged.artifact_location, run_id
            meta.model_id = meta.model_uuid = logged.model_id
            meta.save(str(folder / "MLmodel"))
            target = local_path(logged.artifact_location)
            if target is None:
                client.log_model_artifacts(logged.model_id, str(folder))
            else:
                _link_all(folder, target, local_path(run.info.artifact_uri))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
            measured = _measured(client, run_id, list(run.data.metrics), step, logged.model_id)
            client.log_batch(run_id, metrics=measured)
        except BaseException:
            with suppress(MlflowException):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        return client.finalize_logged_model(logged.model_id, "READY")


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
        for point in client.get_metric_history(run_id, name)
        if point.step == step and point.model_id is None
    ]


def local_path(uri: str) -> Path | None:
    """Return the path of an artifact's address, if it lies on this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    local: bool = is_local_uri(uri)  # type: ignore[no-untyped-call]
    return Path(local_file_uri_to_path(uri)) if local else None  # type: ignore[no-untyped-call]


def _roots(client: MlflowClient, ref: str) -> Iterator[str]:
    """Yield the addresses of the folders that `ref` may mean."""
    if ref.startswith("models:/"):
        location = find_model(client, ref).location
        if not location.startswith("runs:/"):
            yield location
            return
        ref = location  # what was registered is the address of a run's folder
    name, path = _run_and_path(ref)
    info = find_run(client, name).info
    yield f"{info.artifact_uri}/{path}".rstrip("/")
    for model in _logged(client, info.run_id):  # MLflow's own runs:/ID/NAME
        if model.name == path:
            yield str(model.artifact_location)


def _run_and_path(ref: str) -> tuple[str, str]:
    run, _, path = ref.removeprefix("runs:/").partition("/")
    if path and not ref.startswith("runs:/"):
        raise GluonexpError(
            f"{ref}: no such folder; name a run (its id, or 'last'), runs:/ID, {FORMS}, or a "
            "folder"
        )
    return run, path.strip("/")


def _logged(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    """Return the models of a run, the last one first."""
    with reported(f"the models of run {run_id} cannot be read"):
        outputs = client.get_run(run_id).outputs
        ids = [made.model_id for made in outputs.model_outputs] if outputs else []
        models = [client.get_logged_model(model_id) for model_id in ids]
    return sorted(models, key=lambda model: model.creation_timestamp, reverse=True)


def _files(client: MlflowClient, uri: str, ref: str) -> set[str]:
    """Return the names of the files in a folder; none if there is no such folder."""
    import mlflow.artifacts

    with reported(f"{ref} cannot be read"):
        held = mlflow.artifacts.list_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri)
        return {Path(item.path).name for item in held if not item.is_dir}


def _copy(client: MlflowClient, uri: str, dest: Path, ref: str) -> Path:
    import mlflow.artifacts

    here = local_path(uri)
    if here is not None:
        return here
    dest.mkdir(parents=True, exist_ok=True)
    with reported(f"{ref} cannot be read"), silent():
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(dest), tracking_uri=client.tracking_uri
            )
        )


def _nothing(ref: str, foreign: bool) -> str:
    if foreign:
        return (
            f"{ref}: an MLflow model of another flavor ({SIGNATURE} is missing); what it would "
            "import is not loaded, only what gluonexp exported is"
        )
    return (
        f"{ref}: no export here ({SIGNATURE} is missing); name a run, or the folder that holds "
        "model-symbol.json"
    )
