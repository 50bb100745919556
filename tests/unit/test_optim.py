"""Optimizers against the published update rules; schedules against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp import assembly
from gluonexp.assembly import engines
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.data.types import Spec
from gluonexp.engines.mxnet import optimizers
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.training import schedules

NAMES = ["sgd", "nag", "adam", "adamw", "rmsprop", "adagrad"]


def _trained(optimizer, weights, gradients):
    """Return the weights after steps with the given gradients (batch size 1)."""
    parameter = gluon.Parameter("w", shape=weights.shape)
    parameter.initialize(mx.init.Constant(nd.array(weights)))
    trainer = gluon.Trainer([parameter], optimizer)
    for gradient in gradients:
        with autograd.record():
            loss = (parameter.data() * nd.array(gradient)).sum()
        loss.backward()
        trainer.step(1)
    return parameter.data().asnumpy()


def test_adamw_is_the_published_rule():
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
    lr, decay, beta1, beta2, epsilon = 0.1, 0.2, 0.8, 0.95, 1e-8
    expected, m, v = weights.copy(), np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        step = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        expected -= lr * step + lr * decay * expected
    made = optimizers.optimizer(
        "adamw", lr=lr, weight_decay=decay, beta1=beta1, beta2=beta2, epsilon=epsilon
    )
    np.testing.assert_allclose(_trained(made, weights, gradients), expected, rtol=1e-5)


def test_sgd_takes_momentum_and_weight_decay():
    made = optimizers.optimizer("sgd", lr=0.1, weight_decay=0.5, momentum=0.9)
    one, two = np.array([2.0]), np.array([[1.0], [1.0]])
    # v = momentum * v - lr * (g + wd * w); w += v
    w1 = 2.0 - 0.1 * (1 + 0.5 * 2.0)
    w2 = w1 + (0.9 * (w1 - 2.0) - 0.1 * (1 + 0.5 * w1))
    np.testing.assert_allclose(_trained(made, one, two), [w2], rtol=1e-6)


def test_adagrad_is_the_published_rule_with_decoupled_weight_decay():
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
    lr, decay, epsilon = 0.1, 0.2, 0.01
    expected, squares = weights.copy(), np.zeros(5)
    for g in gradients:
        squares += g**2
        expected -= lr * (g / np.sqrt(squares + epsilon) + decay * expected)
    made = optimizers.optimizer("adagrad", lr=lr, weight_decay=decay, epsilon=epsilon)
    np.testing.assert_allclose(_trained(made, weights, gradients), expected, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_configured_optimizer_is_made_with_its_values(compose, name):
    config = compose(f"optim={name}", "optim.lr=0.0625", "optim.weight_decay=0.5")
    made = engines.optimizer(config.optim)
    assert made.learning_rate == 0.0625
    assert made.wd == 0.5


def _decayed(compose, name, exempt):
    """Return the structural names of what moves in two steps of weight decay and no gradient."""
    config = compose(
        f"optim={name}", "optim.weight_decay=0.5", f"optim.decay_bias_and_norm={not exempt}"
    )
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(3, 3), nn.BatchNorm(), nn.LayerNorm(), nn.Flatten())
        net.add(nn.Dense(4), nn.Dense(3))
    net.initialize(mx.init.One())
    images = nd.zeros((2, 3, 5, 5))
    net(images)
    parameters = net._collect_params_with_prefix()
    for parameter in parameters.values():
        if parameter._differentiable:
            parameter.set_data(nd.full(parameter.shape, 2.0))
    parameters["4.weight"].grad_req = parameters["4.bias"].grad_req = "null"
    components = assembly.components(config)
    steps, spec = Preprocessing(5, 5, 3, (0.0,), (1.0,)), Spec(5, 5, 3, ("a", "b", "c"))
    engine = engines.engine(config, components, net, steps, spec, mx.cpu())
    for _ in range(2):
        with autograd.record():
            loss = (net(images) * 0).sum()
        loss.backward()
        engine.trainer.step(1)
    assert parameters["4.weight"].grad_req == parameters["4.bias"].grad_req == "null"
    trained = {name: p for name, p in parameters.items() if p._differentiable}
    return {name for name, p in trained.items() if (p.data() != 2).asnumpy().any()}


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_biases_and_norms_where_asked_and_always_what_is_frozen(compose, name):
    everything = {"0.weight", "0.bias", "1.gamma", "1.beta", "2.gamma", "2.beta"}
    everything |= {"5.weight", "5.bias"}
    assert _decayed(compose, name, exempt=False) == everything
    assert _decayed(compose, name, exempt=True) == {"0.weight", "5.weight"}


def test_recurrent_biases_are_exempt_too():
    net = gluon.rnn.LSTM(2, input_size=3)
    optimizers.exempt_bias_and_norm(net)
    mults = {name: p.wd_mult for name, p in net._collect_params_with_prefix().items()}
    assert len(mults) == 4
    assert mults == {name: float(name.endswith("_weight")) for name in mults}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, "nan"])
def test_a_norm_to_clip_to_is_above_zero(compose, name, value):
    with pytest.raises(GluonexpError, match=r"^optim\.clip_norm="):
        compose(f"optim={name}", f"optim.clip_norm={value}")


@given(
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 20),
    warmup=st.floats(0, 5),
    lr=st.floats(1e-6, 10),
)
def test_schedules_warm_up_to_the_base_and_never_exceed_it(steps_per_epoch, epochs, warmup, lr):
    common = {"base_lr": lr, "steps_per_epoch": steps_per_epoch, "epochs": epochs}
    start = round(warmup * steps_per_epoch)
    later = start / steps_per_epoch + 1  # warmup + 1 may be rounded to the warm-up's last step
    for schedule in (
        schedules.constant(**common, warmup_epochs=warmup),
        schedules.cosine(**common, warmup_epochs=warmup),
        schedules.step(**common, milestones=[later], warmup_epochs=warmup),
        schedules.linear(**common, warmup_epochs=warmup),
    ):
        rates = [schedule(step) for step in range(start + steps_per_epoch * epochs)]
        assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
        assert rates[:start] == sorted(rates[:start])
        assert math.isclose(rates[start], lr, rel_tol=1e-9)
        assert rates[start:] == sorted(rates[start:], reverse=True)


def test_cosine_ends_where_it_should():
    schedule = schedules.cosine(base_lr=1.0, steps_per_epoch=10, epochs=2, final_fraction=0.1)
    assert schedule(0) == 1.0
    assert schedule(10) == pytest.approx(0.55)
    assert schedule(20) == pytest.approx(0.1)


def test_step_drops_at_its_milestones():
    schedule = schedules.step(
        base_lr=1.0, steps_per_epoch=10, epochs=3, milestones=[1, 2], factor=0.5
    )
    assert [schedule(step) for step in (0, 9, 10, 19, 20)] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_linear_is_a_straight_line_to_its_final_fraction():
    common = {"base_lr": 2.0, "steps_per_epoch": 10, "epochs": 3}
    schedule = schedules.linear(**common, final_fraction=0.1, warmup_epochs=1)
    assert [schedule(0), schedule(4), schedule(9)] == pytest.approx([0.2, 1.0, 2.0])
    falls = np.diff([schedule(step) for step in range(10, 31)])
    np.testing.assert_allclose(falls, -2.0 * 0.9 / 20)
    assert (schedule(10), schedule(30), schedule(99)) == pytest.approx((2.0, 0.2, 0.2))


@pytest.mark.parametrize(("rise", "epochs"), [(0.3, 2), (0.5, 3), (0.25, 8)])
def test_onecycle_is_pytorchs(rise, epochs):
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        0.5,
        total_steps=10 * epochs,
        pct_start=rise,
        div_factor=25,
        final_div_factor=1e3,
        cycle_momentum=False,
    )
    schedule = schedules.onecycle(
        base_lr=0.5, steps_per_epoch=10, epochs=epochs, rise=rise, final_fraction=4e-5
    )
    for step in range(10 * epochs):
        assert schedule(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < 10 * epochs - 1:
            reference.step()
    assert schedule(10 * epochs + 5) == schedule(10 * epochs - 1)


@given(st.integers(1, 5), st.integers(1, 4), st.floats(0.01, 0.99))
def test_onecycle_is_a_rate_for_any_number_of_steps(steps, epochs, rise):
    schedule = schedules.onecycle(base_lr=1.0, steps_per_epoch=steps, epochs=epochs, rise=rise)
    rates = [schedule(step) for step in range(steps * epochs)]
    assert all(0 <= rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        ("linear", {"final_fraction": 1.5}),
        ("linear", {"final_fraction": float("nan")}),
        ("onecycle", {"rise": 0}),
        ("onecycle", {"rise": 1}),
        ("onecycle", {"initial_fraction": -0.1}),
        ("onecycle", {"final_fraction": 2}),
    ],
)
def test_a_share_out_of_its_range_is_refused(schedule, wrong):
    with pytest.raises(GluonexpError, match=rf"scheduler\.{next(iter(wrong))}"):
        getattr(schedules, schedule)(base_lr=1.0, steps_per_epoch=1, epochs=1, **wrong)
