"""What a model needs to be served, as MLflow and its package managers read it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Final

import yaml

import gluonexp
from gluonexp.base import mx as door

CONDA: Final = "conda.yaml"
VIRTUALENV: Final = "python_env.yaml"
_REQUIREMENTS: Final = "requirements.txt"


def write(folder: Path) -> None:
    """Write ``requirements.txt``, ``conda.yaml`` and ``python_env.yaml`` into `folder`."""
    pinned, python = requirements(), python_version()
    (folder / _REQUIREMENTS).write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
    virtualenv = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {_REQUIREMENTS}"],
    }
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": pinned}],
    }
    for name, content in ((VIRTUALENV, virtualenv), (CONDA, conda)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def requirements() -> list[str]:
    """Return the packages that are needed, in the versions that are installed here."""
    wheel = door.gpu_wheel() or door.CPU_WHEEL
    mxnet = door.installed_wheels().get(wheel, str(door.mx.__version__))
    others = [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "pandas", "pillow")]
    return [f"gluonexp=={gluonexp.__version__}", f"{wheel}=={mxnet}", *others]
