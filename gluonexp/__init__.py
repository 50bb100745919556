"""gluonexp: tracked experiments for MXNet Gluon.

Importing the package is cheap: it loads no NumPy, no Hydra, no MXNet. It does three things for the
whole process. Standard streams that are closed are opened again (`gluonexp.base`). Whoever imports
MXNet from now on (also ``pickle``, in a worker process) finds the NumPy alias which MXNet 1.9.1
needs and NumPy 1.24 removed. Names under which modules were known before still lead to them
(`gluonexp.base.aliases`).
"""

# This file must parse on every Python 3.7+, so that a wrong one is refused with a sentence.
import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    raise ImportError(
        f"gluonexp needs Python 3.10, 3.11 or 3.12 (MXNet 1.9.1 runs on no newer one); this is "
        f"{sys.executable}, which is {sys.version_info[0]}.{sys.version_info[1]}."
    )

from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from gluonexp.base.aliases import AliasFinder

__version__ = "0.2.0"


def restore_numpy_bool() -> None:
    """Give NumPy back the alias ``np.bool``, the only removed name MXNet 1.9.1 cannot do without.

    The alias is ``np.bool_``, which is what ``np.bool`` means again since NumPy 2. MXNet reads it
    while it is imported and at run time, so it stays.
    """
    import numpy as np

    if "bool" not in vars(np):  # hasattr would make NumPy warn
        np.bool = np.bool_  # type: ignore[attr-defined]


class _BeforeMXNet:
    """Finds nothing; it only sees MXNet's import coming, and restores the alias in time."""

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None", target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if fullname == "mxnet":
            restore_numpy_bool()
        return None


# By name: a reload makes new classes, and must not add a second finder of a kind.
for _finder in (_BeforeMXNet(), AliasFinder()):
    if not any(type(known).__name__ == type(_finder).__name__ for known in sys.meta_path):
        sys.meta_path.insert(0, _finder)
