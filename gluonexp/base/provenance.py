"""What a run ran on: code, machine, versions."""

import ctypes
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gluonexp
from gluonexp.base import mx as door
from gluonexp.base.imports import installed
from gluonexp.base.secrets import hidden_diff, hidden_words
from gluonexp.base.source import digest_of, file_digests

# The packages whose version can change a result.
PACKAGES = (
    *(door.CPU_WHEEL, *door.GPU_WHEELS),
    *(
        "numpy",
        "scipy",
        "torch",
        "scikit-learn",
        "pillow",
        "pandas",
        "mlflow",
        "hydra-core",
        "omegaconf",
    ),
)

# A longer diff is cut (characters): it would be data somebody forgot to ignore, not code.
MAX_DIFF = 1 << 20

GIT_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Provenance:
    """What a run ran on.

    Attributes
    ----------
    git_commit, git_branch, git_dirty, git_diff
        Of the repository around the working directory, or else of gluonexp's own checkout; None
        without one. `git_dirty` counts changed and untracked files (but those under ``mlruns``);
        `git_diff` is the change of tracked files since the commit, secrets hidden.
    git_untracked
        Files and folders git neither tracks nor ignores; their content is in no diff.
    cpu_count
        Processors this process may use.
    omp_threads
        Threads MXNet computes with, None if unknown; on the CPU results depend on it.
    versions
        Installed packages by name.
    command
        The command line, secrets hidden.
    code
        The digest of the source that computes, see `code_digest`.
    sources
        The first 12 digits of that of each of its files.
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
    sources: dict[str, str]


def provenance(packages: Sequence[str] = (), libraries: Sequence[str] = ()) -> Provenance:
    """Describe code, machine and versions of this process; git may be absent.

    `packages` besides gluonexp belong to the code, and so do the versions of `libraries`.
    """
    repository, sources = _repository(), file_digests(packages)
    status = _git(repository, "status", "--porcelain", "-z", "--", ":(exclude,top)mlruns")
    diff = _git(repository, "diff", "HEAD", "--no-ext-diff", "--no-color")
    untracked = [entry[3:] for entry in (status or "").split("\0") if entry.startswith("??")]
    return Provenance(
        git_commit=_stripped(_git(repository, "rev-parse", "HEAD")),
        git_branch=_stripped(_git(repository, "symbolic-ref", "--short", "HEAD")),
        git_dirty=None if status is None else bool(status),
        git_diff=_cut(None if diff is None else hidden_diff(diff)),
        git_untracked=tuple(untracked),
        python=platform.python_version(),
        platform=platform.platform(),
        hostname=platform.node(),
        pid=os.getpid(),
        cpu_count=_cpu_count(),
        omp_threads=omp_threads(),
        versions={"gluonexp": gluonexp.__version__} | installed(*PACKAGES, *libraries),
        command=command_line(),
        code=digest_of(sources, installed(*libraries)),
        sources={name: digest[:12] for name, digest in sources.items()},
    )


def command_line() -> str:
    """Return what this process was started with, secrets hidden."""
    return shlex.join(hidden_words(sys.orig_argv))


def omp_threads() -> int | None:
    """Return how many threads MXNet's OpenMP uses; it is settled once MXNet is imported."""
    try:
        return int(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())
    except OSError:
        return None


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _repository() -> Path:
    """Return the root of the user's repository or of gluonexp's own checkout, or neither."""
    root = _stripped(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    if root:
        return Path(root)
    # An installed package may lie in somebody's repository without belonging to it.
    checkout = Path(gluonexp.__file__).resolve().parent.parent
    return checkout if (checkout / ".git").exists() else Path.cwd()


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in `folder`; None if it fails or there is no git."""
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
