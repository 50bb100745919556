"""Every classifier of the model zoo as a backbone: composed, planned, and one a family run."""

import numpy as np
import pytest

from gluonexp import assembly, freeze
from gluonexp.assembly import networks
from gluonexp.base.mx import mx, nd
from gluonexp.engines import freezing
from gluonexp.models.finetune import zoo_names
from gluonexp.models.layers import outline

# One network of each family, and pixels that leave something of an image; none: as composed.
FAMILIES = {
    "alexnet": 64,
    "densenet121": None,
    "inceptionv3": None,
    "mobilenet0.25": 64,
    "mobilenetv2_0.25": 64,
    "resnet18_v1": 64,
    "resnet18_v2": 64,
    "squeezenet1.1": None,
    "vgg11_bn": 32,
}


def planned(compose, backbone, *overrides):
    """Return (configuration, size of its images, network, freeze plan)."""
    config = compose(
        "model=zoo_ft", f"model.backbone={backbone}", "model.weights=none", *overrides
    )
    assert config.freeze.name == "features"
    components = assembly.components(config)
    spec = components.source.spec()
    steps = networks.preprocessing(config.dataset, spec)
    assert (steps.channels, steps.height) == (3, steps.width)
    networks.seed(config.seed)
    net = networks.network(config, components.model, spec, steps)
    plan = freeze.plan(outline(net, (3, steps.height, steps.width)), config.freeze)
    return config, spec, steps.height, net, plan


@pytest.mark.parametrize("backbone", zoo_names())
def test_every_backbone_is_composed_and_planned(backbone, compose):
    _, _, size, net, plan = planned(compose, backbone)
    assert size == (299 if backbone == "inceptionv3" else 224)
    trained = {row.parameter for row in plan.rows if row.state == "trained"}
    assert trained == {"head.1.weight", "head.1.bias"}
    assert sum(row.flops_share for row in plan.rows) == pytest.approx(1)
    _, shapes, _ = net(mx.sym.var("data")).infer_shape(data=(2, 3, size, size))
    assert shapes == [(2, 10)]


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_backbone_of_every_family_classifies(backbone, compose):
    pixels = FAMILIES[backbone]
    config, spec, size, net, plan = planned(
        compose, backbone, *([f"dataset.resize={pixels}"] if pixels else [])
    )
    pretrained = networks.initialize(config, net, spec, mx.cpu())
    assert pretrained.choice == "none"
    freezing.apply(net, plan)
    logits = net(nd.random.uniform(shape=(2, 3, size, size))).asnumpy()
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    assert (logits[0] != logits[1]).any()


def test_every_family_is_among_those_that_run():
    assert {family(name) for name in zoo_names()} == {family(name) for name in FAMILIES}


def family(name):
    """Return the name without what says how large a network of the family it is."""
    head, _, version = name.partition("_")
    return head.rstrip("0123456789.") + (version if version in ("v1", "v2") else "")
