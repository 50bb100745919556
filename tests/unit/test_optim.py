"""Optimizers against the published update rules; schedules against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp import optim
from gluonexp.mx import autograd, gluon, mx, nd


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
    made = optim.optimizer(
        "adamw", lr=lr, weight_decay=decay, beta1=beta1, beta2=beta2, epsilon=epsilon
    )
    np.testing.assert_allclose(_trained(made, weights, gradients), expected, rtol=1e-5)


def test_sgd_takes_momentum_and_weight_decay():
    made = optim.optimizer("sgd", lr=0.1, weight_decay=0.5, momentum=0.9)
    one, two = np.array([2.0]), np.array([[1.0], [1.0]])
    # v = momentum * v - lr * (g + wd * w); w += v
    w1 = 2.0 - 0.1 * (1 + 0.5 * 2.0)
    w2 = w1 + (0.9 * (w1 - 2.0) - 0.1 * (1 + 0.5 * w1))
    np.testing.assert_allclose(_trained(made, one, two), [w2], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "nag", "adam", "adamw", "rmsprop"])
def test_every_configured_optimizer_is_made_with_its_values(compose, name):
    from dataclasses import asdict

    made = optim.optimizer(**asdict(compose(f"optim={name}", "optim.lr=0.0625").optim))
    assert made.learning_rate == 0.0625


@given(
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 20),
    warmup=st.floats(0, 5),
    lr=st.floats(1e-6, 10),
)
def test_schedules_warm_up_to_the_base_and_never_exceed_it(steps_per_epoch, epochs, warmup, lr):
    common = {"base_lr": lr, "steps_per_epoch": steps_per_epoch, "epochs": epochs}
    start = round(warmup * steps_per_epoch)
    for schedule in (
        optim.constant(**common, warmup_epochs=warmup),
        optim.cosine(**common, warmup_epochs=warmup),
        optim.step(**common, milestones=[warmup + 1], warmup_epochs=warmup),
    ):
        rates = [schedule(step) for step in range(start + steps_per_epoch * epochs)]
        assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
        assert rates[:start] == sorted(rates[:start])
        assert math.isclose(rates[start], lr, rel_tol=1e-9)
        assert rates[start:] == sorted(rates[start:], reverse=True)


def test_cosine_ends_where_it_should():
    schedule = optim.cosine(base_lr=1.0, steps_per_epoch=10, epochs=2, final_fraction=0.1)
    assert schedule(0) == 1.0
    assert schedule(10) == pytest.approx(0.55)
    assert schedule(20) == pytest.approx(0.1)


def test_step_drops_at_its_milestones():
    schedule = optim.step(base_lr=1.0, steps_per_epoch=10, epochs=3, milestones=[1, 2], factor=0.5)
    assert [schedule(step) for step in (0, 9, 10, 19, 20)] == [1.0, 1.0, 0.5, 0.5, 0.25]
