"""Every classifier of the model zoo as a backbone: composed, built as a run builds it, run."""

import gc

import numpy as np
import pytest

from gluonexp import assembly, freeze
from gluonexp.base.mx import mx, nd
from gluonexp.engines.mxnet import freezing
from gluonexp.models.finetune import zoo_names
from gluonexp.models.layers import outline


@pytest.mark.parametrize("backbone", zoo_names())
def test_every_backbone_composes_and_classifies(backbone, compose):
    config = compose("model=zoo_ft", f"model.backbone={backbone}", "model.weights=none")
    assert config.freeze.name == "features"
    source = assembly.components(config).source
    steps = assembly.preprocessing(config.dataset, source.spec())
    size = 299 if backbone == "inceptionv3" else 224
    assert (steps.channels, steps.height, steps.width) == (3, size, size)

    assembly.seed(config.seed)
    net = assembly.network(config, assembly.components(config).model, source.spec(), steps)
    plan = freeze.plan(outline(net, (3, size, size)), config.freeze)
    pretrained = assembly.initialize(config, net, source.spec(), mx.cpu())
    assert pretrained.choice == "none"
    freezing.apply(net, plan)
    trained = {row.parameter for row in plan.rows if row.state == "trained"}
    assert trained == {"head.1.weight", "head.1.bias"}
    assert sum(row.flops_share for row in plan.rows) == pytest.approx(1)

    logits = net(nd.random.uniform(shape=(2, 3, size, size))).asnumpy()
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    assert (logits[0] != logits[1]).any()
    del net
    gc.collect()  # MXNet's blocks hold themselves in cycles
