"""The one door to MXNet: every other module takes `mx`, `nd`, `gluon`, `nn` ... from here.

Importing this module is cheap; taking one of those names from it imports MXNet (about 1.5 s),
silently, or raises one `GluonexpError` which says what is missing and which command installs it.
The functions look around without importing MXNet, so `gluonexp doctor` can use them when it fails.
"""

import ctypes
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.imports import heavy_imports, installed

if TYPE_CHECKING:
    import mxnet as mx
    from mxnet import autograd, gluon, nd, sym
    from mxnet.gluon import nn

__all__ = ["autograd", "gluon", "mx", "nd", "nn", "sym"]

_MODULES: Final = {
    "mx": "mxnet",
    "nd": "mxnet.ndarray",
    "autograd": "mxnet.autograd",
    "gluon": "mxnet.gluon",
    "nn": "mxnet.gluon.nn",
    "sym": "mxnet.symbol",
}

# Every distribution that fills the same `mxnet/` folder.
CPU_WHEEL: Final = "mxnet"
GPU_WHEELS: Final = ("mxnet-cu112", "mxnet-cu117")

# The GPU wheels hold machine code for sm_50, 60, 70, 80 and 86, and no PTX to compile for others.
# Code for x.y runs on x.z with z >= y, so that is 5.0 up to 8.9.
WHEEL_CAPABILITIES: Final = ((5, 0), (8, 9))

# Settings that MXNet reads whenever it needs them, not only while it is imported.
_READ_LATER: Final = {"MXNET_SUBGRAPH_VERBOSE"}

INSTALL_CPU: Final = "pip install 'gluonexp[cpu]'"
INSTALL_GPU: Final = "pip install 'gluonexp[gpu]'"

# Shared libraries that a wheel for Linux leaves to the system, by machine, and the packages of
# Debian and Ubuntu that have them. Slim images lack the first two of x86_64.
SYSTEM_LIBRARIES: Final[dict[str, dict[str, str]]] = {
    "x86_64": {
        "libgomp.so.1": "libgomp1",
        "libquadmath.so.0": "libquadmath0",
        "libstdc++.so.6": "libstdc++6",
    },
    # The last three are the Arm Performance Libraries, which the wheel needs but does not hold.
    "aarch64": {
        "libgomp.so.1": "libgomp1",
        "libstdc++.so.6": "libstdc++6",
        "libarmpl_lp64_mp.so": "",
        "libamath.so": "",
        "libastring.so": "",
    },
}

# Sonames by pip wheel; those of nvidia-cuda-runtime-cu11 lie in nvidia/cuda_runtime/lib. A library
# stands after all it needs: once they are loaded, the linker takes MXNet's own needs by soname,
# without LD_LIBRARY_PATH.
CUDA_LIBRARIES: Final = {
    "nvidia-cuda-runtime-cu11": ("libcudart.so.11.0",),
    "nvidia-cublas-cu11": ("libcublasLt.so.11", "libcublas.so.11"),
    "nvidia-curand-cu11": ("libcurand.so.10",),
    "nvidia-cufft-cu11": ("libcufft.so.10",),
    "nvidia-cuda-nvrtc-cu11": ("libnvrtc-builtins.so.11.8", "libnvrtc.so.11.2"),
    "nvidia-nvtx-cu11": ("libnvToolsExt.so.1",),
    "nvidia-nccl-cu11": ("libnccl.so.2",),
    "nvidia-cudnn-cu11": (
        "libcudnn.so.8",
        "libcudnn_ops_infer.so.8",
        "libcudnn_cnn_infer.so.8",
        "libcudnn_adv_infer.so.8",
        "libcudnn_ops_train.so.8",
        "libcudnn_cnn_train.so.8",
        "libcudnn_adv_train.so.8",
    ),
    "nvidia-cusolver-cu11": ("libcusolver.so.11",),
}


@dataclass(frozen=True)
class Gpu:
    """A CUDA device the driver shows, with its compute capability."""

    name: str
    capability: tuple[int, int]

    @property
    def supported(self) -> bool:
        """Whether the GPU wheels of MXNet 1.9.1 hold code for this device."""
        lowest, highest = WHEEL_CAPABILITIES
        return lowest <= self.capability <= highest

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def installed_wheels() -> dict[str, str]:
    """Names and versions of the installed distributions that provide the package `mxnet`."""
    return installed(CPU_WHEEL, *GPU_WHEELS)


def gpu_wheel() -> str | None:
    """Name of the installed GPU wheel; None with the CPU wheel and with a build of one's own."""
    return next((name for name in GPU_WHEELS if name in installed_wheels()), None)


def gpus() -> list[Gpu]:
    """List the CUDA devices the driver shows (it respects `CUDA_VISIBLE_DEVICES`); none is [].

    It asks `libcuda.so.1` itself, so it works with any MXNet wheel and with none.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    if cuda.cuInit(0) != 0:
        return []
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_gpu(cuda, ordinal) for ordinal in range(count.value)]


def _gpu(cuda: ctypes.CDLL, ordinal: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetName(name, len(name), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def obstacle() -> str | None:
    """Say what forbids importing MXNet in this environment, in one sentence with its remedy.

    Returns None where nothing does, which still leaves the import itself to fail.
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        return (
            f"{' and '.join(wheels)} are both installed, and overwrite each other's files: "
            f"`pip uninstall -y {' '.join(wheels)}`, then `{INSTALL_CPU}` or `{INSTALL_GPU}`."
        )
    role = os.environ.get("DMLC_ROLE", "")
    if role in ("server", "scheduler"):
        return (
            f"DMLC_ROLE={role} is set, so importing MXNet would turn this process into a "
            "parameter server and never return: `unset DMLC_ROLE`."
        )
    return None


def preload_cuda() -> None:
    """Load the CUDA libraries of the installed `nvidia-*-cu11` wheels for all of the process.

    A wheel that is not installed is passed over: its library may come from the system.

    Raises
    ------
    GluonexpError
        When a library of an installed wheel does not load.
    """
    for wheel, sonames in CUDA_LIBRARIES.items():
        name = wheel.removeprefix("nvidia-").removesuffix("-cu11").replace("-", "_")
        try:
            folder = Path(str(distribution(wheel).locate_file(f"nvidia/{name}/lib")))
        except PackageNotFoundError:
            continue
        for soname in sonames:
            try:
                ctypes.CDLL(str(folder / soname), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise GluonexpError(
                    f"{soname} of the wheel {wheel} does not load ({error}); "
                    f"install the versions gluonexp names: `{INSTALL_GPU}`."
                ) from error


def explain(error: BaseException) -> str:
    """Turn the exception of a failed `import mxnet` into one sentence with its remedy."""
    if isinstance(error, ModuleNotFoundError) and error.name == "mxnet":
        return f"MXNet is not installed: `{INSTALL_CPU}`, or `{INSTALL_GPU}` for an NVIDIA GPU."
    if isinstance(error, ModuleNotFoundError) and error.name == "distutils":
        return "MXNet needs distutils, which Python 3.12 dropped: `pip install setuptools`."
    library = re.match(r"(\S+?): cannot open shared object file", str(error))
    if library:
        return _explain_library(library[1])
    import numpy

    if int(numpy.__version__.split(".")[0]) > 1:
        return f"MXNet 1.9.1 needs NumPy 1, not {numpy.__version__}: `pip install 'numpy<2'`."
    return (
        f"MXNet does not import ({type(error).__name__}: {error}); reinstall it: "
        f"`{INSTALL_GPU if gpu_wheel() else INSTALL_CPU} --force-reinstall`."
    )


def _explain_library(soname: str) -> str:
    if soname == "libcuda.so.1":
        wheel = gpu_wheel() or "mxnet"
        return (
            "MXNet's GPU build cannot be imported without an NVIDIA driver (libcuda.so.1): "
            f"install the driver, or `pip uninstall -y {wheel}`, then `{INSTALL_CPU}`."
        )
    for wheel, sonames in CUDA_LIBRARIES.items():
        if soname in sonames:
            return f"MXNet does not find {soname} ({wheel}): `{INSTALL_GPU}`."
    return f"MXNet does not find {soname}, which this system lacks: {library_remedy([soname])}."


def system_libraries() -> list[str]:
    """List the sonames that MXNet's wheel for this machine leaves to the system."""
    return list(SYSTEM_LIBRARIES.get(platform.machine(), {})) if sys.platform == "linux" else []


def missing_libraries() -> list[str]:
    """List those of `system_libraries` which do not load."""
    missing = []
    for soname in system_libraries():
        try:
            ctypes.CDLL(soname)
        except OSError:
            missing.append(soname)
    return missing


def library_remedy(sonames: Sequence[str]) -> str:
    """Say how to get shared libraries of the system."""
    packages = {name: package for of in SYSTEM_LIBRARIES.values() for name, package in of.items()}
    wanted = [packages.get(soname) for soname in sonames]
    apt = " ".join(package for package in wanted if package)
    remedies = [f"`apt-get install {apt}`"] if apt else []
    if "" in wanted:
        remedies.append("install the Arm Performance Libraries and put them on LD_LIBRARY_PATH")
    return ", ".join(remedies) or "install the package of the system that has it"


def usable_cores() -> int | None:
    """Count the physical cores this process may use; None where the system does not say (macOS).

    MXNet itself takes half of the processors, for it assumes two hardware threads a core. On a
    virtual machine, which has one, that halves the speed; in a container with a CPU quota it
    takes many times too many.
    """
    try:
        siblings = {
            Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
            for cpu in os.sched_getaffinity(0)
        }
    except (AttributeError, OSError):
        return None
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # microseconds
    except OSError:
        return len(siblings)
    return len(siblings) if quota == "max" else min(len(siblings), -(-int(quota) // int(period)))


def threads() -> int:
    """Return how many threads to compute with: as many as MXNet takes."""
    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    except (KeyError, ValueError):
        return usable_cores() or 1


@contextmanager
def openmp() -> Iterator[None]:
    """Set what is read while a library that brings OpenMP, such as MXNet, is imported.

    The user's own values win, and children inherit none.

    OpenMP's threads may spin for about ten microseconds before they sleep. Left alone they spin
    for milliseconds, and where a neighbour needs the core too, the spinning thread keeps the
    working one from it: digits then trained up to ten times slower. Sleeping at once is as safe
    but costs a quarter of the speed on a quiet machine.
    """
    wanted = {
        "OMP_WAIT_POLICY": "active",  # with the count below: also when threads outnumber cores
        "GOMP_SPINCOUNT": "1000",
        "MXNET_SUBGRAPH_VERBOSE": "0",  # Module tells of its fused operators on stderr
    }
    if (cores := usable_cores()) is not None:
        wanted["OMP_NUM_THREADS"] = str(cores)
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        del wanted["OMP_WAIT_POLICY"], wanted["GOMP_SPINCOUNT"]  # the user's choice, whole
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours.keys() - _READ_LATER:
            del os.environ[name]


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let `package` seem not to be installed, unless it is imported already.

    MXNet imports scikit-learn for the sake of one base class of its oldest interface: with SciPy
    and pandas that is half of the time its import takes. A quarter of the rest is scipy.stats, for
    a way of calibrating eight bits that is not used here (``calib_mode="entropy"``).
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def import_beside_torch() -> None:
    """Import MXNet into a process in which PyTorch trains, unless it is imported already.

    MXNet then computes in the thread that calls it (its `NaiveEngine`), as PyTorch does, and both
    share that thread's helpers. MXNet's usual threads would have helpers of their own: a small
    network in bfloat16 trains a tenth slower beside them.
    """
    if "mxnet" in sys.modules:
        return
    chosen = "MXNET_ENGINE_TYPE" in os.environ
    os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")
    try:
        _import()
        globals()["nd"].waitall()  # now it makes its engine
    finally:
        if not chosen:  # children take MXNet as it comes
            del os.environ["MXNET_ENGINE_TYPE"]


def _import() -> None:
    """Import MXNet and bind the names of `_MODULES` here."""
    forbidden = obstacle()
    if forbidden:
        raise GluonexpError(forbidden)
    if gpu_wheel():
        preload_cuda()
    try:
        with (
            heavy_imports(),
            openmp(),
            _hidden("sklearn"),
            _hidden("scipy.stats"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # distutils, NumPy's financial functions
            for name, module in _MODULES.items():
                globals()[name] = import_module(module)
    # Whatever the import of a broken installation raises is told to the user as one sentence.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise GluonexpError(explain(error)) from error


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _import()
    return globals()[name]
