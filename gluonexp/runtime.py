"""Where a run computes, what its random numbers come from, and what it ran on."""

import ctypes
import hashlib
import importlib.util
import os
import platform
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gluonexp
from gluonexp import mx as door
from gluonexp.errors import GluonexpError

if TYPE_CHECKING:
    from gluonexp.mx import mx

# The packages whose version can change a result.
PACKAGES = (
    *(door.CPU_WHEEL, *door.GPU_WHEELS),
    *("numpy", "scikit-learn", "pillow", "pandas", "mlflow", "hydra-core", "omegaconf"),
)

# A longer diff is cut (characters): it would be data somebody forgot to ignore, not code.
MAX_DIFF = 1 << 20

GIT_TIMEOUT = 30.0  # seconds


def device(name: str) -> "mx.Context":
    """Return the MXNet context for ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.

    ``auto`` is the first GPU that the installed MXNet has code for, and else the CPU.

    Raises
    ------
    GluonexpError
        If the name is none of these, or the GPU it asks for cannot be used.
    """
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", name):
        raise GluonexpError(f"device={name} is none of auto, cpu, gpu, gpu:N (N from 0)")
    from gluonexp.mx import mx

    if name == "cpu":
        return mx.cpu()
    cuda = mx.runtime.Features().is_enabled("CUDA")
    wheel = door.gpu_wheel() is not None
    gpus = door.gpus() if cuda or name != "auto" else []
    ordinal = choose_gpu(name, cuda=cuda, wheel=wheel, gpus=gpus)
    return mx.cpu() if ordinal is None else mx.gpu(ordinal)


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


def seed_everything(seed: int, epoch: int | None = None) -> np.random.Generator:
    """Seed Python, NumPy and MXNet so that what follows depends on (seed, epoch) alone.

    MXNet cannot save the state of its generators, so a resumed run is exact only because each
    epoch starts from a seed of its own.

    Parameters
    ----------
    seed
        The run's seed, 0 or more.
    epoch
        The epoch about to start, from 0; None for what comes before (initial weights, splits).

    Returns
    -------
    numpy.random.Generator
        A generator of this pair, independent of the global ones; for shuffling and augmentation.
    """
    from gluonexp.mx import mx

    sequence = np.random.SeedSequence(seed, spawn_key=(0 if epoch is None else epoch + 1,))
    for_python, for_numpy, for_mxnet = (int(word) for word in sequence.generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    mx.random.seed(for_mxnet >> 1)  # MXNet takes a C int, and wraps what is larger
    return np.random.default_rng(sequence.spawn(1)[0])


@dataclass(frozen=True)
class Provenance:
    """What a run ran on.

    Attributes
    ----------
    git_commit, git_branch, git_dirty, git_diff
        Of the repository around the working directory, or else of gluonexp's own checkout; None
        without one. `git_dirty` counts changed and untracked files (but those under ``mlruns``);
        `git_diff` is the change of tracked files since the commit.
    git_untracked
        Files and folders git neither tracks nor ignores; their content is in no diff.
    cpu_count
        Processors this process may use.
    omp_threads
        Threads MXNet computes with, None if unknown; on the CPU results depend on it.
    versions
        Installed packages by name.
    command
        The command line, without passwords in addresses.
    code
        The digest of the source that computes, see `code_digest`.
    """

    git_commit: str | None
    git_branch: str | None
    git_dirty: bool | None
    git_diff: str | None
    git_untracked: tuple[str, ...]
    python: str
    platform: str
    hostname: str
    pid: int
    cpu_count: int
    omp_threads: int | None
    versions: dict[str, str]
    command: str
    code: str


def provenance(packages: Sequence[str] = ()) -> Provenance:
    """Describe code, machine and versions of this process; git may be absent.

    `packages` besides gluonexp belong to the code.
    """
    repository = _repository()
    status = _git(repository, "status", "--porcelain", "-z", "--", ":(exclude,top)mlruns")
    untracked = [entry[3:] for entry in (status or "").split("\0") if entry.startswith("??")]
    return Provenance(
        git_commit=_stripped(_git(repository, "rev-parse", "HEAD")),
        git_branch=_stripped(_git(repository, "symbolic-ref", "--short", "HEAD")),
        git_dirty=None if status is None else bool(status),
        git_diff=_cut(_git(repository, "diff", "HEAD", "--no-ext-diff", "--no-color")),
        git_untracked=tuple(untracked),
        python=platform.python_version(),
        platform=platform.platform(),
        hostname=platform.node(),
        pid=os.getpid(),
        cpu_count=_cpu_count(),
        omp_threads=omp_threads(),
        versions=_versions(),
        command=redact(shlex.join(sys.orig_argv)),
        code=code_digest(packages),
    )


def code_digest(packages: Sequence[str] = ()) -> str:
    """Return a digest of the code a result depends on, 16 hex digits.

    It covers the source of gluonexp and of `packages`, as it lies on the disk, and MXNet's
    version: unlike a commit, it is there without git and does not change with the documentation.
    """
    digest = hashlib.sha256(str(_versions().get(door.gpu_wheel() or door.CPU_WHEEL)).encode())
    for package in sorted({"gluonexp", *packages}):
        for path in _sources(package):
            digest.update(f"\0{package}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(package: str) -> list[Path]:
    """Return the Python files of a package or module that can be imported, none if it cannot."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return files or [Path(str(spec.origin))][: bool(spec.has_location)]


def omp_threads() -> int | None:
    """Return how many threads MXNet's OpenMP uses; it is settled once MXNet is imported."""
    try:
        return int(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())
    except OSError:
        return None


def redact(text: str) -> str:
    """Hide user names and passwords in the addresses of a text, ``//user:password@host``."""
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def _versions() -> dict[str, str]:
    found = {"gluonexp": gluonexp.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _repository() -> Path | None:
    """Return the root of the user's repository, or of gluonexp's own checkout."""
    root = _stripped(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    if root:
        return Path(root)
    # An installed package may lie in somebody's repository without belonging to it.
    checkout = Path(gluonexp.__file__).resolve().parent.parent
    return checkout if (checkout / ".git").exists() else None


def _git(folder: Path | None, *arguments: str) -> str | None:
    """Return the output of a git command in `folder`; None if it fails or there is no git."""
    if folder is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=GIT_TIMEOUT,
            # Runs beside each other must not wait for, nor break, each other's index lock.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip() or None


def _cut(diff: str | None) -> str | None:
    if diff is None or len(diff) <= MAX_DIFF:
        return diff
    return f"{diff[:MAX_DIFF]}\n[cut here: the whole diff has {len(diff)} characters]\n"
