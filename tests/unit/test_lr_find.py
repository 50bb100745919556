"""The learning-rate search: on real networks, and on curves whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gluonexp import assembly
from gluonexp.assembly import engines, networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.config.schema import LrFindConfig
from gluonexp.data.types import Split
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.experiment import lr_find
from gluonexp.report.lr_curve import lr_curve
from gluonexp.tracking import Tracker
from gluonexp.training import loop

STAR = (230, 159, 0)


def _curve(losses, start=1e-6, end=10.0, steps=100):
    """Return the curve that a search with these batch losses (S,) would have made, to its end."""
    lrs = start * (end / start) ** (np.arange(len(losses)) / (steps - 1))
    decay = 1 - 10 / steps
    weights = decay ** np.arange(len(losses))
    smoothed = [
        (losses[: at + 1] * weights[at::-1]).sum() / weights[: at + 1].sum()
        for at in range(len(losses))
    ]
    return lr_find.LrCurve(lrs, np.asarray(losses, float), np.array(smoothed), steps // 10)


def _search(engine, split, batch_size=32, seed=0, **changed):
    wanted = LrFindConfig(**{"steps": 100} | changed)
    return lr_find.search(engine, split, _settings(batch_size, seed), wanted)


def _settings(batch_size=32, seed=0, schedule=None):
    return loop.Settings(1, batch_size, seed, schedule, workdir=None)


@pytest.fixture(scope="module")
def digits():
    """Make engines for a small network on the digits, and the data."""
    from gluonexp import run

    def made(*overrides):
        config = run.compose("model=mlp", "model.hidden=[32]", *overrides)
        plan = assembly.components(config)
        spec = plan.source.spec()
        steps = networks.preprocessing(config.dataset, spec)
        networks.seed(config.seed)
        net = networks.network(config, plan.model, spec, steps)
        networks.initialize(config, net, spec, mx.cpu())
        data = assembly.data(config, plan.source)
        return engines.engine(config, plan, net, steps, spec, mx.cpu()), data.train

    return made


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_the_suggestion_trains_well_and_rates_far_from_it_do_worse(digits, optim):
    engine, train = digits(f"optim={optim}")
    suggestion = _search(engine, train).suggestion()

    def loss(lr):
        engine, train = digits(f"optim={optim}")
        fit = loop.fit(engine, train, {}, _settings(schedule=lambda step: lr))
        return fit.metrics["train/loss"]

    losses = {factor: loss(suggestion * factor) for factor in (0.1, 1, 100)}
    assert losses[1] < 1.6
    assert losses[1] < losses[0.1]
    assert not losses[1] > losses[100]


def _quadratic():
    """Return an engine for w^2 / 2 from w = 1: gradient descent diverges above a rate of 2."""
    net = nn.Dense(1, use_bias=False, in_units=1)
    net.initialize(mx.init.One())
    engine = MXNetEngine(
        net,
        lambda pixels: nd.ones((len(pixels), 1)),
        gluon.loss.L2Loss(),
        mx.optimizer.create("sgd"),
        mx.cpu(),
    )
    return engine, Split(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int64))


def test_a_quadratic_diverges_where_it_must_and_the_suggestion_lies_below():
    engine, split = _quadratic()
    curve = _search(engine, split, start=1e-4, end=1e4, batch_size=4)
    # By hand: w is multiplied by 1 - lr in each step; float64 agrees until w underflows.
    factors = np.concatenate([[1.0], np.cumprod(1 - curve.lrs[:-1])])
    np.testing.assert_allclose(curve.losses[:50], factors[:50] ** 2 / 2, rtol=1e-3)
    assert 2 < curve.lrs[-1] < 1e4
    assert 0.01 < curve.suggestion() < 1
    np.testing.assert_allclose(curve.lrs[:2], [1e-4, 1e-4 * 1e8 ** (1 / 99)])


def test_small_data_are_repeated_and_the_seed_decides(digits):
    (first, train), (second, _), (other, _) = digits(), digits(), digits("seed=1")
    few = Split(train.images[:70], train.labels[:70])
    curves = [_search(engine, few, steps=50, end=1e-3) for engine in (first, second)]
    assert len(curves[0].lrs) == 50  # three batches an epoch
    np.testing.assert_array_equal(curves[0].losses, curves[1].losses)
    different = _search(other, few, steps=50, end=1e-3, seed=1)
    assert (different.losses != curves[0].losses).any()
    assert curves[0].lrs[-1] == pytest.approx(1e-3)


def test_the_running_mean_is_of_the_last_steps_and_unbiased(digits):
    engine, train = digits()
    curve = _search(engine, train, end=1e-2)
    expected = _curve(curve.losses)
    np.testing.assert_allclose(curve.smoothed, expected.smoothed)
    assert curve.span == expected.span == 10


@given(
    at=st.floats(-4, -1),
    noise=st.floats(0, 0.2),
    seed=st.integers(0, 2**32),
    steps=st.sampled_from([50, 100, 400]),
)
def test_a_fall_is_found_where_it_is(at, noise, seed, steps):
    """From 2.5 to 0.5 within a decade around 10**at."""
    decades = np.linspace(-6, 1, steps)
    losses = 0.5 + 2 / (1 + 10 ** (3 * (decades - at)))
    losses += noise * np.random.default_rng(seed).normal(size=steps)
    suggestion = _curve(losses, steps=steps).suggestion()
    assert abs(math.log10(suggestion) - at) < 1


@pytest.mark.parametrize(
    "losses",
    [
        [math.nan],
        [math.inf],
        [2.0, math.nan],
        np.full(100, 2.3),
        np.linspace(1, 3, 100),
        2.0 + 0.1 * (-1.0) ** np.arange(100),
        [2.0, 0.1, 9.0],
    ],
    ids=["nan", "inf", "nan-second", "constant", "rising", "noise", "short"],
)
def test_a_curve_that_never_falls_has_no_suggestion_but_is_kept(losses, tmp_path):
    curve = _curve(np.asarray(losses))
    assert curve.suggestion() is None
    with pytest.raises(GluonexpError, match=r"trainer\.lr_find: the loss fell at no"):
        lr_find.record(curve, tmp_path, Tracker(), "None")
    assert len(pd.read_csv(tmp_path / "lr_find" / "curve.csv")) == len(losses)
    assert (tmp_path / "plots" / "lr_find.png").stat().st_size > 1000


def test_a_loss_that_is_no_number_ends_the_search():
    engine, split = _quadratic()
    engine.net.weight.set_data(nd.array([[math.nan]]))
    curve = _search(engine, split)
    assert len(curve.losses) == 1
    assert curve.suggestion() is None


class _Kept(Tracker):
    def __init__(self):
        super().__init__()
        self.metrics, self.files = [], []

    def log_metrics(self, metrics, step):
        self.metrics.append((step, dict(metrics)))

    def log_artifacts(self, folder, artifact_path=None):
        self.files += sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))


def _fall():
    decades = np.linspace(-6, 1, 100)
    return _curve(0.5 + 2 / (1 + 10 ** (3 * (decades + 2))))


def test_curve_and_suggestion_are_recorded(tmp_path):
    curve, tracker = _fall(), _Kept()
    suggestion = lr_find.record(curve, tmp_path, tracker, "A title")
    assert suggestion == curve.suggestion()
    assert tracker.files == ["lr_find/curve.csv", "plots/lr_find.png"]
    table = pd.read_csv(tmp_path / "lr_find" / "curve.csv")
    assert list(table) == ["step", "lr", "loss", "smoothed_loss"]
    np.testing.assert_allclose(table["lr"], curve.lrs)
    *steps, last = tracker.metrics
    assert last == (0, {"lr_find/suggestion": suggestion})
    assert [step for step, _ in steps] == list(range(100))
    assert steps[7][1] == {
        "lr_find/lr": curve.lrs[7],
        "lr_find/loss": curve.losses[7],
        "lr_find/smoothed_loss": curve.smoothed[7],
    }


def test_the_suggestion_is_marked_in_the_picture(tmp_path):
    curve = _fall()
    values = curve.lrs, curve.losses, curve.smoothed
    lr_curve(*values, curve.suggestion(), tmp_path / "with.png", "A title")
    lr_curve(*values, None, tmp_path / "without.png", "A title")
    for name, marked in (("with", True), ("without", False)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert (pixels == STAR).all(axis=2).any() == marked


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.lr_find.steps=49"], r"trainer\.lr_find\.steps=49"),
        (["trainer=lr_find", "trainer.lr_find.end=1e-9"], r"trainer\.lr_find\.end=1e-09"),
        (["trainer=lr_find", "trainer.lr_find.start=0"], r"trainer\.lr_find\.start=0"),
        (["trainer=lr_find", "trainer.resume=x"], r"trainer\.resume"),
    ],
)
def test_settings_that_make_no_curve_are_refused(compose, overrides, message):
    with pytest.raises(GluonexpError, match=f"^{message}"):
        compose(*overrides)


def test_searching_is_off_unless_asked_for(compose):
    assert compose().trainer.lr_find.steps == 0
    assert compose("trainer=lr_find", "trainer.lr_find.end=1").trainer.lr_find.steps == 100
