"""The points of a sweep: one composed configuration each, and what tells it from the others."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, open_dict, read_write

from gluonexp.base.aliases import former
from gluonexp.base.errors import GluonexpError
from gluonexp.config import schema
from gluonexp.sweep.outcomes import Outcome, point_name

# Keys that say how and where a run is carried out and kept, not what it computes: points that
# differ in nothing else are one point.
_NOT_COMPUTED = (
    *("tracking", "sweep", "notify", "trainer.resume", "trainer.max_hours"),
    "callbacks.checkpoint.keep",
)


@dataclass(frozen=True)
class Point:
    """One job to run.

    Attributes
    ----------
    overrides
        As the user would type them.
    varied
        Those of them that differ from point to point, by key.
    digest
        Of the configuration, 16 hex digits: equal points compute the same.
    config
        None where a value is out of its range: the job fails with `problem`.
    """

    overrides: tuple[str, ...]
    varied: Mapping[str, str]
    digest: str
    config: schema.Config | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What varied, as the name of a run."""
        return point_name(self.varied)


class PointSource(ABC):
    """Where the points come from: a grid, or a search that learns from results.

    Attributes
    ----------
    total
        How many points there will be, those left out included.
    config
        Of any point: all of them share ``tracking``, ``objective`` and ``sweep``.
    keys
        The override keys that vary.
    """

    total: int
    config: schema.Config
    keys: list[str]

    @abstractmethod
    def describe(self) -> list[str]:
        """Return what is going to be run, in lines."""

    @abstractmethod
    def points(self) -> Iterator[Point]:
        """Yield the next point to run, as soon as it is asked for one."""

    @abstractmethod
    def left(self) -> int:
        """Return how many points have not been yielded yet."""

    def arguments(self) -> list[str]:
        """Return the overrides that are needed to start it again, besides the user's."""
        return []

    def parent(self, create: Callable[[], str]) -> str:
        """Return the id of the parent run, by `create` if there is none yet."""
        return create()

    def owns(self, outcome: Outcome) -> bool:
        """Say whether an outcome of the sweep belongs to what is asked for now."""
        return True

    def job_overrides(self, point: Point) -> Sequence[str]:
        """Return the overrides that the job of `point` gets besides the point's own."""
        return ()

    def ended(self, point: Point, outcome: Outcome) -> None:  # noqa: B027
        """Learn how a point ended; RUNNING: another process runs it."""

    def close(self) -> None:  # noqa: B027
        """Hand back what was not ended."""


class Composer:
    """Composes points as Hydra will compose their jobs.

    Parameters
    ----------
    loader, master
        Of Hydra's multirun: its configuration, with what was typed for Hydra itself.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master

    def point(self, overrides: Sequence[str], varied: Mapping[str, str]) -> Point:
        """Return the point that `overrides` mean.

        Raises
        ------
        HydraException
            A key, a type or a group's choice is not right.
        """
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        try:
            config = schema.to_config(composed)
        except GluonexpError as error:
            words = sorted(word for word in overrides if not word.startswith(_NOT_COMPUTED))
            return Point(tuple(overrides), varied, _digest(words), None, str(error))
        return Point(tuple(overrides), varied, digest_of(config), config)


def digest_of(config: schema.Config) -> str:
    """Return the digest of what a configuration computes, 16 hex digits."""
    fields: dict[str, Any] = asdict(config)
    for key in _NOT_COMPUTED:
        *above, last = key.split(".")
        node: Any = fields
        for part in above:
            node = node.get(part) or {}  # a callback may be null
        node.pop(last, None)
    if not config.metrics.names:  # as it was before there were any
        del fields["metrics"]
    # A class that has moved since makes no other point: a sweep of then is resumed with its own.
    return _digest(json.loads(json.dumps(fields, default=str), object_hook=_as_it_was))


def _as_it_was(node: dict[str, Any]) -> dict[str, Any]:
    target = node.get("_target_")
    return {**node, "_target_": former(target)} if isinstance(target, str) else node


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
