"""What a model takes and answers, in tags of its version, so that two can be compared."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gluonexp.model_folder.names import SIGNATURE
from gluonexp.tracking.store import silent

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLASSES: Final = "gluonexp.classes"
# Tags in which a version must agree with another one to take its place, and what is said if not.
# What a network makes of an image before it looks is its own affair.
_AGREEING: Final = {CLASSES: "has other classes", "gluonexp.image": "takes other images"}
# The tag that says on which data a version was measured, and the run's parameter that it is from.
DATA: Final = "gluonexp.data"
_RECORDED: Final = "data.digest"

# Where a model of MLflow's has the export, and where that lies itself.
_INSIDE: Final = ("/data", "")
_SHOWN: Final = 60  # characters of the names of classes


def read(client: MlflowClient, location: str, run_id: str | None) -> dict[str, str]:
    """Return the tags of the model at `location`; without those that nobody knows.

    Raises
    ------
    mlflow.exceptions.MlflowException, OSError
        The store cannot be read.
    """
    from mlflow.exceptions import MlflowException

    tags = _told(_signature(client, location))
    with suppress(MlflowException, KeyError):  # the run is gone, or of other making
        if run_id is not None:
            tags[DATA] = client.get_run(run_id).data.params[_RECORDED]
    return tags


def tagged(tags: Mapping[str, str]) -> dict[str, str] | None:
    """Return those of a version's `tags` that say what it takes; None if it has none of them."""
    if CLASSES not in tags:  # older than these tags, or registered by other means
        return None
    return {key: tags[key] for key in (*_AGREEING, DATA) if key in tags}


def difference(mine: Mapping[str, str], theirs: Mapping[str, str], other: str) -> str | None:
    """Say what keeps a model from standing in for `other`; None if nothing known does."""
    for key, differs in _AGREEING.items():
        if key in mine and key in theirs and mine[key] != theirs[key]:
            return f"it {differs} than {other} ({mine[key]} instead of {theirs[key]})"
    return None


def caveat(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Say what makes the comparison of two models less than sure; empty if nothing does."""
    if CLASSES not in mine or CLASSES not in theirs:
        return "; whether they have the same classes is not known"
    if DATA in mine and DATA in theirs and mine[DATA] != theirs[DATA]:
        return f", on other data (digest {mine[DATA][:8]}, not {theirs[DATA][:8]})"
    return ""


def _told(signature: Any) -> dict[str, str]:
    """Put a signature in words that are equal where the models take and answer the same."""
    try:
        classes = [str(name) for name in signature["classes"]]
        image = signature["image"]
        size = "x".join(str(image[side]) for side in ("height", "width", "channels"))
        shown = f"{size} {image['dtype']} {image['layout']}"
        return dict(zip(_AGREEING, (_listed(classes), shown), strict=True))
    except (KeyError, TypeError):  # not a signature of ours
        return {}


def _listed(classes: list[str]) -> str:
    names = ", ".join(classes)
    if len(names) > _SHOWN:
        names = f"{names[:_SHOWN]}..."
    # Names that are not shown count, too, and where one ends.
    digest = hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:8]
    return f"{len(classes)}: {names} [{digest}]"


def _signature(client: MlflowClient, location: str) -> Any:
    """Return the content of a model's ``signature.json``; None if it has none."""
    import mlflow.artifacts

    uri = client.tracking_uri
    for inside in _INSIDE:
        folder = f"{location}{inside}"
        held = mlflow.artifacts.list_artifacts(artifact_uri=folder, tracking_uri=uri)
        if not any(Path(item.path).name == SIGNATURE for item in held):
            continue
        with tempfile.TemporaryDirectory(prefix="gluonexp-") as temporary, silent():
            copy = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{folder}/{SIGNATURE}", dst_path=temporary, tracking_uri=uri
            )
            try:
                return json.loads(Path(copy).read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                return None
    return None
