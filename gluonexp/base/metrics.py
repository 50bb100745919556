"""The metrics besides loss and accuracy, by name: which there are, and which value is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gluonexp.base.errors import GluonexpError

NAMES: Final = ("top5", "balanced_acc", "macro_f1", "log_loss", "ece")
"""The metrics that can be asked for; with ``top5`` every ``topK``."""

_DIRECTIONS: Final = {
    "loss": "min",
    "acc": "max",
    "balanced_acc": "max",
    "macro_f1": "max",
    "log_loss": "min",
    "ece": "min",
}
# Measured after every epoch, whatever else is asked for; of training batches there is no more.
_ALWAYS: Final = ("train/loss", "train/acc", "val/loss", "val/acc")
_TOP: Final = re.compile(r"top([1-9]\d{0,5})")


def direction(metric: str) -> str | None:
    """Return ``max`` or ``min``, whichever of `metric` (``val/ece``) is better; None: unknown."""
    name = metric.rpartition("/")[2]
    return "max" if _TOP.fullmatch(name) else _DIRECTIONS.get(name)


def check_mode(metric: str, mode: str, key: str) -> None:
    """Refuse a direction that a known metric does not have.

    Raises
    ------
    GluonexpError
        The message names `key`, the node of both.
    """
    known = direction(metric)
    if known not in (None, mode):
        better = "higher" if known == "max" else "lower"
        raise GluonexpError(
            f"{key}.mode={mode}: of {metric} {better} is better; type {key}.mode={known}"
        )


def check_name(name: str, key: str) -> None:
    """Refuse what `gluonexp.base.measures` does not know; `key` is whose value it is."""
    if not _is_extra(name):
        raise GluonexpError(
            f"{key}={name}: choose of {', '.join(NAMES)}; or any topK from top2 on"
        )


def check_watched(metric: str, key: str) -> None:
    """Refuse a metric that is not measured after each epoch; `key` is whose value it is."""
    split, _, name = metric.partition("/")
    if metric not in _ALWAYS and not (split == "val" and _is_extra(name)):
        known = [*_ALWAYS, *(f"val/{each}" for each in NAMES)]
        raise GluonexpError(f"{key}={metric}: choose one of {', '.join(known)}")


def to_measure(names: Iterable[str], watched: Iterable[str]) -> tuple[str, ...]:
    """Return the `names` and what is `watched` (``val/macro_f1``) besides, each once."""
    needed = (metric.rpartition("/")[2] for metric in watched if metric not in _ALWAYS)
    return tuple(dict.fromkeys([*names, *needed]))


def telling(names: Iterable[str], classes: int) -> tuple[str, ...]:
    """Return those of the metrics that say something of a network of so many classes.

    The true one is always among the five likeliest of five.
    """
    return tuple(name for name in names if top(name) < classes)


def _is_extra(name: str) -> bool:
    return name in NAMES or top(name) > 1


def top(name: str) -> int:
    """Return K of ``topK``, 1 of every other metric."""
    found = _TOP.fullmatch(name)
    return 1 if found is None else int(found[1])
