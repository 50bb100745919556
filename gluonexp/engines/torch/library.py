"""PyTorch itself: loaded when an engine needs it, with as many threads as MXNet has.

The other modules of this package import it plainly: whoever takes them calls `load` first.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.imports import heavy_imports
from gluonexp.base.mx import INSTALL_CPU, gpu_wheel, openmp, threads

INSTALL = "pip install 'gluonexp[torch]'"


def conflict() -> tuple[str, str] | None:
    """Say what forbids to import PyTorch beside the installed MXNet, and the remedy."""
    wheel, spec = gpu_wheel(), find_spec("torch")
    if wheel is None or spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    if cuda is None:
        return None
    return (
        f"for CUDA {cuda[1]}, whose libraries share no process with {wheel}",
        f"`pip uninstall -y {wheel}`, then `{INSTALL_CPU}`: engine=torch has the GPU then; or "
        "keep both in environments of their own",
    )


def load(who: str = "engine=torch", instead: str = "engine=mxnet") -> None:
    """Import PyTorch, and let it compute with as many threads as MXNet.

    They take the OpenMP of the system, where there is one, each with threads of its own. Only one
    of them computes at a time, and the threads of the other sleep after some microseconds.

    Parameters
    ----------
    who, instead
        What asks for it, and what to take where it is missing, for the message.

    Raises
    ------
    GluonexpError
        It is not installed, does not load, or not beside the installed MXNet.
    """
    if (both := conflict()) is not None:
        raise GluonexpError(f"{who}: PyTorch is {both[0]}: {both[1]}; or {instead}")
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
