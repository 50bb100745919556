"""``hydra/sweeper=basic``, the default, and ``optuna``: where a sweep's points come from.

Hydra imports this module whenever it starts: what is heavy is imported where it is used.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from gluonexp.sweep.outcomes import Summary
    from gluonexp.sweep.points import Composer, PointSource
    from gluonexp.sweep.search import Options


class RecordedSweeper(Sweeper):
    """What the sweepers share: overrides in, one parent run with an answer out.

    Parameters
    ----------
    params
        Overrides by key, as a preset gives them; the command line comes after them.
    max_batch_size
        How many jobs a launcher that knows only batches (a cluster's) is given at once.

    Attributes
    ----------
    failed
        Whether the last sweep of this process has a problem: the exit status needs it, and Hydra
        drops what `sweep` returns on the command line.
    """

    failed: ClassVar[bool] = False

    def __init__(
        self, params: dict[str, str] | None = None, max_batch_size: int | None = None
    ) -> None:
        self._params = [f"{key}={value}" for key, value in (params or {}).items()]
        self._max_batch_size = max_batch_size

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to every sweeper."""
        self._config = config
        self._folder = Path(str(config.hydra.sweep.dir))
        self._loader = hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context, task_function, config
        )

    def sweep(self, arguments: list[str]) -> Summary:
        """Run the sweep that `arguments` mean."""
        from gluonexp.base.errors import GluonexpError
        from gluonexp.base.ranks import world
        from gluonexp.config import hydra_private
        from gluonexp.config.overrides import as_typed
        from gluonexp.sweep.conduct import SweepPlan, conduct
        from gluonexp.sweep.launching import launched, streaming
        from gluonexp.sweep.points import Composer

        if world().size > 1:
            raise CompactHydraException(
                "a sweep starts its jobs itself: start it without torchrun"
            )
        launcher = streaming(self._launcher, self._max_batch_size)
        folder, loader = self._folder, self._loader
        parser = OverridesParser.create(config_loader=loader)
        parsed = {
            override.get_key_element(): override  # of the same key, the last counts
            for override in parser.parse_overrides(as_typed([*self._params, *arguments]))
        }
        overrides = list(parsed.values())
        try:
            launcher.start(self.count(overrides), _warm_up)  # while we prepare
            source = self.source(Composer(loader, self._config), overrides)
            with hydra_private.job_folder("hydra.sweep.dir", folder):
                folder.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(
                    hydra_private.without_secrets(self._config), folder / "multirun.yaml"
                )
            summary = conduct(
                SweepPlan(
                    source=source,
                    launch=lambda jobs: launched(launcher, jobs),
                    folder=folder,
                    arguments=_typed(self._config, arguments),
                    is_group=lambda key: bool(loader.get_group_options(key)),
                )
            )
        except GluonexpError as error:
            raise CompactHydraException(str(error)) from None
        finally:
            launcher.close()
        RecordedSweeper.failed = summary.problem is not None
        return summary

    @abstractmethod
    def count(self, overrides: Sequence[Override]) -> int:
        """Return how many points there will be, at most."""

    @abstractmethod
    def source(self, composer: Composer, overrides: Sequence[Override]) -> PointSource:
        """Return where the points come from."""


class GridSweeper(RecordedSweeper):
    """Every combination of the values: ``optim.lr=0.01,0.1 seed=range(3)``."""

    def count(self, overrides: Sequence[Override]) -> int:
        """Return the number of combinations."""
        from gluonexp.sweep.grid import values

        return math.prod(len(values(override)) for override in overrides)

    def source(self, composer: Composer, overrides: Sequence[Override]) -> PointSource:
        """Return all points, composed and checked."""
        from gluonexp.sweep.grid import Grid

        return Grid(composer, overrides)


class OptunaSweeper(RecordedSweeper):
    """A search by Optuna: ``'optim.lr=interval(1e-4,1e-1)' optim=adam,sgd``.

    Parameters
    ----------
    options
        Those of `gluonexp.sweep.search.Options`.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, max_batch_size)
        self._options = options

    def count(self, overrides: Sequence[Override]) -> int:
        """Return the number of trials."""
        return self._settings().n_trials

    def source(self, composer: Composer, overrides: Sequence[Override]) -> PointSource:
        """Return the study, opened."""
        from gluonexp.sweep.search import Search

        return Search(composer, overrides, self._settings(), self._folder)

    def _settings(self) -> Options:
        """Return the options, each of its type."""
        from gluonexp.sweep.search import Options

        try:
            merged = OmegaConf.merge(OmegaConf.structured(Options), self._options)
            settings = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            sentence = str(error).partition("\n")[0]
            raise CompactHydraException(f"hydra.sweeper.{error.key}: {sentence}") from None
        assert isinstance(settings, Options)
        return settings


def _typed(config: DictConfig, task: Sequence[str]) -> list[str]:
    """Return the overrides that start the same sweep again, one a key.

    A folder given by ``--config-dir`` is among them. Which sweep was resumed is not: what starts
    it again need not do so in the same parent.
    """
    from gluonexp.config.overrides import by_key, quoted

    # As they were typed: what an ${oc.env:...} stands for may be a secret.
    written = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    assert isinstance(written, list)
    words = [str(word) for word in written]
    folders = [
        str(Path(source.path).resolve())
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    if folders and not any(word.startswith("hydra.searchpath=") for word in words):
        named = ",".join(quoted(f"file://{folder}") for folder in folders)
        words.append(f"hydra.searchpath=[{named}]")
    known = by_key([*words, *task])
    return [word for key, word in known.items() if key not in ("hydra.mode", "sweep.resume")]


def _warm_up() -> None:
    """Import what every job needs."""
    import mlflow  # noqa: F401

    import gluonexp.experiment  # noqa: F401
    from gluonexp.base.mx import mx  # noqa: F401
