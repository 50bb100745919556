"""The memory that there is for arrays."""

from __future__ import annotations

import re
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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
