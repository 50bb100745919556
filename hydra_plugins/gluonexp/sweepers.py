"""``hydra/sweeper=basic``, the default, and ``optuna``: where a sweep's points come from.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from gluonexp.sweep.conduct import Job, Source
    from gluonexp.sweep.outcomes import Summary
    from gluonexp.sweep.points import Composer


class _Sweeper(BasicSweeper):
    """What the sweepers share: overrides in, one parent run with an answer out.

    Parameters
    ----------
    params
        Overrides by key, as a preset gives them; the command line comes after them.
    max_batch_size
        How many jobs a launcher that knows only batches (a cluster's) is given at once.
    """

    def __init__(
        self, params: dict[str, str] | None = None, max_batch_size: int | None = None
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)

    def sweep(self, arguments: list[str]) -> Summary:
        """Run the sweep that `arguments` mean."""
        from gluonexp.base.errors import GluonexpError
        from gluonexp.sweep.conduct import Plan, conduct
        from gluonexp.sweep.points import Composer

        assert self.config is not None and self.hydra_context is not None
        launcher = self.launcher
        assert launcher is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = {
            override.get_key_element(): override  # of the same key, the last counts
            for override in parser.parse_overrides([*self._parse_config(), *arguments])
        }
        if callable(start := getattr(launcher, "start", None)):
            start(self.count(list(overrides.values())), _warm_up)  # while we prepare
        try:
            source = self.source(Composer(loader, self.config), list(overrides.values()))
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            return conduct(
                Plan(
                    source=source,
                    launch=lambda jobs: _launched(launcher, jobs, self.max_batch_size),
                    folder=folder,
                    arguments=_typed(self.config, arguments),
                    is_group=lambda key: bool(loader.get_group_options(key)),
                )
            )
        except GluonexpError as error:
            raise CompactHydraException(str(error)) from None
        except FileExistsError as error:
            raise CompactHydraException(f"hydra.sweep.dir={folder}: {error.strerror}") from None

    def count(self, overrides: Sequence[Override]) -> int:
        """Return how many points there will be, at most."""
        raise NotImplementedError

    def source(self, composer: Composer, overrides: Sequence[Override]) -> Source:
        """Return where the points come from."""
        raise NotImplementedError


class GridSweeper(_Sweeper):
    """Every combination of the values: ``optim.lr=0.01,0.1 seed=range(3)``."""

    def count(self, overrides: Sequence[Override]) -> int:
        """Return the number of combinations."""
        from gluonexp.sweep.grid import values

        return math.prod(len(values(override)) for override in overrides)

    def source(self, composer: Composer, overrides: Sequence[Override]) -> Source:
        """Return all points, composed and checked."""
        from gluonexp.sweep.grid import Grid

        return Grid(composer, overrides)


class OptunaSweeper(_Sweeper):
    """A search by Optuna: ``'optim.lr=interval(1e-4,1e-1)' optim=adam,sgd``.

    Parameters
    ----------
    n_trials, pruner, seed, study, journal
        See `gluonexp.sweep.search.Options`.
    """

    def __init__(
        self,
        n_trials: int,
        pruner: str,
        seed: int,
        study: str | None,
        journal: str | None,
        params: dict[str, str] | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(params=params, max_batch_size=max_batch_size)
        self._options = (n_trials, pruner, seed, study, journal)

    def count(self, overrides: Sequence[Override]) -> int:
        """Return the number of trials."""
        return self._options[0]

    def source(self, composer: Composer, overrides: Sequence[Override]) -> Source:
        """Return the study, opened."""
        from gluonexp.sweep.search import Options, Search

        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        return Search(composer, overrides, Options(*self._options), folder)


def _typed(config: DictConfig, task: Sequence[str]) -> list[str]:
    """Return the overrides that start the same sweep again, one a key.

    A folder given by ``--config-dir`` is among them. Which sweep was resumed is not: what starts
    it again need not do so in the same parent.
    """
    words = [str(word) for word in config.hydra.overrides.hydra]
    folders = [
        str(Path(source.path).resolve())
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    if folders and not any(word.startswith("hydra.searchpath=") for word in words):
        words.append(f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]")
    by_key = {word.partition("=")[0]: word for word in [*words, *task]}
    return [word for key, word in by_key.items() if key not in ("hydra.mode", "sweep.resume")]


def _warm_up() -> None:
    """Import what every job needs."""
    import mlflow  # noqa: F401

    import gluonexp.experiment  # noqa: F401
    from gluonexp.base.mx import mx  # noqa: F401


def _launched(
    launcher: Launcher, jobs: Iterator[Job], batch_size: int | None
) -> Generator[tuple[int, JobReturn], None, None]:
    """Run jobs by whatever launcher there is, as late and as few at once as it can."""
    if hasattr(launcher, "stream"):
        yield from launcher.stream(jobs)
    elif isinstance(launcher, BasicLauncher):
        for number, overrides in jobs:
            (done,) = launcher.launch([overrides], initial_job_idx=number)
            yield number, done
    else:
        while batch := list(itertools.islice(jobs, batch_size)):
            numbers = [number for number, _ in batch]
            ended = launcher.launch([list(words) for _, words in batch], numbers[0])
            yield from zip(numbers, ended, strict=True)
