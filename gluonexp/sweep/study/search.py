"""The study, seen from the sweep: it asks for points, and tells how they ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gluonexp.base.errors import GluonexpError
from gluonexp.sweep.study.dimensions import Dimension
from gluonexp.sweep.study.place import Place
from gluonexp.sweep.study.storage import StoredTrial, opened, quiet, told
from gluonexp.sweep.study.turns import Presence, own, turn_of
from gluonexp.tracking.statuses import FAILED, FINISHED, PRUNED

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

# Points drawn at random before TPE chooses.
STARTUP_TRIALS = 6
# A point that took its process down this often has failed.
ATTEMPTS = 3

_OWNER, _DEATHS = "owner", "deaths"
_RETRIED, _LOST = "retries", "lost"
_PARENT, _METRIC = "parent", "metric"


@dataclass(frozen=True)
class Trial:
    """A point to be tried.

    Attributes
    ----------
    number
        Unique in the study, from 0.
    params
        The text of its override, by key.
    """

    number: int
    params: Mapping[str, str]


class Study:
    """One search, shared by all processes that open it; see `open_study`."""

    def __init__(
        self,
        place: Place,
        study: optuna.Study,
        storage: BaseStorage,
        space: Mapping[str, Dimension],
        n_trials: int,
        seed: int,
    ) -> None:
        self._place = place
        self._study = study
        self._storage = storage
        # Optuna makes each of its writes one step; this makes "count, then add" one.
        self._turn = turn_of(place, storage, study.study_name)
        self._presence = Presence(place, study)
        self._space = dict(space)
        self._n_trials = n_trials
        self._seed = seed
        self._asked: set[int] = set()

    def close(self) -> None:
        """Hand back the trials that were not told: the process that asks next gets them."""
        self._presence.end()
        # Else they are taken over as those of a dead process.
        with suppress(GluonexpError), told(self._place):
            for number in sorted(self._asked):
                self._mark(number, _OWNER, None)
        self._asked.clear()

    def parent(self, create: Callable[[], str]) -> str:
        """Return the id of the run that all processes of this study belong to.

        The first process makes it by `create`; the others wait meanwhile.
        """
        with self._alone():
            known = self._study.user_attrs.get(_PARENT)
            if known is None:
                known = create()
                self._study.set_user_attr(_PARENT, known)
            return str(known)

    def check(self, metric: str, mode: str) -> None:
        """Refuse to search something else than the study did before.

        Raises
        ------
        GluonexpError
            Its objective is another, or values of a key cannot be compared with earlier ones.
        """
        name, wanted = self._study.study_name, [metric, mode]
        with self._alone():
            if (known := self._study.user_attrs.get(_METRIC)) is None:
                self._study.set_user_attr(_METRIC, wanted)
                known = wanted
            trials = self._study.get_trials(deepcopy=False)
        other = f"give this one another name than {name}, or another place than "
        other += self._place.shown
        if known != wanted:
            before = f"{known[0]} ({known[1]})"
            raise GluonexpError(
                f"objective {metric} ({mode}): the study looks for {before}; {other}"
            )
        _check_space(trials, self._space, other)

    def ask(self) -> Trial | None:
        """Return the next point, or None once all processes together have begun `n_trials`.

        First come the points that were left unfinished, then those to be tried again; a new one is
        chosen by TPE, which takes account of those that are still running. What it chooses
        depends on the seed, the number of the trial and the trials before it.
        """
        import optuna
        from numpy.random import SeedSequence

        with self._alone():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if self._abandoned(trial) and (again := self._take_over(trial)) is not None:
                    return again
            trials = self._study.get_trials(deepcopy=False)
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            if not waiting and len(_counted(trials)) >= self._n_trials:
                return None
            # A sampler keeps its own random state. A second process, or this one after a restart,
            # would begin it anew: all would draw the same points.
            seed = SeedSequence([self._seed, len(trials)]).generate_state(1)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=int(seed[0]), n_startup_trials=STARTUP_TRIALS
            )
            asked = self._study.ask(
                {key: dimension.distribution() for key, dimension in self._space.items()}
            )
            return self._owned(asked.number, asked.params)

    def tell(self, number: int, status: str, value: float | None = None) -> None:
        """Say how a trial ended; of a trial that has been told, the first answer counts.

        Parameters
        ----------
        status
            FINISHED, PRUNED, or anything else for a failure.
        value
            The objective of a finished trial. If it is none or not finite, the trial has failed.
        """
        from optuna.trial import TrialState

        state, result = TrialState.FAIL, None
        if status == PRUNED:
            state = TrialState.PRUNED
        elif status == FINISHED and value is not None and math.isfinite(value):
            state, result = TrialState.COMPLETE, value
        with told(self._place), quiet():
            self._study.tell(number, result, state=state, skip_if_finished=True)
        self._asked.discard(number)

    def retry_failed(self) -> None:
        """Let the points that failed be asked for once more.

        A failed trial does not count any more then, the new one does in its place.
        """
        with self._alone():
            for trial in _counted(self._study.get_trials(deepcopy=False)):
                if trial.state.name == "FAIL":
                    self._study.enqueue_trial(trial.params, user_attrs={_RETRIED: trial.number})

    def left(self) -> int:
        """Return how many trials no process has begun yet."""
        with told(self._place):
            trials = self._study.get_trials(deepcopy=False)
        return max(0, self._n_trials - len(_counted(trials)))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out all other processes that work on the study."""
        with told(self._place), self._turn(), quiet():
            yield

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Say whether no process works on a trial that runs: handed back, or its process died."""
        if trial.state.name != "RUNNING":
            return False
        owner = trial.user_attrs.get(_OWNER)
        return owner is None or self._presence.lost(owner)

    def _take_over(self, trial: FrozenTrial) -> Trial | None:
        """Take over a trial that no process works on, or fail it if it cannot be tried."""
        attrs = trial.user_attrs
        deaths = attrs.get(_DEATHS, 0) + (attrs.get(_OWNER) is not None)
        known = trial.params.keys() == self._space.keys()
        if known and deaths < ATTEMPTS:
            self._mark(trial.number, _DEATHS, deaths)
            return self._owned(trial.number, trial.params)
        if not known:  # its process died while it chose the point, or searched another space
            self._mark(trial.number, _LOST, True)
        self.tell(trial.number, FAILED)
        return None

    def _owned(self, number: int, params: Mapping[str, Any]) -> Trial:
        self._mark(number, _OWNER, own())
        self._asked.add(number)
        texts = {key: dimension.text(params[key]) for key, dimension in self._space.items()}
        return Trial(number, texts)

    def _mark(self, number: int, key: str, value: object) -> None:
        StoredTrial(self._study, self._storage, number).mark(key, value)


def open_study(
    place: Place,
    name: str,
    space: Mapping[str, Dimension],
    *,
    metric: str,
    mode: str,
    n_trials: int,
    seed: int = 0,
) -> Study:
    """Open study `name` where `place` says, making what does not exist.

    Parameters
    ----------
    space
        What is searched, by the key of the override.
    metric, mode
        The objective, and ``max`` or ``min``.
    n_trials
        Of the whole study: all processes together, earlier ones included.
    seed
        The same seed and results give the same points, as long as one process asks.

    Raises
    ------
    GluonexpError
        It cannot be read or written there, or the study searched something else.
    """
    import optuna

    if mode not in ("min", "max"):
        raise GluonexpError(f"objective.mode={mode}: choose min or max")
    if not space:
        raise GluonexpError("there is nothing to search: give a key several values")
    storage = opened(place)
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if mode == "max" else directions.MINIMIZE
    with told(place), quiet():
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True
        )
        opening = Study(place, study, storage, space, n_trials, seed)
        opening.check(metric, mode)
    return opening


def _check_space(
    trials: Sequence[FrozenTrial], space: Mapping[str, Dimension], remedy: str
) -> None:
    """Refuse a key whose values cannot be compared with those tried before."""
    from optuna.distributions import check_distribution_compatibility

    before = {key: kind for trial in trials for key, kind in trial.distributions.items()}
    for key in before.keys() & space.keys():
        try:
            check_distribution_compatibility(before[key], space[key].distribution())
        except ValueError as error:
            raise GluonexpError(
                f"{key}: the study did not search {space[key].describe()} before; {remedy}"
            ) from error


def _counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: neither tried again by another one, nor lost unborn."""
    retried = {trial.user_attrs.get(_RETRIED) for trial in trials}
    return [
        trial for trial in trials if trial.number not in retried and _LOST not in trial.user_attrs
    ]
