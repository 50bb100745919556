"""All combinations of some values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import Config
from gluonexp.sweep.outcomes import Outcome
from gluonexp.sweep.points import Composer, Point, PointSource

# What the points of one sweep must share, since their parent run has one of each.
SHARED = ("tracking", "objective", "sweep", "notify")


class Grid(PointSource):
    """The points of a grid, in the order of the command line; equal ones once.

    Raises
    ------
    HydraException
        A key, a type or a group's choice is not right.
    GluonexpError
        The points differ in what a sweep has one of, or none of them can be run.
    """

    def __init__(self, composer: Composer, overrides: Sequence[Override]) -> None:
        choices = {override.get_key_element(): values(override) for override in overrides}
        varied = [key for key, several in choices.items() if len(several) > 1]
        points: list[Point] = []
        for chosen in itertools.product(*choices.values()):
            words = dict(zip(choices, chosen, strict=True))
            point = composer.point(
                [f"{key}={value}" for key, value in words.items()],
                {key.lstrip("+~"): words[key] for key in varied},
            )
            points.append(point)
        self.config = shared(points)
        self._points = list({point.digest: point for point in reversed(points)}.values())[::-1]
        self._drawn = 0
        self._choices = {key: choices[key] for key in varied}
        self.keys = varied
        self._digests = {point.digest for point in points}
        self.total = len(self._points)

    def describe(self) -> list[str]:
        """Return what varies, a line for each key."""
        lines = [f"  {key}: {', '.join(choices)}" for key, choices in self._choices.items()]
        return [f"{self.total} point{'s' if self.total > 1 else ''}", *lines]

    def points(self) -> Iterator[Point]:
        """Yield every point."""
        for point in self._points:
            self._drawn += 1
            yield point

    def owns(self, outcome: Outcome) -> bool:
        """Say whether it is one of these points."""
        return outcome.point in self._digests

    def left(self) -> int:
        """Return how many points have not been yielded yet."""
        return self.total - self._drawn


def shared(points: Sequence[Point]) -> Config:
    """Return the configuration of a point; what a sweep has one of is the same in all.

    Raises
    ------
    GluonexpError
        It is not, or no point can be run.
    """
    configs = [point.config for point in points if point.config is not None]
    if not configs:
        nothing = "there is nothing to run: a key has no values"
        raise GluonexpError((points and points[0].problem) or nothing)
    config = configs[0]
    if config.trainer.lr_find.steps:
        raise GluonexpError("trainer=lr_find ends in no result to rank; leave it out of a sweep")
    for other in configs:
        if other.objective.metric.startswith("val/") and other.dataset.val_fraction == 0:
            raise GluonexpError(
                f"objective.metric={other.objective.metric}: dataset.val_fraction=0 leaves "
                "nothing to rank the points by; choose a train/ metric or a fraction above 0"
            )
    if (name := config.sweep.register) is not None:
        if config.tracking.backend == "none":
            raise GluonexpError(f"sweep.register={name}: with tracking=none there is no registry")
        if not config.export.enabled:
            raise GluonexpError(
                f"sweep.register={name}: without an export there is nothing to register; leave "
                "export=none out"
            )
    if config.trainer.resume is not None:
        raise GluonexpError(
            "trainer.resume: a sweep finds the checkpoints of its points itself; resume the "
            "sweep, with sweep.resume=ID"
        )
    for name in SHARED:
        if any(getattr(config, name) != getattr(configs[0], name) for config in configs):
            raise GluonexpError(f"{name}: a sweep has one for all of its points; do not vary it")
    return configs[0]


def values(override: Override) -> list[str]:
    """Return the values an override gives its key, as texts that Hydra reads back.

    Raises
    ------
    HydraException
        They are those of an interval.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise CompactHydraException(
            f"{override.input_line}: a grid needs the values themselves, as in "
            f"{override.get_key_element()}=0.001,0.01 (hydra/sweeper=optuna searches intervals)"
        )
    return list(override.sweep_string_iterator())
