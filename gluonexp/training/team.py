"""The processes that train one model together, each on its part of every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from gluonexp.base.errors import GluonexpError
from gluonexp.base.ranks import World
from gluonexp.tracking.store import TORCHRUN

T = TypeVar("T")


class Team:
    """One process alone: what several of them tell and sum, it has already.

    All of them go through the same batches and the same epochs, and call what is collective in
    the same order.

    Parameters
    ----------
    world
        Which process it is; None: one that was started by itself.

    Attributes
    ----------
    rank, size
        Which of how many; rank 0 alone tracks, writes checkpoints, exports and prints.
    run_id
        Of the run that rank 0 records, once it is open.
    """

    run_id: str | None = None

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.rank, self.size = self.world.rank, self.world.size

    @property
    def tags(self) -> dict[str, str]:
        """What to record: which job of torchrun it is, and how many processes."""
        job = {} if self.world.job is None else {TORCHRUN: self.world.job}
        return job | ({"gluonexp.ranks": str(self.size)} if self.size > 1 else {})

    def part(self, count: int) -> slice:
        """Return which of `count` rows are this process's; there may be none."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def tell(self, value: T) -> T:
        """Return what rank 0 passes; collective."""
        return value

    def sum_(self, *tensors: Any) -> None:
        """Replace tensors by their sums over all processes; collective."""

    def share_(self, *tensors: Any) -> None:
        """Replace tensors by those of rank 0; collective."""

    def check_alike(self, digests: Callable[[], Mapping[str, str]]) -> None:
        """Refuse to train what is not the same in every process; collective.

        Raises
        ------
        GluonexpError
            In a process whose digests are not those of rank 0.
        """
        if self.size == 1:
            return
        mine = dict(digests())
        for name, theirs in self.tell(mine).items():
            if mine.get(name) != theirs:
                raise GluonexpError(
                    f"{name} is not what it is in rank 0 when training begins: all processes must "
                    "read the same files, and draw nothing that does not follow from the seed"
                )

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """Let rank 0 be through with what is inside before the others begin; collective."""
        if self.rank:
            self.tell(None)
        yield
        if not self.rank:
            self.tell(None)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise that a process was lost where a signal came for that reason."""
        yield

    def close(self) -> None:
        """Part, once all are here: nothing collective comes after it."""


ALONE = Team()
