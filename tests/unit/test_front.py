"""The frozen front of a network, found on its graph."""

from fnmatch import fnmatch

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gluonexp import assembly, freeze
from gluonexp.assembly import networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, mx, nd, nn
from gluonexp.config.schema import FreezeConfig, FreezeRule
from gluonexp.data.augment import unchanged
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.features import compute, outlook
from gluonexp.features.front import Front, find
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Output
from gluonexp.models.layers import outline
from gluonexp.models.work import Work
from gluonexp.run import compose

IMAGE = (4, 8, 8)  # C, H, W
FROZEN, TRAINED = FreezeRule("*", "frozen"), FreezeRule("*")


@mx.operator.register("gluonexp_test_front")
class Own(mx.operator.CustomOpProp):
    def infer_shape(self, shapes):
        return shapes, shapes, []

    def create_operator(self, ctx, shapes, dtypes):
        return mx.operator.CustomOp()


class Net(nn.HybridBlock):
    """Layers by name, and a function of them."""

    def __init__(self, forward, **layers):
        super().__init__(prefix="")
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def hybrid_forward(self, F, x):
        return self._forward(F, self, x)


def rrelu(F, x):
    return F.LeakyReLU(x, act_type="rrelu")[0]  # the other output is the slopes


def sequence(*layers):
    net = nn.HybridSequential(prefix="")
    net.add(*layers)
    return net


def ready(net, image=IMAGE):
    """Return the network with values that are none in particular, compiled as in a run."""
    mx.random.seed(0)
    net.initialize(mx.init.Normal(0.5))
    with autograd.pause():
        net(nd.zeros((2, *image)))
    for parameter in net.collect_params().values():
        if parameter.name.endswith("var"):
            parameter.set_data(nd.random.uniform(0.5, 2, parameter.shape))
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def planned(net, *rules, image=IMAGE, **policy):
    return freeze.plan(outline(net, image), FreezeConfig("", [*rules, TRAINED], **policy))


def front(net, *rules, image=IMAGE, **policy):
    """Return the front of a network that is frozen so, or why there is none."""
    layers, plan = outline(net, image), planned(net, *rules, image=image, **policy)
    work = Work(net)
    still = {
        layers.parameters[row.parameter].global_name for row in plan.rows if row.state == "frozen"
    }
    names = {each.global_name: name for name, each in layers.parameters.items()}
    return find(work.graph, still, work.by_node(image), work.by_image(image), names)


def node(net, found):
    return Work(net).graph.nodes[found.end.node]


# The families of the zoo, by what their freeze policies leave of them.


@pytest.fixture(scope="module")
def zoo():
    """Look ahead on a network of the zoo under a policy; nothing of it has a value."""
    known = {}

    def ahead(backbone, policy, *more):
        config = compose(
            *("model=zoo_ft", f"model.backbone={backbone}", "dataset=synthetic", "device=cpu"),
            *(f"freeze={policy}", "features.engine=mxnet", "trainer.epochs=8", *more),
        )
        if backbone not in known:
            components = assembly.components(config)
            spec = components.source.spec()
            steps = networks.preprocessing(config.dataset, spec)
            net = networks.network(config, components.model, spec, steps)
            shape = steps.channels, steps.height, steps.width
            known[backbone] = Work(net), outline(net, shape), steps
        work, layers, steps = known[backbone]
        plan = freeze.plan(layers, config.freeze, config.trainer.epochs)
        return outlook.outlook(work, layers, plan, config, steps, unchanged, on_cpu=True)

    return ahead


@pytest.mark.parametrize(
    ("backbone", "policy", "shape", "sentence"),
    [
        ("alexnet", "none", None, None),
        ("alexnet", "discriminative", None, None),
        ("alexnet", "features", (4096,), "10 of 16 layers, 98% of the arithmetic"),
        ("alexnet", "head_only", (4096,), "10 of 16 layers, 98% of the arithmetic"),
        ("alexnet", "last_block", (4096,), "10 of 16 layers, 98% of the arithmetic"),
        (
            *("alexnet", "gradual", (4096,)),
            "10 of 16 layers, 98% of the arithmetic, until epoch 2",
        ),
        ("resnet18_v2", "features", (512,), "52 of 53 layers, over 99% of the arithmetic"),
        ("resnet18_v2", "last_block", (256, 14, 14), "36 of 53 layers, 77% of the arithmetic"),
        ("densenet121", "last_block", (512, 7, 7), "222 of 308 layers, 96% of the arithmetic"),
        ("squeezenet1.0", "last_block", (512, 13, 13), "32 of 40 layers, 95% of the arithmetic"),
        ("inceptionv3", "last_block", (2048, 8, 8), "194 of 221 layers, 93% of the arithmetic"),
    ],
)
def test_the_zoo(zoo, backbone, policy, shape, sentence):
    ahead = zoo(backbone, policy)
    if shape is None:
        assert ahead.at(0) is ahead.sentence() is None
    else:
        assert ahead.at(0).shape == shape
        assert ahead.sentence() == f"computed once: {sentence} (mxnet, float32)"


def test_statistics_that_move_leave_too_little(zoo):
    ahead = zoo("densenet121", "features", "freeze.batchnorm=moving")
    assert ahead.sentence() == (
        "computed once: nothing, 1 of 308 layers, 4% of the arithmetic are too little of it "
        "(backbone.1 normalizes by each batch)"
    )
    assert ahead.at(0) is None
    # But whoever asks for it gets it.
    asked = zoo("densenet121", "features", "freeze.batchnorm=moving", "features.cache=on")
    assert asked.at(0).shape == (64, 112, 112)


def test_gradual_unfreezing_has_a_front_for_each_part_of_the_run(zoo):
    policy = "freeze.unfreeze=[{epoch: 2, match: 'backbone[-1].*'}, {epoch: 4, match: '*'}]"
    ahead = zoo("resnet18_v2", "features", policy)
    assert [ahead.at(epoch) and ahead.at(epoch).shape for epoch in range(6)] == [
        *([(512,)] * 2),
        *([(256, 14, 14)] * 2),
        *([None] * 2),
    ]
    assert "until epoch 2 (" in ahead.sentence()
    assert ahead.change(1) is ahead.change(3) is None
    assert ahead.change(2) == (
        "computed once from here on: 36 of 53 layers, 77% of the arithmetic"
    )
    assert ahead.change(4) == (
        "nothing is computed once from here on, backbone.0 normalizes by each batch"
    )
    # What would be computed for a single epoch is not worth it.
    ahead = zoo("resnet18_v2", "features", policy, "trainer.epochs=3")
    assert ahead.at(0).shape == (512,) and ahead.at(2) is None
    assert ahead.change(2) == (
        "nothing is computed once from here on, the front that is frozen then does not last"
    )


def test_what_is_in_the_way_is_said(zoo):
    def sentence(*more):
        return zoo("alexnet", "features", *more).sentence()

    assert sentence("features.cache=off") == "computed once: nothing, features.cache=off"
    assert zoo("resnet18_v2", "none").sentence() is None  # but for a beta of its own
    with pytest.raises(
        GluonexpError,
        match=r"^features\.cache=on: nothing of the network can be computed once, the freeze "
        r"policy freezes nothing; features\.cache=auto trains it all the same$",
    ):
        zoo("alexnet", "none", "features.cache=on")
    with pytest.raises(
        GluonexpError, match=r"^features\.precision=bfloat16 is OpenVINO's.*engine=openvino"
    ):
        sentence("features.precision=bfloat16")


# Small networks, each with one thing that matters.


def test_everything_up_to_what_learns():
    net = ready(sequence(nn.Conv2D(3, 3), nn.Activation("relu"), nn.Flatten(), nn.Dense(2)))
    found = front(net, FreezeRule("0.*", "frozen"))
    assert (found.shape, found.layers, found.of) == ((108,), 2, 3)
    assert found.stop == "3.weight learns"
    assert found.work == 3 * 36 * 36 / (3 * 36 * 36 + 108 * 2)
    assert found.sentence() == "2 of 3 layers, 95% of the arithmetic"
    assert front(net) == "0.weight learns"
    assert front(net, FreezeRule("0.weight", "frozen")) == "0.bias learns"
    assert front(net, FreezeRule("3.*", "frozen")) == "0.weight learns"


@pytest.mark.parametrize("batchnorm", ["frozen", "moving"])
def test_batchnorm_by_its_statistics_or_by_each_batch(batchnorm):
    net = ready(sequence(nn.Conv2D(3, 3), nn.BatchNorm(), nn.Dense(2)))
    rules = [FreezeRule("0.*", "frozen"), FreezeRule("1.*", "frozen")]
    found = front(net, *rules, batchnorm=batchnorm)
    if batchnorm == "frozen":
        assert (found.layers, found.stop) == (2, "2.weight learns")
    else:
        assert (found.layers, found.stop) == (1, "1 normalizes by each batch")
    # Its own statistics, but a gamma that learns.
    found = front(net, FreezeRule("1.gamma"), *rules, batchnorm="frozen")
    assert (found.layers, found.stop) == (1, "1.gamma learns")


def each_part(layer):
    """Return a layer that another one is inside of, for each image by itself."""
    return lambda F, x: F.contrib.foreach(lambda part, _: (layer(F, part), []), x, [])[0]


@pytest.mark.parametrize(
    ("layer", "stop"),
    [
        (lambda F, x: F.Dropout(x, p=0), None),
        (lambda F, x: F.Dropout(x), "dropout0 (Dropout) draws at random"),
        (lambda F, x: F.LeakyReLU(x, slope=0.1), None),
        (rrelu, "leakyrelu0 (LeakyReLU) draws at random"),
        (
            lambda F, x: F.broadcast_add(x, F.random.normal(shape=(1, 1, 1, 1))),
            "_random_normal0 (_random_normal) draws at random",
        ),
        (
            lambda F, x: F.broadcast_mul(F.random.uniform(shape=(1, 1, 1, 1)), x),
            "_random_uniform0 (_random_uniform) draws at random",
        ),
        (lambda F, x: F.shuffle(x), "shuffle0 (_shuffle) draws at random"),
        (
            each_part(lambda F, x: F.image.random_flip_left_right(x.reshape((16, 16, 1)))),
            "_foreach0 (_foreach) draws at random",
        ),
        (each_part(lambda F, x: F.relu(x)), None),
        (each_part(lambda F, x: F.Dropout(x, p=0)), None),
        (each_part(lambda F, x: F.Dropout(x)), "_foreach0 (_foreach) draws at random"),
        (each_part(rrelu), "_foreach0 (_foreach) draws at random"),
        (
            each_part(lambda F, x: F.broadcast_add(x, F.random.normal(shape=(1, 1, 1)))),
            "_foreach0 (_foreach) draws at random",
        ),
        (
            lambda F, x: F.Custom(x, op_type="gluonexp_test_front"),
            "custom0 (Custom) may give something else each time",
        ),
    ],
)
def test_what_draws_at_random(layer, stop):
    """A layer between a frozen one and one that learns."""
    with mx.name.NameManager():
        first, last = nn.Conv2D(4, 1, in_channels=4), nn.Dense(2, in_units=256)

        def forward(F, net, x):
            return net.last(F.flatten(layer(F, net.first(x))))

        net = Net(forward, first=first, last=last)
        first.weight.shape, last.weight.shape = (4, 4, 1, 1), (2, 256)
    found = front(net, FreezeRule("first.*", "frozen"))
    assert found.stop == (stop or "last.weight learns")
    assert (node(net, found).name == "conv0_fwd") == (stop is not None)


def test_a_layer_that_is_called_twice():
    def forward(F, net, x):
        return net.dense(F.flatten(net.conv(net.conv(x))))

    net = ready(Net(forward, conv=nn.Conv2D(4, 3, padding=1), dense=nn.Dense(2)))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.stop) == (3, "dense.weight learns")
    assert front(net) == "conv.weight learns"


def test_a_layer_of_the_front_that_the_rest_calls_again():
    def forward(F, net, x):
        return net.last(F.flatten(net.conv(net.middle(net.conv(x)))))

    layers = {"conv": nn.Conv2D(4, 3, padding=1), "middle": nn.Conv2D(4, 1)}
    net = ready(Net(forward, **layers, last=nn.Dense(2)))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.of, found.stop) == (1, 5, "middle.weight learns")
    inputs = nd.random.normal(shape=(3, *IMAGE))
    agree(net, found, inputs)


def test_two_branches():
    def forward(F, net, x):
        both = F.concat(net.left(x), net.right(x), dim=1)
        return net.dense(F.flatten(both))

    layers = {"left": nn.Conv2D(2, 3), "right": nn.Conv2D(3, 3), "dense": nn.Dense(2)}
    net = ready(Net(forward, **layers))
    both = [FreezeRule("left.*", "frozen"), FreezeRule("right.*", "frozen")]
    found = front(net, *both)
    assert (found.layers, found.shape, found.stop) == (4, (180,), "dense.weight learns")
    # Of one branch alone nothing is known but that it is not all.
    assert front(net, both[0]) == "right.weight learns"


def test_a_skip_connection_is_not_cut():
    def forward(F, net, x):
        stem = net.stem(x)
        return net.dense(F.flatten(net.second(net.first(stem)) + stem))

    layers = {"stem": nn.Conv2D(4, 3), "first": nn.Conv2D(4, 3, padding=1)}
    net = ready(Net(forward, **layers, second=nn.Conv2D(4, 1), dense=nn.Dense(2)))
    rules = [FreezeRule("stem.*", "frozen"), FreezeRule("first.*", "frozen")]
    found = front(net, *rules)
    assert node(net, found).name.startswith("conv") and found.layers == 1
    assert (found.shape, found.stop) == ((4, 6, 6), "second.weight learns")
    found = front(net, *rules, FreezeRule("second.*", "frozen"))
    assert (found.layers, found.of, found.stop) == (5, 6, "dense.weight learns")


def test_a_skip_connection_from_the_image_itself():
    def forward(F, net, x):
        return net.dense(F.flatten(net.trained(net.conv(x)) + x))

    layers = {"conv": nn.Conv2D(4, 1), "trained": nn.Conv2D(4, 1), "dense": nn.Dense(2)}
    net = ready(Net(forward, **layers))
    assert front(net, FreezeRule("conv.*", "frozen")) == "trained.weight learns"
    norm = ready(Net(lambda F, net, x: net.dense(F.flatten(x * 2 + x)), dense=nn.Dense(2)))
    assert front(norm).layers == 3


def test_another_output_of_the_same_operator_passes_it_by():
    def forward(F, net, x):
        left, right = F.split(net.conv(x), num_outputs=2, axis=1)
        return net.dense(F.flatten(net.trained(left) + right))

    layers = {"conv": nn.Conv2D(4, 1), "trained": nn.Conv2D(2, 1), "dense": nn.Dense(2)}
    net = ready(Net(forward, **layers))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.shape) == (1, (4, 8, 8))


@pytest.mark.parametrize("channels", [1, 4])
def test_what_mixes_the_batch_with_the_channels_is_no_end_of_a_front(channels):
    """Features are by image: the first axis must be that of the images, however many there are."""

    def forward(F, net, x):
        x = F.transpose(net.conv(x), axes=(1, 0, 2, 3)) * 2
        return net.dense(F.flatten(F.transpose(x, axes=(1, 0, 2, 3))))

    net = ready(Net(forward, conv=nn.Conv2D(channels, 3), dense=nn.Dense(2)))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.shape) == (5, (36 * channels,))
    agree(net, found, nd.random.normal(shape=(3, *IMAGE)))

    def rest(F, net, x):
        x = F.transpose(net.conv(x), axes=(1, 0, 2, 3))
        return net.dense(F.flatten(F.transpose(F.broadcast_mul(x, net.scale(x)), (1, 0, 2, 3))))

    class Scale(nn.HybridBlock):
        def __init__(self):
            super().__init__(prefix="scale_")
            self.by = self.params.get("by", shape=(1,))

        def hybrid_forward(self, F, x, by):
            return by

    net = ready(Net(rest, conv=nn.Conv2D(channels, 3), scale=Scale(), dense=nn.Dense(2)))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.shape) == (1, (channels, 6, 6))
    agree(net, found, nd.random.normal(shape=(3, *IMAGE)))


def test_a_reshape_that_mixes_them_is_no_end_either():
    def forward(F, net, x):
        pixels = F.reshape(F.transpose(net.conv(x), axes=(0, 2, 3, 1)), (-1, 3))
        return net.dense(F.reshape(net.pixel(pixels), (-1, 36 * 2)))

    layers = {"conv": nn.Conv2D(3, 3), "pixel": nn.Dense(2), "dense": nn.Dense(2)}
    net = ready(Net(forward, **layers))
    found = front(net, FreezeRule("conv.*", "frozen"))
    assert (found.layers, found.shape) == (2, (6, 6, 3))
    found = front(net, FreezeRule("conv.*", "frozen"), FreezeRule("pixel.*", "frozen"))
    assert (found.layers, found.shape, found.stop) == (5, (72,), "dense.weight learns")


def test_weights_that_are_computed_from_frozen_ones():
    """Weight normalization: what stands between a parameter and its layer is the layer's too."""

    class Normalized(nn.HybridBlock):
        def __init__(self):
            super().__init__(prefix="normalized_")
            self.weight = self.params.get("weight", shape=(5, 256))
            self.scale = self.params.get("scale", shape=(1,))

        def hybrid_forward(self, F, x, weight, scale):
            weight = F.broadcast_mul(scale, F.broadcast_div(weight, F.norm(weight)))
            return F.FullyConnected(x, weight, no_bias=True, num_hidden=5)

    net = ready(sequence(Normalized(), nn.Dense(2)))
    found = front(net, FreezeRule("0.*", "frozen"))
    assert found.shape == (5,) and found.stop == "1.weight learns"
    agree(net, found, nd.random.normal(shape=(3, *IMAGE)))
    assert front(net, FreezeRule("0.weight", "frozen")) == "0.scale learns"


# What it is of: the fingerprint.


def prints(net, *rules):
    found = front(net, *rules)
    return compute.fingerprint(Work(net).graph.prefix(found.end), net)


def test_a_front_is_told_apart_by_what_it_computes_and_not_by_names():
    def made():
        return ready(sequence(nn.Conv2D(3, 3), nn.BatchNorm(), nn.Dense(4), nn.Dense(2)))

    rules = [FreezeRule("0.*", "frozen"), FreezeRule("1.*", "frozen"), FreezeRule("2.*", "frozen")]
    net, again = made(), made()  # whose layers MXNet numbers on
    assert {*net.collect_params()}.isdisjoint(again.collect_params())
    known = prints(net, *rules)
    assert prints(again, *rules) == known
    again[3].weight.set_data(again[3].weight.data() + 1)  # behind the front
    assert prints(again, *rules) == known
    assert prints(again, *rules[:2]) != known
    for parameter in (again[0].weight, again[1].running_var, again[1].gamma, again[2].bias):
        before = parameter.data().copy()
        values = before.asnumpy()
        values.flat[-1] = np.nextafter(values.flat[-1], np.float32(9))
        parameter.set_data(nd.array(values))
        assert prints(again, *rules) != known
        parameter.set_data(before)
    assert prints(again, *rules) == known
    other = ready(sequence(nn.Conv2D(3, 3), nn.BatchNorm(epsilon=1e-3), *map(nn.Dense, (4, 2))))
    for mine, theirs in zip(
        net.collect_params().values(), other.collect_params().values(), strict=True
    ):
        theirs.set_data(mine.data())
    assert prints(other, *rules) != known


# Small networks at random.

OPERATORS = ("conv", "again", "norm", "dropout", "nothing", "relu", "rrelu", "add", "concat")


@st.composite
def drawn(draw):
    """Draw a program, (operator, which earlier values it takes), and what is frozen of it."""
    program = []
    for at in range(draw(st.integers(2, 7))):
        sources = st.integers(max(0, at - 2), at)  # mostly a chain: else nothing is ever cut
        program.append((draw(st.sampled_from(OPERATORS)), draw(sources), draw(sources)))
    frozen = draw(st.integers(0, len(program)))  # what stands before is, but for exceptions
    except_for = draw(st.sets(st.integers(0, len(program)), max_size=1))
    states = [(at < frozen) != (at in except_for) for at in range(len(program))]
    return program, states


class Drawn(nn.HybridBlock):
    """The network of a program: 4 channels between any two operators."""

    def __init__(self, program):
        super().__init__(prefix="")
        self.program = program
        self.steps = sequence()
        for at, (operator, *_) in enumerate(program):
            match operator:
                case "conv":
                    layer = nn.Conv2D(4, 1, prefix=f"conv{at}_", in_channels=4)
                case "concat":
                    layer = nn.Conv2D(4, 1, prefix=f"conv{at}_", in_channels=8)
                case "norm":
                    layer = nn.BatchNorm(prefix=f"norm{at}_", in_channels=4)
                case "dropout" | "nothing":
                    layer = nn.Dropout(0.5 if operator == "dropout" else 0, prefix=f"drop{at}_")
                case _:
                    layer = nn.HybridSequential(prefix=f"none{at}_")
            self.steps.add(layer)
        self.dense = nn.Dense(2, in_units=4 * 3 * 3, prefix="dense_")

    def hybrid_forward(self, F, x):
        values = [x]
        convolutions = []
        for (operator, first, second), layer in zip(self.program, self.steps, strict=True):
            left, right = values[first], values[second]
            match operator:
                case "again":
                    made = (convolutions or [F.identity])[-1](left)
                case "relu":
                    made = F.relu(left)
                case "rrelu":
                    made = rrelu(F, left)
                case "add":
                    made = left + right
                case "concat":
                    made = layer(F.concat(left, right, dim=1))
                case _:
                    made = layer(left)
                    if operator == "conv":
                        convolutions.append(layer)
            values.append(made)
        return self.dense(F.flatten(values[-1]))


def agree(net, found, inputs):
    """Compare a network with its front and what is behind that."""
    graph = Work(net).graph
    values = {name: each.data() for name, each in net.collect_params().items()}
    features = symbols.block(graph.prefix(found.end), values)(inputs)
    assert features.shape == (len(inputs), *found.shape)
    rest = symbols.behind(net, found.end)
    np.testing.assert_allclose(
        rest(features).asnumpy(), net(inputs).asnumpy(), rtol=1e-4, atol=1e-5
    )
    return features


@pytest.mark.filterwarnings("ignore:Parameter .* is not used by any computation")
@settings(max_examples=40)
@given(drawn())
def test_a_front_and_what_is_behind_it_are_the_network(drawing):
    program, states = drawing
    rules = [FreezeRule(f"steps.{at}.*", "frozen") for at, still in enumerate(states) if still]
    net = ready(Drawn(program), (4, 3, 3))
    layers = outline(net, (4, 3, 3))
    rules = [rule for rule in rules if any(fnmatch(n, rule.match) for n in layers.parameters)]
    plan = planned(net, *rules, image=(4, 3, 3))
    found = front(net, *rules, image=(4, 3, 3))
    graph = Work(net).graph
    still = {
        layers.parameters[row.parameter].global_name for row in plan.rows if row.state == "frozen"
    }
    assert longest(graph, still) == (found.end if isinstance(found, Front) else None)
    event(f"{found.layers} of {found.of}" if isinstance(found, Front) else "none")
    if isinstance(found, str):
        return
    inputs = nd.array(np.random.default_rng(0).normal(size=(2, 4, 3, 3)))
    agree(net, found, inputs)
    # As in training: the layers go by the batch and draw, and what is not frozen has moved.
    freezing = MXNetEngine(net, None, None, mx.optimizer.SGD(), mx.cpu())
    freezing.freeze(plan)
    seen = []
    for seed in (1, 2):
        mx.random.seed(seed)
        for name, parameter in net.collect_params().items():
            if name not in still:
                parameter.set_data(nd.random.uniform(0.5, 2, parameter.shape))
        part = Work(net).graph.prefix(found.end)
        values = {name: each.data() for name, each in net.collect_params().items()}
        with autograd.train_mode():
            seen.append(symbols.block(part, values)(inputs).asnumpy())
    np.testing.assert_array_equal(*seen)


def longest(graph, still):
    """Return the last output by which alone the head depends on the input; slowly and simply."""
    for at in reversed(range(len(graph.nodes))):
        if graph.nodes[at].op == VARIABLE or at not in graph.needed(graph.heads):
            continue
        inside = [graph.nodes[place] for place in graph.needed([Output(at)])]
        variables = {each.name for each in inside if each.op == VARIABLE}
        moving = any(
            each.op == "BatchNorm" and graph.nodes[each.inputs[3].node].name not in still
            for each in inside
        )
        drawing = any(
            (each.op == "Dropout" and each.attrs["p"] != "0")
            or each.attrs.get("act_type") == "rrelu"
            for each in inside
        )
        behind = graph.behind(Output(at), "features")
        passes = any(each.name == "data" for each in behind.nodes)
        if "data" in variables <= {*still, "data"} and not (moving or drawing or passes):
            return Output(at)
    return None
