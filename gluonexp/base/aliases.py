"""Names under which modules were known before: users' code, configurations and recorded models.

Importing an old name gives the module itself, so that classes are the same under both.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

# A model logged by MLflow names its loader module, a recorded configuration its `_target_`s.
ALIASES: Final = {
    "gluonexp.callbacks": "gluonexp.training.callbacks",
    "gluonexp.checkpoint": "gluonexp.training.checkpoint",
    "gluonexp.errors": "gluonexp.base.errors",
    "gluonexp.export.flavor": "gluonexp.inference.flavor",
    "gluonexp.loop": "gluonexp.training.loop",
    "gluonexp.loss": "gluonexp.models.loss",
    "gluonexp.mx": "gluonexp.base.mx",
    "gluonexp.optim": "gluonexp.training.schedules",
    "gluonexp.predict": "gluonexp.inference.predict",
    "gluonexp.schema": "gluonexp.config.schema",
}


def current(name: str) -> str:
    """Return the dotted `name` of a module or of something in it as it is today."""
    for old, new in ALIASES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def former(name: str) -> str:
    """Return the dotted `name` as it was at first: what is told apart by names stays the same."""
    for old, new in ALIASES.items():
        if name == new or name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    return name


class AliasFinder:
    """Finds modules by the names in `ALIASES`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import an alias; None for every other name."""
        if fullname not in ALIASES:
            return None
        return ModuleSpec(fullname, _Existing(ALIASES[fullname]))


class _Existing(Loader):
    """Loads an alias: the module that is there already, which keeps its own spec."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
