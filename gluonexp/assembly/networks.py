"""The network of a run: constructed, its shapes inferred, pretrained, initialized, compiled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gluonexp.assembly.targets import Constructor
from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import gluon, mx, nn
from gluonexp.base.seeds import engine_seed, seed_host
from gluonexp.base.text import listed
from gluonexp.config.schema import Config, DatasetConfig
from gluonexp.data.types import Spec, Split
from gluonexp.export import heads
from gluonexp.graph import images
from gluonexp.graph.graph import Graph
from gluonexp.model_folder.network import refusal
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.binary import TwoClasses
from gluonexp.models.finetune import FineTune
from gluonexp.training.engine import Engine, State
from gluonexp.weights.find import find

# What gives probabilities; log_softmax does not: softmax of it is softmax.
_PROBABILITIES: Final = {"softmax", "SoftmaxActivation", "SoftmaxOutput"}

# What can give any value, and so a logit; and what only moves or scales a value.
_LINEAR: Final = {
    *("FullyConnected", "Convolution", "Deconvolution", "BatchNorm", "dot", "batch_dot"),
    *("elemwise_add", "elemwise_sub", "broadcast_add", "broadcast_sub"),
}
_SCALED: Final = {
    *("_plus_scalar", "_minus_scalar", "_mul_scalar", "_div_scalar", "broadcast_mul"),
    *("Reshape", "Flatten", "squeeze", "expand_dims", "slice_axis", "mean", "Pooling", "Dropout"),
}

# By how many training images of 32x32 pixels, evenly spread, those parameters are set that follow
# from them; of larger ones by fewer.
SET_BY: Final = 5000

# What rooms without MXNet call a network and a device that they only hand on.
Network: TypeAlias = nn.HybridBlock
Device: TypeAlias = mx.Context


def seed(seed: int) -> None:
    """Seed Python, NumPy and MXNet for what comes before the first epoch: the initial weights."""
    seed_host(seed)
    mx.random.seed(engine_seed(seed))


@dataclass(frozen=True)
class Pretrained:
    """Where a network's first parameters came from.

    Attributes
    ----------
    choice
        A `model.weights` that gives the same again: what ``auto`` chose.
    title, warning
        Sentences for people.
    sha256
        Of the weights' file; None where there is none.
    adapted
        The backbone has torchvision's strides, which are not Gluon's (ResNet-50 and deeper).
    taken
        Which part of the network has them.
    """

    choice: str
    title: str
    sha256: str | None
    adapted: bool
    taken: str
    warning: str | None


def preprocessing(config: DatasetConfig, spec: Spec) -> Preprocessing:
    """Return the steps from images of `spec` to the network's input."""
    channels = config.channels or spec.channels
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, channels):
            raise GluonexpError(
                f"dataset.{name}={values}: give one value, or one for each of {channels} "
                "channel(s), as in dataset.mean=[0.5] dataset.std=[0.25]"
            )
    return Preprocessing(
        height=config.resize or spec.height,
        width=config.resize or spec.width,
        channels=channels,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def preprocess(steps: Preprocessing, spec: Spec) -> Preprocess:
    """Return the block for `steps`, compiled."""
    block = Preprocess(steps, (spec.height, spec.width, spec.channels))
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def network(
    config: Config, construct: Constructor, spec: Spec, steps: Preprocessing
) -> nn.HybridBlock:
    """Return the network, its shapes inferred from the data's; no parameter has a value yet.

    Parameter names do not depend on how many networks this process made before: the optimizer
    state and the exported files go by name.

    Raises
    ------
    GluonexpError
        The network cannot take the data's shape, or does not return (N, classes).
    """
    with mx.name.NameManager():
        net = construct(classes=len(spec.classes))
        if not isinstance(net, gluon.HybridBlock):
            raise GluonexpError(f"model: {config.model['_target_']} returned no HybridBlock")
        try:
            net.collect_params()
        except AssertionError as error:  # two parameters of one name
            raise GluonexpError(f"model: {reason(error)}") from None
        shape, classes = (1, steps.channels, steps.height, steps.width), len(spec.classes)
        if classes == 2 and (probability := _gives_one(net, shape)) is not None:
            net = TwoClasses(net, probability)
        _infer_shapes(net, shape, classes, config)
    return net


def _gives_one(net: nn.HybridBlock, shape: tuple[int, ...]) -> bool | None:
    """Say whether the one value that a network gives is a sigmoid's; None if it gives others."""
    try:
        output = net(mx.sym.var("data"))
        _, made, _ = output.infer_shape(data=shape)
    except (mx.MXNetError, TypeError, ValueError, AttributeError):
        return None  # `_infer_shapes` says why
    if made != [(shape[0], 1)]:
        return None
    graph = Graph.from_symbol(output)
    last = node = heads.ending(graph)
    if last.op in ("sigmoid", "hard_sigmoid") or last.attrs.get("act_type") == "sigmoid":
        return True
    while node.op in _SCALED and node.inputs:
        node = graph.nodes[node.inputs[0].node]
    if node.op not in _LINEAR:
        raise GluonexpError(
            f"model: gives one value for an image, which is what {node.name} ({node.op}) makes of "
            "it: a probability must be a sigmoid's, a logit that of a layer with weights"
        )
    return False


def note(net: nn.HybridBlock) -> str | None:
    """Return what users must know of how the network is used; None if nothing."""
    return net.note if isinstance(net, TwoClasses) else None


def initialize(
    config: Config,
    net: nn.HybridBlock,
    spec: Spec,
    device: mx.Context,
    earlier: Pretrained | None = None,
) -> Pretrained | None:
    """Give every parameter of `net` a value, and compile it; call it under the run's seed.

    A fine-tuning network gets its pretrained parameters, everything else Xavier's.

    Parameters
    ----------
    net
        Of `network`.
    earlier
        Of training that is resumed: its checkpoint will be loaded, so nothing is looked for.

    Returns
    -------
    Pretrained or None
        None where the network is not a fine-tuning one.

    Raises
    ------
    GluonexpError
        The pretrained parameters cannot be had, or are another network's.
    """
    pretrained = earlier
    if isinstance(net, FineTune):
        if earlier is None:
            pretrained = _adopted(net, spec, config.tracking.uri)
        elif earlier.adapted:
            net.adapt()
    for parameter in net.collect_params().values():
        if parameter._data is None:
            parameter.initialize(ctx=device, default_init=mx.init.Xavier())
        else:
            parameter.reset_ctx(device)
    net.hybridize(static_alloc=True, static_shape=True)
    return pretrained


def set_from(
    train: Split, net: nn.HybridBlock, engine: Engine, steps: Preprocessing, spec: Spec
) -> None:
    """Give those parameters their values that the network takes from training images, if any.

    It says so by a method ``from_images(images: (N, C, H, W) float32) -> values by name``.
    Training that is resumed has them in its checkpoint.
    """
    if not hasattr(net, "from_images"):
        return
    pixels = max(spec.height * spec.width, steps.height * steps.width)
    count = min(len(train), SET_BY, max(SET_BY * 32 * 32 // pixels, 1))
    rows = np.linspace(0, len(train) - 1, count).astype(np.intp)
    made = preprocess(steps, spec)(mx.nd.array(train.images.take(rows, axis=0), dtype="uint8"))
    state = engine.state()
    found = net.from_images(made.asnumpy())
    engine.load(State({**state.values, **found}), optimizer=False)


def check_images(
    config: Config, net: nn.HybridBlock, steps: Preprocessing, device: mx.Context
) -> None:
    """Refuse to export a network whose answer for an image is not that image's alone.

    Found out after the training, it would cost that. Networks of the zoo are known to be right.

    Raises
    ------
    GluonexpError
        Naming the layer.
    """
    if not config.export.enabled or isinstance(net, FineTune):
        return

    def graph() -> tuple[Graph, dict[str, mx.nd.NDArray]]:
        values = {name: each.data(device) for name, each in net.collect_params().items()}
        return Graph.from_symbol(net(mx.sym.var("data"))), values

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = net(mx.nd.array(given, ctx=device)).asnumpy()
        return logits

    noise = images.noise((steps.channels, steps.height, steps.width))
    try:
        mixed = images.flaw(run, graph, "data", noise)
    except mx.MXNetError as error:
        raise GluonexpError(
            f"model: cannot be run on images {noise.shape}, float32: {reason(error)}"
        ) from None
    if mixed is not None:
        raise GluonexpError(f"model: cannot be exported: {mixed}; export=none trains it without")


def _adopted(net: FineTune, spec: Spec, tracking_uri: str | None) -> Pretrained:
    found = find(
        net.weights,
        net.zoo_name,
        needed=net.needed(),
        sha256=net.sha256,
        tracking_uri=tracking_uri,
    )
    return Pretrained(
        choice=found.choice,
        title=found.title,
        sha256=found.sha256,
        adapted=found.adapted,
        taken=net.adopt(found, spec.classes),
        warning=found.warning,
    )


def pinned(config: Config, pretrained: Pretrained | None) -> Config:
    """Return `config` with the weights that were chosen: repeated, it takes the same or none."""
    if pretrained is None:
        return config
    settled = {"weights": pretrained.choice, "sha256": pretrained.sha256}
    return replace(config, model={**config.model, **settled})


def _infer_shapes(
    net: nn.HybridBlock, shape: tuple[int, ...], classes: int, config: Config
) -> None:
    """Infer every parameter's shape symbolically, without computing anything."""
    takes = "x".join(map(str, shape[1:]))  # (C, H, W)
    where = f"model {config.model['_target_'].rpartition('.')[2]} cannot take {takes} images"
    remedy = f"dataset {config.dataset.name}; change dataset.resize, dataset.channels or the model"
    try:
        output = net(mx.sym.var("data"))
    except (mx.MXNetError, TypeError, ValueError) as error:
        raise GluonexpError(f"model {config.model['_target_']}: {reason(error)}") from error
    if isinstance(output, (list, tuple)):
        raise GluonexpError(f"model: returns {len(output)} outputs; gluonexp trains on one")
    try:
        arguments, outputs, statistics = output.infer_shape(data=shape)
    except mx.MXNetError as error:
        needed = config.model.get("channels")
        if needed in (1, 3) and needed != shape[1]:
            raise GluonexpError(
                f"{where}: it needs images of {needed} channels (1 is grey): "
                f"dataset.channels={needed}"
            ) from None
        raise GluonexpError(f"{where} ({remedy}): {reason(error)}") from None
    if outputs is None or any(not all(s) for s in [*arguments, *outputs, *statistics]):
        raise GluonexpError(f"{where} ({remedy}): a layer's output would be empty")
    if outputs != [(shape[0], classes)]:
        raise GluonexpError(
            f"model: gives {outputs[0][1:]} values for each image; the data set has {classes} "
            "classes, so logits of that many are needed"
        )
    if (last := heads.ending(Graph.from_symbol(output))).op in _PROBABILITIES:
        raise GluonexpError(
            f"model: ends in {last.name} ({last.op}), but the loss and the export take "
            "logits and do that themselves: leave it out"
        )
    # Found out after the training, it would cost that.
    if config.export.enabled and (why := refusal(output, "data", shape)) is not None:
        raise GluonexpError(f"model: cannot be exported: {why}; export=none trains it without")
    names = [*output.list_arguments(), *output.list_auxiliary_states()]
    parameters = net.collect_params()
    if idle := [k for k, p in parameters.items() if k not in names and p.grad_req != "null"]:
        raise GluonexpError(
            f"model: does not use {listed(idle)} for its answer, so that cannot be trained: leave "
            "it out"
        )
    for name, inferred in zip(names, [*arguments, *statistics], strict=True):
        if name in parameters:
            parameters[name].shape = inferred
