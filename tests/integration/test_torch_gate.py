"""Before it trains, the PyTorch engine proves on real images that it computes what MXNet does."""

import functools
from importlib.util import find_spec

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.config.optimizers import MomentumConfig
from gluonexp.config.schema import EngineConfig
from gluonexp.data.types import Batch
from gluonexp.engines.torch import library
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.finetune import alexnet_ft

if find_spec("torch") is None:
    pytest.skip("PyTorch is not installed", allow_module_level=True)
library.load()

import torch  # noqa: E402

from gluonexp.engines.torch import lowering, operators  # noqa: E402
from gluonexp.engines.torch.engine import TorchEngine  # noqa: E402

FIGURES = {f"gluonexp.engine.gate.{kind}" for kind in ("images", "logits", "loss", "gradients")}
STATISTICS, ALONE = "gluonexp.engine.gate.statistics", "gluonexp.engine.gate.layers"


def tiny():
    """Return a network with one of each that there is a fault for; its biases are not zero."""
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        net.add(nn.MaxPool2D(3, 2, ceil_mode=True), nn.BatchNorm(scale=False), nn.Conv2D(6, 3))
        net.add(nn.AvgPool2D(3, 1, 1), nn.Dropout(0.5), nn.Flatten(), nn.Dense(3))
    return net


def engine(net, side=16, **settings):
    """Return the engine of a network for images of 3 classes."""
    mx.random.seed(0)
    np.random.seed(0)
    net.initialize(mx.init.Xavier())
    net(nd.zeros((1, 3, side, side)))
    for name, parameter in net.collect_params().items():
        if name.endswith(("bias", "gamma")):
            parameter.set_data(nd.random.uniform(0.5, 2, shape=parameter.shape))
    image, mean = (side, side, 3), (0.5, 0.5, 0.5)
    block = Preprocess(Preprocessing(side, side, 3, mean, (0.25, 0.25, 0.25)), image)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    optim, config = MomentumConfig("sgd", 0.1), EngineConfig("torch", **settings)
    return TorchEngine(net, block, image, loss, optim, config, torch.device("cpu"))


def batch(side=16, count=16):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = np.arange(count) % 3
    return Batch(images, labels, labels)


def bits(made):
    """Return all that the gate could have changed."""
    parameters = made.net.collect_params().values()
    theirs = [p.data().asnumpy().tobytes() for p in parameters]
    theirs += [p.grad().asnumpy().tobytes() for p in parameters if p.grad_req != "null"]
    ours = {name: value.tobytes() for name, value in made.state().values.items()}
    gradients = [value.grad for value in made._module.parameters()]
    modes = made._module.training, made._module.drop, len(made._module.moves)
    return theirs, ours, gradients, modes, torch.random.get_rng_state().tolist()


def test_a_network_is_proved_and_stays_as_it_is():
    made = engine(tiny())
    with autograd.record():
        loss = made.net(nd.ones((2, 3, 16, 16))).sum()
    loss.backward()
    mx.random.seed(3)
    expected = nd.random.normal(shape=(3,)).asnumpy()
    mx.random.seed(3)
    before = bits(made)
    assert made.prove(batch()).keys() == FIGURES | {STATISTICS}
    assert bits(made) == before
    assert (nd.random.normal(shape=(3,)).asnumpy() == expected).all()
    assert not autograd.is_training() and not autograd.is_recording()


def plant(monkeypatch, op, attributes):
    """Have `op` lowered with other attributes than the layer's; None: without its bias."""
    function, heeded = operators.OPERATORS[op], ""
    if isinstance(function, tuple):
        function, heeded = function
    bind = lowering.bind

    @functools.wraps(function)
    def biasless(x, weight, *bias, **settings):
        return function(x, weight, **settings)

    def other(asked, heeded, attrs, *shapes):
        return bind(
            asked, heeded, {**attrs, **attributes} if asked is function else attrs, *shapes
        )

    if attributes is None:
        monkeypatch.setitem(operators.OPERATORS, op, (biasless, heeded))
    else:
        monkeypatch.setattr(lowering, "bind", other)


FAULTS = {
    "eps": ("BatchNorm", {"eps": "0.001"}, "batchnorm0_fwd .*output differs"),
    "momentum": ("BatchNorm", {"momentum": "0.99"}, "batchnorm0_fwd .*running_mean differs"),
    "gamma fixed": ("BatchNorm", {"fix_gamma": "True"}, "batchnorm0_fwd .*output differs"),
    "gamma free": ("BatchNorm", {"fix_gamma": "False"}, "batchnorm1_fwd .*output differs"),
    "statistics": ("BatchNorm", {"use_global_stats": "True"}, "batchnorm0_fwd .*output differs"),
    "convention": ("Pooling", {"pooling_convention": "valid"}, "pool0_fwd .*it gives"),
    "padding": ("Pooling", {"count_include_pad": "False"}, "pool1_fwd .*output differs"),
    "maximum": ("Pooling", {"pool_type": "max"}, "pool1_fwd .*output differs"),
    "stride": ("Convolution", {"stride": "(2, 2)"}, "conv0_fwd .*it gives"),
    "bias": ("Convolution", None, "conv1_fwd .*output differs"),
    "dense bias": ("FullyConnected", None, "dense0_fwd .*output differs"),
    "activation": ("Activation", {"act_type": "softrelu"}, "relu0_fwd .*output differs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_the_first_layer_that_has_it(fault, monkeypatch):
    op, attributes, said = FAULTS[fault]
    made = engine(tiny())
    plant(monkeypatch, op, attributes)
    made.start(None)
    refused = rf"^engine=torch: layer \w+{said}.*; take engine=mxnet$"
    with pytest.raises(GluonexpError, match=refused):
        made.prove(batch())


def test_what_no_layer_alone_shows_is_refused_too():
    made = engine(tiny())
    *steps, last = made._module._steps
    made._module._steps = [
        *steps,
        last._replace(function=lambda *taken: last.function(*taken) * 2),
    ]
    with pytest.raises(GluonexpError, match="logits differ, though no layer alone does"):
        made.prove(batch())


ZOO = ["mobilenet0.25", "mobilenetv2_0.25", "resnet18_v1", "resnet18_v2"]


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo_are_proved(name):
    net = gluon.model_zoo.vision.get_model(name, classes=3)
    assert engine(net, 32).prove(batch(32)).keys() - {ALONE} == FIGURES | {STATISTICS}


def test_fine_tuning_is_proved_with_what_is_frozen():
    net = alexnet_ft(3, head=[8])
    net.backbone.collect_params().setattr("grad_req", "null")
    made = engine(net, 224)
    tags = made.prove(batch(224, 3))
    assert tags.keys() - {ALONE} == FIGURES and tags["gluonexp.engine.gate.images"] == "2"


def test_frozen_statistics_are_proved():
    net = tiny()
    net[1]._kwargs["use_global_stats"] = True
    net[0].collect_params().setattr("grad_req", "null")
    assert engine(net).prove(batch()).keys() == FIGURES | {STATISTICS}


def test_layers_that_take_nothing_or_give_other_types_are_proved():
    def odd(F, x):
        whole = F.cast(F.cast(9 * F.cast(x, "float16"), "int32"), "float32")
        return F.broadcast_add(
            F.broadcast_add(x + whole, F.arange(6)), F.mean(x, axis=1, keepdims=True)
        )

    net = nn.HybridSequential()
    net.add(
        nn.Dense(6), nn.LayerNorm(scale=False, center=False), nn.HybridLambda(odd), nn.Dense(3)
    )
    assert engine(net).prove(batch()).keys() - {ALONE} == FIGURES


def test_a_batch_that_overflows_proves_nothing():
    made = engine(tiny())
    made._module.get_parameter("9.weight").data.fill_(3e38)
    with pytest.raises(GluonexpError, match="is not finite"):
        made.prove(batch())


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"tf32": True}])
def test_what_rounds_more_coarsely_may_be_off_by_that(settings):
    made = engine(tiny(), **settings)
    assert made.prove(batch()).keys() > {"gluonexp.engine.gate.logits.coarse"}
