"""Losses against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp import assembly
from gluonexp.assembly import engines
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.data.types import Spec
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.loss import softmax_cross_entropy


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# Smaller ones than MXNet takes for a scalar smooth nothing.
SMOOTHING = st.just(0.0) | st.floats(1e-6, 0.99)


@given(st.integers(1, 6), st.integers(2, 12), SMOOTHING, st.booleans(), st.integers(0, 99))
def test_the_loss_is_the_cross_entropy_with_the_smoothed_label(
    count, classes, smoothing, compiled, seed
):
    rng = np.random.default_rng(seed)
    logits = 5 * rng.normal(size=(count, classes))
    labels = rng.integers(0, classes, size=count)
    smooth = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    loss = softmax_cross_entropy(smoothing)
    loss.hybridize(compiled)
    given = nd.array(logits)
    given.attach_grad()
    with autograd.record():
        losses = loss(given, nd.array(labels))
    losses.backward()
    assert losses.shape == (count,)
    expected = -(smooth * _log_softmax(logits)).sum(axis=1)
    np.testing.assert_allclose(losses.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    # The gradient of a cross-entropy: probabilities minus label.
    gradient = np.exp(_log_softmax(logits)) - smooth
    np.testing.assert_allclose(given.grad.asnumpy(), gradient, atol=1e-5)


def test_without_smoothing_the_loss_is_gluons_own():
    assert type(softmax_cross_entropy()).__name__ == "SoftmaxCrossEntropyLoss"


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_has_a_range(smoothing):
    with pytest.raises(GluonexpError, match=r"^loss\.label_smoothing="):
        softmax_cross_entropy(smoothing)


class Other(gluon.loss.Loss):
    """A loss that is not one value an image."""

    def __init__(self, function):
        super().__init__(None, 0)
        self._function = function

    def hybrid_forward(self, F, logits, labels):
        return self._function(F, -F.pick(F.log_softmax(logits), labels))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda F, losses: F.mean(losses), r"gives \(1,\) for 2 images; one loss for each"),
        (lambda F, losses: F.expand_dims(losses, axis=1), r"gives \(2, 1\) for 2 images"),
        (lambda F, losses: F.broadcast_add(losses, F.ones((5,))), "not be broadcast together"),
    ],
)
def test_a_loss_is_one_value_an_image(compose, function, said):
    config = compose()
    components = replace(assembly.components(config), loss=Other(function))
    steps, spec = Preprocessing(5, 5, 3, (0.0,), (1.0,)), Spec(5, 5, 3, ("a", "b", "c"))
    with pytest.raises(GluonexpError, match=rf"^loss gluonexp\.models\.\S+: .*{said}"):
        engines.engine(config, components, nn.Dense(3), steps, spec, mx.cpu())
