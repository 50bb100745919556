"""On which device PyTorch computes."""

from __future__ import annotations

import torch

from gluonexp.base.device import has_code
from gluonexp.base.errors import GluonexpError


def device(name: str, process: int = 0) -> torch.device:
    """Return PyTorch's device for ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.

    ``auto`` is the first GPU that the installed PyTorch has code for, and else the CPU. Of several
    processes of this host each takes the next GPU, by its number `process`.

    Raises
    ------
    GluonexpError
        The GPU that `name` asks for cannot be used.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = torch.cuda.get_arch_list()
    capability = torch.cuda.get_device_capability
    usable = [number for number in range(count) if has_code(built, capability(number))]
    if name == "auto":
        chosen = usable[process % len(usable)] if usable else None
        return torch.device("cpu") if chosen is None else torch.device("cuda", chosen)
    if not count:
        raise GluonexpError(
            f"device={name}: PyTorch {torch.__version__} sees no GPU; look at `nvidia-smi` and at "
            "CUDA_VISIBLE_DEVICES, install a build of PyTorch with CUDA, or use device=cpu"
        )
    number = int(name.partition(":")[2] or process % count)
    if number >= count:
        raise GluonexpError(f"device={name}: there are {count} GPUs, so N is below {count}")
    if number not in usable:
        major, minor = torch.cuda.get_device_capability(number)
        raise GluonexpError(
            f"device={name}: PyTorch {torch.__version__} has no code for "
            f"{torch.cuda.get_device_name(number)} (compute capability {major}.{minor}), only for "
            f"{' '.join(torch.cuda.get_arch_list())}; install another build, or use device=cpu"
        )
    return torch.device("cuda", number)
