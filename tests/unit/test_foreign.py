"""Networks from elsewhere: the same logits in our layout, or one sentence that says why not."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import softmax
from gluonexp.base.mx import gluon, mx, nd, nn, sym
from gluonexp.export import foreign
from gluonexp.export.onnx import convert
from gluonexp.model_folder import names
from gluonexp.model_folder.network import read_network
from gluonexp.model_folder.signature import Signature
from gluonexp.verification import runtimes

SHAPE = (3, 8, 8)
CLASSES = ("circle", "square", "größe", "star")
OPTIONS = {"image": (8, 8, 3), "input_shape": SHAPE, "mean": (0.5,), "std": (0.25,)}
INPUTS = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


def _body(name="data"):
    """Return logits of four classes, with running statistics, as symbols were written by hand."""
    x = sym.Convolution(sym.var(name), kernel=(3, 3), num_filter=4, name="conv")
    x = sym.Activation(sym.BatchNorm(x, fix_gamma=False, name="bn"), act_type="relu", name="relu")
    return sym.FullyConnected(sym.Flatten(x, name="flat"), num_hidden=4, name="fc")


def _values(symbol, name="data"):
    """Return values for its parameters and statistics that all differ."""
    shapes, _, states = symbol.infer_shape(**{name: (1, *SHAPE)})
    rng = np.random.default_rng(1)

    def made(names, shapes):
        return {
            key: nd.array(np.abs(rng.normal(size=shape)) + 0.1 * (key == "bn_moving_var"))
            if "bn" in key
            else nd.array(rng.normal(size=shape))
            for key, shape in zip(names, shapes, strict=True)
            if key != name and not key.endswith("label")
        }

    return (
        made(symbol.list_arguments(), shapes),
        made(symbol.list_auxiliary_states(), states),
    )


def _saved(folder, symbol, name="data"):
    """Write a checkpoint as Module does; return (symbol file, params file)."""
    folder.mkdir(exist_ok=True)
    arguments, statistics = _values(symbol, name)
    mx.model.save_checkpoint(str(folder / "net"), 7, symbol, arguments, statistics)
    return folder / "net-symbol.json", folder / "net-0007.params"


def _outputs(symbol_file, params_file, name="data"):
    """Return what the files themselves say, in MXNet's executor, labels filled with zeros."""
    symbol = sym.load(str(symbol_file))
    values = {key.split(":")[-1]: v for key, v in nd.load(str(params_file)).items()}
    values[name] = nd.array(INPUTS)
    shapes, *_ = symbol.infer_shape(**{name: INPUTS.shape})
    for argument, shape in zip(symbol.list_arguments(), shapes, strict=True):
        if argument.endswith("label"):
            values[argument] = nd.zeros(shape)
    states = {key: values[key] for key in symbol.list_auxiliary_states()}
    executor = symbol.bind(
        mx.cpu(), {k: values[k] for k in symbol.list_arguments()}, aux_states=states
    )
    return executor.forward(is_train=False)[0].asnumpy()


def _changes(folder):
    return json.loads((folder / "signature.json").read_text(encoding="utf-8"))["adopted"][
        "changes"
    ]


def _assert_logits(folder, expected):
    for name in ("module", "symbolblock"):
        logits = runtimes.load(folder, name)(INPUTS)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def _refused(tmp_path, said, *pair, **options):
    """Adopting fails with `said`, and leaves nothing."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GluonexpError, match=said) as caught:
        foreign.adopt(*pair, tmp_path / "new" / "export", **OPTIONS | options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_layout_is_our_own(tmp_path):
    pair = _saved(tmp_path / "old", _body())
    to = tmp_path / "deep" / "export"
    assert foreign.adopt(*pair, to, **OPTIONS, classes=CLASSES) == to
    assert sorted(path.name for path in to.iterdir()) == [
        *("model-0000.params", "model-symbol.json", "signature.json")
    ]
    assert [path.name for path in to.parent.iterdir()] == ["export"]
    signature = Signature.read(to).to_json()
    assert signature["image"] == {
        **{"height": 8, "width": 8, "channels": 3},
        **{"dtype": "uint8", "layout": "NHWC"},
    }
    steps = signature["preprocess"]
    assert (steps["mean"], steps["std"], steps["height"]) == ([0.5], [0.25], 8)
    assert signature["input"]["shape"] == [None, *SHAPE]
    assert signature["output"] == {"shape": [None, 4], "meaning": "logits"}
    assert signature["classes"] == list(CLASSES)
    assert signature["adopted"] == {
        **{"symbol": "net-symbol.json", "params": "net-0007.params", "changes": []}
    }
    _assert_logits(to, _outputs(*pair))


def test_an_empty_folder_will_do_and_classes_are_numbered(tmp_path):
    to = tmp_path / "export"
    to.mkdir()
    foreign.adopt(*_saved(tmp_path / "old", _body()), to, **OPTIONS)
    assert Signature.read(to).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("head", "operator"),
    [
        (lambda x: sym.SoftmaxOutput(x, name="softmax"), "SoftmaxOutput"),
        (lambda x: sym.SoftmaxActivation(x, name="softmax"), "SoftmaxActivation"),
        (lambda x: sym.softmax(x, name="softmax"), "softmax"),
        (lambda x: sym.log_softmax(x, name="softmax"), "log_softmax"),
        (lambda x: sym.SVMOutput(x, name="softmax"), "SVMOutput"),
    ],
    ids=["SoftmaxOutput", "SoftmaxActivation", "softmax", "log_softmax", "SVMOutput"],
)
def test_the_head_is_cut_off_and_the_output_is_logits(tmp_path, head, operator):
    body = _body()
    pair = _saved(tmp_path / "old", head(body))
    whole = _outputs(*pair)
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to) == [f"softmax ({operator}) at the end is cut off: the output is logits"]
    body.save(str(pair[0]))
    logits = _outputs(*pair)
    _assert_logits(to, logits)
    probabilities = {"log_softmax": np.exp(whole), "SVMOutput": softmax(whole)}
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, probabilities.get(operator, whole), atol=1e-5)


def _clipped(x):
    return sym.clip(sym.BlockGrad(sym.softmax(x, name="p"), name="held"), 1e-6, 1, name="clip")


@pytest.mark.parametrize(
    ("head", "cut"),
    [
        (lambda x: sym.BlockGrad(sym.softmax(x, name="p"), name="held"), "held (BlockGrad) and p"),
        (lambda x: sym.identity(sym.softmax(x, name="p"), name="same"), "same (_copy) and p"),
        (_clipped, "clip (clip) and held (BlockGrad) and p (softmax)"),
        (lambda x: sym.cast(sym.softmax(x, name="p"), "float32", name="f"), "f (Cast) and p"),
        (lambda x: sym.flatten(sym.softmax(x, name="p"), name="flat2"), "flat2 (Flatten) and p"),
        (lambda x: sym.MakeLoss(sym.softmax(x, name="p"), name="loss"), "loss (MakeLoss) and p"),
    ],
    ids=["BlockGrad", "identity", "clip", "cast", "flatten", "MakeLoss"],
)
def test_a_head_below_what_changes_nothing_is_cut_off(tmp_path, head, cut):
    pair = _saved(tmp_path / "old", head(_body()))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    (said,) = _changes(to)
    assert said.startswith(cut)
    assert said.endswith("at the end are cut off: the output is logits")
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, _outputs(*pair), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: sym.clip(x, -1, 1),  # of logits
        lambda x: sym.Activation(x, act_type="tanh"),
        lambda x: sym.log(sym.softmax(x)),
    ],
    ids=["clip", "tanh", "log"],
)
def test_what_makes_other_logits_is_kept(tmp_path, head):
    pair = _saved(tmp_path / "old", head(_body()))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to) == []
    _assert_logits(to, _outputs(*pair))


@pytest.mark.parametrize(
    "head",
    [
        lambda x: sym.LogisticRegressionOutput(x, name="p"),
        lambda x: sym.Activation(x, act_type="sigmoid", name="p"),
        lambda x: sym.sigmoid(x, name="p"),
    ],
    ids=["LogisticRegressionOutput", "Activation", "sigmoid"],
)
def test_a_sigmoid_for_each_class_is_cut_off(tmp_path, head):
    pair = _saved(tmp_path / "old", head(_body()))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to)[0].endswith("at the end is cut off: the output is logits")
    assert _changes(to)[1] == "each class had a probability of its own; now they add up to 1"
    logits = runtimes.load(to, "module")(INPUTS)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), _outputs(*pair), atol=1e-5)


def _one():
    return sym.FullyConnected(sym.Flatten(sym.var("data")), num_hidden=1, name="one")


@pytest.mark.parametrize("head", [sym.sigmoid, sym.LogisticRegressionOutput])
def test_a_sigmoid_of_one_value_is_two_classes(tmp_path, head):
    pair = _saved(tmp_path / "old", head(_one(), name="p"))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to)[1:] == [
        "its one output x, before the sigmoid, is of two classes now: (0, x)"
    ]
    assert Signature.read(to).classes == ("0", "1")
    convert.write(read_network(to, names.MODEL, "data", (1, *SHAPE)), to, SHAPE)
    (p,) = _outputs(*pair).T
    for name in ("module", "symbolblock", "onnx"):
        found = softmax(runtimes.load(to, name)(INPUTS))
        np.testing.assert_allclose(found, np.stack([1 - p, p], axis=1), atol=1e-5)


@pytest.mark.parametrize(
    "head", [lambda x: x, sym.tanh, lambda x: sym.LinearRegressionOutput(x, name="r"), sym.softmax]
)
def test_any_other_single_output_is_no_classifier(tmp_path, head):
    pair = _saved(tmp_path / "old", head(_one()))
    _refused(tmp_path, "gives one value for an image, and no sigmoid", *pair)


def _in_order(x):
    """Return an RNN's output, of which the batch is the time."""
    state, steps = sym.zeros((1, 1, 4)), sym.reshape(x, (0, 1, -1))
    made = sym.RNN(
        steps, sym.var("w"), state, state_size=4, num_layers=1, mode="rnn_relu", name="r"
    )
    return sym.reshape(made, (0, -1))


@pytest.mark.parametrize(
    ("mixing", "layer"),
    [
        (lambda x: sym.broadcast_sub(x, sym.mean(x, axis=0, keepdims=True, name="m")), "m"),
        (lambda x: sym.softmax(x, axis=0, name="s") * 9, "s"),
        (
            lambda x: sym.broadcast_add(
                x, sym.slice_axis(x, axis=0, begin=-1, end=None, name="e")
            ),
            "e",
        ),
        (_in_order, "r"),  # the first image's answer is its own
    ],
    ids=["mean", "softmax", "slice", "order"],
)
def test_an_image_must_be_answered_by_itself(tmp_path, mixing, layer):
    pair = _saved(tmp_path / "old", mixing(_body()))
    said = rf"the other images that it is given with, from layer {layer} \(\w+\) on"
    _refused(tmp_path, said, *pair)


def test_shapes_that_do_not_follow_from_the_input_are_the_parameters_own(tmp_path):
    """One slope for all channels, as Gluon's PReLU has it, and weights that are normalised."""
    conv = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=2, name="c")
    slope = sym.var("slope", shape=(1,))
    x = sym.Flatten(sym.LeakyReLU(conv, gamma=slope, act_type="prelu", name="p"))
    size = int(np.prod(x.infer_shape(data=INPUTS.shape)[1][0][1:]))
    weight = sym.L2Normalization(sym.var("weight", shape=(4, size)))
    pair = _saved(tmp_path / "old", sym.dot(sym.L2Normalization(x), weight, transpose_b=True))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    _assert_logits(to, _outputs(*pair))


def test_an_answer_must_not_be_drawn(tmp_path):
    pair = _saved(tmp_path / "old", sym.Dropout(_body(), p=0.5, mode="always"))
    _refused(tmp_path, "changes from call to call: a layer draws at random", *pair)


def test_images_are_quantized_by_the_range_they_can_have(tmp_path):
    """MXNet's own is of the images that are given at once: others would change the answer."""
    quantized = sym.contrib.quantize_v2(sym.var("data"), name="q")
    back = sym.contrib.dequantize(*quantized)
    pair = _saved(tmp_path / "old", sym.FullyConnected(back, num_hidden=4, name="fc"))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to) == ["q quantizes all that images can be: -2 to 2"]
    values = {key[4:]: value.asnumpy() for key, value in nd.load(str(pair[1])).items()}
    images = INPUTS.clip(-2, 2)
    exact = images.reshape(len(images), -1) @ values["fc_weight"].T + values["fc_bias"]
    most = (2 / 127 / 2) * np.abs(values["fc_weight"]).sum(axis=1)  # half a step for each value
    for runtime in ("module", "symbolblock"):
        network = runtimes.load(to, runtime)
        assert (np.abs(network(images) - exact) <= most + 1e-3).all()
        np.testing.assert_allclose(network(images[:1]), network(images)[:1], rtol=1e-4, atol=1e-4)


def test_a_map_of_one_pixel_is_flattened(tmp_path):
    x = sym.Pooling(
        sym.Activation(sym.var("data"), act_type="relu"), global_pool=True, name="pool"
    )
    logits = sym.Convolution(x, kernel=(1, 1), num_filter=4, name="conv")
    head = sym.SoftmaxActivation(logits, mode="channel", name="p")
    pair = _saved(tmp_path / "old", head)
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to)[1] == "its output (4, 1, 1) is flattened to (4,)"
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, _outputs(*pair)[:, :, 0, 0], atol=1e-5)


def _trained():
    """Return what trainings give: an output that is watched, and the one that is trained."""
    body = _body()
    return sym.Group(
        [
            sym.BlockGrad(body.get_internals()["flat_output"], name="features"),
            sym.SoftmaxOutput(body, name="softmax"),
        ]
    )


def _own_loss():
    probabilities = sym.softmax(_body(), name="p")
    loss = -sym.log(sym.pick(probabilities, sym.var("label")))
    return sym.Group([sym.BlockGrad(probabilities, name="held"), sym.MakeLoss(loss, name="loss")])


def _two_tasks():
    # The second with parameters of its own.
    second = sym.FullyConnected(sym.var("data"), num_hidden=2, name="second")
    return sym.Group([sym.softmax(_body(), name="first"), second])


@pytest.mark.parametrize(
    ("symbol", "output", "said"),
    [
        (_trained, None, "of the outputs features_output, softmax_output, softmax_output class"),
        (_own_loss, None, "of the outputs held_output, loss_output, held_output classifies"),
        (_two_tasks, "first", "the output first alone is taken"),
        (_two_tasks, "first_output", "the output first_output alone is taken"),
        (_two_tasks, "fc", "the output fc alone is taken"),  # a layer within
    ],
    ids=["watched", "own loss", "named", "MXNet's name", "layer"],
)
def test_one_of_several_outputs_is_taken(tmp_path, symbol, output, said):
    body = _body()
    pair = _saved(tmp_path / "old", symbol())
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS, output=output)
    assert _changes(to)[0].startswith(said)
    body.save(str(pair[0]))
    _assert_logits(to, _outputs(*pair))


def test_no_output_is_guessed(tmp_path):
    """An embedding beside what is watched may be what is meant, or not."""
    body = _body()
    features = body.get_internals()["flat_output"]
    pair = _saved(tmp_path / "old", sym.Group([features, sym.BlockGrad(body, name="held")]))
    _refused(tmp_path, "2 outputs, not one: flat_output, held_output", *pair)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "2 outputs, not one: first_output, second_output; .* --output"),
        ("third", "no output third: its outputs are first_output, second_output, and"),
        ("data", "no output data"),
    ],
    ids=["unnamed", "unknown", "input"],
)
def test_which_output_is_asked_for(tmp_path, output, said):
    pair = _saved(tmp_path / "old", _two_tasks())
    _refused(tmp_path, said, *pair, output=output)


def test_a_temperature_is_kept(tmp_path):
    pair = _saved(tmp_path / "old", sym.softmax(_body(), temperature=4.0, name="p"))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to)[1] == "the logits are divided by 4.0, its temperature"
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, _outputs(*pair), atol=1e-5)


def test_the_input_is_renamed(tmp_path):
    pair = _saved(tmp_path / "old", _body("image"), "image")
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert _changes(to) == ["the input image is called data"]
    _assert_logits(to, _outputs(*pair, "image"))


def test_unnamed_outputs_are_called_like_the_classes_of_the_data(tmp_path):
    pair = _saved(tmp_path / "old", _body())
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS, data_classes=CLASSES)
    assert Signature.read(to).classes == CLASSES
    assert _changes(to) == [
        "the outputs are taken for the classes of the data, in their order: circle, square, "
        "größe, star"
    ]
    named = {"classes": CLASSES[::-1], "data_classes": CLASSES}
    to = foreign.adopt(*pair, tmp_path / "named", **OPTIONS, **named)
    assert Signature.read(to).classes == CLASSES[::-1]
    assert _changes(to) == []
    to = foreign.adopt(*pair, tmp_path / "others", **OPTIONS, data_classes=CLASSES[:3])
    assert Signature.read(to).classes == ("0", "1", "2", "3")
    assert _changes(to) == []


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((127.0,), (1.0,), "mean [127.0] | --mean 0.498 --std 0.003922"),
        ((127.5,), (127.5,), "mean [127.5] | --mean 0.5 --std 0.5"),
        (
            (123.68, 116.28, 103.53),
            (1.0, 1.0, 1.0),
            "mean [123.68, 116.28, 103.53] | --mean 0.485,0.456,0.406 "
            "--std 0.003922,0.003922,0.003922",
        ),
        (
            (123.68, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            "mean [123.68, 116.28, 103.53] | --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        ((-127.0,), (0.5,), "mean [-127.0] | --mean -0.498 --std 0.5"),
        ((0.0,), (255.0,), "std [255.0] | --mean 0 --std 1"),
        ((0.485,), (58.395,), "std [58.395] | --mean 0.485 --std 0.229"),
    ],
    ids=str,
)
def test_a_scale_of_255_is_refused_with_the_right_numbers(tmp_path, mean, std, said):
    first, second = map(re.escape, said.split(" | "))
    said = f"^{first} is of values up to 255, .* divided by 255: {second}$"
    _refused(tmp_path, said, *_saved(tmp_path / "old", _body()), mean=mean, std=std)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.0,), (1 / 255,)),  # values from 0 to 255
        ((0.485,), (1 / 255,)),  # the same, less 123.68
        ((0.5,), (0.5,)),
        ((-1.0,), (2.0,)),  # from 1/2 to 1
        ((0.5,), (1.0,)),
    ],
    ids=str,
)
def test_means_and_deviations_that_networks_have(tmp_path, mean, std):
    given = OPTIONS | {"mean": mean, "std": std}
    to = foreign.adopt(*_saved(tmp_path / "old", _body()), tmp_path / "export", **given)
    steps = Signature.read(to).preprocess
    assert (steps.mean, steps.std) == (mean, std)


def _gluon():
    net = nn.HybridSequential(prefix="mine_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(), nn.Dense(4))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(nd.zeros((1, *SHAPE)))
    return net


@pytest.mark.parametrize("naming", ["export", "collect_params", "export, later"])
def test_gluons_own_pairs(tmp_path, naming):
    net = _gluon()
    net.export(str(tmp_path / "net"), epoch=12 if naming == "export, later" else 0)
    params = tmp_path / ("net-0012.params" if naming == "export, later" else "net-0000.params")
    if naming == "collect_params":  # plain names, statistics among the rest
        net.collect_params().save(str(params))
        assert all(":" not in key for key in nd.load(str(params)))
    to = foreign.adopt(tmp_path / "net-symbol.json", params, tmp_path / "export", **OPTIONS)
    assert _changes(to) == []
    _assert_logits(to, net(nd.array(INPUTS)).asnumpy())


def test_half_precision_becomes_single(tmp_path):
    net = _gluon()
    net.export(str(tmp_path / "net"))
    graph, params = tmp_path / "net-symbol.json", tmp_path / "net-0000.params"
    text = graph.read_text()
    assert '"__dtype__": "0"' in text
    graph.write_text(text.replace('"__dtype__": "0"', '"__dtype__": "2"'))
    halves = {key: value.astype("float16") for key, value in nd.load(str(params)).items()}
    nd.save(str(params), halves)
    to = foreign.adopt(graph, params, tmp_path / "export", **OPTIONS)
    assert _changes(to) == ["float16 parameters are float32"]
    for name, parameter in net.collect_params().items():
        kind = "aux" if "running" in name else "arg"
        parameter.set_data(halves[f"{kind}:{name}"].astype("float32"))
    _assert_logits(to, net(nd.array(INPUTS)).asnumpy())


def test_a_network_that_computed_in_half_precision_computes_in_single(tmp_path):
    """As MXNet's own examples trained with ``--dtype float16``."""
    pair = _saved(tmp_path / "old", sym.softmax(_body(), name="p"))
    expected = _outputs(*pair)
    half = _body().get_internals()["fc_output"]
    half = half(data=sym.cast(sym.var("data"), "float16", name="down"))
    sym.softmax(sym.cast(half, "float32", name="up"), name="p").save(str(pair[0]))
    nd.save(str(pair[1]), {k: v.astype("float16") for k, v in nd.load(str(pair[1])).items()})
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    assert "float16 parameters are float32" in _changes(to)
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_symbols_of_before_gluon(tmp_path):
    """MXNet 0.8 wrote `param` for `attrs`, no version, and no running statistics as nodes."""
    pair = _saved(tmp_path / "old", sym.SoftmaxOutput(_body(), name="softmax"))
    expected = _outputs(*pair)
    graph = json.loads(pair[0].read_text())
    states = {i for i, node in enumerate(graph["nodes"]) if "moving" in node["name"]}
    renumbered, nodes = {}, []
    for index, node in enumerate(graph["nodes"]):
        if index not in states:
            renumbered[index] = len(nodes)
            inputs = [
                [renumbered[source], output]
                for source, output, *_ in node["inputs"]
                if source not in states
            ]
            nodes.append(
                {
                    **{"op": node["op"], "name": node["name"], "inputs": inputs},
                    **{"param": node.get("attrs", {}), "backward_source_id": -1},
                }
            )
    arguments = [index for index, node in enumerate(nodes) if node["op"] == "null"]
    old = {"nodes": nodes, "arg_nodes": arguments, "heads": [[len(nodes) - 1, 0]]}
    pair[0].write_text(json.dumps(old))
    to = foreign.adopt(*pair, tmp_path / "export", **OPTIONS)
    found = softmax(runtimes.load(to, "module")(INPUTS))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _without(name):
    def change(values):
        del values[name]

    return change


def _renamed(values):
    for key in list(values):
        values[key.replace("arg:fc", "arg:dense")] = values.pop(key)


def _dotted(values):
    for index, key in enumerate(list(values)):
        values[f"{index}.weight"] = values.pop(key)


def _counted(values):
    values["arg:fc_bias"] = nd.array([1, 2, 3, 4], dtype="int32")


def _twice(values):
    values["fc_bias"] = values["arg:fc_bias"]


def _set(name, value, dtype="float32"):
    def change(values):
        array = values[name].asnumpy().astype(dtype)
        array.flat[-1] = value
        values[name] = nd.array(array, dtype=dtype)

    return change


def _also_input(values):
    values["arg:data"] = nd.zeros((1, *SHAPE))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("arg:fc_weight"), r"net-0007\.params lacks fc_weight, which net-symbol\.json"),
        (_without("aux:bn_moving_var"), "lacks bn_moving_var, which"),
        (_renamed, r"lacks fc_weight, fc_bias, which .*; .* holds dense_\w+, dense_\w+, which"),
        (_dotted, r"lacks .* and 3 more, .* names with dots are of Gluon's save_parameters"),
        (_counted, "fc_bias is int32"),
        (_twice, "fc_bias twice"),
        (_set("arg:fc_bias", np.nan), r"net-0007\.params: fc_bias holds values that are not fin"),
        (_set("aux:bn_moving_var", np.inf), "bn_moving_var holds values that are not finite"),
        (_set("arg:fc_weight", 1e300, "float64"), "fc_weight holds values .* as float32"),
        (_also_input, "has no input"),
    ],
    ids=[
        *("argument", "statistic", "both sides", "structural", "integers", "twice"),
        *("nan", "infinite", "too large", "no input"),
    ],
)
def test_parameters_that_do_not_belong_to_the_symbol(tmp_path, change, said):
    pair = _saved(tmp_path / "old", _body())
    values = dict(nd.load(str(pair[1])))
    change(values)
    nd.save(str(pair[1]), values)
    _refused(tmp_path, said, *pair)


def _two_inputs():
    return _body() + sym.FullyConnected(sym.var("more"), num_hidden=4, name="extra")


@pytest.mark.parametrize(
    ("symbol", "said"),
    [
        (lambda: sym.Group([_body(), sym.var("z") + 1]), r"2 outputs, not one: fc_output, \w+"),
        (lambda: _body() + sym.var("more"), "2 inputs, not one: data, more"),
        (
            lambda: _body() + sym.var("y_label"),
            "2 inputs, not one: data, y_label .*; y_label is a label, which only training has",
        ),
        (lambda: _body().get_internals()["relu_output"], "no classifier"),
        (
            lambda: sym.sqrt(_body() - 1e6),
            r"answers noise with nan: it, or net-0007\.params, is dam",
        ),
        (lambda: sym.Reshape(_body(), shape=(1, -1)), r"makes \(1, 8\) of two images"),
        (lambda: sym.sum(_body()), "no classifier"),
        (lambda: sym.Reshape(_body(), shape=(2, 3)), "not as many values"),
        (
            lambda: sym.broadcast_add(_body(), sym.sum(sym.zeros((40000, 40000)))),
            "needs 5 GiB of memory",
        ),
    ],
    ids=["outputs", "inputs", "label", "map", "nan", "fixed batch", "scalar", "beyond", "memory"],
)
def test_what_is_no_classifier_of_images(tmp_path, symbol, said):
    pair = _saved(tmp_path / "old", _body())
    symbol().save(str(pair[0]))
    values = dict(nd.load(str(pair[1])))
    known = {*symbol().list_arguments(), *symbol().list_auxiliary_states()}
    nd.save(str(pair[1]), {k: v for k, v in values.items() if k.split(":")[1] in known})
    _refused(tmp_path, said, *pair)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_shape": (3, 9, 9)}, r"fc_weight is \(4, 144\), not \(4, 196\)"),
        ({"input_shape": (1, 8, 8), "image": (8, 8, 1)}, r"conv_weight is \(4, 3, 3, 3\), not"),
        ({"input_shape": (3, 2, 2)}, r"does not take images of \(3, 2, 2\)"),
        ({"image": (8, 8, 4)}, "4 channels"),
        ({"image": (0, 8, 3)}, "sizes are 1 or more"),
        ({"mean": (0.1, 0.2)}, r"mean \[0\.1, 0\.2\]: give 1 number, or 3"),
        ({"std": (1.0, 0.0, 1.0)}, "must be above 0"),
        ({"std": (float("nan"),)}, r"std \[nan\]"),
        ({"classes": ("a", "b")}, "4 outputs, but 2 classes"),
    ],
    ids=str,
)
def test_what_is_said_of_it_must_fit(tmp_path, options, said):
    _refused(tmp_path, said, *_saved(tmp_path / "old", _body()), **options)


def test_nothing_is_overwritten(tmp_path):
    pair = _saved(tmp_path / "old", _body())
    for to in (tmp_path / "old", pair[0]):
        before = pair[0].read_bytes()
        with pytest.raises(GluonexpError, match=re.escape(f"{to} exists")):
            foreign.adopt(*pair, to, **OPTIONS)
        assert pair[0].read_bytes() == before


@pytest.mark.parametrize("operator", ["_Native", "_NDArray", "Custom", "_cvimread"])
def test_a_symbol_that_would_run_code_is_refused(tmp_path, operator):
    pair = _saved(tmp_path / "old", _body())
    graph = json.loads(pair[0].read_text())
    graph["nodes"][-1] |= {"op": operator, "attrs": {"info": "0x1234"}}
    pair[0].write_text(json.dumps(graph))
    _refused(tmp_path, operator, *pair)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flat", {"op": "_contrib_quantize_v2"}),  # the next layer's weights are integers then
        ("softmax", {"inputs": []}),
        ("conv", {"attrs": {"kernel": "(0, 0)", "num_filter": "4"}}),
        ("conv", {"attrs": {"kernel": "(3, 3)", "num_filter": "99999999999"}}),
        ("relu", {"op": "no such operator"}),
    ],
    ids=str,
)
def test_operators_that_do_not_fit_are_refused(tmp_path, name, change):
    pair = _saved(tmp_path / "old", sym.SoftmaxOutput(_body(), name="softmax"))
    graph = json.loads(pair[0].read_text())
    next(node for node in graph["nodes"] if node["name"] == name).update(change)
    pair[0].write_text(json.dumps(graph))
    _refused(tmp_path, "net", *pair)


def test_an_array_that_the_file_cannot_hold_is_refused_before_memory_is_asked_for(tmp_path):
    pair = _saved(tmp_path / "old", _body())
    with pair[1].open("r+b") as file:
        content = file.read()
        at = content.index(struct.pack("<2q", 4, 144))  # the shape of fc_weight
        file.seek(at)
        file.write(struct.pack("<2q", 1 << 40, 1 << 20))
    _refused(tmp_path, "ends too early", *pair)


def test_files_that_are_missing_or_another_kind(tmp_path):
    graph, values = _saved(tmp_path / "old", _body())
    _refused(
        tmp_path, "nowhere-symbol.json cannot be read", tmp_path / "nowhere-symbol.json", values
    )
    _refused(tmp_path, "nowhere.params cannot be read", graph, tmp_path / "nowhere.params")
    _refused(tmp_path, "old cannot be read", graph, tmp_path / "old")
    _refused(tmp_path, "not a file of MXNet's NDArrays", graph, graph)
    _refused(tmp_path, "not a symbol", values, values)
    pointer = tmp_path / "old" / "pointer"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    _refused(tmp_path, "pointer is a git-LFS pointer, not the file", pointer, values)
    _refused(tmp_path, "pointer is a git-LFS pointer, not the file", graph, pointer)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return _saved(tmp_path_factory.mktemp("pair"), sym.SoftmaxOutput(_body(), name="softmax"))


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_refused_or_makes_a_whole_export(pair, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    which = data.draw(st.sampled_from([0, 1]))
    content = bytearray(pair[which].read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    copies = [folder / path.name for path in pair]
    for source, copy in zip(pair, copies, strict=True):
        shutil.copyfile(source, copy)
    copies[which].write_bytes(content)
    try:
        to = foreign.adopt(*copies, folder / "export", **OPTIONS)
    except GluonexpError:
        assert sorted(folder.iterdir()) == sorted(copies)
    else:
        assert runtimes.load(to, "symbolblock")(INPUTS).shape[0] == len(INPUTS)


def test_the_new_export_can_be_read_by_gluon(tmp_path):
    to = foreign.adopt(*_saved(tmp_path / "old", _body()), tmp_path / "export", **OPTIONS)
    graph, values = (str(path) for path in names.paths(to, names.MODEL))
    with pytest.warns(UserWarning, match="Cannot decide type"):
        block = gluon.SymbolBlock.imports(graph, ["data"], values)
    expected = runtimes.load(to, "module")(INPUTS)
    np.testing.assert_allclose(block(nd.array(INPUTS)).asnumpy(), expected, rtol=1e-4, atol=1e-5)
