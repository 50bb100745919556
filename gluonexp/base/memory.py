"""The memory that there is for arrays."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
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
