"""The engine of a run: what trains its network, and where."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gluonexp.assembly import networks
from gluonexp.base.device import device as of_mxnet
from gluonexp.base.device import named
from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import gluon, mx, nn
from gluonexp.config.optimizers import OptimConfig
from gluonexp.config.schema import Config
from gluonexp.data.types import Spec
from gluonexp.engines.mxnet import optimizers
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.training.engine import Engine
from gluonexp.training.team import ALONE, Team

if TYPE_CHECKING:
    from gluonexp.assembly import Components


def device(config: Config) -> networks.Device:
    """Return where MXNet computes; PyTorch, where it trains, has a device of its own.

    Raises
    ------
    GluonexpError
        The device cannot be used, or PyTorch is not installed.
    """
    if config.engine.name == "mxnet":
        return of_mxnet(config.device)
    named(config.device)
    from gluonexp.engines.torch import library

    library.load()
    from gluonexp.engines.torch.device import device

    device(config.device)
    return mx.cpu()


def engine(
    config: Config,
    components: Components,
    net: nn.HybridBlock,
    steps: Preprocessing,
    spec: Spec,
    device: networks.Device,
    team: Team = ALONE,
) -> Engine:
    """Return what trains `net`, which has its values, on images of `spec`, as one of `team`.

    Raises
    ------
    GluonexpError
        The loss is not one for each image, or the engine cannot compute it or the network.
    """
    loss = components.loss
    _check(config, loss, len(spec.classes))
    loss.hybridize(static_alloc=True, static_shape=True)
    if not config.optim.decay_bias_and_norm:
        optimizers.exempt_bias_and_norm(net)
    block, longest = networks.preprocess(steps, spec), config.optim.clip_norm
    if config.engine.name == "mxnet":
        return MXNetEngine(net, block, loss, optimizer(config.optim), device, longest)
    from gluonexp.engines.torch.device import device as of_torch
    from gluonexp.engines.torch.engine import TorchEngine

    image = (spec.height, spec.width, spec.channels)
    settings, place = config.engine, of_torch(config.device, team.world.local_rank)
    return TorchEngine(net, block, image, loss, config.optim, settings, place, team)


def _check(config: Config, loss: gluon.loss.Loss, classes: int) -> None:
    images = 2
    where = f"loss {config.loss['_target_']}"
    try:
        with mx.name.NameManager():
            losses = loss(mx.sym.var("logits"), mx.sym.var("labels"))
        _, (shape, *_), _ = losses.infer_shape(logits=(images, classes), labels=(images,))
    except (mx.MXNetError, TypeError, ValueError) as error:
        raise GluonexpError(f"{where}: {reason(error)}") from error
    if shape != (images,):
        raise GluonexpError(
            f"{where}: gives {shape} for {images} images; one loss for each is needed: (N,)"
        )


def optimizer(config: OptimConfig) -> mx.optimizer.Optimizer:
    """Return MXNet's optimizer."""
    settings = asdict(config)
    for name in ("decay_bias_and_norm", "clip_norm"):  # not the optimizer's, but the engine's
        del settings[name]
    return optimizers.optimizer(**settings)
