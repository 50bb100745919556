"""What a loop of one's own hands over, as we have it: parameters, metrics, pictures, notices."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from PIL import Image

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import COMMANDING, readable
from gluonexp.config.schema import NotifyConfig, ObjectiveConfig, TrackingConfig
from gluonexp.tracking.values import leaves, sanitised

_LAST_STEP: Final = 2**63 - 1  # that SQLite takes
_LONGEST_NAME: Final = 200  # bytes, of a picture: file systems take 255, its draft's is longer


def mapping(params: object) -> dict[str, Any]:
    """Return parameters as a nested mapping of plain values.

    Raises
    ------
    GluonexpError
        They are no mapping, and nothing that has named values; or two have one name.
    """
    if params is None:
        return {}
    found = params
    if dataclasses.is_dataclass(params) and not isinstance(params, type):
        found = dataclasses.asdict(params)
    elif type(params).__name__.endswith("Namespace"):  # of argparse, or types.SimpleNamespace
        found = vars(params)
    if not isinstance(found, Mapping):
        raise GluonexpError(
            f"params is a {type(params).__name__}: give a mapping, the arguments of argparse, or "
            "a dataclass"
        )
    try:
        made: dict[str, Any] = plain(found)
        distinct("params", (key for key, _ in leaves(made)))
    except RecursionError:
        raise GluonexpError("params: a value contains itself") from None
    return made


def distinct(
    what: str, names: Iterable[object], known: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return names by that under which they are recorded.

    Parameters
    ----------
    known
        Such names from before.

    Raises
    ------
    GluonexpError
        Two different ones would be recorded as one.
    """
    made: dict[str, object] = {}
    for name in names:
        recorded = sanitised(str(name))
        other = made.get(recorded, (known or {}).get(recorded, name))
        if recorded in made or str(other) != str(name):
            both = f"{other!r} and {name!r} would both be recorded as {recorded!r}"
            if other == name:
                both = f"two values would be recorded as {recorded!r}"
            raise GluonexpError(f"{what}: {both}; give one of them another name")
        made[recorded] = name
    return made


def plain(value: Any) -> Any:
    """Return a value as JSON has it: texts, numbers, lists, mappings."""
    if isinstance(value, Mapping):
        distinct("params", value)
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def measured(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as floats.

    Raises
    ------
    GluonexpError
        They are no mapping, or a value is no number.
    """
    if not isinstance(metrics, Mapping):
        raise GluonexpError(
            f"log takes a mapping of names to numbers, not a {type(metrics).__name__}: "
            "run.log({'train/loss': 0.3}, step=epoch)"
        )
    return {str(name): number(str(name), value) for name, value in metrics.items()}


def number(name: str, value: Any) -> float:
    """Return a metric as a float.

    Raises
    ------
    GluonexpError
        It is no number; the message names it.
    """
    found = value.asnumpy() if hasattr(value, "asnumpy") else value
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.reshape(-1)[0]
    if hasattr(found, "detach") and hasattr(found, "item"):  # a tensor of PyTorch's
        with suppress(ValueError, RuntimeError):
            found = found.item()
    if isinstance(found, numbers.Real | np.bool_):
        try:
            return float(found)
        except OverflowError:
            raise GluonexpError(
                f"metric {name} is larger than a floating-point number can be"
            ) from None
    shape = f" {np.shape(found)}" if hasattr(found, "shape") else f" {str(value)[:40]!r}"
    raise GluonexpError(
        f"metric {name} is a {type(value).__name__}{shape}: give a number, or an array of one"
    )


def step(value: Any) -> int:
    """Return a step as a whole number.

    Raises
    ------
    GluonexpError
        It is none, negative, or larger than a store takes.
    """
    found = value.asnumpy() if hasattr(value, "asnumpy") else value
    if hasattr(found, "item") and np.size(found) == 1:
        found = found.item()
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    whole = isinstance(found, numbers.Integral) and not isinstance(found, bool)
    if not whole or not 0 <= found <= _LAST_STEP:
        raise GluonexpError(f"step={value!r}: must be a whole number from 0 to 2**63 - 1")
    return int(found)


def text(what: str, value: object) -> str:
    """Return a name that can be shown in a line.

    Raises
    ------
    GluonexpError
        It is no text, empty, or has characters that cannot be seen, such as ends of lines.
    """
    if not isinstance(value, str) or not value.strip() or COMMANDING.search(value):
        raise GluonexpError(f"{what}={value!r}: must be a text of one line that is not empty")
    return readable(value)


def picture_name(name: object) -> str:
    """Return the path of a picture, without the ending ``.png``, below the folder for them.

    Raises
    ------
    GluonexpError
        It is none, or too long for files.
    """
    parts = name.removesuffix(".png").split("/") if isinstance(name, str) else []
    parts = [readable(part) for part in parts if part.strip(". ")]
    if not parts or "\0" in "".join(parts):
        raise GluonexpError(f"{name!r} is no name for a picture: give one as 'sample/first'")
    path = "/".join(parts)
    if len(path.encode()) > _LONGEST_NAME:
        raise GluonexpError(
            f"{path[:40]!r}... is too long a name for a picture: at most {_LONGEST_NAME} bytes"
        )
    return path


def pixels(image: Any) -> Image.Image:
    """Return a picture as PIL has it.

    Parameters
    ----------
    image
        One of PIL's; or an array of NumPy or MXNet (H, W), (H, W, 1 or 3) or (1 or 3, H, W), of
        uint8, or of floats from 0 to 1.

    Raises
    ------
    GluonexpError
        It is none of these.
    """
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image.asnumpy() if hasattr(image, "asnumpy") else image)
    if array.ndim == 3 and array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
        raise GluonexpError(
            f"a {type(image).__name__} {array.shape} is no picture: give (H, W), (H, W, 1 or 3), "
            "a figure of matplotlib or an image of PIL"
        )
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
            raise GluonexpError(
                f"a picture of floats has values from 0 to 1, this one from {array.min():.3g} to "
                f"{array.max():.3g}"
            )
        array = np.rint(array * 255)
    elif array.dtype.kind not in "iub" or array.min() < 0 or array.max() > 255:
        raise GluonexpError(f"a picture has values from 0 to 255, not {array.dtype} beyond that")
    elif array.dtype.kind == "b":
        array = array * np.uint8(255)
    return Image.fromarray(np.ascontiguousarray(array, np.uint8))


def settings(name: str, uri: str | None, experiment: str | None, offline: bool) -> TrackingConfig:
    """Return where a run of this name is recorded."""
    backend = "offline" if offline else "mlflow"
    made = TrackingConfig(backend=backend, uri=uri and text("uri", uri), run_name=name)
    if experiment is not None:
        made.experiment = text("experiment", experiment)
    return made


def goal(objective: str | None, mode: str | None) -> ObjectiveConfig | None:
    """Return the metric that says how good a run is, if one is named.

    Raises
    ------
    GluonexpError
        One of the two is missing, or `mode` is none.
    """
    if (objective is None) != (mode is None) or mode not in (None, "min", "max"):
        raise GluonexpError(
            f"objective={objective!r}, mode={mode!r}: name a metric, and whether 'min' or 'max' "
            "of it is better"
        )
    return None if objective is None else ObjectiveConfig(text("objective", objective), str(mode))


def notified(notify: bool | Sequence[str]) -> NotifyConfig:
    """Return who is told of a run's end.

    Parameters
    ----------
    notify
        True: the webhook that the environment's GLUONEXP_WEBHOOK names. A list: a program and its
        arguments, which reads the notice on standard input.

    Raises
    ------
    GluonexpError
        Nobody is named.
    """
    if isinstance(notify, bool):
        webhook = os.environ.get("GLUONEXP_WEBHOOK", "")
        if notify and not webhook.startswith(("https://", "http://")):
            raise GluonexpError(
                "notify=True: nobody is named; export GLUONEXP_WEBHOOK=https://..., or give "
                "notify=['PROGRAM', 'ARGUMENT']"
            )
        return NotifyConfig(webhook=webhook if notify else None)
    if isinstance(notify, str) or not notify:
        raise GluonexpError(
            f"notify={notify!r}: give True, or a program as ['mail', '-s', 'done', 'me']"
        )
    return NotifyConfig(command=list(map(str, notify)))
