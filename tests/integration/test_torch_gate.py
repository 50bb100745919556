"""Before it trains, the PyTorch engine proves on real images that it computes what MXNet does."""

import functools
import re
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

from gluonexp.engines.torch import gate, lowering, operators  # noqa: E402
from gluonexp.engines.torch.engine import TorchEngine  # noqa: E402

FIGURES = {f"gluonexp.engine.gate.{kind}" for kind in ("images", "logits", "loss", "gradients")}
FIGURE = re.compile(r"\de[+-]\d+")
STATISTICS, ALONE = "gluonexp.engine.gate.statistics", "gluonexp.engine.gate.layers"


def tiny():
    """Return a network with one of each that there is a fault for; its biases are not zero."""
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        net.add(nn.MaxPool2D(3, 2, ceil_mode=True), nn.BatchNorm(scale=False), nn.Conv2D(6, 3))
        net.add(nn.AvgPool2D(3, 1, 1), nn.Dropout(0.5), nn.Flatten(), nn.Dense(3))
    return net


class Hinge(gluon.loss.Loss):
    """Is zero, and its gradients are, where the logit of the label is 5 at least."""

    def __init__(self):
        super().__init__(None, 0)

    def hybrid_forward(self, F, pred, label):
        return F.relu(5 - F.pick(pred, label))


def engine(net, side=16, loss=None, **settings):
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
    loss = loss or gluon.loss.SoftmaxCrossEntropyLoss()
    optim, config = MomentumConfig("sgd", 0.1), EngineConfig("torch", **settings)
    return TorchEngine(net, block, image, loss, optim, config, torch.device("cpu"))


def batch(side=16, count=16):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = np.arange(count) % 3
    return Batch(images, labels, labels)


def fitted(made, scale=300):
    """Have a network be sure of its classes; return images with these as their labels."""
    for parameter in list(made._module.parameters())[-2:]:  # of the last layer
        parameter.data.mul_(scale)
    asked, state = batch(), gate._state(made._module, torch.float32)
    made._module.train().drop = False
    found = torch.func.functional_call(made._module, state, (made._inputs(asked.images),))
    made._module.drop = True
    made._module.moves.clear()
    labels = found.argmax(1).numpy()
    return Batch(asked.images, labels, labels)


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


@pytest.mark.parametrize("scale", [10, 30, 50, 300, 10000])
def test_a_network_that_has_fitted_its_images_is_proved_by_its_layers(scale):
    """Its losses and gradients are all but zero, and what is left of them is rounding."""
    made = engine(tiny())
    tags = made.prove(fitted(made, scale))
    assert tags.keys() == FIGURES | {STATISTICS, ALONE}
    figures = [tags[f"gluonexp.engine.gate.{kind}"] for kind in ("logits", "loss", "gradients")]
    assert all(float(each) < 1e-3 for told in figures for each in FIGURE.findall(told))


def test_gradients_of_nothing_prove_nothing():
    made = engine(tiny(), loss=Hinge())
    tags = made.prove(fitted(made))
    assert tags["gluonexp.engine.gate.gradients"] == "0e+00 (MXNet 0e+00)" and ALONE in tags


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"tf32": True}])
def test_a_fitted_network_may_be_computed_more_coarsely(settings):
    made = engine(tiny(), **settings)
    assert ALONE in made.prove(fitted(made))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_in_a_fitted_network_too(fault, monkeypatch):
    op, attributes, said = FAULTS[fault]
    made = engine(tiny())
    asked = fitted(made)
    plant(monkeypatch, op, attributes)
    made.start(None)
    with pytest.raises(GluonexpError, match=rf"^engine=torch: layer \w+{said}"):
        made.prove(asked)


@pytest.mark.parametrize(("scale", "loss"), [(1, None), (300, None), (300, Hinge)])
def test_a_wrong_gradient_is_refused_however_small_gradients_are(scale, loss, monkeypatch):
    def twice(*taken, **settings):
        value = activation(*taken, **settings)
        return value + (value - value.detach())

    activation, heeded = operators.OPERATORS["Activation"], ""
    if isinstance(activation, tuple):
        activation, heeded = activation
    made = engine(tiny(), loss=loss and loss())
    asked = fitted(made, scale)
    monkeypatch.setitem(
        operators.OPERATORS, "Activation", (functools.wraps(activation)(twice), heeded)
    )
    made.start(None)
    with pytest.raises(GluonexpError, match=r"relu0_fwd .*: the gradient of input0 differs"):
        made.prove(asked)


LOSSES = {
    "twice": lambda loss: 2 * loss,
    "of small ones only": lambda loss: torch.where(loss < 0.01, loss + 1e-3, loss),
    "of large ones only": lambda loss: torch.where(loss > 9, loss * 1.01, loss),
    "not a number": lambda loss: loss + torch.where(loss > 9, torch.nan, 0.0),
}


@pytest.mark.parametrize("fault", LOSSES)
@pytest.mark.parametrize("scale", [30, 50, 300])
def test_another_loss_is_refused_however_small_it_is(fault, scale):
    made = engine(tiny())
    asked = fitted(made, scale)
    *steps, last = made._loss._steps
    made._loss._steps = [
        *steps,
        last._replace(function=lambda *taken: LOSSES[fault](last.function(*taken))),
    ]
    refused = "^engine=torch: the loss is not computed as in MXNet: of the same logits it is "
    with pytest.raises(GluonexpError, match=refused):
        made.prove(asked)


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
