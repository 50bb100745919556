"""The study, seen from the sweep: it asks for points, and tells how they ended."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from gluonexp.base import files
from gluonexp.base.errors import GluonexpError
from gluonexp.base.processes import lives, this_process
from gluonexp.sweep.study.dimensions import Dimension
from gluonexp.sweep.study.storage import StoredTrial, opened, quiet
from gluonexp.tracking.statuses import FAILED, FINISHED, PRUNED

if TYPE_CHECKING:
    import optuna
    from optuna.storages import JournalStorage
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
        study: optuna.Study,
        storage: JournalStorage,
        lock: FileLock,
        space: Mapping[str, Dimension],
        n_trials: int,
        seed: int,
    ) -> None:
        self._study = study
        self._storage = storage
        self._lock = lock
        self._space = dict(space)
        self._n_trials = n_trials
        self._seed = seed
        self._asked: set[int] = set()

    def close(self) -> None:
        """Hand back the trials that were not told: the process that asks next gets them."""
        for number in sorted(self._asked):
            self._mark(number, _OWNER, None)
        self._asked.clear()

    def parent(self, create: Callable[[], str]) -> str:
        """Return the id of the run that all processes of this study belong to.

        The first process makes it by `create`; the others wait meanwhile.
        """
        with self._lock:
            known = self._study.user_attrs.get(_PARENT)
            if known is None:
                known = create()
                self._study.set_user_attr(_PARENT, known)
            return str(known)

    def ask(self) -> Trial | None:
        """Return the next point, or None once all processes together have begun `n_trials`.

        First come the points that were left unfinished, then those to be tried again; a new one is
        chosen by TPE, which takes account of those that are still running. What it chooses
        depends on the seed, the number of the trial and the trials before it.
        """
        import optuna
        from numpy.random import SeedSequence

        with self._lock, quiet():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if _abandoned(trial) and (again := self._take_over(trial)) is not None:
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
        with quiet():
            self._study.tell(number, result, state=state, skip_if_finished=True)
        self._asked.discard(number)

    def retry_failed(self) -> None:
        """Let the points that failed be asked for once more.

        A failed trial does not count any more then, the new one does in its place.
        """
        with self._lock:
            for trial in _counted(self._study.get_trials(deepcopy=False)):
                if trial.state.name == "FAIL":
                    self._study.enqueue_trial(trial.params, user_attrs={_RETRIED: trial.number})

    def left(self) -> int:
        """Return how many trials no process has begun yet."""
        return max(0, self._n_trials - len(_counted(self._study.get_trials(deepcopy=False))))

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
        owner = {"host": platform.node(), "process": this_process()}
        self._mark(number, _OWNER, owner)
        self._asked.add(number)
        texts = {key: dimension.text(params[key]) for key, dimension in self._space.items()}
        return Trial(number, texts)

    def _mark(self, number: int, key: str, value: object) -> None:
        StoredTrial(self._study, self._storage, number).mark(key, value)


def open_study(
    path: Path,
    name: str,
    space: Mapping[str, Dimension],
    *,
    metric: str,
    mode: str,
    n_trials: int,
    seed: int = 0,
) -> Study:
    """Open study `name` in the journal at `path`, making what does not exist.

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
        The journal cannot be read or written, or the study searched something else.
    """
    import optuna

    path = path.expanduser().resolve()
    if mode not in ("min", "max"):
        raise GluonexpError(f"objective.mode={mode}: choose min or max")
    if not space:
        raise GluonexpError("there is nothing to search: give a key several values")
    storage = opened(path)
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if mode == "max" else directions.MINIMIZE
    with quiet():
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True
        )
    # Optuna locks each line it writes; this makes "count, then add" one step. The kernel releases
    # it with the process.
    lock = files.lock(Path(f"{path}.ask"))
    wanted = [metric, mode]
    with lock:
        if (known := study.user_attrs.get(_METRIC)) is None:
            study.set_user_attr(_METRIC, wanted)
            known = wanted
    other = f"give this one another name than {name}, or another journal than {path}"
    if known != wanted:
        raise GluonexpError(
            f"objective {metric} ({mode}): the study looks for {known[0]} ({known[1]}); {other}"
        )
    _check_space(study.get_trials(deepcopy=False), space, other)
    return Study(study, storage, lock, space, n_trials, seed)


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


def _abandoned(trial: FrozenTrial) -> bool:
    """Say whether no process works on a trial that runs: handed back, or its process died."""
    if trial.state.name != "RUNNING":
        return False
    owner = trial.user_attrs.get(_OWNER)
    if owner is None:
        return True
    if owner["host"] != platform.node():
        return False
    return owner["process"] != this_process() and not lives(owner["process"])
