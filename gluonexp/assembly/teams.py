"""The processes that train together, by the engine that can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gluonexp.base.errors import GluonexpError
from gluonexp.base.ranks import World
from gluonexp.config.schema import Config

if TYPE_CHECKING:
    from gluonexp.engines.torch.ranks import Ranks


def check(config: Config, world: World) -> None:
    """Refuse what several processes cannot train.

    Raises
    ------
    GluonexpError
        The message names the key.
    """
    if (name := config.engine.name) != "torch":
        raise GluonexpError(
            f"engine={name} trains in one process, and {world.size} were started: take "
            "engine=torch, or start it without torchrun"
        )
    if config.device.startswith("gpu:"):
        raise GluonexpError(
            f"device={config.device}: each process takes a GPU of its own, so device=gpu"
        )
    if (size := config.trainer.batch_size) < world.size:
        raise GluonexpError(
            f"trainer.batch_size={size}: that is of all processes together, so at least "
            f"{world.size} leave an image for each"
        )


@contextmanager
def joined(world: World) -> Iterator[Ranks]:
    """Be one of the processes of `world` inside; however it ends, the others learn of it.

    It waits for all of them.

    Raises
    ------
    GluonexpError
        PyTorch is not installed.
    """
    from gluonexp.engines.torch import library

    library.load()
    from gluonexp.engines.torch import ranks

    with ranks.joined(world) as team:
        yield team
