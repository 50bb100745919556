"""Names under which modules were known before: users' code, configurations and recorded models.

Importing an old name gives the module itself, so that classes are the same under both.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
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
    # Of MLflow before 2.20, and of the models that it logged.
    "mlflow.gluon": "gluonexp.mlflow_gluon",
}


def current(name: str) -> str:
    """Return the dotted `name` of a module or of something in it as it is today."""
    return _renamed(name, ALIASES)


def former(name: str) -> str:
    """Return the dotted `name` as it was at first: what is told apart by names stays the same."""
    return _renamed(name, {new: old for old, new in ALIASES.items()})


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for before, after in names.items():
        if name == before or name.startswith(f"{before}."):
            return after + name.removeprefix(before)
    return name


class AliasFinder(Loader):
    """Finds modules by the names in `ALIASES`, and loads what is there already."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import an alias; None for every other name."""
        return ModuleSpec(fullname, self) if fullname in ALIASES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself; its own spec, which the import replaces, waits in `spec`."""
        module = importlib.import_module(ALIASES[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state
