"""Pretrained features under a new head: what is cut, what is taken over, what is new."""

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nd
from gluonexp.models.finetune import (
    FineTune,
    SpatialMean,
    Weights,
    alexnet_ft,
    zoo_ft,
    zoo_names,
)

SMALL = "squeezenet1.1"
ABC = ("a", "b", "c")


def weights(arrays, **more):
    fields = {"choice": "here", "title": "made here", "sha256": None, "arrays": arrays}
    return Weights(**{**fields, "adapted": False, "warning": None, **more})


def known(net, size=64):
    """Give every parameter its shape without any value."""
    output = net(mx.sym.var("data"))
    arguments, _, statistics = output.infer_shape(data=(1, 3, size, size))
    names = [*output.list_arguments(), *output.list_auxiliary_states()]
    parameters = net.collect_params()
    for name, shape in zip(names, [*arguments, *statistics], strict=True):
        if name in parameters:
            parameters[name].shape = shape
    return net


def published(name, size=64):
    """Return the arrays of a zoo network's features as its file would have them."""
    net = gluon.model_zoo.vision.get_model(name)
    net.initialize(mx.init.Xavier())
    net.features(nd.zeros((1, 3, size, size)))
    parameters = net._collect_params_with_prefix()
    return {k: p.data().asnumpy() for k, p in parameters.items() if k.startswith("features.")}


def finished(net):
    for parameter in net.collect_params().values():
        if parameter._data is None:
            parameter.initialize(default_init=mx.init.Xavier())
    return net


def test_alexnet_is_cut_behind_its_convolutions():
    net = known(alexnet_ft(10, weights="none"), 224)
    shapes = {name: p.shape for name, p in net._collect_params_with_prefix().items()}
    assert shapes == {
        "backbone.0.weight": (64, 3, 11, 11),
        "backbone.0.bias": (64,),
        "backbone.2.weight": (192, 64, 5, 5),
        "backbone.2.bias": (192,),
        "backbone.4.weight": (384, 192, 3, 3),
        "backbone.4.bias": (384,),
        "backbone.5.weight": (256, 384, 3, 3),
        "backbone.5.bias": (256,),
        "backbone.6.weight": (256, 256, 3, 3),
        "backbone.6.bias": (256,),
        "head.0.weight": (4096, 9216),
        "head.0.bias": (4096,),
        "head.2.weight": (4096, 4096),
        "head.2.bias": (4096,),
        "head.4.weight": (10, 4096),
        "head.4.bias": (10,),
    }
    assert [type(layer).__name__ for layer in net.head] == [
        *("Dense", "Dropout", "Dense", "Dropout", "Dense")
    ]
    assert [layer._rate for layer in (net.head[1], net.head[3])] == [0.5, 0.5]
    assert net.head[0].act._act_type == net.head[2].act._act_type == "relu"


@pytest.mark.parametrize("name", [SMALL, "mobilenet0.25"])
def test_the_backbone_computes_what_the_zoo_network_computes(name):
    rng = np.random.RandomState(0)
    arrays = published(name)
    for key, array in arrays.items():  # statistics that differ from those of a new network
        if "running_" in key:
            low, high = (-0.01, 0.01) if key.endswith("mean") else (0.01, 0.1)
            arrays[key] = rng.uniform(low, high, array.shape).astype("f4")
    net = known(zoo_ft(3, name, pool=False))
    assert net.adopt(weights(arrays), ABC) == "backbone"
    original = gluon.model_zoo.vision.get_model(name)
    parameters = original._collect_params_with_prefix()
    for key, array in arrays.items():
        parameters[key].shape = array.shape
        parameters[key].initialize(mx.init.Constant(nd.array(array)))
    images = nd.random.uniform(shape=(2, 3, 64, 64))
    expected = original.features(images).asnumpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(net.backbone(images).asnumpy(), expected)


def test_torchvisions_weights_come_with_its_strides():
    def strides(net):
        first = net.backbone[5][0].body  # of the second stage
        return [first[position]._kwargs["stride"] for position in (0, 3)]

    arrays = published("resnet50_v1")
    for adapted, expected in ((False, [(2, 2), (1, 1)]), (True, [(1, 1), (2, 2)])):
        net = known(zoo_ft(3, "resnet50_v1"))
        net.adopt(weights(arrays, adapted=adapted), ABC)
        assert strides(net) == expected


def test_only_the_head_is_left_to_be_initialized():
    net = known(zoo_ft(3, SMALL, head=[5]))
    net.adopt(weights(published(SMALL)), ABC)
    new = {name for name, p in net._collect_params_with_prefix().items() if p._data is None}
    # 0 is the mean over the pixels, 2 the dropout
    assert new == {"head.1.weight", "head.1.bias", "head.3.weight", "head.3.bias"}


def test_without_weights_nothing_is_taken():
    net = known(zoo_ft(3, SMALL))
    assert net.adopt(weights({}), ABC) == "nothing"
    assert all(p._data is None for p in net.collect_params().values())


def test_a_head_of_the_same_shapes_is_taken_and_any_other_is_not():
    earlier = finished(known(zoo_ft(3, SMALL)))
    arrays = {
        name.replace("backbone.", "features."): p.data().asnumpy()
        for name, p in earlier._collect_params_with_prefix().items()
    }
    again = known(zoo_ft(3, SMALL))
    assert again.adopt(weights(arrays), ABC) == "backbone and head"
    images = nd.random.uniform(shape=(2, 3, 64, 64))
    np.testing.assert_array_equal(again(images).asnumpy(), earlier(images).asnumpy())

    same, others = known(zoo_ft(3, SMALL)), known(zoo_ft(3, SMALL))
    assert same.adopt(weights(arrays, classes=ABC), ABC) == "backbone and head"
    assert others.adopt(weights(arrays, classes=("x", "y", "z")), ABC) == "backbone"

    for other in (zoo_ft(4, SMALL), zoo_ft(3, SMALL, head=[8])):
        assert known(other).adopt(weights(arrays), ABC) == "backbone"
        head = [n for n in other._collect_params_with_prefix() if n.startswith("head.")]
        assert all(other._collect_params_with_prefix()[name]._data is None for name in head)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_backbone_that_does_not_fit_is_refused_by_name(damage):
    arrays = published(SMALL)
    name = next(name for name in arrays if name.startswith("features.3."))
    if damage == "missing":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:-1]
    net = known(zoo_ft(3, SMALL))
    mine = name.replace("features.", "backbone.")
    with pytest.raises(GluonexpError, match=rf"^model\.weights=here: {mine} is "):
        net.adopt(weights(arrays), ABC)
    assert all(p._data is None for p in net.collect_params().values())


@pytest.mark.parametrize(("cut", "features"), [(1, 64), (8, 256), (None, 512)])
def test_a_cut_keeps_so_many_layers(cut, features):
    net = known(zoo_ft(3, SMALL, cut=cut))
    layers = list(gluon.model_zoo.vision.get_model(SMALL).features)
    assert len(net.backbone) == (cut or len(layers))
    assert net.head[1].weight.shape == (3, features)


@pytest.mark.parametrize("cut", [0, -1, 15])
def test_a_cut_outside_the_network_is_refused(cut):
    with pytest.raises(GluonexpError, match=r"model\.cut=.* has 14 feature layers; keep 1 to 14"):
        zoo_ft(3, SMALL, cut=cut)


def test_a_backbone_that_is_not_in_the_zoo_is_answered_with_the_nearest():
    with pytest.raises(GluonexpError, match=r"model\.backbone=resnet18: .*resnet18_v1"):
        zoo_ft(3, "resnet18")


def test_the_spatial_mean_is_over_pixels_and_leaves_vectors():
    images = nd.random.uniform(shape=(2, 3, 5, 4))
    mean = SpatialMean()
    np.testing.assert_allclose(
        mean(images).asnumpy(), images.asnumpy().mean(axis=(2, 3)), rtol=1e-6
    )
    vectors = nd.random.uniform(shape=(2, 3))
    np.testing.assert_array_equal(mean(vectors).asnumpy(), vectors.asnumpy())


def test_the_zoo_is_the_whole_zoo():
    names = zoo_names()
    assert len(names) == 34
    assert all(isinstance(zoo_ft(2, name), FineTune) for name in names[::7])
