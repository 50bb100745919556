"""Registered models: which version a name means, and the files it has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.errors import GluonexpError
from gluonexp.tracking.store import download, reported

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def find_version(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """Return version `which` of registered model `name`: a number, or an alias with its ``@``."""
    with reported(f"version {which} of model {name} cannot be found"):
        if which.startswith("@"):
            return client.get_model_version_by_alias(name, which[1:])
        return client.get_model_version(name, which)


def download_first(
    client: MlflowClient, version: ModelVersion, paths: Sequence[str], dest: Path
) -> tuple[str, Path]:
    """Copy the first of `paths` that a version has under folder `dest`.

    A version that is the ``export`` folder of a run has the run's other folders, too: they are of
    the same network. A version may also be a single file, which is copied then, whatever its name.

    Returns
    -------
    tuple
        Which of `paths` it is, or the file's name, and the copy.
    """
    import mlflow.artifacts

    def files(folder: str) -> set[str]:
        held = mlflow.artifacts.list_artifacts(artifact_uri=folder, tracking_uri=uri)
        return {Path(item.path).name for item in held if not item.is_dir}

    def copy(file: str) -> Path:
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=file, dst_path=str(dest), tracking_uri=uri
            )
        )

    uri = client.tracking_uri
    doing = f"version {version.version} of model {version.name} cannot be read"
    dest.mkdir(parents=True, exist_ok=True)
    with reported(doing):
        source = client.get_model_version_download_uri(version.name, version.version).rstrip("/")
        root = _run_folder(client, version, source)
        for path in paths:
            folder, _, name = f"{root}/{path}".rpartition("/")
            if name in files(folder):
                return path, copy(f"{root}/{path}")
        folder, _, name = source.rpartition("/")
        if name in files(folder):
            return name, copy(source)
    raise GluonexpError(f"{doing}: {source} has none of {', '.join(paths)}")


def download_if_any(
    client: MlflowClient, run_id: str | None, path: str, dest: Path
) -> Path | None:
    """Copy artifact `path` of a run under folder `dest`; None if there is no such thing."""
    if not run_id:
        return None
    with suppress(GluonexpError):
        return download(client, run_id, path, dest)
    return None


def _run_folder(client: MlflowClient, version: ModelVersion, source: str) -> str:
    """Return the folder of a run's artifacts if `source` is the export in it, else `source`."""
    folder = source.removesuffix("/export")
    if folder == source or f"{version.source}".startswith("runs:/"):
        return folder
    with suppress(GluonexpError), reported("its run is gone"):
        if version.run_id and client.get_run(version.run_id).info.artifact_uri == folder:
            return folder
    return source
