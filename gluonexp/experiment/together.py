"""A run that several processes train: rank 0 leads and records it, the others follow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gluonexp.assembly import teams
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import temporary
from gluonexp.base.ranks import World
from gluonexp.base.text import plain_console
from gluonexp.config.schema import Config, NotifyConfig, TrackingConfig
from gluonexp.experiment import lr_find
from gluonexp.experiment.execute import evaluations
from gluonexp.experiment.opening import opened
from gluonexp.features.shortcut import TRAIN, TrainBehind
from gluonexp.tracking import end_lost
from gluonexp.tracking.lifecycle import Interrupted
from gluonexp.training import loop
from gluonexp.training.callbacks import Checkpoint, StopOnDivergence, Unfreezing
from gluonexp.training.stopping import EndInTime, Requeue
from gluonexp.training.team import Team

if TYPE_CHECKING:
    from gluonexp.engines.torch.ranks import Ranks


# Rank 0 alone does.
_UNTRACKED: Final = TrackingConfig(backend="none")


@dataclass(frozen=True)
class Task:
    """What rank 0 tells the others to do; `environment` is of ``hydra.job.env_set``."""

    config: Config
    overrides: Sequence[str]
    environment: Mapping[str, str]


@contextmanager
def led(
    config: Config, overrides: Sequence[str], world: World, environment: Mapping[str, str]
) -> Iterator[Team]:
    """Give the processes of `world`, which this one leads, to train `config` with.

    `environment` is what Hydra has set of it in this one.

    Raises
    ------
    GluonexpError
        Several processes cannot train it.
    """
    if world.size == 1:
        yield Team(world)
        return
    teams.check(config, world)
    with teams.joined(world) as team:
        team.tell(Task(config, overrides, environment))
        yield team


def follow(world: World) -> int:
    """Train what rank 0 leads, as another rank; return the exit status.

    It prints and records nothing, but that rank 0 was lost where it was.
    """
    team = task = None
    try:
        with teams.joined(world) as team:
            task = team.tell(Task(Config(), [], {}))
            os.environ.update(task.environment)
            with (
                open(os.devnull, "w", encoding="utf-8") as nowhere,
                redirect_stdout(nowhere),
                redirect_stderr(nowhere),
                temporary() as folder,
            ):
                _train(task, folder, team)
    except Interrupted as stopped:
        return 128 + stopped.signum
    except Requeue:
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if team is None or team.peers.first_was_lost():
            ours = isinstance(error, GluonexpError)
            text = str(error) if ours else f"{type(error).__name__}: {error}"
            print(f"gluonexp: rank {world.rank}: {text}", file=sys.stderr, flush=True)
            if task is not None and team is not None and team.run_id is not None:
                end_lost(task.config.tracking.uri, team.run_id, text)
        else:
            team.peers.outlive_first()
        return 1
    return 0


def _train(task: Task, workdir: Path, team: Ranks) -> None:
    """Go through the same epochs as rank 0, with the callbacks that training depends on."""
    config = replace(task.config, tracking=_UNTRACKED, notify=NotifyConfig())
    ending_in_time = EndInTime(None, 0.0, team)  # rank 0 has the clock
    with ending_in_time, opened(config, workdir, task.overrides, plain_console(), team) as run:
        if config.trainer.lr_find.steps:
            with team.after_first():
                found = run.shortcut.enter(0, {TRAIN: run.data.train})
            train = run.data.train if found is None else found[TRAIN]
            lr_find.search(run.engine, train, run.settings, config.trainer.lr_find)
        else:
            loop.fit(
                run.engine,
                run.data.train,
                evaluations(config, run.data),
                run.settings,
                callbacks=[
                    Unfreezing(run.frozen, say=_silent),
                    TrainBehind(run.shortcut),
                    StopOnDivergence(),
                    *(
                        each
                        for each in run.components.callbacks
                        if not isinstance(each, Checkpoint)
                    ),
                    ending_in_time,
                ],
            )
        team.close()


def _silent(line: str) -> None:
    """Say nothing: rank 0 says it."""
