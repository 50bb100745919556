"""Registered models: which version a name means, and the files it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.errors import GluonexpError
from gluonexp.tracking.store import reported

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
    the same network.

    Returns
    -------
    tuple
        Which of `paths` it is, and the copy.
    """
    import mlflow.artifacts

    uri = client.tracking_uri
    doing = f"version {version.version} of model {version.name} cannot be read"
    dest.mkdir(parents=True, exist_ok=True)
    with reported(doing):
        source = client.get_model_version_download_uri(version.name, version.version)
        source = source.rstrip("/").removesuffix("/export")
        for path in paths:
            folder = f"{source}/{path}".rpartition("/")[0]
            held = mlflow.artifacts.list_artifacts(artifact_uri=folder, tracking_uri=uri)
            if Path(path).name in {Path(item.path).name for item in held}:
                copy = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{source}/{path}", dst_path=str(dest), tracking_uri=uri
                )
                return path, Path(copy)
    raise GluonexpError(f"{doing}: {source} has none of {', '.join(paths)}")
