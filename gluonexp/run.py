"""The Hydra application: ``python -m gluonexp.run GROUP=NAME KEY=VALUE``.

It parses and reports; `gluonexp.experiment.run` trains. MXNet and MLflow are imported inside the
job, so that ``--help``, ``--cfg job`` and completion answer at once.
"""

import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from gluonexp.base import ranks, streams
from gluonexp.base.errors import GluonexpError, debugging, sentence
from gluonexp.base.imports import heavy_imports, own_process
from gluonexp.base.processes import process_start
from gluonexp.base.secrets import HIDDEN, hide
from gluonexp.base.text import plain_console, tell
from gluonexp.config import hints, hydra_private, keys, schema, usage
from gluonexp.config.overrides import as_typed, by_key, value_in

if TYPE_CHECKING:
    from gluonexp import experiment
    from gluonexp.sweep.outcomes import Summary
    from gluonexp.tracking.statuses import Ending

# Hydra's options that the next word belongs to.
WITH_VALUE = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
# Those by which Hydra answers something, and runs nothing.
QUESTIONS = {"--cfg", "-c", "--info", "-i", "--version", "--hydra-help"}
QUESTIONS |= {"--shell-completion", "-sc", "--help", "-h"}
# What a sweep tells its jobs, besides what the user typed.
OF_SWEEPS = ("tracking.run_id=", "trainer.resume=", "sweep.")
SWEEPERS = "hydra_plugins.gluonexp."  # ours; another sweeper's job is a run like any other
_SWEEP = "python -m gluonexp.run -m, or gx.sweep(...)"
GRID = {"_target_": f"{SWEEPERS}sweepers.GridSweeper", "params": None, "max_batch_size": None}


def conf_dir() -> str:
    """Return the folder of the groups: ``GLUONEXP_CONF``, the checkout's, or the wheel's."""
    package = Path(__file__).resolve().parent
    named = os.environ.get("GLUONEXP_CONF")
    candidates = (
        [Path(named).expanduser()] if named else [package.parent / "conf", package / "conf"]
    )
    for folder in candidates:
        if (folder / "config.yaml").is_file():
            return str(folder.resolve())
    raise SystemExit(f"gluonexp: no config.yaml in {' or '.join(map(str, candidates))}")


schema.register()


def compose(*overrides: str) -> schema.Config:
    """Return the configuration that the command line would run with these overrides.

    Raises
    ------
    GluonexpError
        A value is missing or out of its range.
    HydraException
        A key, a type or a group's choice is not right.
    """
    return _config(composition(overrides), overrides, [Path(conf_dir())])


def composition(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes with these overrides, not yet checked.

    Raises
    ------
    HydraException
        A key, a type or a group's choice is not right.
    """
    with hydra_private.application(conf_dir()):
        return hydra.compose("config", overrides=as_typed(overrides))


def single(
    *overrides: str, config_dir: str | Path | None = None
) -> "tuple[schema.Config, experiment.Result]":
    """Run one job as the command line would; return its configuration, and how it ended.

    Parameters
    ----------
    config_dir
        As ``--config-dir``.

    Raises
    ------
    HydraException
        A key, a type or a group's choice is not right.
    GluonexpError
        All else that the user can mend, with how to resume; also that ``trainer.max_hours`` are
        over.
    KeyboardInterrupt
        Ctrl-C, with how to resume.
    """
    started, done = time.monotonic(), []
    if ranks.world().size > 1:
        raise GluonexpError("torchrun starts commands: `torchrun ... -m gluonexp.run KEY=VALUE`")
    words = as_typed(overrides)
    if value_in(words, "sweep.resume"):
        raise GluonexpError(f"sweep.resume goes on with a sweep: {_SWEEP}")

    def job(composed: DictConfig) -> None:
        workdir, typed = _begun()
        try:
            config = _asked_for(composed, typed)
            workdir = _home(config, workdir)
            done.append((config, _train(config, workdir, typed, started=started)))
        except KeyboardInterrupt:
            how = _how_to_resume(workdir, typed, composed, python=True)
            raise KeyboardInterrupt(f"interrupted{how}") from None
        except (Exception, SystemExit) as error:
            over = getattr(error, "over_time", False)
            if (said := str(getattr(error, "reason", "")) if over else sentence(error)) is None:
                raise
            how = _how_to_resume(workdir, typed, composed, python=True)
            raise GluonexpError(f"{said}{how}") from error

    with (
        hydra_private.application(conf_dir(), job_name="run", more=config_dir),
        hydra_private.default_sweeper(GRID),
        hydra_private.told(aloud=False),
        hydra_private.secrets_hidden(),
    ):
        if not hydra_private.single("config", job, words):
            raise GluonexpError(f"these overrides ask for a sweep: {_SWEEP}")
    return done[0]


def sweep(*overrides: str, config_dir: str | Path | None = None) -> "Summary":
    """Run a sweep as ``--multirun`` would with these overrides, and return how its points ended.

    Points that fail are in the summary; they raise nothing.

    Parameters
    ----------
    config_dir
        As ``--config-dir``.

    Raises
    ------
    HydraException
        A key, a type or a group's choice is not right, or no point can be run.
    GluonexpError
        There is no sweep ``sweep.resume``.
    KeyboardInterrupt, SystemExit
        Ctrl-C, also in a job; its attribute `gluonexp.sweep.conduct.CUT_OFF` is the sweep's id.
    """
    words = as_typed(overrides)
    if value_in(words, "sweep.resume"):
        words = again(words)
    with (
        hydra_private.application(conf_dir(), job_name="run", more=config_dir),
        hydra_private.default_sweeper(GRID),
        hydra_private.secrets_hidden(),
    ):
        ended: Summary = hydra_private.multirun("config", main.__wrapped__, words)
        return ended


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(composed: DictConfig) -> "float | Ending | None":
    """Run one job and return its objective (None where it was not measured).

    A job of one of our sweeps returns how it ended, whatever happened to it.
    """
    workdir, overrides = _begun()
    job = HydraConfig.get()
    if not OmegaConf.is_missing(job.job, "num") and job.sweeper._target_.startswith(SWEEPERS):
        return _job_of_sweep(composed, workdir, overrides)
    try:
        config = _asked_for(composed, overrides)
        workdir = _home(config, workdir)
        return _train(config, workdir, overrides, started=process_start()).objective
    except Exception as error:
        if (said := sentence(error)) is None:
            raise
        # Hydra prints this class as one message.
        raise CompactHydraException(
            f"{said}{_how_to_resume(workdir, overrides, composed)}"
        ) from error
    except KeyboardInterrupt:
        print(f"interrupted{_how_to_resume(workdir, overrides, composed)}", file=sys.stderr)
        sys.exit(130)  # as a shell reports SIGINT
    except SystemExit as ended:
        why = getattr(ended, "reason", "terminated")
        print(f"{why}{_how_to_resume(workdir, overrides, composed)}", file=sys.stderr)
        raise


def _begun() -> tuple[Path, list[str]]:
    """Return the folder that Hydra has made for this job, and its overrides as they were typed."""
    job = HydraConfig.get()
    workdir = Path(job.runtime.output_dir)
    # Relative paths, that of the store among them, count from where the user started, also with
    # hydra.job.chdir=True. Hydra leaves the job's folder itself.
    os.chdir(job.runtime.cwd)
    if job.output_subdir is not None:
        hydra_private.hide_saved(workdir / job.output_subdir)
    return workdir, cast(list[str], OmegaConf.to_container(job.overrides.task))


def _job_of_sweep(composed: DictConfig, workdir: Path, overrides: list[str]) -> "Ending":
    """Run one job of several: what it prints goes into its folder, how it ends to the sweep."""
    from gluonexp.tracking.statuses import FAILED, KILLED, Ending
    from gluonexp.training import job_folder

    own = [word for word in overrides if not word.startswith(OF_SWEEPS)]
    with job_folder.console(workdir, composed.trainer.resume) as log:
        console = plain_console(file=log, width=100)
        try:
            config = _asked_for(composed, own)
            if not config.notify.each_job:  # the sweep tells
                config = replace(config, notify=schema.NotifyConfig())
            return _train(config, workdir, own, console).ending
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # ends the sweep too
        except SystemExit as ended:
            if not getattr(ended, "over_time", False):
                raise
            return Ending(KILLED, reason=str(getattr(ended, "reason", "")))
        except Exception as error:
            reason = sentence(error) or f"{type(error).__name__}: {error}".rstrip(": ")
            trace = traceback.format_exc()
            tell(console, hide(trace))
            return Ending(FAILED, reason=reason, trace=trace)


def _train(
    config: schema.Config,
    workdir: Path,
    overrides: list[str],
    console: Console | None = None,
    started: float | None = None,
) -> "experiment.Result":
    """Run one job, whose start-up counts from `started`; None: from here, as of one of several."""
    started = time.monotonic() if started is None else started
    with heavy_imports():
        if config.engine.name == "torch":
            _import_beside_torch()
        from gluonexp import experiment
        from gluonexp.experiment import together

    environment = {key: str(each) for key, each in HydraConfig.get().job.env_set.items()}
    with together.led(config, overrides, ranks.world(), environment) as team:
        return experiment.run(config, workdir, overrides, console, started, team)


def _asked_for(composed: DictConfig, overrides: Sequence[str]) -> schema.Config:
    """Return the configuration of the job, checked, with Hydra's own."""
    keys.check(cast(DictConfig, HydraConfig.get()), "hydra.")
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    return _config(composed, overrides, folders)


def _home(config: schema.Config, workdir: Path) -> Path:
    """Return the folder to train in: that of a run that goes on as itself, else `workdir`."""
    if config.trainer.resume is None:
        return workdir
    with heavy_imports():
        from gluonexp.experiment import resume

    return resume.home(config, workdir)


def _config(
    composed: DictConfig, overrides: Sequence[str], folders: Sequence[Path]
) -> schema.Config:
    resumes = OmegaConf.select(composed, "trainer.resume") is not None
    config, world = schema.to_config(composed), ranks.world()
    if not resumes and not world.restarts:
        return config
    from gluonexp.experiment import extend

    if resumes:
        config = extend.configuration(composed, overrides, folders)
    return extend.restarted(config, world.job) if world.restarts and world.job else config


def _how_to_resume(
    workdir: Path, overrides: Sequence[str], composed: DictConfig, *, python: bool = False
) -> str:
    if not (workdir / "checkpoints").is_dir():
        return ""
    with heavy_imports():
        from gluonexp.experiment import resume

    allow = OmegaConf.select(composed, "build.allow", throw_on_resolution_failure=False) or ()
    return resume.command(workdir, overrides, list(allow), python=python)


def start(command: str = "python -m gluonexp.run") -> None:
    """Run what the command line says."""
    own_process()
    streams.show_all()
    if debugging():
        os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) and not ranks.world().rank:
        print(usage.text(command, arguments, conf_dir()), end="")
        return
    # Hydra's parser wants its options before the overrides; people write them anywhere.
    options: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_override = word[:1] in ("~", "+") or re.match(r"[^-][^=]*=", word)
        of_hydra = before in WITH_VALUE or not is_override
        (options if of_hydra else overrides).append(word)
    try:
        world = ranks.world()
        ranks.share_cores(world)
        if world.rank:
            _follow(world, arguments)
        overrides = as_typed(overrides)
        if value_in(overrides, "sweep.resume"):
            overrides = again(overrides)
            options.append("--multirun")
    except (GluonexpError, HydraException) as error:
        sys.exit(str(error))
    sys.argv[1:] = options + overrides
    try:
        # Other applications keep theirs.
        with (
            hydra_private.default_sweeper(GRID),
            hydra_private.told(),
            hydra_private.secrets_hidden(),
        ):
            main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 1 and (hint := hints.hint(overrides, conf_dir())):
            print(f"\n{hint}", file=sys.stderr)
        raise
    from hydra_plugins.gluonexp.sweepers import RecordedSweeper  # Hydra has imported it by now

    if RecordedSweeper.failed:
        sys.exit(1)


def _follow(world: ranks.World, arguments: Sequence[str]) -> None:
    """End this process, once it has trained what rank 0 leads, if that trains."""
    if any(word.partition("=")[0] in QUESTIONS for word in arguments):
        sys.exit(0)
    with heavy_imports():
        _import_beside_torch()
        from gluonexp.experiment import together

    sys.exit(together.follow(world))


def _import_beside_torch() -> None:
    from gluonexp.base import mx

    mx.import_beside_torch()


def again(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that the sweep ``sweep.resume`` was started with, and `overrides`.

    Of a key in both, what is in `overrides` counts.

    Raises
    ------
    GluonexpError
        There is no such sweep, or a secret that it was given is not given again.
    """
    from gluonexp.tracking.read.runs import reader
    from gluonexp.tracking.sweeps import arguments_of

    store = reader(value_in(overrides, "tracking.uri") or os.environ.get("MLFLOW_TRACKING_URI"))
    parent = store.parent(str(value_in(overrides, "sweep.resume")))
    words = by_key([*arguments_of(parent, store.uri), *overrides])
    for key, word in words.items():
        if HIDDEN in word and word not in overrides:
            raise GluonexpError(
                f"{key} is a secret, which no sweep records: type it again, {key}=..."
            )
    return list(words.values())


if __name__ == "__main__":
    start()
