"""From bytes at rest to the network's input, against NumPy and Pillow."""

import numpy as np
import pytest
from PIL import Image

from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.signature import Preprocessing


def _run(images, steps, hybridize=True):
    block = Preprocess(steps, images.shape[1:])
    if hybridize:
        block.hybridize(static_alloc=True, static_shape=True)
    return block.inputs(images)


def _images(*shape):
    return np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)


def test_plain_pixels_are_divided_by_255():
    images = _images(3, 5, 4, 1)
    output = _run(images, Preprocessing(5, 4, 1, (0.0,), (1.0,)))
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, images.transpose(0, 3, 1, 2) / 255, rtol=1e-6)


@pytest.mark.parametrize("hybridize", [False, True])
def test_normalization_is_per_channel(hybridize):
    images, mean, std = _images(2, 4, 4, 3), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    output = _run(images, Preprocessing(4, 4, 3, mean, std), hybridize)
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(output, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_one_channel_is_repeated_and_normalized_as_three():
    images, mean = _images(2, 4, 4, 1), (0.1, 0.2, 0.3)
    output = _run(images, Preprocessing(4, 4, 3, mean, (1.0,)))
    for channel in range(3):
        np.testing.assert_allclose(
            output[:, channel], images[..., 0] / 255 - mean[channel], rtol=1e-5, atol=1e-6
        )


def test_three_channels_become_luma_as_in_pillow():
    images = _images(1, 6, 6, 3)
    output = _run(images, Preprocessing(6, 6, 1, (0.0,), (1.0,)))
    pillow = np.asarray(Image.fromarray(images[0]).convert("L")) / 255
    np.testing.assert_allclose(output[0, 0], pillow, atol=1 / 255)


def test_enlarging_is_bilinear_with_half_pixel_centres():
    images = _images(2, 8, 8, 3)
    output = _run(images, Preprocessing(32, 32, 3, (0.0,), (1.0,)))
    for image, made in zip(images, output, strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[..., channel].astype(np.float32), mode="F")
            expected = np.asarray(plane.resize((32, 32), Image.Resampling.BILINEAR)) / 255
            np.testing.assert_allclose(made[channel], expected, atol=1e-5)
