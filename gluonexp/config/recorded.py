"""A configuration that a run recorded, with what is typed now on top of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import HIDDEN
from gluonexp.config.optimizers import OPTIMIZERS
from gluonexp.config.references import of_files, refer
from gluonexp.config.schema import Config, SweepConfig

# A recorded configuration takes a few kB.
_LARGEST: Final = 1 << 20  # bytes
_DEEPEST: Final = 8

# What Hydra composes; other rooms only hand it on.
Composed: TypeAlias = DictConfig

# Groups that set keys of other groups, so that nobody can tell what of them was typed.
_WHOLE: Final = ("experiment", "sweep")


def read(path: Path) -> dict[str, Any]:
    """Return what a run's ``config/resolved.yaml`` holds: mappings, lists and plain values.

    Raises
    ------
    GluonexpError
        It is no configuration that a run wrote; the message names the file.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise GluonexpError(f"{path} is larger than any configuration: refused")
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(whole, dict):
            raise TypeError("it must be a mapping")
        for key, value in whole.items():
            _check(value, f"{path}: {key}")
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise GluonexpError(f"{path}: not the configuration of a run: {said}") from None
    return whole


def _check(node: object, where: str, depth: int = 0) -> None:
    """Refuse what no run records."""
    if depth > _DEEPEST:
        raise GluonexpError(f"{where} is nested too deeply: refused")
    if isinstance(node, dict):
        for name, value in node.items():
            if not re.fullmatch(r"[\w.*\[\]-]+", str(name)):
                raise GluonexpError(f"{where} has the key {str(name)[:40]!r}: refused")
            _check(value, f"{where}.{name}", depth + 1)
        return
    if isinstance(node, list):
        for value in node:
            _check(value, where, depth + 1)
    elif not isinstance(node, str | int | float | None):
        raise GluonexpError(f"{where} is a {type(node).__name__}: refused")
    elif isinstance(node, str) and "${" in node:
        raise GluonexpError(f"{where} refers to something else: refused")


def with_typed(
    recorded: Mapping[str, Any],
    composed: DictConfig,
    overrides: Sequence[str],
    folders: Iterable[Path],
) -> DictConfig:
    """Return the configuration `recorded`, changed by `overrides` alone.

    Parameters
    ----------
    recorded
        Of `read`. It names data and settings, and no code: other packages than gluonexp have to be
        allowed by an override again.
    composed
        What `overrides` come to by themselves: a key they name is taken from there.
    folders
        Of groups of configuration files: what refers to another key there follows it.

    Raises
    ------
    GluonexpError
        `recorded` is no configuration of this version, or an override sets more than its key, or
        a secret was not typed again.
    """
    try:
        base = OmegaConf.structured(Config)
        base.optim = OmegaConf.structured(OPTIMIZERS[recorded["optim"]["name"]])
        merged = OmegaConf.merge(base, recorded)
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise GluonexpError(f"its configuration is not of this version: {error}") from None
    assert isinstance(merged, DictConfig)
    refer(merged, of_files(merged, folders))
    # Where it is recorded (the recorded address has no password), and what a sweep told its job.
    merged.tracking.uri, merged.tracking.run_id = composed.tracking.uri, None
    merged.build, merged.notify = composed.build, composed.notify
    merged.tracking.backend, merged.sweep = composed.tracking.backend, SweepConfig()
    for name in ("folder", "budget_gb"):  # of this machine
        merged.features[name] = composed.features[name]
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
    if secret := next(_hidden(OmegaConf.to_container(merged, resolve=False)), None):
        raise GluonexpError(
            f"{secret} is a secret, which no run records: type it again, {secret}=..."
        )
    return merged


def _hidden(node: object, key: str = "") -> Iterator[str]:
    """Yield the keys whose values were recorded as ``***``."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _hidden(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _hidden(value, key)
    elif isinstance(node, str) and HIDDEN in node:
        yield key
