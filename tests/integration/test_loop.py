"""The real loop in miniature: exact where it promises exactness."""

import re

import numpy as np
import pytest

from gluonexp import assembly
from gluonexp.assembly import engines, networks
from gluonexp.base import better
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import softmax
from gluonexp.base.mx import gluon, mx, nn
from gluonexp.data import augment
from gluonexp.data.types import Batch, Split
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.training import callbacks, checkpoint, loop


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


def _plain(classes):
    """Return the same without dropout, which no two engines draw alike."""
    net = _network(classes)
    net[4]._rate = 0.0
    return net


def _linear(classes):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Flatten(), nn.Dense(classes))
    return net


@pytest.fixture(params=["mxnet", "torch"])
def engine(compose, request):
    """Make a fresh engine for the network above, with its schedule."""

    def made(*overrides, network=_network, name=request.param):
        fixed = f"engine={name}", "device=cpu", "dataset=synthetic", "trainer.batch_size=16"
        config = compose(*fixed, *overrides)
        engines.device(config)
        plan = assembly.components(config)
        spec = assembly.Spec(6, 6, 1, ("a", "b", "c"))
        steps = networks.preprocessing(config.dataset, spec)
        networks.seed(config.seed)
        net = networks.network(config, network, spec, steps)
        networks.initialize(config, net, spec, mx.cpu())
        engine = engines.engine(config, plan, net, steps, spec, mx.cpu())
        engine.schedule = assembly.schedule(config, plan, 70)
        return engine

    return made


def _fit(engine, tmp_path, callbacks=(), **changed):
    settings = _settings(engine, tmp_path, **changed)
    return loop.fit(engine, _split(70), {"val": _split(30, seed=1)}, settings, callbacks)


def _settings(engine, workdir=None, **changed):
    arguments = {"epochs": 3, "batch_size": 16, "seed": 0, "schedule": engine.schedule} | changed
    return loop.Settings(workdir=workdir, **arguments)


def _step(engine, split):
    """Train on the whole split as one batch."""
    return loop.fit(engine, split, {}, _settings(engine, epochs=1, batch_size=64))


def _weights(engine):
    engine.publish()
    return {
        name: parameter.data().asnumpy()
        for name, parameter in engine.net._collect_params_with_prefix().items()
    }


def _timeless(history):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in history]


def test_it_learns(engine, tmp_path):
    history = _fit(engine("optim.lr=0.05"), tmp_path, epochs=12).history
    assert history[-1]["train/loss"] < history[0]["train/loss"] / 2
    assert history[-1]["val/acc"] > 0.9
    assert [row["epoch"] for row in history] == list(range(12))


def test_the_same_seed_gives_bit_identical_runs(engine, tmp_path):
    one, two, other = engine(), engine(), engine("seed=1")
    first, second = _fit(one, tmp_path).history, _fit(two, tmp_path).history
    third = _fit(other, tmp_path, seed=1).history
    assert _timeless(first) == _timeless(second)
    assert _timeless(first) != _timeless(third)
    for name, value in _weights(one).items():
        np.testing.assert_array_equal(value, _weights(two)[name])


@pytest.mark.parametrize(
    "optim",
    ["sgd", "nag", "adam", "adamw", "rmsprop", "adagrad", "sgd optim.clip_norm=0.5"],
)
def test_resumed_equals_uninterrupted(engine, tmp_path, optim):
    chosen = *f"optim={optim}".split(), "scheduler=cosine", "scheduler.warmup_epochs=0.5"
    straight = engine(*chosen)
    expected = _fit(straight, tmp_path, epochs=3).history

    first = engine(*chosen)
    half = _fit(first, tmp_path, epochs=2)
    checkpoint.save(tmp_path / "half", first.state(), {"history": half.history})
    second = engine(*chosen)
    meta = checkpoint.load(tmp_path / "half", second, optimizer=True)
    resumed = _fit(second, tmp_path, epochs=3, history=meta["history"]).history

    assert _timeless(resumed) == _timeless(expected)
    for name, value in _weights(straight).items():
        np.testing.assert_array_equal(value, _weights(second)[name])


class _Cut(loop.Callback):
    """Ends training after so many steps, and saves where it can resume, as a checkpoint does."""

    def __init__(self, folder, after):
        self._folder, self._after = folder, after

    def batch_end(self, fit):
        if fit.resumable:
            meta = {"history": list(fit.history), "step": fit.done}
            checkpoint.save(self._folder, fit.engine.state(), meta)
        if fit.step == self._after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optim", ["sgd", "adam optim.clip_norm=0.5"])
@pytest.mark.parametrize("after", [2, 9])
def test_within_an_epoch_resumed_equals_uninterrupted(engine, tmp_path, optim, after):
    """Five steps an epoch, of which the second and the fourth are saved."""
    chosen = *f"optim={optim}".split(), "scheduler=cosine", "scheduler.warmup_epochs=0.5"
    mix = augment.mixup(0.4, first=augment.flip_crop(pad=1))
    by_steps = {"augment": mix, "checkpoint_every_steps": 2}
    straight, spy = engine(*chosen), _Cut(tmp_path / "step", None)
    expected = _fit(straight, tmp_path, [spy], **by_steps).history
    with pytest.raises(KeyboardInterrupt):
        _fit(engine(*chosen), tmp_path, [_Cut(tmp_path / "step", after)], **by_steps)
    second = engine(*chosen)
    meta = checkpoint.load(tmp_path / "step", second, optimizer=True)
    assert (len(meta["history"]), meta["step"]) == ((0, 2) if after == 2 else (1, 4))
    more = {"history": meta["history"], "done": meta["step"], **by_steps}
    resumed = _fit(second, tmp_path, [spy], **more).history
    assert _timeless(resumed) == _timeless(expected)
    for name, value in _weights(straight).items():
        np.testing.assert_array_equal(value, _weights(second)[name])


@pytest.mark.parametrize("optim", ["sgd", "nag", "adam", "adamw", "rmsprop", "adagrad"])
def test_either_engine_goes_on_from_a_checkpoint_of_the_other(engine, tmp_path, optim):
    """As the one that wrote it would have gone on, but for rounding."""
    chosen = f"optim={optim}", "optim.lr=0.01", "optim.weight_decay=0.01"
    first = engine(*chosen, network=_plain)
    half = _fit(first, tmp_path, epochs=2)
    checkpoint.save(tmp_path / "half", first.state(), {"history": half.history})
    going = {}
    for name in ("mxnet", "torch"):
        going[name] = engine(*chosen, network=_plain, name=name)
        history = checkpoint.load(tmp_path / "half", going[name], optimizer=True)["history"]
        _fit(going[name], tmp_path, epochs=4, history=history)
    one, other = (trained.state() for trained in going.values())
    assert one.updates == other.updates
    for kind, values in {"": one.values, **one.slots}.items():
        theirs = other.slots[kind] if kind else other.values
        for name, value in values.items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(theirs[name], value, rtol=0, atol=1e-4 * scale)


def test_statistics_in_a_checkpoint_are_those_of_the_last_step(engine, tmp_path):
    trained = engine()
    _fit(trained, tmp_path, callbacks=[callbacks.Checkpoint("val/acc", "max")])
    loaded = engine("seed=5")
    checkpoint.load(tmp_path / "checkpoints" / "last", loaded, optimizer=False)
    for name, value in _weights(trained).items():
        np.testing.assert_array_equal(value, _weights(loaded)[name])
    split = _split(50, seed=2)
    assert trained.evaluate(split, 7) == loaded.evaluate(split, 7)


def test_short_batches_count_by_sample(engine):
    trained, split = engine(), _split(23)
    logits = trained.logits(split, 23)
    scores = [trained.evaluate(split, size) for size in (1, 5, 16, 23, 64)]
    losses = gluon.loss.SoftmaxCELoss()(mx.nd.array(logits), mx.nd.array(split.labels))
    for score in scores:
        assert score.acc == (logits.argmax(1) == split.labels).mean()
        assert score.loss == pytest.approx(losses.mean().asscalar(), rel=1e-5)


def test_the_logits_that_were_scored_are_kept_where_they_are_asked_for(engine):
    trained, split = engine(), _split(23)
    scores = trained.evaluate(split, 5, keep_logits=True)
    assert scores == trained.evaluate(split, 5)
    assert trained.evaluate(split, 5).logits is None
    np.testing.assert_array_equal(scores.logits, trained.logits(split, 5))


def test_a_short_batch_takes_a_step_of_its_own_size(engine):
    """The bias moves by lr times the mean of (softmax - one-hot) over 23 samples, not over 64."""
    trained = engine("optim=sgd", "optim.momentum=0", "optim.lr=0.5", network=_linear)
    split, before = _split(23), _weights(trained)["1.bias"]
    errors = softmax(trained.logits(split, 64)) - np.eye(3)[split.labels]
    _step(trained, split)
    moved = _weights(trained)["1.bias"] - before
    np.testing.assert_allclose(moved, -0.5 * errors.mean(axis=0), rtol=1e-4)


def _mean_gradient(engine, split):
    """Return the gradient of the mean loss of a linear network, by hand: weight, then bias."""
    pixels = split.images.reshape(len(split), -1) / 255.0
    errors = softmax(engine.logits(split, 64)) - np.eye(3)[split.labels]
    return errors.T @ pixels / len(split), errors.mean(axis=0)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_the_mean_gradient_is_shortened_to_the_norm_asked_for(engine, factor):
    plain = "optim=sgd", "optim.momentum=0", "optim.lr=0.5"
    split = _split(23)
    weight, bias = _mean_gradient(engine(*plain, network=_linear), split)
    norm = np.sqrt((weight**2).sum() + (bias**2).sum())
    trained = engine(*plain, f"optim.clip_norm={factor * norm}", network=_linear)
    before = _weights(trained)
    fit = _step(trained, split)
    scale = -0.5 * min(factor, 1)
    after = _weights(trained)
    for name, gradient in (("1.weight", weight), ("1.bias", bias)):
        moved = after[name] - before[name]
        np.testing.assert_allclose(moved, scale * gradient, rtol=1e-3, atol=1e-6)
    assert fit.metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_norm_above_every_gradient_changes_no_bit(engine, tmp_path):
    free, clipped = engine("optim=sgd"), engine("optim=sgd", "optim.clip_norm=1e9")
    _fit(free, tmp_path)
    history = _fit(clipped, tmp_path).history
    assert all(row["optim/grad_norm"] > 0 for row in history)
    for name, value in _weights(free).items():
        np.testing.assert_array_equal(value, _weights(clipped)[name])


def test_clipping_knows_of_trained_parameters_only(engine):
    chosen = "optim=sgd", "optim.momentum=0", "optim.lr=0.5", "optim.clip_norm=1e-3"
    split, trained = _split(23), engine(*chosen, network=_linear)
    before, (weight, _) = _weights(trained), _mean_gradient(trained, split)
    trained.net._collect_params_with_prefix()["1.bias"].grad_req = "null"
    trained.start(None)  # takes notice
    fit = _step(trained, split)
    norm = np.sqrt((weight**2).sum())
    assert fit.metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-5)
    moved = _weights(trained)["1.weight"] - before["1.weight"]
    np.testing.assert_allclose(moved, -0.5 * 1e-3 * weight / norm, rtol=1e-2, atol=1e-6)
    np.testing.assert_array_equal(_weights(trained)["1.bias"], before["1.bias"])


def test_the_norm_of_a_large_layer_is_not_lost_in_rounding():
    """2e7 equal squares: added one by one in float32, they would stop to count at 2**24."""
    net = nn.Dense(2000, use_bias=False, in_units=10000)
    net.initialize(mx.init.Zero())
    engine = MXNetEngine(
        net,
        lambda pixels: pixels.astype("float32"),
        lambda logits, labels: logits.sum(axis=1),
        mx.optimizer.create("sgd"),
        mx.cpu(),
        clip_norm=1.0,
    )
    engine.step(Batch(np.ones((1, 10000), np.uint8), np.ones(1), np.ones(1)), 0.1)
    assert engine.running().grad_norm == pytest.approx(np.sqrt(2e7), rel=1e-3)


def test_clipping_does_not_hide_divergence(engine, tmp_path):
    with pytest.raises(GluonexpError, match="diverged"):
        _fit(
            engine("optim=sgd", "optim.lr=1e38", "optim.clip_norm=1e9"),
            tmp_path,
            callbacks=[callbacks.StopOnDivergence()],
        )


def test_mixup_trains_on_the_blended_loss_of_both_labels(engine):
    split = _split(8)
    share = np.linspace(0.5, 1, 8).astype(np.float32)
    others = np.roll(split.labels, 1)
    trained = engine("optim=sgd", "optim.momentum=0", "optim.lr=0.5", network=_linear)
    before = _weights(trained)["1.bias"]
    soft = share[:, None] * np.eye(3)[split.labels] + (1 - share[:, None]) * np.eye(3)[others]
    probabilities = softmax(trained.logits(split, 64))
    done = trained.step(Batch(split.images, split.labels, others, share), 0.5)
    expected = -(soft * np.log(probabilities)).sum(axis=1)
    assert done.loss() == pytest.approx(expected.mean(), rel=1e-5)
    moved = _weights(trained)["1.bias"] - before
    np.testing.assert_allclose(moved, -0.5 * (probabilities - soft).mean(axis=0), rtol=1e-4)
    assert trained.running().acc == (probabilities.argmax(axis=1) == split.labels).mean()


def test_mixup_and_label_smoothing_learn_and_resume_exactly(engine, tmp_path):
    chosen = "optim.lr=0.05", "loss.label_smoothing=0.1"
    mix = augment.mixup(0.4, first=augment.flip_crop(pad=1))
    straight = engine(*chosen)
    expected = _fit(straight, tmp_path, epochs=8, augment=mix).history
    assert expected[-1]["val/acc"] > 0.9
    first = engine(*chosen)
    half = _fit(first, tmp_path, epochs=3, augment=mix)
    checkpoint.save(tmp_path / "half", first.state(), {"history": half.history})
    second = engine(*chosen)
    history = checkpoint.load(tmp_path / "half", second, optimizer=True)["history"]
    resumed = _fit(second, tmp_path, epochs=8, history=history, augment=mix).history
    assert _timeless(resumed) == _timeless(expected)


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


def test_hooks_come_in_order(engine, tmp_path):
    spy = _Spy()
    _fit(engine(), tmp_path, epochs=2, batch_size=35, callbacks=[spy])
    assert spy.calls == [
        *("fit_start", "epoch_start 0", "batch_end 1", "batch_end 2", "epoch_end 0"),
        *("epoch_start 1", "batch_end 3", "batch_end 4", "epoch_end 1", "fit_end"),
    ]


def test_fit_end_is_called_when_a_callback_raises(engine, tmp_path):
    spy = _Spy()

    class Boom(loop.Callback):
        def batch_end(self, fit):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        _fit(engine(), tmp_path, callbacks=[spy, Boom()])
    assert spy.calls == ["fit_start", "epoch_start 0", "batch_end 1", "fit_end"]


def test_early_stopping_waits_for_patience_and_keeps_the_history(engine, tmp_path):
    stopping = callbacks.EarlyStopping("val/acc", "max", patience=2, min_delta=1.0)
    result = _fit(engine(), tmp_path, epochs=10, callbacks=[stopping])
    assert len(result.history) == 3  # the first sets the mark, two more do not pass it
    assert "val/acc has not improved for 2 epochs" in result.ending.reason


def test_the_best_checkpoint_is_the_best_epoch(engine, tmp_path):
    keep = callbacks.Checkpoint("val/loss", "min")
    history = _fit(engine("optim.lr=0.3"), tmp_path, epochs=6, callbacks=[keep]).history
    best = min(history, key=lambda row: row["val/loss"])
    again = engine()
    meta = checkpoint.load(tmp_path / "checkpoints" / "best", again, optimizer=False)
    assert meta["epoch"] == best["epoch"]
    scores = again.evaluate(_split(30, seed=1), 16)
    assert scores.loss == best["val/loss"]


def test_without_validation_the_last_epoch_is_the_best(engine, tmp_path):
    trained = engine()
    keep = callbacks.Checkpoint("val/acc", "max")
    loop.fit(trained, _split(70), {}, _settings(trained, tmp_path, epochs=2), [keep])
    best = tmp_path / "checkpoints" / "best"
    assert checkpoint.load(best, trained, optimizer=False)["epoch"] == 1


def test_what_is_not_finite_is_not_kept(engine, tmp_path):
    """ReLU hides the NaN of a layer before it, so that every loss is a number."""
    trained = engine()
    state = trained.state()
    name = next(iter(state.values))
    state.values[name][...] = np.nan
    trained.load(state, optimizer=False)
    fit = loop.Fit(
        trained, _settings(trained, tmp_path), _split(1), {}, metrics={"train/loss": 1.0}
    )
    with pytest.raises(GluonexpError, match=f"diverged: {name} is not finite after epoch 0"):
        callbacks.Checkpoint("val/acc", "max").epoch_end(fit)
    assert not list(tmp_path.iterdir())


def test_divergence_is_an_error_with_a_remedy(engine, tmp_path):
    with pytest.raises(GluonexpError, match=r"diverged.*lower optim\.lr"):
        _fit(
            engine("optim=sgd", "optim.lr=1e38"),
            tmp_path,
            callbacks=[callbacks.StopOnDivergence()],
        )


def test_a_loss_that_is_no_number_ends_training_within_the_epoch(engine, tmp_path):
    """It names the step, from which it was found a few steps later, and where to go back to."""
    spy = _Spy()
    with pytest.raises(GluonexpError) as ended:
        _fit(
            engine("optim=sgd"),
            tmp_path,
            [spy, callbacks.StopOnDivergence()],
            batch_size=2,
            schedule=lambda step: 0.01 if step < 40 else 1e38,
        )
    said = re.fullmatch(
        r"training diverged: the loss of step (4\d), in epoch 1, is not finite; go back to epoch "
        r"0, and lower optim\.lr \(now 1e\+38\) or warm up \(scheduler\.warmup_epochs=1\)",
        str(ended.value),
    )
    assert said is not None, ended.value
    last = int(spy.calls[-2].removeprefix("batch_end "))
    assert int(said[1]) < last < 70


@pytest.mark.parametrize(
    ("mode", "values", "improved"),
    [
        ("max", [0.1, 0.3, 0.2, float("nan"), 0.4], [True, True, False, False, True]),
        ("min", [0.1, 0.3, float("nan"), 0.05], [True, False, False, True]),
    ],
)
def test_better_has_a_declared_direction(mode, values, improved):
    watched = better.Better("m", mode)
    assert [watched.improved({"m": value}) for value in values] == improved


def test_cut_off_between_best_and_last_nothing_is_lost(engine, tmp_path, monkeypatch):
    """Die after `best` of the second epoch is written and before `last`; then go on."""
    straight = engine("optim.lr=0.05")
    keep = callbacks.Checkpoint("train/loss", "min")
    expected = _fit(straight, tmp_path / "straight", epochs=3, callbacks=[keep]).history

    copied, copy = [], checkpoint.copy

    def dying(source, folder):
        if copied:
            raise KeyboardInterrupt
        copied.append(folder.name)
        copy(source, folder)

    monkeypatch.setattr(checkpoint, "copy", dying)
    with pytest.raises(KeyboardInterrupt):
        keep = callbacks.Checkpoint("train/loss", "min")
        _fit(engine("optim.lr=0.05"), tmp_path / "cut", epochs=3, callbacks=[keep])
    monkeypatch.undo()
    assert copied == ["last"]
    assert [
        len(checkpoint.read_meta(tmp_path / "cut" / "checkpoints" / name)["history"])
        for name in ("best", "last")
    ] == [2, 1]

    again = engine("optim.lr=0.05")
    kept = tmp_path / "cut" / "checkpoints"
    history = checkpoint.load(kept / "last", again, optimizer=True)["history"]
    keep = callbacks.Checkpoint("train/loss", "min")
    resumed = _fit(again, tmp_path / "cut", epochs=3, history=history, callbacks=[keep]).history
    assert _timeless(resumed) == _timeless(expected)
    best = checkpoint.load(kept / "best", again, optimizer=False)
    assert best["epoch"] == min(expected, key=lambda row: row["train/loss"])["epoch"]


def test_one_callback_that_stops_does_not_cut_off_the_others(engine, tmp_path):
    class Stop(loop.Callback):
        def epoch_end(self, fit):
            raise loop.StopFit("enough")

    spy = _Spy()
    result = _fit(engine(), tmp_path, callbacks=[Stop(), spy])
    assert result.ending.reason == "enough"
    assert spy.calls[-2:] == ["epoch_end 0", "fit_end"]


def test_every_callback_is_ended_even_if_one_fails_at_it(engine, tmp_path):
    class Bad(loop.Callback):
        def fit_end(self, fit):
            raise RuntimeError("cannot end")

    spies = [_Spy(), _Spy()]
    with pytest.raises(RuntimeError, match="cannot end"):
        _fit(engine(), tmp_path, epochs=1, callbacks=[spies[0], Bad(), spies[1]])
    assert [spy.calls[-1] for spy in spies] == ["fit_end", "fit_end"]
