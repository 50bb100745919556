"""Several processes that train one model: what they tell each other, through torch.distributed."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from gluonexp.base.ranks import World
from gluonexp.tracking.lifecycle import Interrupted
from gluonexp.training.peers import Lost, Peers
from gluonexp.training.team import Team

T = TypeVar("T")

# One may wait as long as another computes features; what died is noticed at once by its sockets.
_PATIENCE: Final = timedelta(days=1)
_GLANCE: Final = timedelta(seconds=0.5)  # Python sees no signal within a wait of torch's
_SETTLING_S: Final = 5.0  # until it is known which process is gone


class Ranks(Team):
    """The processes of a `World` of more than one; gloo on CPUs, NCCL where each has a GPU.

    Construct it in all of them: it waits for the others.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        store, _, _ = next(iter(rendezvous("env://")))
        # torchrun keeps it, with all that is in it, for the processes of a restart.
        attempt = f"gluonexp/{world.restarts}"
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        self._nccl = torch.cuda.device_count() >= world.local_size
        backend = "cpu:gloo,cuda:nccl" if self._nccl else "gloo"
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=_PATIENCE
        )
        self.peers, self._open = Peers(store, self.rank, self.size), True
        # Who started them ends all when one has ended: what one says of it must not be cut off.
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) == signal.SIG_DFL:
                signal.signal(signum, self._interrupt)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if not self.peers.ending:
            raise Interrupted(signum)

    def tell(self, value: T) -> T:
        """Return what rank 0 passes; collective."""
        sent = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        length = torch.tensor([len(sent)])
        self.share_(length)
        told = sent if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        self.share_(told)
        heard: T = value if self.rank == 0 else pickle.loads(told.numpy().tobytes())
        return heard

    def sum_(self, *tensors: torch.Tensor) -> None:
        """Replace tensors by their sums over all processes; collective."""
        self._as_one(tensors, lambda flat: dist.all_reduce(flat, async_op=True))

    def share_(self, *tensors: torch.Tensor) -> None:
        """Replace tensors by those of rank 0; collective."""
        self._as_one(tensors, lambda flat: dist.broadcast(flat, 0, async_op=True))

    @torch.no_grad()
    def _as_one(self, tensors: Sequence[torch.Tensor], begin: Callable[..., Any]) -> None:
        """Do with tensors of one kind, as one, what `begin` begins."""
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        try:
            work = begin(flat)
            while not (flat.is_cuda or work.is_completed()):  # on a GPU the stream waits, not we
                with suppress(RuntimeError):  # not yet; or it failed, which the last wait says
                    work.wait(_GLANCE)
            work.wait()
        except RuntimeError as error:
            unknown = Lost(f"the processes that train cannot reach each other: {error}")
            raise (self.peers.why(_SETTLING_S) or unknown) from error
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise that a process was lost where a signal came for that reason.

        torchrun ends the others by SIGTERM then, as a user would.
        """
        try:
            yield
        except Interrupted as stopped:
            if self._open and isinstance(lost := self.peers.why(), Lost):
                raise lost from stopped
            raise

    def close(self) -> None:
        """Part, once all are here: nothing collective comes after it."""
        self.sum_(torch.zeros(1))
        self.part_ways()

    def part_ways(self) -> None:
        """Close every connection, however the training ended."""
        if self._open:
            self._open = False
            if not (self._nccl and self.peers.ending):  # NCCL would wait for one that is lost
                dist.destroy_process_group()


@contextmanager
def joined(world: World) -> Iterator[Ranks]:
    """Be one of the processes of `world` inside; however it ends, the others learn of it."""
    team = Ranks(world)
    try:
        with team.watched():
            yield team
    except BaseException as error:
        team.peers.note(error)
        raise
    finally:
        team.part_ways()
