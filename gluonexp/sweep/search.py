"""Points that a search chooses, one after the other, from the results it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override

from gluonexp.base.errors import GluonexpError
from gluonexp.config.overrides import quoted
from gluonexp.sweep.grid import shared
from gluonexp.sweep.outcomes import Outcome
from gluonexp.sweep.points import Composer, Point, PointSource
from gluonexp.sweep.space import parse
from gluonexp.sweep.study.place import chosen
from gluonexp.sweep.study.reporter import PRUNERS
from gluonexp.sweep.study.search import Trial, open_study
from gluonexp.tracking.patience import Patience
from gluonexp.tracking.statuses import KILLED

STUDIES = Path("mlruns", "studies")


@dataclass(frozen=True)
class Options:
    """The settings of ``hydra/sweeper=optuna``.

    Attributes
    ----------
    n_trials
        How many points all processes of the study try together.
    pruner
        ``none``, ``median`` or ``asha``.
    seed
        Of the sampler.
    study
        A name that several processes share; None for a study of this sweep alone.
    storage
        Where the study is: the path of a file, a database's address, or ``grpc://HOST:PORT``.
        None: where runs are recorded in PostgreSQL, there; else a file named after the study, or
        in the sweep's folder.
    """

    n_trials: int = 20
    pruner: str = "asha"
    seed: int = 0
    study: str | None = None
    storage: str | None = None


class Search(PointSource):
    """The points of an Optuna study, chosen by TPE.

    Raises
    ------
    GluonexpError
        An option is wrong, the space is, or the study cannot be opened.
    HydraException
        A key, a type or a group's choice is not right.
    """

    def __init__(
        self, composer: Composer, overrides: Sequence[Override], options: Options, folder: Path
    ) -> None:
        if options.n_trials < 1:
            raise GluonexpError(f"hydra.sweeper.n_trials={options.n_trials}: at least 1")
        if options.pruner not in PRUNERS:
            raise GluonexpError(
                f"hydra.sweeper.pruner={options.pruner}: choose one of {', '.join(PRUNERS)}"
            )
        if options.study is not None and not re.fullmatch(r"[\w.\-]+", options.study):
            raise GluonexpError(
                f"hydra.sweeper.study={options.study}: letters, digits and . _ - make a name"
            )
        self._composer = composer
        self._space, self._fixed = parse(overrides)
        self._pruner = options.pruner
        # An example: what is wrong with the keys is wrong with all points.
        example = {key: dimension.example() for key, dimension in self._space.items()}
        self.config = shared([self._point(example)])
        self.total = options.n_trials
        self.keys = list(self._space)
        self._resumes = self.config.sweep.resume is not None
        self._name = options.study or folder.name
        own = STUDIES / f"{options.study}.journal" if options.study else folder / "study.journal"
        tracking = self.config.tracking
        recorded = tracking.backend == "mlflow"
        self._place = chosen(options.storage, tracking.uri, recorded, own)
        self._study = open_study(
            self._place,
            self._name,
            self._space,
            metric=self.config.objective.metric,
            mode=self.config.objective.mode,
            n_trials=options.n_trials,
            seed=options.seed,
        )
        self._patience = Patience()
        self._trials: dict[str, list[Trial]] = {}  # asked for and not ended, by point

    def arguments(self) -> list[str]:
        """Return the overrides with which another process finds this study."""
        words = [f"hydra.sweeper.study={quoted(self._name)}"]
        if self._place.file is not None:  # an address is as it was typed, or that of the store
            words.append(f"hydra.sweeper.storage={quoted(self._place.name)}")
        return words

    def parent(self, create: Callable[[], str]) -> str:
        """Return the parent run of all processes that share the study."""
        return self._study.parent(create)

    def describe(self) -> list[str]:
        """Return what is searched, a line for each key, and how."""
        lines = [f"  {key}: {dimension.describe()}" for key, dimension in self._space.items()]
        pruned = "none are pruned" if self._pruner == "none" else f"pruned by {self._pruner}"
        if self._place.file is None:
            lines.append(f"  the study is at {self._place.shown}")
        elif self._place.apart:
            lines.append(
                "  the study is a file on this machine: for others to search along, name a "
                "database by hydra.sweeper.storage"
            )
        return [f"{self.total} trials of study {self._name}, chosen by TPE, {pruned}", *lines]

    def points(self) -> Iterator[Point]:
        """Yield points as long as the study asks for some; a resumed one tries failures again."""
        if self._resumes:
            self._patience.ask(self._study.retry_failed)
        while (trial := self._patience.ask(self._study.ask)) is not None:
            point = self._point(dict(trial.params))
            self._trials.setdefault(point.digest, []).append(trial)
            yield point

    def left(self) -> int:
        """Return how many trials no process has asked for yet."""
        return self._patience.ask(self._study.left)

    def ended(self, point: Point, outcome: Outcome) -> None:
        """Tell the study; a trial whose process died is tried again when the sweep is resumed."""
        number = self._trials[point.digest].pop().number
        if outcome.status != KILLED:  # RUNNING: another process runs the same point
            status, value = outcome.status, outcome.objective
            self._patience.ask(lambda: self._study.tell(number, status, value))

    def job_overrides(self, point: Point) -> Sequence[str]:
        """Return what the job needs to report its epochs to the study."""
        return [
            f"sweep.trial.storage={quoted(self._place.name)}",
            f"sweep.trial.study={quoted(self._name)}",
            f"sweep.trial.number={self._trials[point.digest][-1].number}",
            f"sweep.trial.pruner={self._pruner}",
        ]

    def close(self) -> None:
        """Hand back the trials that did not end."""
        self._study.close()

    def _point(self, params: dict[str, str]) -> Point:
        chosen = [f"{key}={text}" for key, text in params.items()]
        varied = {key.lstrip("+"): text for key, text in params.items()}
        return self._composer.point([*self._fixed, *chosen], varied)
