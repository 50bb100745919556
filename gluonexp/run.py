"""The Hydra application: ``python -m gluonexp.run GROUP=NAME KEY=VALUE``.

It parses and reports; `gluonexp.experiment.run` trains. MXNet and MLflow are imported inside the
job, so that ``--help``, ``--cfg job`` and completion answer at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from gluonexp import schema
from gluonexp.errors import GluonexpError


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


HELP = """\
gluonexp: turn a Gluon training script into a tracked experiment.

usage: {command} [GROUP=NAME ...] [KEY=VALUE ...] [--multirun]

  {command}                                      digits on a small CNN, offline, in seconds
  {command} experiment=fashion_mnist_cnn         a recorded study, as it was run
  {command} dataset=cifar10 optim=sgd optim.lr=0.05 scheduler=cosine
  {command} dataset=image_folder dataset.root=photos dataset.resize=64
  {command} --multirun optim.lr=0.001,0.003,0.01 one run for each value
  {command} --cfg job                            the configuration that would run, with every key
  {command} --info defaults                      which file each part of it comes from

groups (choose with GROUP=NAME)
{groups}

keys changed most often (all of them: --cfg job)
  seed  device  trainer.epochs  trainer.batch_size  trainer.log_every  trainer.resume
  optim.lr  optim.momentum  optim.weight_decay
  dataset.root  dataset.val_fraction  dataset.resize
  tracking.uri  tracking.experiment  tracking.run_name

Groups of your own: --config-dir DIR. Classes of your own: 'build.allow=[mypackage]'.
Afterwards: gluonexp ui, gluonexp predict last. Options of Hydra itself: --hydra-help.
"""

schema.register()


def help_text(command: str, arguments: Sequence[str]) -> str:
    """Return what ``--help`` prints, at once: Hydra's own listing of the groups takes a second."""
    folders = [Path(conf_dir())]
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folders += map(Path, [value] if value else arguments[position + 1 : position + 2])
    groups: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
        groups.setdefault(path.parent.name, set()).add(path.stem)
    width = max(map(len, groups))
    lines = [f"  {name:<{width}}  {'  '.join(sorted(groups[name]))}" for name in sorted(groups)]
    return HELP.format(command=command, groups="\n".join(lines))


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(composed: DictConfig) -> float | None:
    """Run one job and return its objective (None where it was not measured)."""
    from gluonexp import experiment

    job = HydraConfig.get()
    workdir = Path(job.runtime.output_dir)
    try:
        config = schema.to_config(composed)
        return experiment.run(config, workdir, list(job.overrides.task)).objective
    except GluonexpError as error:
        # Hydra prints this class as one message and goes on with the rest of a sweep.
        raise CompactHydraException(f"{error}{_how_to_go_on(workdir)}") from None
    except KeyboardInterrupt:
        print(f"interrupted{_how_to_go_on(workdir)}", file=sys.stderr)
        sys.exit(130)  # as a shell reports SIGINT; it ends a sweep too
    except SystemExit:
        print(f"terminated{_how_to_go_on(workdir)}", file=sys.stderr)
        raise


def _how_to_go_on(workdir: Path) -> str:
    last = workdir / "checkpoints" / "last"
    return f"; to continue: trainer.resume={last}" if last.exists() else ""


def start(command: str = "python -m gluonexp.run") -> None:
    """Run what the command line says."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(command, sys.argv[1:]), end="")
    else:
        main()


if __name__ == "__main__":
    start()
