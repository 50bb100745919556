"""What the schema cannot say of one field: values that must suit each other."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from gluonexp.base import metrics
from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    from gluonexp.config.schema import Config

_ENDS: Final = ("finished", "pruned", "failed", "killed")


def check(config: Config) -> None:
    """Refuse values that are right one by one, but not together.

    Raises
    ------
    GluonexpError
        The message names the key.
    """
    if config.engine.name == "mxnet" and config.engine != type(config.engine)():
        raise GluonexpError(
            "engine: precision, compile, deterministic and tf32 are of engine=torch, so add that; "
            "MXNet trains in float32"
        )
    metrics.check_watched(config.objective.metric, "objective.metric")
    metrics.check_mode(config.objective.metric, config.objective.mode, "objective")
    for wanted in config.metrics.names:
        metrics.check_name(wanted, "metrics.names")
    if config.freeze.decay > 1:
        raise GluonexpError(f"freeze.decay={config.freeze.decay}: at most 1")
    search = config.trainer.lr_find
    if 0 < search.steps < 50:
        raise GluonexpError(f"trainer.lr_find.steps={search.steps}: at least 50 make a curve")
    if search.end <= search.start:
        raise GluonexpError(
            f"trainer.lr_find.end={search.end:g}: must be above "
            f"trainer.lr_find.start={search.start:g}"
        )
    if search.steps and config.trainer.resume is not None:
        raise GluonexpError("trainer.resume: trainer=lr_find starts anew; leave one of them out")
    names = {"sweep.register": config.sweep.register, "export.register": config.export.register}
    for key, name in names.items():
        if name is not None and not re.fullmatch(r"[^/:]+", name):
            raise GluonexpError(f"{key}={name}: a model's name has no '/' and no ':'")
    if config.export.register is not None:
        if config.tracking.backend == "none" or not config.export.enabled:
            raise GluonexpError(
                f"export.register={config.export.register}: there is nothing to register with "
                "tracking=none or export=none"
            )
        if search.steps:
            raise GluonexpError("export.register: trainer=lr_find trains no model to register")
    _check_notify(config)
    dataset = config.dataset
    if dataset.train_fraction > 1:
        raise GluonexpError(f"dataset.train_fraction={dataset.train_fraction}: at most 1")
    if dataset.channels not in (None, 1, 3):
        raise GluonexpError(f"dataset.channels={dataset.channels}: choose 1, 3 or null")
    if not all(map(math.isfinite, dataset.mean)):
        raise GluonexpError(f"dataset.mean={dataset.mean}: every value must be a finite number")
    if not all(0 < value < math.inf for value in dataset.std):
        raise GluonexpError(f"dataset.std={dataset.std}: every value must be above 0")


def _check_notify(config: Config) -> None:
    notify = config.notify
    if unknown := [word for word in notify.when if word not in _ENDS]:
        raise GluonexpError(f"notify.when={unknown[0]}: choose some of {', '.join(_ENDS)}")
    if notify.command == []:
        raise GluonexpError("notify.command=[]: name a program, as [mail,-s,done,me]")
    if notify.webhook and not re.match(r"https?://[^/\s]", notify.webhook):
        raise GluonexpError(
            "notify.webhook: must be an address that begins with https:// or http://"
        )
