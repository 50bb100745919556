"""On which device MXNet computes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gluonexp.base import mx as door
from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    from gluonexp.base.mx import mx


def device(name: str) -> mx.Context:
    """Return the MXNet context for ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.

    ``auto`` is the first GPU that the installed MXNet has code for, and else the CPU.

    Raises
    ------
    GluonexpError
        If the name is none of these, or the GPU it asks for cannot be used.
    """
    named(name)
    from gluonexp.base.mx import mx

    if name == "cpu":
        return mx.cpu()
    cuda = mx.runtime.Features().is_enabled("CUDA")
    wheel = door.gpu_wheel() is not None
    gpus = door.gpus() if cuda or name != "auto" else []
    ordinal = choose_gpu(name, cuda=cuda, wheel=wheel, gpus=gpus)
    return mx.cpu() if ordinal is None else mx.gpu(ordinal)


def named(name: str) -> None:
    """Refuse what is no name of a device, whichever library is to compute there."""
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", name):
        raise GluonexpError(f"device={name} is none of auto, cpu, gpu, gpu:N (N from 0)")


def choose_gpu(name: str, *, cuda: bool, wheel: bool, gpus: list[door.Gpu]) -> int | None:
    """Return the ordinal of the GPU for `name`, or None for the CPU.

    Parameters
    ----------
    name
        ``auto``, ``gpu`` or ``gpu:N``.
    cuda
        Whether MXNet was built with CUDA.
    wheel
        Whether it is the published wheel, whose code is known; a build of one's own is trusted.
    gpus
        The devices the driver shows.

    Raises
    ------
    GluonexpError
        If the GPU asked for by name cannot be used. MXNet would abort the process.
    """
    usable = [cuda and (gpu.supported or not wheel) for gpu in gpus]
    if name == "auto":
        return usable.index(True) if True in usable else None
    if not gpus:
        raise GluonexpError(
            f"device={name}: no NVIDIA GPU is visible; look at `nvidia-smi` and at "
            "CUDA_VISIBLE_DEVICES, or use device=cpu."
        )
    ordinal = int(name.partition(":")[2] or 0)
    if ordinal >= len(gpus):
        raise GluonexpError(
            f"device={name}: there are {len(gpus)} visible GPUs, so N is below {len(gpus)}."
        )
    if not usable[ordinal]:
        raise GluonexpError(f"device={name}: {unusable(gpus[ordinal])}, or use device=cpu.")
    return ordinal


def unusable(gpu: door.Gpu) -> str:
    """Say why the installed MXNet cannot use this GPU, and what can."""
    if gpu.supported:
        return (
            f"this MXNet was built without CUDA; for {gpu} "
            f"`pip uninstall -y {door.CPU_WHEEL}`, then `{door.INSTALL_GPU}`"
        )
    (low, high) = (f"{major}.{minor}" for major, minor in door.WHEEL_CAPABILITIES)
    return (
        f"the wheels of MXNet 1.9.1 have code for compute capability {low} to {high}, not for "
        f"{gpu}; use NVIDIA's container nvidia/mxnet:24.06-py3"
    )


def has_code(built: Sequence[str], capability: tuple[int, int]) -> bool:
    """Tell whether a CUDA library runs on a GPU of this compute capability.

    Parameters
    ----------
    built
        What it holds, as PyTorch lists it: machine code (``sm_80``, for all 8.x from 8.0 on), or
        PTX (``compute_90``), of which the driver makes code for whatever is newer.
    """
    major, minor = capability
    for name in built:
        kind, _, digits = name.partition("_")
        built_major, built_minor = divmod(int(re.sub(r"\D", "", digits) or 0), 10)
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= (major, minor):
            return True
    return False
