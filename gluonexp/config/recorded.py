"""A configuration that a run recorded, with what is typed now on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Final, TypeAlias

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import OPTIMIZERS, Config, SweepConfig

# What Hydra composes; other rooms only hand it on.
Composed: TypeAlias = DictConfig

# Groups that set keys of other groups, so that nobody can tell what of them was typed.
_WHOLE: Final = ("experiment", "sweep")


def with_typed(
    recorded: Mapping[str, Any], composed: DictConfig, overrides: Sequence[str]
) -> DictConfig:
    """Return the configuration `recorded`, changed by `overrides` alone.

    Parameters
    ----------
    recorded
        As a run's ``config/resolved.yaml`` holds it.
    composed
        What `overrides` come to by themselves: a key they name is taken from there.

    Raises
    ------
    GluonexpError
        `recorded` is no configuration of this version, or an override sets more than its key.
    """
    try:
        base = OmegaConf.structured(Config)
        base.optim = OmegaConf.structured(OPTIMIZERS[recorded["optim"]["name"]])
        merged = OmegaConf.merge(base, recorded)
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise GluonexpError(f"its configuration is not of this version: {error}") from None
    assert isinstance(merged, DictConfig)
    # Where it is recorded (the recorded address has no password), and what a sweep told its job.
    merged.tracking.uri, merged.tracking.run_id = composed.tracking.uri, None
    merged.tracking.backend, merged.sweep = composed.tracking.backend, SweepConfig()
    OmegaConf.set_struct(merged, False)
    typed = OmegaConf.to_container(composed)  # with its interpolations
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~").partition("@")[0]
        if key in _WHOLE:
            raise GluonexpError(
                f"trainer.resume starts from the configuration of that run: leave {key}= out, and "
                "type the keys to be changed"
            )
        if key.startswith("hydra"):
            continue
        if word.startswith("~"):
            parent, _, name = key.rpartition(".")
            OmegaConf.select(merged, parent).pop(name, None)
            continue
        if key == "optim":
            merged.optim = OmegaConf.structured(OPTIMIZERS[composed.optim.name])
        value: Any = typed
        for part in key.split("."):
            value = value[part]
        # A typed node takes values; in any other, keys of the earlier choice must not stay.
        node = OmegaConf.select(merged, key, throw_on_resolution_failure=False)
        is_typed = OmegaConf.is_config(node) and is_dataclass(OmegaConf.get_type(node))
        OmegaConf.update(merged, key, value, merge=is_typed, force_add=True)
    return merged
