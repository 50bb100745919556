"""Dense layers trained in the parameters' own memory: MXNet's results, whatever it costs less."""

import threading

import numpy as np
import pytest

from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.data.batches import batches
from gluonexp.data.types import Split
from gluonexp.engines.mxnet import blas, optimizers
from gluonexp.engines.mxnet.blas import Team, gemm
from gluonexp.engines.mxnet.dense import Dense, DenseRest, Dropout, Relu, dense_rest, read
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.engines.mxnet.memory import Memory
from gluonexp.engines.mxnet.recorded import Recorded
from gluonexp.graph.graph import Graph, Output
from gluonexp.graph.symbols import traced

LOSS = gluon.loss.SoftmaxCrossEntropyLoss()
FEATURES = np.random.default_rng(0).normal(size=(96, 2, 5)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 96)


def network(*layers):
    net = nn.HybridSequential()
    net.add(*layers)
    mx.random.seed(3)
    net.initialize(mx.init.Xavier(magnitude=3), force_reinit=True)
    net(nd.zeros((1, 2, 5)))
    return net


def head(rate=0.0):
    return network(
        nn.Flatten(),
        nn.Dense(600, activation="relu"),  # more rows than a thread takes at once
        nn.Dropout(rate),
        nn.Dense(7, activation="relu", use_bias=False),
        nn.Dense(3),
    )


def rest(net, trainer, workers=2):
    layers = read(Graph.from_symbol(traced(net)), "data")
    assert layers is not None
    return DenseRest(layers, trainer, workers)


def batch(number, size=16):
    rows = np.random.default_rng(number).integers(0, len(FEATURES), size)
    return FEATURES[rows], nd.array(LABELS[rows])


def mxnet_step(net, trainer, features, labels):
    with autograd.record():
        losses = LOSS(net(nd.array(features)), labels)
    losses.backward()
    trainer.step(len(features))
    return losses.asnumpy()


def predicted(rest, features):
    return rest.logits(rest.put(features)).asnumpy()


def step(rest, features, labels):
    return rest.step(rest.put(features), lambda logits: LOSS(logits, labels))[0].asnumpy()


def values(net):
    nd.waitall()
    return [p.data().asnumpy() for p in net._collect_params_with_prefix().values()]


def assert_same(one, two, tolerance=2e-5):
    for left, right in zip(values(one), values(two), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.9])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_a_product_goes_into_part_of_an_array_in_place(turned, beta):
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(9, 11)).astype(np.float32)
    before, part = whole.copy(), whole[2:6, 3:8]
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 5)))
    wanted = 0.5 * a @ b + beta * part
    given = (np.ascontiguousarray(x.T).T if t else x for x, t in zip((a, b), turned, strict=True))
    gemm(part, *given, 0.5, beta)
    np.testing.assert_allclose(whole[2:6, 3:8], wanted, rtol=1e-5, atol=1e-6)
    whole[2:6, 3:8] = before[2:6, 3:8]
    np.testing.assert_array_equal(whole, before)


def test_a_product_that_cannot_be_in_place_is_refused():
    a, b = np.ones((4, 6), np.float32), np.ones((6, 5), np.float32)
    for out in (np.ones((5, 4), np.float32), np.ones((5, 4), np.float32).T, np.ones((4, 5))):
        with pytest.raises(ValueError, match=r"into|contiguous"):
            gemm(out, a, b)


def test_the_memory_of_a_large_array_is_its_own_and_keeps_its_values():
    array = nd.arange(3_000_000).reshape((3, 1_000_000))
    array.wait_to_read()
    view = Memory().view(array)
    np.testing.assert_array_equal(view, np.arange(3_000_000, dtype=np.float32).reshape(3, -1))
    view[1, 2] = -1
    assert array[1, 2].asscalar() == -1


def test_an_error_in_a_thread_is_raised_where_it_was_asked_for():
    def work(job, thread):
        raise ZeroDivisionError(job)

    with pytest.raises(ZeroDivisionError):
        Team(3).each(work, range(6))


def test_an_interrupt_waits_for_the_other_threads():
    """Nobody else may use, or free, the memory that they still write to."""
    both, done = threading.Barrier(2, timeout=100), []

    def work(job, thread):
        both.wait()
        if thread == 0:
            raise KeyboardInterrupt
        for _ in range(100):
            gemm(np.empty((64, 64), np.float32), *2 * [np.ones((64, 64), np.float32)])
        done.append(job)

    with pytest.raises(KeyboardInterrupt):
        Team(2).each(work, range(2))
    assert done


def test_a_chain_of_dense_layers_is_read_from_the_graph():
    net = head(0.25)
    first, second, last = (net[at] for at in (1, 3, 4))
    assert read(Graph.from_symbol(traced(net)), "data") == (
        Dense(first.weight.name, first.bias.name),
        Relu(),
        Dropout(0.25),
        Dense(second.weight.name, None),
        Relu(),
        Dense(last.weight.name, last.bias.name),
    )


class Twice(nn.HybridBlock):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(10)

    def hybrid_forward(self, F, x):
        return self.dense(self.dense(x))


class Residual(nn.HybridBlock):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(10)

    def hybrid_forward(self, F, x):
        return F.flatten(x) + self.dense(x)


OTHERS = {
    "tanh": lambda: (nn.Dense(3, activation="tanh"),),
    "batch norm": lambda: (nn.Dense(4), nn.BatchNorm(), nn.Dense(3)),
    "along the last axis": lambda: (nn.Dense(3, flatten=False),),
    "dropout of whole rows": lambda: (nn.Dense(4), nn.Dropout(0.5, axes=(0,)), nn.Dense(3)),
    "a layer used twice": lambda: (Twice(),),
    "no chain": lambda: (Residual(),),
}


@pytest.mark.parametrize("layers", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_mxnet(layers):
    net = network(*layers())
    trainer = gluon.Trainer(net.collect_params(), "sgd")
    graph = Graph.from_symbol(traced(net))
    assert read(graph, "data") is None
    assert dense_rest(graph, "data", trainer) is None


@pytest.mark.parametrize("name", ["nag", "adam", "adamw", "rmsprop", "clipped"])
def test_an_optimizer_whose_kernel_is_fast_is_left_to_mxnet(name):
    net = head()
    options = {"lr": 0.1, "weight_decay": 0.0}
    if name == "clipped":
        name, options["clip_gradient"] = "sgd", 1.0
    trainer = gluon.Trainer(net.collect_params(), optimizers.optimizer(name, **options))
    assert dense_rest(Graph.from_symbol(traced(net)), "data", trainer) is None


def test_without_the_product_of_scipy_all_is_left_to_mxnet(monkeypatch):
    def other():
        raise RuntimeError("this SciPy's sgemm takes other arguments")

    net = head()
    given = Graph.from_symbol(traced(net)), "data", gluon.Trainer(net.collect_params(), "sgd")
    assert dense_rest(*given) is not None
    monkeypatch.setattr(blas, "_sgemm", other)
    assert dense_rest(*given) is None


RULES = {
    "sgd": ("sgd", 0.02, {}),
    "momentum": ("sgd", 0.005, {"momentum": 0.9}),
    "adagrad": ("adagrad", 0.01, {}),
}


def pair(name, lr, options, decay, frozen=()):
    """Return two equal networks and their trainers, with a rate and a decay of their own each."""
    found = []
    for _ in range(2):
        net = head()
        optimizers.exempt_bias_and_norm(net)
        for at, parameter in enumerate(net.collect_params().values()):
            parameter.lr_mult = 1 + at / 4
            if at in frozen:
                parameter.grad_req = "null"
            if at == 2:
                parameter.wd_mult = 3.0
        made = optimizers.optimizer(name, lr=lr, weight_decay=decay, **options)
        found += [net, gluon.Trainer(net.collect_params(), made)]
    return found


STEPS = {
    **{f"{name}, decay": (*rule, 0.1, 20) for name, rule in RULES.items()},
    **{name: (*rule, 0.0, 20) for name, rule in RULES.items()},
    "many": (*RULES["momentum"], 0.01, 200),
}


@pytest.mark.parametrize(("name", "lr", "options", "decay", "steps"), STEPS.values(), ids=STEPS)
def test_each_step_is_mxnets_own(name, lr, options, decay, steps):
    net, trainer, other, dense_trainer = pair(name, lr, options, decay)
    dense = rest(other, dense_trainer)
    for number in range(steps):
        for each in (trainer, dense_trainer):
            each.set_learning_rate(lr * 0.1 ** (number // 80) * min(1, (1 + number) / 10))
        features, labels = batch(number, 16 if number % 5 else 3)
        wanted = mxnet_step(net, trainer, features, labels)
        np.testing.assert_allclose(step(dense, features, labels), wanted, rtol=0, atol=2e-5)
    assert_same(net, other)
    counts = (each._optimizer._index_update_count for each in (trainer, dense_trainer))
    assert next(counts) == next(counts)


@pytest.mark.parametrize("name", ["momentum", "adagrad"])
@pytest.mark.parametrize("frozen", [(0, 1), (2,), (1, 4), (3, 4), (0, 1, 2, 3, 4)], ids=str)
def test_what_is_frozen_stays_and_the_others_move_as_by_mxnet(frozen, name):
    net, trainer, other, dense_trainer = pair(*RULES[name], 0.1, frozen)
    dense, start = rest(other, dense_trainer), values(other)
    for number in range(5):
        features, labels = batch(number)
        if len(frozen) < 5:
            mxnet_step(net, trainer, features, labels)
        step(dense, features, labels)
    assert_same(net, other)
    same = [np.array_equal(*both) for both in zip(start, values(other), strict=True)]
    assert same == [at in frozen for at in range(5)]


def test_a_bias_learns_under_a_frozen_weight():
    net, _, other, _ = pair("sgd", 0.1, {}, 0.0)
    for each in (net, other):  # MXNet on a CPU gives such a bias no gradient: its weight learns
        each[4].weight.grad_req = "null" if each is other else "write"
    features, labels = batch(0)
    mxnet_step(net, gluon.Trainer([net[4].bias], "sgd"), features, labels)
    dense = rest(other, gluon.Trainer(other.collect_params(), "sgd"))
    step(dense, features, labels)
    np.testing.assert_allclose(values(net)[4], values(other)[4], atol=1e-6)


def test_a_prediction_by_mxnet_in_between_does_no_harm():
    net, trainer, other, dense_trainer = pair("sgd", 0.02, {"momentum": 0.9}, 0.0)
    other.hybridize(static_alloc=True, static_shape=True)
    dense = rest(other, dense_trainer)
    for number in range(5):
        features, labels = batch(number)
        mxnet_step(net, trainer, features, labels)
        step(dense, features, labels)
        wanted = other(nd.array(FEATURES)).asnumpy()  # lays weights out anew
        np.testing.assert_allclose(predicted(dense, FEATURES), wanted, atol=1e-5)
    assert_same(net, other)


def test_the_number_of_threads_changes_nothing():
    found = []
    for workers in (1, 3):
        net = head(0.5)
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"momentum": 0.9})
        dense = rest(net, trainer, workers)
        for number in range(3):
            step(dense, *batch(number))
        found.append([*values(net), predicted(dense, FEATURES)])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_dropout_keeps_the_mean_and_depends_on_the_seed_alone():
    net = network(nn.Dropout(0.25), nn.Dense(1, use_bias=False, weight_initializer="ones"))
    dense = rest(net, gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.0}))
    ones = np.ones((4000, 10), np.float32)

    def logits(seed):
        dense.seed(seed)
        return dense.step(dense.put(ones), lambda logits: logits.sum(axis=1))[1].asnumpy()

    first = logits(1)
    np.testing.assert_array_equal(logits(1), first)
    assert not np.array_equal(logits(2), first)
    assert first.mean() == pytest.approx(10, abs=0.1)  # ten standard errors: 0.29
    kept = first * 0.75
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    np.testing.assert_allclose(kept.var(), 10 * 0.75 * 0.25, rtol=0.15)
    np.testing.assert_array_equal(predicted(dense, ones), np.full((4000, 1), 10))


def test_what_is_not_finite_shows_in_the_loss_and_nowhere_else():
    net, _, _, _ = pair("sgd", 1.0, {}, 0.0)
    dense = rest(net, gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e20}))
    features, labels = batch(0)
    losses = [step(dense, features, labels) for _ in range(5)]
    assert not np.isfinite(losses[-1]).all()


IMAGES = np.random.default_rng(2).integers(0, 256, (40, 5, 5, 1), np.uint8)
LABELLED = np.random.default_rng(3).integers(0, 3, 40)


def engine(clip_norm, start):
    """Return an engine of a network with a frozen convolution; `start`: behind that.

    And what makes its inputs.
    """
    net = nn.HybridSequential()
    net.add(nn.Conv2D(2, 3), nn.Dense(8, activation="relu"), nn.Dropout(0.0), nn.Dense(3))
    mx.random.seed(5)
    net.initialize(mx.init.Xavier(), force_reinit=True)
    preprocess = nn.HybridSequential()
    preprocess.add(nn.HybridLambda(lambda F, x: x.astype("float32").transpose((0, 3, 1, 2)) / 255))
    net(preprocess(nd.array(IMAGES[:1])))
    net[0].collect_params().setattr("grad_req", "null")
    made = optimizers.optimizer("sgd", lr=0.1, weight_decay=0.01, momentum=0.9)
    found = MXNetEngine(net, preprocess, LOSS, made, mx.cpu(), clip_norm)
    inputs = IMAGES
    if start:
        inputs = net[0](preprocess(nd.array(IMAGES))).asnumpy()
        nodes = Graph.from_symbol(traced(net)).nodes
        front = next(at for at, node in enumerate(nodes) if node.op == "Convolution")
        found.start(Output(front))
        assert isinstance(found._computation, Recorded if clip_norm else DenseRest)
    return found, Split(inputs, LABELLED)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_an_engine_behind_its_front_trains_as_the_whole_and_each_goes_on_from_the_other(clip_norm):
    (live, images), (behind, features) = engine(clip_norm, False), engine(clip_norm, True)

    def train(epochs):
        for epoch in epochs:
            for one, split in ((live, images), (behind, features)):
                one.seed(0, epoch)
                one.reset()
                for part in batches(split, 16):
                    one.step(part, 0.1)
            found, wanted = behind.running(), live.running()
            assert found.loss == pytest.approx(wanted.loss, abs=1e-5)
            assert (found.grad_norm is None) == (clip_norm is None)
            assert found.grad_norm == (wanted.grad_norm and pytest.approx(wanted.grad_norm))
        np.testing.assert_allclose(behind.logits(features, 16), live.logits(images, 16), atol=1e-5)
        kept = behind.evaluate(features, 16, keep_logits=True)
        assert kept.acc == live.evaluate(images, 16).acc
        np.testing.assert_array_equal(kept.logits, behind.logits(features, 16))
        one, two = live.state(), behind.state()
        assert one.updates == two.updates
        for name, value in one.slots["momentum"].items():
            np.testing.assert_allclose(two.slots["momentum"][name], value, atol=1e-5)

    train(range(3))
    states = live.state(), behind.state()
    live.load(states[1], optimizer=True)
    behind.load(states[0], optimizer=True)
    train(range(3, 6))
