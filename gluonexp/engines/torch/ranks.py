"""Several processes that train one model: what they tell each other, through torch.distributed."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from gluonexp.base.errors import GluonexpError
from gluonexp.base.processes import lives, this_process
from gluonexp.base.ranks import World
from gluonexp.tracking.lifecycle import Interrupted
from gluonexp.training.team import Team

T = TypeVar("T")

# One may wait as long as another computes features; what died is noticed at once by its sockets.
_PATIENCE: Final = timedelta(days=1)
# Python sees no signal within a wait of torch's.
_GLANCE: Final = timedelta(seconds=0.5)
_SETTLING_S: Final = 5.0  # until it is known which process is gone
_PARTING_S: Final = 30.0  # that a process which failed leaves rank 0 to say so, before it ends


class Lost(GluonexpError):
    """Another process of the training has ended, or failed."""


class Ranks(Team):
    """The processes of a `World` of more than one; gloo on CPUs, NCCL where each has a GPU.

    Construct it in all of them: it waits for the others.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        store, _, _ = next(iter(rendezvous("env://")))
        # torchrun keeps it, with all that is in it, for the processes of a restart.
        attempt = f"gluonexp/{world.restarts}"
        self._store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        backend = "gloo"
        if torch.cuda.device_count() >= world.local_size:
            torch.cuda.set_device(world.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend, store=self._store, rank=self.rank, world_size=self.size, timeout=_PATIENCE
        )
        me = {"host": platform.node(), "process": this_process()}
        self._store.set(f"who/{self.rank}", json.dumps(me))
        names = [f"who/{rank}" for rank in range(self.size)]
        self._who = [json.loads(self._store.get(name)) for name in names]
        self._open, self._ending = True, False
        # Whoever started them ends all when one has: what one says of it must not be cut off.
        if (before := signal.getsignal(signal.SIGTERM)) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminate)
        self._before = before

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        if not self._ending:
            raise Interrupted(signum)

    def tell(self, value: T) -> T:
        """Return what rank 0 passes; collective."""
        sent = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        length = torch.tensor([len(sent)])
        self.share_(length)
        told = sent if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        self.share_(told)
        return value if self.rank == 0 else pickle.loads(told.numpy().tobytes())

    def sum_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over all processes; collective."""
        self._wait(lambda: dist.all_reduce(tensor, async_op=True))

    def share_(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by that of rank 0; collective."""
        self._wait(lambda: dist.broadcast(tensor, 0, async_op=True))

    def _wait(self, begin: Callable[[], Any]) -> None:
        try:
            work = begin()
            while not work.is_completed():
                with suppress(RuntimeError):  # not yet, or why it failed: the last wait says it
                    work.wait(_GLANCE)
            work.wait()
        except RuntimeError as error:
            unknown = Lost(f"the processes that train cannot reach each other: {error}")
            raise (self._why(_SETTLING_S) or unknown) from error

    def check_alike(self, digests: Callable[[], Mapping[str, str]]) -> None:
        """Refuse to train what is not the same in every process; collective."""
        mine = dict(digests())
        for name, theirs in self.tell(mine).items():
            if mine.get(name) != theirs:
                raise GluonexpError(
                    f"{name} is not what it is in rank 0 when training begins: all processes must "
                    "read the same files, and draw nothing that does not follow from the seed"
                )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise that a process was lost where a signal came for that reason.

        torchrun ends the others by SIGTERM then, as a user would.
        """
        try:
            yield
        except Interrupted as stopped:
            if isinstance(lost := self._why(), GluonexpError):
                raise lost from stopped
            raise

    def _why(self, patience: float = 0.0) -> BaseException | None:
        """Return what to raise because another process failed, or was interrupted or lost."""
        until = time.monotonic() + patience
        while self._open:
            marks = {rank: mark for rank in self._others() if (mark := self._mark(rank))}
            for rank, mark in marks.items():
                if "error" in mark:
                    return self._noticed(Lost(f"rank {rank}: {mark['error']}"))
            for mark in marks.values():
                if "lost" in mark:
                    return self._noticed(Lost(mark["lost"]))
            for mark in marks.values():
                if "signal" in mark:
                    number = int(mark["signal"])
                    return KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number)
            for rank in self._others():
                if self._is_here(rank) and not lives(self._who[rank]["process"]):
                    return self._noticed(
                        Lost(f"rank {rank} was lost: its process has ended without a word")
                    )
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
        return None

    def _noticed(self, lost: Lost) -> Lost:
        self._ending = True
        return lost

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _is_here(self, rank: int) -> bool:
        return bool(self._who[rank]["host"] == self._who[self.rank]["host"])

    def _mark(self, rank: int) -> dict[str, str]:
        """Return how a process said that it ends; empty where it has not."""
        with suppress(RuntimeError):  # the store is gone
            if self._store.check([name := f"end/{rank}"]):
                mark: dict[str, str] = json.loads(self._store.get(name))
                return mark
        return {}

    def mark(self, error: BaseException) -> None:
        """Let the others know why this process ends."""
        self._ending = True
        if isinstance(error, Lost):
            said = {"lost": str(error)}
        elif isinstance(error, GluonexpError):
            said = {"error": str(error)}
        elif isinstance(error, Exception):
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            said = {"error": f"{type(error).__name__}: {error} ({where})"}
        else:
            signum = getattr(error, "signum", signal.SIGINT)
            said = {"signal": str(int(signum))}
        with suppress(RuntimeError):
            self._store.set(f"end/{self.rank}", json.dumps(said))

    def unsaid(self) -> bool:
        """Tell whether rank 0 ended and could not say why."""
        return not self._mark(0) and self._is_here(0) and not lives(self._who[0]["process"])

    def outlive(self) -> None:
        """Wait for rank 0 to say what this process has failed with, before torchrun ends it."""
        until = time.monotonic() + _PARTING_S
        while self._is_here(0) and lives(self._who[0]["process"]) and time.monotonic() < until:
            time.sleep(0.05)

    def close(self) -> None:
        """Part, once all are here: nothing collective comes after it."""
        self.sum_(torch.zeros(1))
        self.part_ways()

    def part_ways(self) -> None:
        """Close every connection, however the training ended."""
        if self._open:
            self._open = False
            dist.destroy_process_group()


@contextmanager
def joined(world: World) -> Iterator[Ranks]:
    """Be one of the processes of `world` inside; however it ends, the others learn of it."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # gloo warns of names and interfaces
    team = Ranks(world)
    try:
        yield team
    except BaseException as error:
        team.mark(error)
        raise
    finally:
        team.part_ways()
