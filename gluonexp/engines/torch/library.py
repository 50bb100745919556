"""PyTorch itself: loaded when an engine needs it, with as many threads as MXNet has.

The other modules of this package import it plainly: whoever takes them calls `load` first.
"""

from __future__ import annotations

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.imports import heavy_imports
from gluonexp.base.mx import openmp, threads

INSTALL = "pip install 'gluonexp[torch]'"


def load() -> None:
    """Import PyTorch, and let it compute with as many threads as MXNet.

    Each library brings an OpenMP of its own. Only one of them computes at a time, and the threads
    of the other sleep after some microseconds.

    Raises
    ------
    GluonexpError
        It is not installed, or does not load.
    """
    try:
        with heavy_imports(), openmp():
            import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise GluonexpError(
            f"engine=torch: PyTorch is not installed: {INSTALL}, or engine=mxnet"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise GluonexpError(
            f"engine=torch: PyTorch does not load: {reason(error)}; reinstall it: {INSTALL} "
            "--force-reinstall, or take engine=mxnet"
        ) from None
    torch.set_num_threads(threads())
