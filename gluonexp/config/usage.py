"""What ``python -m gluonexp.run --help`` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

_TEXT: Final = """\
gluonexp: turn a Gluon training script into a tracked experiment.

usage: {command} [GROUP=NAME ...] [KEY=VALUE ...] [--multirun]

  {command}                                      digits on a small CNN, offline, in seconds
  {command} experiment=fashion_mnist_cnn         a recorded study, as it was run
  {command} model=alexnet_ft optim=sgd           pretrained AlexNet, frozen, under a new classifier
  {command} model=zoo_ft model.backbone=resnet18_v1 freeze=gradual
  {command} trainer=lr_find                      which learning rate?
  {command} engine=torch                         the same network, trained by PyTorch
  {command} metrics=full objective.metric=val/macro_f1   not by accuracy alone
  {command} dataset=cifar10 optim=sgd optim.lr=0.05 scheduler=cosine
  {command} dataset=image_folder dataset.root=photos dataset.resize=64
  {command} -m optim.lr=0.001,0.003,0.01 seed=0,1  a sweep: every combination, and which is best
  {command} -m optim.lr=0.001,0.01 hydra/launcher=processes hydra.launcher.n_jobs=2
  {command} -m seed=0,1 hydra/launcher=ray       tasks of Ray; =submitit: jobs of Slurm
  {command} hydra/launcher=ray --cfg hydra -p hydra.launcher  what a launcher can be told
  {command} -m hydra/sweeper=optuna 'optim.lr=interval(1e-4,1e-1)' model=cnn,mlp
  {command} sweep=lr_grid                        a preset; others: seeds, lr_search
  {command} sweep.resume=ID                      what a sweep has not finished; last: the last one
  {command} --cfg job                            the configuration that would run, with every key
  {command} --info defaults                      which file each part of it comes from

groups (choose with GROUP=NAME)
{groups}

keys changed most often (all of them: --cfg job)
  seed  device  trainer.epochs  trainer.batch_size  trainer.log_every  trainer.resume
  optim.lr  optim.momentum  optim.weight_decay
  model.weights  model.backbone  model.head  freeze.rules
  dataset.root  dataset.val_fraction  dataset.resize
  tracking.uri  tracking.experiment  tracking.run_name  notify.webhook  notify.command
  sweep.fail_fast  sweep.retries  sweep.register  objective.metric  objective.mode
  metrics.names

Groups of your own: --config-dir DIR. Classes of your own: 'build.allow=[mypackage]'.
Afterwards: gluonexp ui, gluonexp compare, gluonexp predict last. Hydra's options: --hydra-help.
"""


def text(command: str, arguments: Sequence[str], conf_dir: str) -> str:
    """Return it at once: Hydra's own listing of the groups takes a second.

    Parameters
    ----------
    command
        What the user types ahead of `arguments`, in which ``--config-dir`` is looked for.
    conf_dir
        The folder of the groups.
    """
    folders = [Path(conf_dir)]
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folders += map(Path, [value] if value else arguments[position + 1 : position + 2])
    groups: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
        groups.setdefault(path.parent.name, set()).add(path.stem)
    width = max(map(len, groups))
    lines = [f"  {name:<{width}}  {'  '.join(sorted(groups[name]))}" for name in sorted(groups)]
    return _TEXT.format(command=command, groups="\n".join(lines))
