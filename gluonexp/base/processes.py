"""Which process this is, since when, whether one of this host still runs, and what ends it."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

# What there is to go by where the system does not say when this process started.
_IMPORTED = time.monotonic()


def this_process() -> str:
    """Return what tells this process from every other one of this host, earlier ones included."""
    return _process(os.getpid()) or str(os.getpid())


def parent_process() -> str:
    """Return the same of the process that started this one."""
    return _process(os.getppid()) or str(os.getppid())


def lives(process: str) -> bool:
    """Say whether the process of this host that was `this_process` still runs.

    Its number alone does not tell: another one has it by now, or it has ended and nobody has
    taken notice (a zombie).
    """
    number = process.partition("@")[0]
    return number.isdigit() and _process(int(number)) == process


@cache
def this_boot() -> str:
    """Return what tells this start of this machine from others, and so a container in it.

    Empty where the system does not say (macOS).
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def this_host() -> tuple[str, str]:
    """Return what tells this machine from others: its name, and what `this_boot` says of it."""
    return platform.node(), this_boot().partition(" ")[0]


def is_alive(host: str, boot: str, process: str) -> bool | None:
    """Say whether a process runs that was `this_process`; None where it cannot be seen from here.

    Parameters
    ----------
    host, boot
        Its `platform.node` and `this_boot`; an empty `boot` is not known.
    """
    if host != platform.node():
        return None
    boot_id, _, table = boot.partition(" ")
    our_id, _, ours = this_boot().partition(" ")
    if boot_id and boot_id != our_id:
        return False  # the machine was started anew
    if table and table != ours:
        return None  # of another container of this name
    return lives(process)


def process_start() -> float:
    """Return when this process started, on the clock of `time.monotonic` (seconds).

    Where the system does not say (macOS) it is the moment this module was imported.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # time asleep counts there
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, AttributeError):
        return _IMPORTED


@contextmanager
def outlived_by(*command: str | Path, **options: Any) -> Iterator[None]:
    """Have a command run if this process is killed inside the block, by whatever signal.

    A shell waits for the end of a pipe that only this process holds.

    Parameters
    ----------
    command, options
        As `subprocess.Popen` takes them.
    """
    words = ["/bin/sh", "-c", 'read -r _ || exec "$@"', "sh", *map(str, command)]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is not for it
        **options,
    ) as watch:
        try:
            yield
        finally:
            watch.communicate(b"\n")


def _process(pid: int) -> str | None:
    """Return number and start of a process; None where none runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # macOS
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return str(pid)
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else f"{pid}@{fields[19]}"
