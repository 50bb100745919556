"""torchvision's networks with torchvision's weights give torchvision's logits in Gluon."""

import importlib
import sys

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.models.finetune import adapt
from gluonexp.weights import pth
from gluonexp.weights.names import layout
from gluonexp.weights.torchvision import ADAPTED, PUBLISHED, SERVER, SIZES, convert, file_name

torch = pytest.importorskip("torch")


def import_models():
    """Import torchvision.models, with a torchvision that was built for another PyTorch too.

    Its compiled part then does not load, and it stumbles over operators that are only declared
    there. Not one of the networks here needs them.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")


library = torch.library.Library("torchvision", "FRAGMENT")  # what it declares lives as long as it
models = import_models()


def their_name(backbone):
    return {"squeezenet1.0": "squeezenet1_0", "squeezenet1.1": "squeezenet1_1"}.get(
        backbone, backbone.removesuffix("_v1")
    )


def shapes(name, **arguments):
    """Return the state dict of a torchvision network without its data: zeros that take no memory.

    The optional counters of BatchNorm are included, as they are in files.
    """
    with torch.device("meta"):
        state = getattr(models, name)(**arguments).state_dict()
    return {
        key: np.broadcast_to(np.int64(0) if "num_batches" in key else np.float32(0), tensor.shape)
        for key, tensor in state.items()
    }


def random_model(backbone):
    """Return a torchvision network for inference, with statistics of every layer its own."""
    torch.manual_seed(0)
    quick = {"init_weights": False} if backbone.startswith("vgg") else {}
    model = getattr(models, their_name(backbone))(**quick).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def filled(backbone, arrays, adapted=True):
    """Return Gluon's network with the values of `arrays`."""
    net = gluon.model_zoo.vision.get_model(backbone)
    if adapted:
        adapt(net.features)
    parameters = net._collect_params_with_prefix()
    assert list(parameters) == list(arrays)
    for name, parameter in parameters.items():
        parameter.grad_req = "null"
        parameter.initialize()
        parameter.set_data(nd.array(arrays[name]))
    return net


def arrays_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def difference(net, model, images):
    """Return the largest difference of the logits, relative to the largest logit."""
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = net(nd.array(images)).asnumpy()
    assert found.shape == expected.shape == (len(images), 1000)
    assert expected.std() > 0  # not all the same
    return np.abs(found - expected).max() / np.abs(expected).max()


def images(side):
    return np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)


# The smallest images that both take: only 224 where Gluon's last pooling is of fixed size.
@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        ("alexnet", 224),
        ("resnet18_v1", 48),
        ("resnet34_v1", 48),
        ("resnet50_v1", 48),
        ("vgg11", 224),
        ("vgg11_bn", 224),
        ("squeezenet1.0", 224),
        ("squeezenet1.1", 224),
        ("densenet121", 224),
    ],
)
def test_converted_weights_give_the_logits_of_torchvision(backbone, side):
    model = random_model(backbone)
    net = filled(backbone, convert(arrays_of(model), backbone))
    assert difference(net, model, images(side)) < 1e-5


def test_from_the_file_to_the_logits(tmp_path):
    model = random_model("squeezenet1.1")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    arrays = convert(pth.read(tmp_path / "model.pth"), "squeezenet1.1", "model.pth")
    assert difference(filled("squeezenet1.1", arrays), model, images(224)) < 1e-5


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_every_published_network_has_the_parameters_of_gluon(backbone):
    converted = convert(shapes(their_name(backbone)), backbone)
    entries = layout(backbone)
    assert list(converted) == list(entries)
    for name, entry in entries.items():
        assert converted[name].shape == entry.shape
        assert converted[name].dtype == np.float32


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_the_catalogue_is_that_of_torchvision(backbone):
    sha256, size = PUBLISHED[backbone], SIZES.get(backbone)
    weights = models.get_model_weights(their_name(backbone)).IMAGENET1K_V1
    assert SERVER + file_name(backbone) == weights.url
    assert len(sha256) in (8, 64)
    assert int(sha256, 16) > 0
    assert size is None or round(size / 2**20, 3) == weights.meta["_file_size"]
    if size:  # what is not parameters takes little
        assert 0 < size - 4 * weights.meta["num_params"] < 500_000


# The stride


def test_the_deeper_resnets_differ_without_adaptation():
    model = random_model("resnet50_v1")
    arrays = convert(arrays_of(model), "resnet50_v1")
    assert difference(filled("resnet50_v1", arrays, adapted=False), model, images(48)) > 1e-2
    biases = [name for name in arrays if name.endswith((".body.0.bias", ".body.6.bias"))]
    assert len(biases) == 2 * (3 + 4 + 6 + 3)
    assert not any(arrays[name].any() for name in biases)


def strides(features):
    """Return the stride of every convolution in the traced graph, by its structural name."""
    operators = features(sym.var("data")).attr_dict()
    return {
        name: operators[parameter.name.replace("_weight", "_fwd")]["stride"]
        for name, parameter in features._collect_params_with_prefix().items()
        if name.endswith(".weight")
    }


@pytest.mark.parametrize("backbone", sorted(ADAPTED))
@pytest.mark.parametrize("hybridized", [False, True])
def test_adapt_moves_each_stride_once(backbone, hybridized):
    features = gluon.model_zoo.vision.get_model(backbone).features
    before = strides(features)
    if hybridized:
        features.hybridize()
    adapt(features)
    after = strides(features)
    adapt(features)
    assert strides(features) == after
    changed = {name: stride for name, stride in after.items() if stride != before[name]}
    stages = (5, 6, 7)
    assert changed == {
        **{f"{stage}.0.body.0.weight": "(1, 1)" for stage in stages},
        **{f"{stage}.0.body.3.weight": "(2, 2)" for stage in stages},
    }
    assert {before[name] for name in changed} == {"(1, 1)", "(2, 2)"}


def test_adapt_takes_a_network_that_is_cut_off():
    features = gluon.model_zoo.vision.get_model("resnet50_v1").features
    part = gluon.nn.HybridSequential(prefix="")
    part.add(*features[:6])  # two of four stages
    adapt(part)
    assert strides(part)["5.0.body.3.weight"] == "(2, 2)"
    assert strides(features)["6.0.body.3.weight"] == "(1, 1)"


def test_adapt_takes_effect_in_a_hybridized_network():
    net = gluon.model_zoo.vision.get_model("resnet50_v1")
    net.hybridize()
    adapt(net.features)
    net.initialize(mx.init.Xavier())
    batch = nd.array(images(48))
    hybrid = net(batch).asnumpy()
    net.hybridize(active=False)
    np.testing.assert_allclose(hybrid, net(batch).asnumpy(), rtol=1e-4, atol=1e-6)
    assert strides(net.features)["5.0.body.3.weight"] == "(2, 2)"


@pytest.mark.parametrize("backbone", ["resnet18_v1", "resnet50_v2"])
def test_adapt_leaves_others_alone(backbone):
    features = gluon.model_zoo.vision.get_model(backbone).features
    before = strides(features)
    adapt(features)
    assert strides(features) == before


# Other forms of the same weights


def test_the_classifier_may_be_for_any_number_of_classes():
    converted = convert(shapes("resnet18", num_classes=7), "resnet18_v1")
    assert converted["output.weight"].shape == (7, 512)
    assert converted["output.bias"].shape == (7,)
    converted = convert(shapes("squeezenet1_0", num_classes=7), "squeezenet1.0")
    assert converted["output.0.weight"].shape == (7, 512, 1, 1)


@pytest.mark.parametrize(
    ("backbone", "classifier"),
    [("resnet18_v1", "fc"), ("vgg11", "classifier.6"), ("densenet121", "classifier")],
)
def test_the_last_layer_may_be_missing_or_anything(backbone, classifier):
    theirs = shapes(their_name(backbone))
    expected = [name for name in layout(backbone) if not name.startswith("output.")]
    body = {n: array for n, array in theirs.items() if not n.startswith(f"{classifier}.")}
    assert len(body) == len(theirs) - 2
    assert list(convert(body, backbone)) == expected
    odd = {f"{classifier}.weight": np.zeros((2, 3), np.float32)}
    odd[f"{classifier}.bias"] = theirs[f"{classifier}.bias"]
    deep = {f"{classifier}.1.weight": np.zeros(3, np.int64)}
    assert list(convert(body | odd, backbone)) == expected
    assert list(convert(body | deep, backbone)) == expected
    # The network is recognized without it, too.
    with pytest.raises(GluonexpError, match=f"model.backbone={backbone}$"):
        convert(body, "alexnet")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.backbone."])
def test_names_of_a_network_that_was_a_part_are_known(prefix):
    theirs = shapes("resnet18")
    within = {f"{prefix}{name}": array for name, array in theirs.items()}
    assert list(convert(within, "resnet18_v1")) == list(convert(theirs, "resnet18_v1"))


def test_the_old_names_in_the_published_densenets_are_known():
    new = {
        name: array
        for name, array in shapes("densenet121").items()
        if "num_batches" not in name  # nor were there counters
    }
    old = {
        name.replace("norm1", "norm.1").replace("norm2", "norm.2")
        .replace("conv1", "conv.1").replace("conv2", "conv.2"): array
        for name, array in new.items()
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert list(convert(old, "densenet121")) == list(layout("densenet121"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(dtype):
    theirs = shapes("resnet18")
    theirs["fc.bias"] = np.arange(1000, dtype=dtype)
    bias = convert(theirs, "resnet18_v1")["output.bias"]
    assert (bias.dtype, bias[999]) == (np.float32, 999)


# Other weights


def refused(arrays, backbone, message):
    with pytest.raises(GluonexpError) as caught:
        convert(arrays, backbone, "model.pth")
    assert str(caught.value) == message


def test_another_architecture_is_named():
    refused(
        shapes("resnet34"),
        "resnet18_v1",
        "model.pth: not the weights of torchvision's resnet18: it also has layer1.2.conv1.weight. "
        "It looks like resnet34: model.backbone=resnet34_v1",
    )
    refused(
        shapes("vgg16_bn"),
        "vgg16",
        "model.pth: not the weights of torchvision's vgg16: it has no features.2.weight. "
        "It looks like vgg16_bn: model.backbone=vgg16_bn",
    )


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_every_published_network_is_recognized(backbone):
    other = "vgg11" if backbone == "alexnet" else "alexnet"
    theirs = shapes(their_name(backbone))
    with pytest.raises(GluonexpError, match=f"model.backbone={backbone}$"):
        convert(theirs, other)


def test_an_architecture_of_other_shapes_is_not_taken_for_the_one_of_the_same_layers():
    with pytest.raises(GluonexpError) as caught:
        convert(shapes("wide_resnet101_2"), "resnet50_v1")  # the layers are those of resnet101
    assert "looks like" not in str(caught.value)


def test_another_width_is_told_by_its_first_shape():
    refused(
        shapes("wide_resnet50_2"),
        "resnet50_v1",
        "model.pth: not the weights of torchvision's resnet50: layer1.0.conv1.weight is "
        "(128, 64, 1, 1) there, and should be (64, 64, 1, 1)",
    )


def test_a_missing_or_additional_parameter_is_named():
    theirs = shapes("resnet18")
    without = {name: array for name, array in theirs.items() if name != "bn1.running_var"}
    prefix = "model.pth: not the weights of torchvision's resnet18: "
    refused(without, "resnet18_v1", f"{prefix}it has no bn1.running_var")
    refused(
        {**theirs, "head.weight": theirs["fc.weight"]},
        "resnet18_v1",
        f"{prefix}it also has head.weight",
    )
    refused({}, "resnet18_v1", f"{prefix}it has no conv1.weight")
    whole = np.zeros(1000, dtype=np.int64)
    refused(
        {**theirs, "fc.bias": whole},
        "resnet18_v1",
        f"{prefix}fc.bias holds int64, not floating-point numbers",
    )


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        ("resnet18_v2", "torchvision has no ResNet whose activations come before"),
        ("mobilenet1.0", "torchvision has no MobileNet 1"),
        ("mobilenetv2_1.0", "its MobileNet 2 and 3 have other layers"),
        ("inceptionv3", "has not been shown to equal Gluon's inceptionv3"),
        ("resnet19_v1", "no network of Gluon's model zoo"),
    ],
)
def test_networks_that_torchvision_lacks_are_refused(backbone, why):
    with pytest.raises(GluonexpError, match=why):
        convert(shapes("resnet18"), backbone)
