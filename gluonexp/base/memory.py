"""The memory that there is for arrays, and what this process has of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import sys
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def available() -> int | None:
    """Return the bytes that this process can still get; None where nothing tells (macOS)."""
    try:
        kilobytes = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    found = [int(kilobytes[1]) * 1024] if kilobytes else []
    for limit in map(Path, _LIMITS):  # of a container, by either version of cgroups
        try:
            found.append(int(limit.read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    return min(found, default=None)


def peak() -> int:
    """Return the most bytes that this process has had in memory, since `forget_peak`."""
    with contextlib.suppress(OSError):
        if kilobytes := re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text()):
            return int(kilobytes[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS says it in bytes
    return most if sys.platform == "darwin" else 1024 * most


def forget_peak() -> None:
    """Let the peak of the memory count from now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def keep_freed() -> None:
    """Let this process keep the memory that it frees, for its next arrays of that size.

    PyTorch asks the C library for each result on the CPU, and glibc maps large ones from the
    system and gives them back, step after step. The system clears every page of them anew, which
    takes a tenth to a third of the time of a training step. What a process takes at its peak
    hardly changes. Values that the user set (``MALLOC_...``) stay; libraries other than glibc have
    no such setting.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # musl, macOS, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
