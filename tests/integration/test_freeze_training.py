"""What is frozen stays bit for bit as it was, and the rest moves: real training in miniature."""

import itertools
from functools import partial

import numpy as np
import pytest

from gluonexp import freeze
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.config.schema import EngineConfig, FreezeConfig, FreezeRule, Unfreeze
from gluonexp.data.types import Split
from gluonexp.engines.mxnet import optimizers
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.engines.torch import library
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.layers import outline
from gluonexp.training import callbacks, checkpoint, loop
from gluonexp.training.frozen import Frozen

FROZEN_BACKBONE = [FreezeRule("backbone.*", "frozen"), FreezeRule("*")]
STATISTICS = ("running_mean", "running_var")

# The smallest member of each family of the model zoo that has BatchNorm, how many of its feature
# layers are used (Dense layers and a last pooling would ask for more pixels), and the pixels.
FAMILIES = [
    ("resnet18_v1", None, 32),
    ("resnet18_v2", None, 32),
    ("vgg11_bn", 29, 32),
    ("densenet121", 13, 32),
    ("inceptionv3", 18, 75),
    ("mobilenet0.25", None, 32),
    ("mobilenetv2_0.25", None, 32),
]


class Topped(nn.HybridBlock):
    """A backbone under a linear classifier."""

    def __init__(self, backbone, head):
        super().__init__(prefix="")
        self.backbone = nn.HybridSequential(prefix="")
        self.backbone.add(*backbone)
        self.head = nn.HybridSequential(prefix="head_")
        with self.head.name_scope():
            self.head.add(*head)

    def hybrid_forward(self, F, x):
        return self.head(self.backbone(x))


def ready(net, image):
    """Initialize `net` and compile it as a run does."""
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    with autograd.pause():
        net(nd.zeros((1, *image)))  # settles the shapes
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def planned(net, image, policy):
    return freeze.plan(outline(net, image), policy)


def applied(net, plan):
    """Freeze `net` as planned; return what audits it."""
    engine = MXNetEngine(net, None, None, sgd(), mx.cpu())
    engine.freeze(plan)
    return Frozen(engine, plan)


def values(net):
    nd.waitall()
    return {
        name: parameter.data().asnumpy()
        for name, parameter in net._collect_params_with_prefix().items()
    }


def moved(before, after):
    return {name for name, value in after.items() if not np.array_equal(before[name], value)}


def train(net, optimizer, image, steps=2, batch=2):
    trainer = gluon.Trainer(net.collect_params(), optimizer)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    for seed in range(steps):
        mx.random.seed(seed)
        inputs, labels = nd.random.normal(0.5, 2, (batch, *image)), nd.arange(batch)
        with autograd.record():
            losses = loss(net(inputs), labels)
        losses.backward()
        trainer.step(batch)


def sgd():
    return optimizers.optimizer("sgd", lr=0.01, weight_decay=0.1, momentum=0.9)


@pytest.mark.parametrize(("name", "cut", "pixels"), FAMILIES)
def test_a_family_of_the_zoo_stays_frozen(name, cut, pixels):
    features = list(gluon.model_zoo.vision.get_model(name).features)[:cut]
    image = (3, pixels, pixels)
    net = ready(Topped(features, [nn.Dense(2)]), image)
    # With the first block trained, gradients pass every layer behind it: nothing but the plan
    # keeps those from moving. Only resnet_v2 begins with a BatchNorm, on the pixels themselves.
    rules = [FreezeRule("backbone[0].*"), *FROZEN_BACKBONE]
    unreached = {f"backbone.0.{leaf}" for leaf in STATISTICS}
    for batchnorm in ("moving", "frozen"):  # in this order the compiled network has to change
        plan = planned(net, image, FreezeConfig("", rules, batchnorm=batchnorm))
        frozen = applied(net, plan)
        before = values(net)
        train(net, sgd(), image)
        held = {row.parameter for row in plan.rows if row.state == "frozen"}
        assert moved(before, values(net)) == set(before) - held - unreached
        statistics = sum(name.endswith(STATISTICS) for name in held)
        assert statistics >= 14 if batchnorm == "frozen" else statistics == 0
        assert 0 <= len(held) - frozen.audit() <= 1  # resnet_v2: its gamma that is no gamma


@pytest.mark.parametrize("batchnorm", ["frozen", "moving"])
def test_statistics_below_everything_trained_do_not_move(batchnorm):
    # MXNet on a CPU moves statistics in the backward pass only: then those of a frozen backbone
    # stay even if they may move, but the layer normalizes by the batch in training.
    net = ready(tiny(), IMAGE)
    plan = planned(net, IMAGE, FreezeConfig("", FROZEN_BACKBONE, batchnorm=batchnorm))
    assert any("MXNet moves their statistics on a GPU only" in note for note in plan.notes) == (
        batchnorm == "moving"
    )
    applied(net, plan)
    before = values(net)
    train(net, sgd(), IMAGE)
    assert moved(before, values(net)) == {"head.0.weight", "head.0.bias"}
    inputs = nd.random.normal(0.5, 2, (4, *IMAGE))
    with autograd.train_mode():
        trained = net(inputs).asnumpy()
    same = np.array_equal(trained, net(inputs).asnumpy())
    assert same == (batchnorm == "frozen")


@pytest.mark.parametrize("name", ["sgd", "nag", "adam", "adamw", "rmsprop", "adagrad"])
def test_no_optimizer_touches_what_is_frozen(compose, name):
    config = compose(f"optim={name}", "optim.lr=0.01", "optim.weight_decay=0.5").optim
    net = ready(tiny(), IMAGE)
    plan = planned(net, IMAGE, FreezeConfig("", FROZEN_BACKBONE))
    frozen = applied(net, plan)
    before = values(net)
    train(net, optimizer(config), IMAGE)
    assert moved(before, values(net)) == {"head.0.weight", "head.0.bias"}
    assert frozen.audit() == len(before) - 2


def test_a_multiplier_scales_the_step():
    # A step of plain SGD is proportional to the learning rate.
    steps = {}
    for decay in (1.0, 0.5):
        net = ready(tiny(), IMAGE)
        applied(net, planned(net, IMAGE, FreezeConfig("", [FreezeRule("*")], decay=decay)))
        before = values(net)
        train(net, optimizers.optimizer("sgd", lr=0.01, weight_decay=0.1), IMAGE, steps=1)
        after = values(net)
        steps[decay] = {
            name: np.linalg.norm(after[name] - before[name])
            for name in (
                "backbone.0.weight",
                "backbone.3.weight",
                "backbone.6.weight",
                "head.0.bias",
            )
        }
    ratios = [steps[0.5][name] / steps[1.0][name] for name in steps[1.0]]
    np.testing.assert_allclose(ratios, [0.125, 0.25, 0.5, 1], rtol=1e-4)


def test_an_audit_names_what_moved():
    net = ready(tiny(), IMAGE)
    frozen = applied(net, planned(net, IMAGE, FreezeConfig("", FROZEN_BACKBONE)))
    frozen.audit()
    layers = net._collect_params_with_prefix()
    for name in ("backbone.0.weight", "backbone.4.running_var"):
        layers[name].data()[0] += 1
    with pytest.raises(GluonexpError, match=r": backbone\.0\.weight, backbone\.4\.running_var;"):
        frozen.audit()


def test_what_is_frozen_after_training_is_taken_as_training_left_it():
    # A compiled network shows stale statistics until its device is waited for.
    net = ready(tiny(), IMAGE)
    applied(net, planned(net, IMAGE, FreezeConfig()))
    train(net, sgd(), IMAGE, steps=8, batch=64)
    rules = [FreezeRule("*.running_*", "frozen"), FreezeRule("*")]
    frozen = applied(net, planned(net, IMAGE, FreezeConfig("", rules)))
    nd.waitall()
    assert frozen.audit() == 4


def test_a_gamma_that_is_no_gamma_is_not_audited():
    # MXNet writes 1 into the gamma of scale=False, which it takes for 1 anyway.
    net = ready(Topped([nn.Conv2D(2, 3), nn.BatchNorm(scale=False)], [nn.Dense(3)]), IMAGE)
    net.backbone[1].gamma.data()[:] = 2
    frozen = applied(net, planned(net, IMAGE, FreezeConfig("", FROZEN_BACKBONE)))
    train(net, sgd(), IMAGE)
    assert frozen.audit() == 5
    assert values(net)["backbone.1.gamma"].tolist() == [1, 1]


def test_resuming_releases_what_epochs_behind_had_released_and_no_more():
    net = ready(tiny(), IMAGE)
    config = FreezeConfig("", FROZEN_BACKBONE, unfreeze=[Unfreeze(1, "backbone[-1].*")])
    plan = planned(net, IMAGE, config)
    for behind, due in ((1, ["backbone.6"]), (2, [])):
        frozen = applied(net, plan)
        frozen.resume(behind, frozen.digests)
        assert net.backbone[6].weight.grad_req == ("null" if due else "write")
        assert frozen.unfreeze(1) == due
        assert net.backbone[6].weight.grad_req == "write"


def test_digests_tell_all_that_was_frozen_at_the_start_also_when_it_is_released():
    net = ready(tiny(), IMAGE)
    config = FreezeConfig("", FROZEN_BACKBONE, unfreeze=[Unfreeze(1, "backbone[-1].*")])
    frozen = applied(net, planned(net, IMAGE, config))
    began = frozen.digests
    assert set(began) == set(values(net)) - HEAD
    frozen.unfreeze(1)
    train(net, sgd(), IMAGE)
    assert frozen.digests == began


def test_resuming_compares_with_the_digests_given():
    net = ready(tiny(), IMAGE)
    config = FreezeConfig("", FROZEN_BACKBONE, unfreeze=[Unfreeze(1, "backbone[-1].*")])
    plan = planned(net, IMAGE, config)
    began = applied(net, plan).digests
    for parameter in net.backbone[6].collect_params().values():  # as training moves it
        parameter.data()[0] += 1
    frozen = applied(net, plan)
    frozen.resume(2, began)
    assert frozen.digests == began  # for the next checkpoint
    assert frozen.audit() == len(began) - 2
    with pytest.raises(GluonexpError, match=r": backbone\.6\.weight, backbone\.6\.bias;"):
        applied(net, plan).resume(1, began)  # not yet released then
    del began["backbone.0.weight"]
    with pytest.raises(GluonexpError, match=r": backbone\.0\.weight;"):
        applied(net, plan).resume(2, began)
    # A checkpoint that does not say.
    frozen = applied(net, plan)
    net.backbone[0].weight.data()[0] += 1
    frozen.resume(1, None)
    assert frozen.audit() == len(frozen.digests)


@pytest.mark.parametrize("layer", [gluon.rnn.LSTM, gluon.rnn.GRU, gluon.rnn.RNN])
def test_a_recurrent_layer_is_frozen_in_part_and_released(layer):
    image = (4, 6)  # steps, features
    backbone = [layer(3, num_layers=2, layout="NTC"), nn.BatchNorm(axis=2)]
    net = ready(Topped(backbone, [nn.Dense(2)]), image)
    rules = [FreezeRule("backbone.0._unfused.0.*", "frozen"), FreezeRule("*")]
    config = FreezeConfig("", rules, unfreeze=[Unfreeze(1, "*i2h*")])
    frozen = applied(net, planned(net, image, config))
    lower = {f"backbone.0._unfused.0.{g}_{t}" for g in ("i2h", "h2h") for t in ("weight", "bias")}
    before = values(net)
    train(net, sgd(), image)
    assert moved(before, values(net)) == set(before) - lower
    assert frozen.audit() == 4
    assert frozen.unfreeze(1) == [
        "backbone.0._unfused.0.i2h_weight",
        "backbone.0._unfused.0.i2h_bias",
    ]
    train(net, sgd(), image)
    still = {name for name in lower if "h2h" in name}
    assert moved(before, values(net)) == set(before) - still
    assert frozen.audit() == 2


def test_an_unfreeze_audits_first():
    net = ready(tiny(), IMAGE)
    config = FreezeConfig("", FROZEN_BACKBONE, unfreeze=[Unfreeze(1, "backbone[-1].*")])
    frozen = applied(net, planned(net, IMAGE, config))
    net.backbone[6].weight.data()[0] += 1
    assert frozen.unfreeze(0) == []
    with pytest.raises(GluonexpError, match=r"backbone\.6\.weight"):
        frozen.unfreeze(1)


# Gradual unfreezing, by the real loop

IMAGE = (1, 6, 6)
BLOCKS = [
    {"backbone.0.weight", *(f"backbone.1.{leaf}" for leaf in ("gamma", "beta", *STATISTICS))},
    {"backbone.3.weight", *(f"backbone.4.{leaf}" for leaf in ("gamma", "beta", *STATISTICS))},
    {"backbone.6.weight", "backbone.6.bias"},
]
HEAD = {"head.0.weight", "head.0.bias"}
GRADUAL = FreezeConfig(
    "gradual",
    FROZEN_BACKBONE,
    decay=0.5,
    unfreeze=[
        Unfreeze(1, "backbone[-1].*"),
        Unfreeze(2, "backbone[-2].*"),
        Unfreeze(4, "backbone.*", lr_mult=2.0),
    ],
)
# The blocks that move in each epoch.
MOVING = [HEAD, HEAD | BLOCKS[2], *[HEAD | BLOCKS[2] | BLOCKS[1]] * 2, HEAD.union(*BLOCKS)]


def tiny():
    """Return three blocks, two of them with BatchNorm, under a linear classifier."""
    with mx.name.NameManager():
        backbone = [
            nn.Conv2D(4, 3, use_bias=False, in_channels=1),
            nn.BatchNorm(),
            nn.Activation("relu"),
            nn.Conv2D(4, 3, use_bias=False),
            nn.BatchNorm(),
            nn.Activation("relu"),
            nn.Conv2D(4, 1),
        ]
        return Topped(backbone, [nn.Dense(3)])


def optimizer(config):
    """Return the optimizer of a composed configuration."""
    options = {
        key: value
        for key, value in vars(config).items()
        if key not in ("decay_bias_and_norm", "clip_norm")  # not the optimizer's, but the step's
    }
    return optimizers.optimizer(**options)


class Snapshots(loop.Callback):
    """Keeps all values, as they are before training and after each epoch."""

    def __init__(self):
        self.taken = []

    def fit_start(self, fit):
        fit.engine.publish()
        self.taken.append(values(fit.engine.net))

    epoch_end = fit_start


class Run:
    """A fresh network under a policy, and all that training it needs."""

    def __init__(self, compose, trained_by, name, policy=GRADUAL):
        self.net = ready(tiny(), IMAGE)
        self.plan = planned(self.net, IMAGE, policy)
        self.said = []
        config = compose(f"optim={name}", "optim.lr=0.01", "optim.weight_decay=0.1").optim
        steps = Preprocessing(6, 6, 1, (0.0,), (1.0,))
        block = Preprocess(steps, (6, 6, 1))
        loss = gluon.loss.SoftmaxCrossEntropyLoss()
        if trained_by == "torch":
            library.load()
            from gluonexp.engines.torch.device import device
            from gluonexp.engines.torch.engine import TorchEngine

            settings, image, place = EngineConfig("torch"), (6, 6, 1), device("cpu")
            self.engine = TorchEngine(self.net, block, image, loss, config, settings, place)
        else:
            self.engine = MXNetEngine(self.net, block, loss, optimizer(config), mx.cpu())
        self.engine.freeze(self.plan)
        self.frozen = Frozen(self.engine, self.plan)
        self.snapshots = Snapshots()

    def fit(self, workdir, epochs, before=None, *others):
        """Train; `before` is what the checkpoint says that the network was loaded from."""
        history = before["history"] if before else ()
        frozen = before["identity"]["frozen"] if before else self.frozen.digests
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, size=40)
        noise = rng.integers(0, 60, size=(40, 6, 6, 1))
        images = (labels[:, None, None, None] * 80 + noise).astype(np.uint8)
        return loop.fit(
            self.engine,
            Split(images, labels),
            {"val": Split(images[:10], labels[:10])},
            loop.Settings(
                epochs=epochs,
                batch_size=16,
                seed=0,
                schedule=lambda step: 0.01,
                workdir=workdir,
                history=history,
                identity={"frozen": frozen},
            ),
            callbacks=[
                callbacks.Unfreezing(self.frozen, self.said.append),
                *others,
                callbacks.Checkpoint("train/loss", "min"),
                self.snapshots,
            ],
        )

    def resume(self, workdir):
        """Load the last checkpoint, and return what it says."""
        return checkpoint.load(workdir / "checkpoints" / "last", self.engine, optimizer=True)


@pytest.fixture(params=["mxnet", "torch"])
def trains(compose, request):
    """Make a `Run` of an optimizer and a policy."""
    return partial(Run, compose, request.param)


def add_one(engine, name):
    """Write to a parameter, as faulty code could."""
    state = engine.state()
    state.values[name][0] += 1
    engine.load(state, optimizer=False)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_each_block_moves_from_exactly_its_epoch_on(trains, tmp_path, name):
    run = trains(name)
    run.fit(tmp_path, epochs=5)
    taken = run.snapshots.taken
    assert [moved(*pair) for pair in itertools.pairwise(taken)] == MOVING
    assert run.frozen.audit() == 0  # nothing is frozen any more
    assert run.said == [
        "epoch 1: backbone.6 learns now",
        "epoch 2: backbone.3, backbone.4 learn now",
        "epoch 4: backbone.0, backbone.1 learn now",
    ]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_resumed_in_any_phase_equals_uninterrupted(trains, tmp_path, name):
    whole = trains(name)
    whole.fit(tmp_path / "whole", epochs=5)
    for behind in (1, 2, 3, 4):
        folder = tmp_path / str(behind)
        first = trains(name)
        first.fit(folder, epochs=behind)
        second = trains(name)
        second.fit(folder, 5, second.resume(folder))
        assert first.said + second.said == whole.said
        assert moved(whole.snapshots.taken[-1], values(second.net)) == set()
        taken = second.snapshots.taken
        assert [moved(*pair) for pair in itertools.pairwise(taken)] == MOVING[behind:]


class Moves(loop.Callback):
    """Writes to a frozen weight while the first epoch trains, as faulty code could."""

    def batch_end(self, fit):
        if fit.epoch == 0:
            add_one(fit.engine, "backbone.0.weight")


def test_resumed_training_is_audited_from_its_very_beginning(trains, tmp_path):
    policy = FreezeConfig("", FROZEN_BACKBONE)
    first = trains("sgd", policy)
    first.fit(tmp_path, 2, None, Moves())
    message = r"^frozen, but changed during training: backbone\.0\.weight;"
    with pytest.raises(GluonexpError, match=message):
        first.frozen.audit()
    second = trains("sgd", policy)
    with pytest.raises(GluonexpError, match=message):
        second.fit(tmp_path, 3, second.resume(tmp_path))
    assert second.snapshots.taken == []  # before anything is trained


def test_resumed_training_may_start_from_other_values_than_the_network_it_is_loaded_into(
    trains, tmp_path
):
    first, second, third = (trains("sgd", FreezeConfig("", FROZEN_BACKBONE)) for _ in "123")
    add_one(first.engine, "backbone.0.weight")  # as if its weights came from elsewhere
    first.frozen = Frozen(first.engine, first.plan)
    first.fit(tmp_path, 1)
    second.fit(tmp_path, 2, second.resume(tmp_path))
    third.fit(tmp_path, 3, third.resume(tmp_path))  # the digests go from checkpoint to checkpoint
    assert third.frozen.audit() == len(first.frozen.digests)
    assert third.frozen.digests == first.frozen.digests != trains("sgd").frozen.digests


def test_fresh_training_is_audited_from_when_the_policy_was_applied(trains, tmp_path):
    run = trains("sgd", FreezeConfig("", FROZEN_BACKBONE))
    add_one(run.engine, "backbone.0.weight")
    run.fit(tmp_path, 1, {"history": (), "identity": {"frozen": None}})
    with pytest.raises(GluonexpError, match=r"backbone\.0\.weight"):
        run.frozen.audit()
