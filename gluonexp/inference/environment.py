"""What a model needs to be served, as MLflow and its package managers read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Final

import yaml

import gluonexp
from gluonexp.base import mx as door
from gluonexp.base.errors import GluonexpError, reason
from gluonexp.tracking import internals

CONDA: Final = "conda.yaml"
VIRTUALENV: Final = "python_env.yaml"
_REQUIREMENTS: Final = "requirements.txt"
_CONSTRAINTS: Final = "constraints.txt"  # the name that the requirements refer to


@dataclass(frozen=True)
class Wanted:
    """What the user says of the environment, as MLflow's flavors take it; at most one of them.

    Attributes
    ----------
    conda_env
        The file of a conda environment, or what such a file holds.
    pip_requirements, extra_pip_requirements
        A requirements file or a list of requirements: instead of `requirements`, or besides them.
    """

    conda_env: str | Path | dict[str, Any] | None = None
    pip_requirements: str | Path | Sequence[str] | None = None
    extra_pip_requirements: str | Path | Sequence[str] | None = None


def write(folder: Path, wanted: Wanted | None = None) -> None:
    """Write ``requirements.txt``, ``conda.yaml`` and ``python_env.yaml`` into `folder`.

    Raises
    ------
    GluonexpError
        More than one of what is `wanted` is given, or a file of it cannot be read.
    """
    pinned = requirements()
    given = {key: value for key, value in vars(wanted or Wanted()).items() if value is not None}
    content = conda(pinned)
    if len(given) > 1:
        raise GluonexpError(f"{' and '.join(given)}: give one of them")
    if given:
        ((key, value),) = given.items()
        try:
            content, pinned, constraints = internals.environment(pinned, key, value)
        except OSError as error:
            raise GluonexpError(f"{key}={value}: cannot be read: {error.strerror}") from None
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise GluonexpError(f"{key}={value}: {reason(error)}") from None
        if constraints:
            lines = "".join(f"{line}\n" for line in constraints)
            (folder / _CONSTRAINTS).write_text(lines, encoding="utf-8")
    (folder / _REQUIREMENTS).write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
    virtualenv = {
        "python": python_version(),
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {_REQUIREMENTS}"],
    }
    for name, held in ((VIRTUALENV, virtualenv), (CONDA, content)):
        (folder / name).write_text(yaml.safe_dump(held, sort_keys=False), encoding="utf-8")


def conda(pinned: Sequence[str]) -> dict[str, Any]:
    """Return a conda environment with these requirements for pip."""
    return {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python_version()}", "pip", {"pip": list(pinned)}],
    }


def requirements() -> list[str]:
    """Return the packages that are needed, in the versions that are installed here."""
    wheel = door.gpu_wheel() or door.CPU_WHEEL
    mxnet = door.installed_wheels().get(wheel, str(door.mx.__version__))
    others = [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "pandas", "pillow")]
    return [f"gluonexp=={gluonexp.__version__}", f"{wheel}=={mxnet}", *others]
