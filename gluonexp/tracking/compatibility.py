"""Whether one model can take the place of another: what each takes and answers, in tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gluonexp.model_folder.names import SIGNATURE
from gluonexp.tracking.artifacts import Artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLASSES: Final = "gluonexp.classes"
# Tags in which a version must agree with another one to take its place, and what is said if not.
# How a network prepares its images may differ.
_AGREEING: Final = {CLASSES: "has other classes", "gluonexp.image": "takes other images"}
# The tag that says on which data a version was measured, and the run's parameter that it is from.
DATA: Final = "gluonexp.data"
_RECORDED: Final = "data.digest"

# Where a model of MLflow's has it, and where an export itself has it.
_SIGNATURES: Final = (f"data/{SIGNATURE}", SIGNATURE)
_SHOWN: Final = 60  # characters of the names of classes


def read(client: MlflowClient, location: str, run_id: str | None) -> dict[str, str]:
    """Return the tags of the model at `location`, as far as they are known.

    Raises
    ------
    GluonexpError
        The store cannot be read.
    """
    from mlflow.exceptions import MlflowException

    tags = _told(_signature(Artifacts(location, client.tracking_uri, location, run_id)))
    with suppress(MlflowException, KeyError):  # the run is gone, or not one of gluonexp's
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


def _signature(source: Artifacts) -> Any:
    """Return the content of a model's ``signature.json``; None if it has none."""
    for path in _SIGNATURES:
        if source.has(path):
            try:
                return json.loads(source.text(path))
            except (ValueError, RecursionError):
                return None
    return None
