"""Which of the processes that train one model this is, as torchrun says in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import usable_cores
from gluonexp.base.processes import parent_process

_NEEDED: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_THREADS: Final = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class World:
    """The place of this process among those that were started together.

    Attributes
    ----------
    rank, size
        Among all of them, and how many they are; rank 0 tracks, writes and prints.
    local_rank, local_size
        The same on this host.
    job
        What they have in common with those that torchrun starts in their place when one was lost;
        None without torchrun.
    restarts
        How often it has done that.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    job: str | None = None
    restarts: int = 0


def world() -> World:
    """Return the place of this process; that of one alone where nothing else is said."""
    given = os.environ.get
    if not all(name in os.environ for name in _NEEDED):
        return World()
    job = given("TORCHELASTIC_RUN_ID")
    if job == "none":  # torchrun's, where nobody chose one: the same for every job
        job = f"none of process {parent_process()}"
    try:
        return World(
            rank=int(os.environ["RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            local_rank=int(given("LOCAL_RANK", "0")),
            local_size=int(given("LOCAL_WORLD_SIZE", "1")),
            job=job,
            restarts=int(given("TORCHELASTIC_RESTART_COUNT", "0")),
        )
    except ValueError:
        raise GluonexpError(
            "RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be whole numbers, as torchrun "
            "sets them; to train in one process, unset RANK"
        ) from None


def share_cores(world: World) -> None:
    """Let each process of this host compute with its part of the cores, unless the user chose.

    Call it before MXNet is imported. Where ``OMP_NUM_THREADS`` is not set torchrun sets it to 1:
    the environment that torchrun itself was started with tells this from the user's choice.
    """
    if world.size > 1 and not _chosen():
        cores = usable_cores() or world.local_size
        os.environ[_THREADS] = str(max(1, cores // world.local_size))


def _chosen() -> bool:
    """Tell whether the user chose the number of threads; any that is set where nobody can tell."""
    if _THREADS not in os.environ:
        return False
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return f"\0{_THREADS}=".encode() in b"\0" + started_with
