"""The first layer that is set from training images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.mx import nd
from gluonexp.models.fast import fast_cnn, whitening


def _smooth(seed, channels=3):
    """Return images whose neighbouring pixels and channels have much in common."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(60, 1, 6, 6)).repeat(4, axis=2).repeat(4, axis=3)
    return (coarse + 0.3 * rng.normal(size=(60, channels, 24, 24))).astype(np.float32)


@given(st.integers(0, 99), st.sampled_from([1, 3]))
def test_what_it_gives_is_uncorrelated_and_of_variance_one(seed, channels):
    images = _smooth(seed, channels)
    filters = whitening(images)
    kept = 4 * channels
    assert filters.shape == (2 * kept, channels, 2, 2)
    assert filters.dtype == np.float32
    np.testing.assert_array_equal(filters[:kept], -filters[kept:])
    given = nd.Convolution(
        nd.array(images), nd.array(filters), kernel=(2, 2), num_filter=2 * kept, no_bias=True
    ).asnumpy()
    flat = given[:, :kept].transpose(1, 0, 2, 3).reshape(kept, -1)
    # But for what is added to the eigenvalues, of which the least is about 0.09.
    np.testing.assert_allclose(flat @ flat.T / flat.shape[1], np.eye(kept), atol=0.01)


def test_it_follows_from_the_images_alone_and_bears_what_is_constant():
    images = _smooth(0)
    np.testing.assert_array_equal(whitening(images), whitening(images.copy()))
    assert np.abs(whitening(images) - whitening(_smooth(1))).max() > 1e-3
    assert np.isfinite(whitening(np.full((3, 3, 8, 8), 0.5, np.float32))).all()


@pytest.mark.parametrize(("whiten", "classes"), [(True, 10), (False, 2)])
def test_the_network_gives_logits_and_says_what_it_takes_from_data(whiten, classes):
    net = fast_cnn(classes, whiten=whiten, widths=(4, 6))
    net.initialize()
    assert net(nd.ones((2, 3, 32, 32))).shape == (2, classes)
    assert hasattr(net, "from_images") == whiten
    layer = net.whiten if whiten else net.first
    assert layer.weight.shape == (24, 3, 2, 2)
