"""What a checkpoint or an export records of a trained network: its strides, its classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from gluonexp.model_folder.names import MODEL, SIGNATURE, pair

META: Final = "meta.json"  # of a checkpoint
_, EXPORTED = pair(MODEL)


class Origin(NamedTuple):
    """What is known of a trained network.

    Attributes
    ----------
    adapted
        Whether its strides are torchvision's; see `FineTune.adapt`.
    classes
        In the order of its logits.
    """

    adapted: bool | None = None
    classes: tuple[str, ...] | None = None


def beside(path: Path, sha256: str) -> Origin:
    """Return what a checkpoint's or an export's files beside `path` record of it."""
    meta = _json(path.with_name(META))
    if sha256 in _dict(meta.get("sha256")).values():
        return _of_meta(meta)
    if path.name == EXPORTED:
        return Origin(classes=_classes(_json(path.with_name(SIGNATURE))))
    return Origin()


def of_run(meta: Path) -> Origin:
    """Return what the ``meta.json`` of a run's checkpoint records of its network."""
    return _of_meta(_json(meta))


def _of_meta(meta: dict[str, Any]) -> Origin:
    identity = _dict(meta.get("identity"))
    adapted = _dict(identity.get("pretrained")).get("adapted")
    return Origin(adapted if isinstance(adapted, bool) else None, _classes(identity))


def _classes(said: dict[str, Any]) -> tuple[str, ...] | None:
    classes = said.get("classes")
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one where there is none."""
    try:
        return _dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # somebody else's file of that name
        return {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
