"""PyTorch itself: loaded when an engine needs it, with as many threads as MXNet has.

The other modules of this package import it plainly: whoever takes them calls `load` first.
"""

from __future__ import annotations

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.imports import heavy_imports
from gluonexp.base.mx import openmp, threads

INSTALL = "pip install 'gluonexp[torch]'"


def load(who: str = "engine=torch", instead: str = "engine=mxnet") -> None:
    """Import PyTorch, and let it compute with as many threads as MXNet.

    Each library brings an OpenMP of its own. Only one of them computes at a time, and the threads
    of the other sleep after some microseconds.

    Parameters
    ----------
    who, instead
        What asks for it, and what to take where it is missing, for the message.

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
        raise GluonexpError(f"{who}: PyTorch is not installed: {INSTALL}, or {instead}") from None
    except (ImportError, OSError, RuntimeError) as error:
        raise GluonexpError(
            f"{who}: PyTorch does not load: {reason(error)}; reinstall it: {INSTALL} "
            f"--force-reinstall, or take {instead}"
        ) from None
    torch.set_num_threads(threads())


def why(error: GluonexpError) -> str:
    """Return what a refusal of the engine says, where the engine itself was not asked for."""
    return str(error).removeprefix("engine=torch: ").removesuffix("; take engine=mxnet")
