"""``gluonexp doctor``: whether this machine can run the main job, and what it lacks if not."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gluonexp import tracking
from gluonexp.base import device, provenance
from gluonexp.base import mx as door
from gluonexp.base.arrays import ArrayCache, default_folder
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import user_cache
from gluonexp.base.imports import installed
from gluonexp.base.text import in_bytes, plain_console
from gluonexp.data.root import data_root
from gluonexp.engines.torch import library

_Found = tuple[bool | None, str] | tuple[bool | None, str, str]  # `Check` without the name

MIN_FREE = 200 * 10**6  # bytes; a digits run writes about a hundredth of it


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes
    ----------
    name
        What was looked at, two words at most.
    ok
        True: as it should be; False: the main job cannot run; None: something optional is
        missing, or unused.
    detail
        What was found.
    remedy
        What to do about it; empty if there is nothing to do.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def checks(tracking_uri: str | None = None) -> list[Check]:
    """Look at everything a run needs, for real: MXNet computes, the store is written to.

    Parameters
    ----------
    tracking_uri
        The MLflow store to probe; None is the default one, under the working directory.
    """
    looks: dict[str, Callable[[], _Found]] = {
        "Python": _python,
        "NumPy": _numpy,
        "libraries": _libraries,
        "MXNet": _mxnet,
        "devices": _devices,
        "PyTorch": _torch,
        "MLflow": _mlflow,
        "store": lambda: _store(tracking_uri),
        "data": _data,
        "weights": _weights,
        "cache": _cache,
        "disk": _disk,
        "extras": _extras,
    }
    found = []
    for name, look in looks.items():
        try:
            found.append(Check(name, *look()))
        except GluonexpError as error:
            found.append(Check(name, False, str(error)))
    return found


def render(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print one line a check."""
    console = console or plain_console()
    marks = {True: ("ok  ", "green"), None: ("-   ", "yellow"), False: ("FAIL", "bold red")}
    width = max(len(check.name) for check in checks)
    for check in checks:
        # Not markup: it would swallow the brackets of gluonexp[cpu].
        line = Text.assemble(marks[check.ok], f"  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            line.append(f"  -> {check.remedy}", "bold")
        console.print(line, soft_wrap=True, highlight=False)


def _python() -> _Found:
    # The package itself refuses other versions.
    return True, f"{platform.python_version()} ({sys.executable})"


def _numpy() -> _Found:
    numpy = version("numpy")
    if int(numpy.split(".")[0]) > 1:
        return False, f"{numpy}, MXNet needs 1.x", "pip install 'numpy<2'"
    return True, numpy


def _libraries() -> _Found:
    missing = door.missing_libraries()
    if missing:
        detail = f"no {', '.join(missing)}"
        return False, detail, door.library_remedy(missing)
    return True, ", ".join(door.system_libraries()) or "all in MXNet's wheel"


def _mxnet() -> _Found:
    from gluonexp.base.mx import mx

    ones = mx.nd.ones((2, 2))
    if mx.nd.dot(ones, ones).sum().asscalar() != 8:
        return False, "it adds up wrong", f"{door.INSTALL_CPU} --force-reinstall"
    features = mx.runtime.Features()
    names = {"MKLDNN": "oneDNN", "BLAS_OPEN": "OpenBLAS", "CUDA": "CUDA", "CUDNN": "cuDNN"}
    built = [title for name, title in names.items() if features.is_enabled(name)]
    wheels = ", ".join(door.installed_wheels()) or "own build"
    return True, f"{mx.__version__} ({wheels}) with {', '.join(built)}"


def _devices() -> _Found:
    gpus = door.gpus()
    try:
        auto = device.device("auto")
    except GluonexpError:  # the check of MXNet says why
        return None, f"none without MXNet; {len(gpus)} NVIDIA GPUs are visible"
    detail = f"auto is {auto}; CPU with {provenance.omp_threads()} threads"
    for ordinal, gpu in enumerate(gpus):
        detail += f"; GPU {ordinal}: {gpu}"
    if gpus and auto.device_type == "cpu":
        return None, detail, device.unusable(gpus[0])
    return True, detail if gpus else f"{detail}; no NVIDIA GPU"


def _torch() -> _Found:
    """Say on what PyTorch, which engine=torch trains by, can compute."""
    if not (found := installed("torch")):
        return None, "not installed; engine=torch needs it", library.INSTALL
    if (conflict := library.conflict()) is not None:
        return None, f"{found['torch']} {conflict[0]}", conflict[1]
    try:
        library.load()
    except GluonexpError as error:  # the main job does without it
        return None, str(error)
    import torch

    cpu = f"CPU with {torch.get_num_threads()} threads, {_bfloat16()}"
    if torch.version.cuda is None:
        detail = f"{torch.__version__} without CUDA; {cpu}"
        if door.gpus():
            return None, detail, "a build with CUDA for the GPU: https://pytorch.org/get-started"
        return True, detail
    built = torch.cuda.get_arch_list()
    detail = f"{torch.__version__} for CUDA {torch.version.cuda} ({' '.join(built)}); {cpu}"
    without = [gpu for gpu in door.gpus() if not device.has_code(built, gpu.capability)]
    if without:
        return None, f"{detail}; no code for {without[0]}", "another build of PyTorch"
    return True, f"{detail}; GPUs it has code for: {len(door.gpus())}"


def _bfloat16() -> str:
    """Say how the processor computes in bfloat16."""
    import torch

    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if able.get("amx_bf16"):
        return "bfloat16 by AMX"
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bfloat16"
    return "no bfloat16"


def _mlflow() -> _Found:
    found = installed("mlflow")
    return (True, found["mlflow"]) if found else (False, "not installed", door.INSTALL_CPU)


def _store(uri: str | None) -> _Found:
    found = tracking.probe(uri)
    if strays := tracking.strays(uri):
        detail = f"{found}; it was moved, but {told(strays)} are recorded"
        return None, detail, "gluonexp doctor --relocate"
    return True, found


def told(strays: Sequence[tracking.Stray]) -> str:
    """Name one of some recorded paths, and say how many more there are."""
    more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
    return f"{strays[-1].path}{more}"


def _data() -> _Found:
    """Look for data sets; the default one, digits, comes with scikit-learn and needs no folder."""
    named = os.environ.get("GLUONEXP_DATA")
    root = data_root(named)
    if not root.is_dir():
        detail = f"{root} does not exist"
        if named:
            return None, detail, "set GLUONEXP_DATA to the folder of your data sets"
        return None, f"{detail}; a download will make it"
    held = sorted(path.name for path in root.iterdir() if path.is_dir())
    origin = "GLUONEXP_DATA" if named else "cache"
    return True, f"{root} ({origin}): {', '.join(held) or 'empty'}"


def _weights() -> _Found:
    """Look for published weights: MXNet's in its cache, torchvision's in ours."""
    home = os.environ.get("MXNET_HOME") or "~/.mxnet"
    places = {Path(home).expanduser() / "models": "*.params", user_cache() / "weights": "*.pth"}
    held = []
    for folder, files in places.items():
        if sizes := [path.stat().st_size for path in folder.glob(files)]:
            held.append(f"{len(sizes)} in {folder}, {sum(sizes) / 1e6:.0f} MB")
    if not held:
        return None, "none but the bundled; model.weights=imagenet downloads some"
    return True, "; ".join(held)


def _cache() -> _Found:
    """Say what is computed once and kept."""
    folder = default_folder()
    kept = ArrayCache(folder, 0).entries()
    if not kept:
        return None, f"nothing is kept in {folder}"
    size = in_bytes(sum(one.size for one in kept))
    return True, f"{len(kept)} in {folder}, {size}"


def _disk() -> _Found:
    free = shutil.disk_usage(".").free
    detail = f"{free / 1e9:.1f} GB free here"
    if free < MIN_FREE:
        return False, detail, f"free at least {MIN_FREE / 1e6:.0f} MB"
    return True, detail


def _extras() -> _Found:
    """Say which of gluonexp's own extras are complete."""
    try:
        extras = metadata("gluonexp").get_all("Provides-Extra") or []
        needs = requires("gluonexp") or []
    except PackageNotFoundError:
        return None, "gluonexp runs from a folder", "pip install -e '.[cpu]'"
    missing: dict[str, list[str]] = {extra: [] for extra in extras}
    for need in needs:
        package = re.match(r"[\w.-]+", need)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", need)
        if package and extra and not installed(package[0]):
            missing[extra[1]].append(package[0])
    complete = [extra for extra, packages in missing.items() if not packages]
    absent = [extra for extra, packages in missing.items() if packages]
    detail = f"{', '.join(complete) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    return None if absent else True, detail
