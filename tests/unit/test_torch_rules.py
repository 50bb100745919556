"""The PyTorch engine's optimizer rules against MXNet's own optimizers."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.mx import mx, nd
from gluonexp.config.optimizers import OPTIMIZERS
from gluonexp.engines.mxnet import optimizers
from gluonexp.engines.torch import library

if find_spec("torch") is None:
    pytest.skip("PyTorch is not installed", allow_module_level=True)
library.load()

import torch  # noqa: E402

from gluonexp.engines.torch import rules  # noqa: E402

KINDS = {
    "sgd": {"momentum": 0.9},
    "plain sgd": {"momentum": 0.0},
    "nag": {"momentum": 0.9},
    "plain nag": {"momentum": 0.0},
    "adam": {},
    "adamw": {},
    "rmsprop": {},
    "centered rmsprop": {"centered": True},
    "adagrad": {},
}


class Pair:
    """The same parameters, moved by MXNet's optimizer and by the rule."""

    def __init__(self, kind, weights, lr=0.01, wd=0.0, options=None, mults=None, layout=None):
        name = kind.split()[-1]
        config = OPTIMIZERS[name](name=name, lr=lr, weight_decay=wd)
        for key, value in {**KINDS[kind], **(options or {})}.items():
            setattr(config, key, value)
        skipped = ("name", "lr", "weight_decay", "decay_bias_and_norm", "clip_norm")
        given = {key: value for key, value in vars(config).items() if key not in skipped}
        self.mxnet = optimizers.optimizer(name, lr=lr, weight_decay=wd, **given)
        self.mults = mults or [(1.0, 1.0)] * len(weights)
        self.mxnet.set_lr_mult({at: by for at, (by, _) in enumerate(self.mults)})
        self.mxnet.set_wd_mult({at: by for at, (_, by) in enumerate(self.mults)})
        self.updater = mx.optimizer.get_updater(self.mxnet)
        self.theirs = [nd.array(weight) for weight in weights]
        self.rule, self.wd, self.layout = rules.rule(config), wd, layout
        self.ours = [self.tensor(weight) for weight in weights]
        self.slots = {name: [*map(torch.zeros_like, self.ours)] for name in self.rule.slots}
        self.count = 0

    def tensor(self, array):
        made = torch.from_numpy(array.copy())
        return made.to(memory_format=self.layout) if self.layout and made.ndim == 4 else made

    def step(self, grads, lr, rescale):
        self.mxnet.set_learning_rate(lr)
        self.mxnet.rescale_grad = rescale
        for at, grad in enumerate(grads):
            self.updater(at, nd.array(grad), self.theirs[at])
        self.count += 1
        rates, decays = (
            [of * base for of in by]
            for by, base in zip(zip(*self.mults, strict=True), (lr, self.wd), strict=True)
        )
        counts = [self.count] * len(grads)
        self.rule.update(
            self.ours, [*map(self.tensor, grads)], self.slots, counts, rates, decays, rescale
        )

    def kept(self, at):
        """Return what both keep of a parameter: its value first, then the slots."""
        state = self.updater.states[at]
        state = state if isinstance(state, tuple) else () if state is None else (state,)
        names = optimizers.slot_names(self.mxnet)
        assert names == self.rule.slots
        theirs = [self.theirs[at], *state]
        ours = [self.ours[at], *(self.slots[name][at] for name in names)]
        return [(a.asnumpy(), b.numpy()) for a, b in zip(theirs, ours, strict=True)]


def largest(pair):
    """Return the largest difference, relative to the largest value of its kind."""
    of = [a for at in range(len(pair.ours)) for a in pair.kept(at)]
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-30)) for a, b in of)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wd", [0.0, 1e-3])
def test_two_hundred_steps_with_a_schedule_are_those_of_mxnet(kind, wd):
    rng = np.random.default_rng(0)
    start = rng.standard_normal(1000).astype("f4") / 10
    base = 0.05 if kind.split()[-1] in ("sgd", "nag") else 1e-3
    pair = Pair(kind, [start], wd=wd)
    for step in range(200):
        grad = (rng.standard_normal(1000) * 48 * 0.05).astype("f4")
        pair.step([grad], base * (0.1 if step >= 100 else 1), 1 / 48)
    # MXNet keeps 1 - lr wd of a weight, in float32, where there is no momentum at all.
    assert largest(pair) < (4e-6 if kind == "plain nag" and wd else 2e-6)


def test_nag_decays_its_momentum_by_the_new_weight_as_mxnet_does():
    pair = Pair("nag", [np.full(3, 10, "f4")], wd=0.5)
    pair.step([np.ones(3, "f4")], 0.1, 1.0)
    new = 10 - 1.9 * 0.1 * (1 + 0.5 * 10)
    ((_, weight), (_, momentum)) = pair.kept(0)
    np.testing.assert_allclose(weight, new, rtol=1e-6)
    np.testing.assert_allclose(momentum, -0.1 * (1 + 0.5 * new), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_multipliers_and_large_tensors_are_all_one(kind, monkeypatch):
    monkeypatch.setattr(rules, "_PIECE", 16)  # a tensor in parts
    rng = np.random.default_rng(1)
    shapes = [(4, 3, 3, 2), (4,), (5, 4, 1, 1), (7, 3), (1,), (2, 3)]
    weights = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    mults = [(1, 1), (2, 0), (1, 1), (0.5, 2), (0, 1), (1, 0)]
    layout = torch.channels_last
    pair = Pair(kind, weights, wd=0.1, mults=mults, layout=layout)
    for lr in (0.1, 0.1, 0.02):
        pair.step([rng.standard_normal(shape).astype("f4") for shape in shapes], lr, 0.25)
    assert all(w.is_contiguous(memory_format=layout) for w in pair.ours if w.ndim == 4)
    assert largest(pair) < 2e-6


def test_a_gradient_in_another_order_than_its_weight_is_taken_as_it_is_meant():
    rng = np.random.default_rng(2)
    weight, grad = rng.standard_normal((2, 4, 3, 3, 2)).astype("f4")
    pair = Pair("sgd", [weight], layout=torch.channels_last)
    pair.tensor = torch.from_numpy
    pair.step([grad], 0.1, 1.0)
    assert largest(pair) < 1e-6


@settings(max_examples=25)
@given(
    kind=st.sampled_from([*KINDS]),
    shapes=st.lists(
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4
    ),
    lr=st.floats(1e-5, 0.1) | st.just(0.0),
    wd=st.integers(0, 10).map(lambda n: n / 100),
    batch=st.integers(1, 300),
    seed=st.integers(0, 99),
    fraction=st.integers(0, 99).map(lambda n: n / 100),
)
def test_any_shapes_and_rates_go_as_in_mxnet(kind, shapes, lr, wd, batch, seed, fraction):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    keys = {"rmsprop": ["rho"], "adam": ["beta1"], "adamw": ["beta1"], "adagrad": []}
    options = dict.fromkeys(keys.get(kind, []), fraction)
    pair = Pair(kind, weights, wd=wd, options=options)
    for _ in range(3):
        grads = [(batch * rng.standard_normal(shape)).astype("f4") for shape in shapes]
        pair.step(grads, lr, 1 / batch)
    assert largest(pair) < 1e-5
