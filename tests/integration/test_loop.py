"""The real loop in miniature: exact where it promises exactness."""

import numpy as np
import pytest

from gluonexp import build, callbacks, checkpoint, loop, runtime
from gluonexp.data.types import Split
from gluonexp.errors import GluonexpError
from gluonexp.mx import gluon, mx, nn
from gluonexp.predict import softmax


def _split(count, seed=0):
    """Return `count` 6x6 images whose brightness gives the class, of three."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=count)
    noise = rng.integers(0, 60, size=(count, 6, 6, 1))
    return Split((labels[:, None, None, None] * 80 + noise).astype(np.uint8), labels)


def _network(classes):
    """Return a network with what makes exactness hard: BatchNorm statistics and dropout."""
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        net.add(nn.Flatten(), nn.Dropout(0.3), nn.Dense(classes))
    return net


def _linear(classes):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Flatten(), nn.Dense(classes))
    return net


@pytest.fixture
def learner(compose):
    """Make a fresh learner of the network above."""

    def made(*overrides, network=_network):
        config = compose("dataset=synthetic", "trainer.batch_size=16", *overrides)
        plan = build.plan(config)
        spec = build.Spec(6, 6, 1, ("a", "b", "c"))
        steps = build.preprocessing(config.dataset, spec)
        runtime.seed_everything(config.seed)
        net = build.network(config, network, spec, steps, mx.cpu())
        block = build.preprocess(steps, spec)
        return build.learner(config, plan, net, block, mx.cpu(), 70)

    return made


def _fit(learner, tmp_path, **changed):
    arguments = {"epochs": 3, "batch_size": 16, "seed": 0, "workdir": tmp_path} | changed
    return loop.fit(learner, _split(70), {"val": _split(30, seed=1)}, **arguments)


def _weights(learner):
    mx.nd.waitall()
    return {
        name: parameter.data().asnumpy()
        for name, parameter in learner.net._collect_params_with_prefix().items()
    }


def _timeless(history):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in history]


def test_it_learns(learner, tmp_path):
    history = _fit(learner("optim.lr=0.05"), tmp_path, epochs=12).history
    assert history[-1]["train/loss"] < history[0]["train/loss"] / 2
    assert history[-1]["val/acc"] > 0.9
    assert [row["epoch"] for row in history] == list(range(12))


def test_the_same_seed_gives_bit_identical_runs(learner, tmp_path):
    one, two, other = learner(), learner(), learner("seed=1")
    first, second = _fit(one, tmp_path).history, _fit(two, tmp_path).history
    third = _fit(other, tmp_path, seed=1).history
    assert _timeless(first) == _timeless(second)
    assert _timeless(first) != _timeless(third)
    for name, value in _weights(one).items():
        np.testing.assert_array_equal(value, _weights(two)[name])


@pytest.mark.parametrize("optim", ["sgd", "nag", "adam", "adamw", "rmsprop"])
def test_resumed_equals_uninterrupted(learner, tmp_path, optim):
    chosen = f"optim={optim}", "scheduler=cosine", "scheduler.warmup_epochs=0.5"
    straight = learner(*chosen)
    expected = _fit(straight, tmp_path, epochs=3).history

    first = learner(*chosen)
    half = _fit(first, tmp_path, epochs=2)
    checkpoint.save(tmp_path / "half", first.net, first.trainer, {"history": half.history})
    second = learner(*chosen)
    meta = checkpoint.load(tmp_path / "half", second.net, second.trainer)
    resumed = _fit(second, tmp_path, epochs=3, history=meta["history"]).history

    assert _timeless(resumed) == _timeless(expected)
    for name, value in _weights(straight).items():
        np.testing.assert_array_equal(value, _weights(second)[name])


def test_statistics_in_a_checkpoint_are_those_of_the_last_step(learner, tmp_path):
    trained = learner()
    _fit(trained, tmp_path, callbacks=[callbacks.Checkpoint("val/acc", "max")])
    loaded = learner("seed=5")
    checkpoint.load(tmp_path / "checkpoints" / "last", loaded.net)
    for name, value in _weights(trained).items():
        np.testing.assert_array_equal(value, _weights(loaded)[name])
    split = _split(50, seed=2)
    assert loop.evaluate(trained, split, 7) == loop.evaluate(loaded, split, 7)


def test_short_batches_count_by_sample(learner):
    trained, split = learner(), _split(23)
    logits = loop.predict(trained, split, 23)
    scores = [loop.evaluate(trained, split, size) for size in (1, 5, 16, 23, 64)]
    losses = gluon.loss.SoftmaxCELoss()(mx.nd.array(logits), mx.nd.array(split.labels))
    for score in scores:
        assert score["acc"] == (logits.argmax(1) == split.labels).mean()
        assert score["loss"] == pytest.approx(losses.mean().asscalar(), rel=1e-5)


def test_a_short_batch_takes_a_step_of_its_own_size(learner):
    """The bias moves by lr times the mean of (softmax - one-hot) over 23 samples, not over 64."""
    trained = learner("optim=sgd", "optim.momentum=0", "optim.lr=0.5", network=_linear)
    split, before = _split(23), _weights(trained)["1.bias"]
    errors = softmax(loop.predict(trained, split, 64)) - np.eye(3)[split.labels]
    loop.fit(trained, split, {}, epochs=1, batch_size=64, seed=0, workdir=None)
    moved = _weights(trained)["1.bias"] - before
    np.testing.assert_allclose(moved, -0.5 * errors.mean(axis=0), rtol=1e-4)


class _Spy(loop.Callback):
    def __init__(self):
        self.calls = []

    def fit_start(self, fit):
        self.calls.append("fit_start")

    def epoch_start(self, fit):
        self.calls.append(f"epoch_start {fit.epoch}")

    def batch_end(self, fit):
        self.calls.append(f"batch_end {fit.step}")

    def epoch_end(self, fit):
        self.calls.append(f"epoch_end {fit.epoch}")

    def fit_end(self, fit):
        self.calls.append("fit_end")


def test_hooks_come_in_order(learner, tmp_path):
    spy = _Spy()
    _fit(learner(), tmp_path, epochs=2, batch_size=35, callbacks=[spy])
    assert spy.calls == [
        *("fit_start", "epoch_start 0", "batch_end 1", "batch_end 2", "epoch_end 0"),
        *("epoch_start 1", "batch_end 3", "batch_end 4", "epoch_end 1", "fit_end"),
    ]


def test_fit_end_is_called_when_a_callback_raises(learner, tmp_path):
    spy = _Spy()

    class Boom(loop.Callback):
        def batch_end(self, fit):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        _fit(learner(), tmp_path, callbacks=[spy, Boom()])
    assert spy.calls == ["fit_start", "epoch_start 0", "batch_end 1", "fit_end"]


def test_early_stopping_waits_for_patience_and_keeps_the_history(learner, tmp_path):
    stopping = callbacks.EarlyStopping("val/acc", "max", patience=2, min_delta=1.0)
    result = _fit(learner(), tmp_path, epochs=10, callbacks=[stopping])
    assert len(result.history) == 3  # the first sets the mark, two more do not pass it
    assert "val/acc has not improved for 2 epochs" in result.stopped


def test_the_best_checkpoint_is_the_best_epoch(learner, tmp_path):
    keep = callbacks.Checkpoint("val/loss", "min")
    history = _fit(learner("optim.lr=0.3"), tmp_path, epochs=6, callbacks=[keep]).history
    best = min(history, key=lambda row: row["val/loss"])
    again = learner()
    meta = checkpoint.load(tmp_path / "checkpoints" / "best", again.net)
    assert meta["epoch"] == best["epoch"]
    scores = loop.evaluate(again, _split(30, seed=1), 16)
    assert scores["loss"] == best["val/loss"]


def test_without_validation_the_last_epoch_is_the_best(learner, tmp_path):
    trained = learner()
    keep = callbacks.Checkpoint("val/acc", "max")
    loop.fit(
        trained,
        _split(70),
        {},
        epochs=2,
        batch_size=16,
        seed=0,
        workdir=tmp_path,
        callbacks=[keep],
    )
    assert checkpoint.load(tmp_path / "checkpoints" / "best", trained.net)["epoch"] == 1


def test_divergence_is_an_error_with_a_remedy(learner, tmp_path):
    with pytest.raises(GluonexpError, match=r"diverged.*lower optim\.lr"):
        _fit(
            learner("optim=sgd", "optim.lr=1e38"),
            tmp_path,
            callbacks=[callbacks.StopOnDivergence()],
        )


@pytest.mark.parametrize(
    ("mode", "values", "improved"),
    [
        ("max", [0.1, 0.3, 0.2, float("nan"), 0.4], [True, True, False, False, True]),
        ("min", [0.1, 0.3, float("nan"), 0.05], [True, False, False, True]),
    ],
)
def test_better_has_a_declared_direction(mode, values, improved):
    better = callbacks.Better("m", mode)
    assert [better.improved({"m": value}) for value in values] == improved


def test_cut_off_between_best_and_last_nothing_is_lost(learner, tmp_path, monkeypatch):
    """Die after `best` of the second epoch is written and before `last`; then go on."""
    straight = learner("optim.lr=0.05")
    keep = callbacks.Checkpoint("train/loss", "min")
    expected = _fit(straight, tmp_path / "straight", epochs=3, callbacks=[keep]).history

    saved, save = [], checkpoint.save

    def dying(folder, *arguments):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(folder.name)
        save(folder, *arguments)

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        keep = callbacks.Checkpoint("train/loss", "min")
        _fit(learner("optim.lr=0.05"), tmp_path / "cut", epochs=3, callbacks=[keep])
    monkeypatch.undo()
    assert saved == ["best", "last", "best"]

    again = learner("optim.lr=0.05")
    kept = tmp_path / "cut" / "checkpoints"
    history = checkpoint.load(kept / "last", again.net, again.trainer)["history"]
    keep = callbacks.Checkpoint("train/loss", "min")
    resumed = _fit(again, tmp_path / "cut", epochs=3, history=history, callbacks=[keep]).history
    assert _timeless(resumed) == _timeless(expected)
    best = checkpoint.load(kept / "best", again.net)
    assert best["epoch"] == min(expected, key=lambda row: row["train/loss"])["epoch"]


def test_one_callback_that_stops_does_not_cut_off_the_others(learner, tmp_path):
    class Stop(loop.Callback):
        def epoch_end(self, fit):
            raise loop.StopFit("enough")

    spy = _Spy()
    result = _fit(learner(), tmp_path, callbacks=[Stop(), spy])
    assert result.stopped == "enough"
    assert spy.calls[-2:] == ["epoch_end 0", "fit_end"]


def test_every_callback_is_ended_even_if_one_fails_at_it(learner, tmp_path):
    class Bad(loop.Callback):
        def fit_end(self, fit):
            raise RuntimeError("cannot end")

    spies = [_Spy(), _Spy()]
    with pytest.raises(RuntimeError, match="cannot end"):
        _fit(learner(), tmp_path, epochs=1, callbacks=[spies[0], Bad(), spies[1]])
    assert [spy.calls[-1] for spy in spies] == ["fit_end", "fit_end"]
