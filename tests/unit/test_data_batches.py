"""Batching and augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.data.augment import flip_crop, none
from gluonexp.data.batches import batches
from gluonexp.data.types import Split
from gluonexp.errors import GluonexpError


def numbered(count: int) -> Split:
    """Make a split whose image and label number i both hold i."""
    labels = np.arange(count, dtype=np.int64)
    return Split(np.tile(labels.astype(np.uint8)[:, None, None, None], (1, 2, 2, 1)), labels)


@given(st.integers(0, 100), st.integers(1, 40), st.one_of(st.none(), st.integers(0, 99)))
def test_every_sample_comes_exactly_once_and_with_its_own_label(count, batch_size, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    seen = list(batches(numbered(count), batch_size, rng=rng))
    sizes = [len(labels) for _, labels in seen]
    short = [count % batch_size] if count % batch_size else []
    assert sizes == [batch_size] * (count // batch_size) + short
    for images, labels in seen:
        assert images.dtype == np.uint8
        assert np.array_equal(images[:, 0, 0, 0], labels)
    labels = [label for _, part in seen for label in part]
    assert sorted(labels) == list(range(count))
    if rng is None:
        assert labels == list(range(count))


def test_the_order_is_the_first_permutation_of_the_generator():
    labels = [
        label
        for _, part in batches(numbered(50), 7, rng=np.random.default_rng(5))
        for label in part
    ]
    assert labels == np.random.default_rng(5).permutation(50).tolist()


def test_augmentation_draws_after_the_permutation_and_keeps_the_order():
    split = numbered(30)
    plain = batches(split, 8, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    for (images, labels), (changed, same) in zip(
        plain, batches(split, 8, rng=rng, augment=flip_crop(pad=1)), strict=True
    ):
        assert np.array_equal(labels, same)
        assert changed.shape == images.shape
    assert rng.random() != np.random.default_rng(1).random()


def test_without_a_generator_nothing_is_augmented():
    def black(images, rng):
        return np.zeros_like(images)

    split = numbered(5)
    ((images, _),) = batches(split, 5, augment=black)
    assert np.array_equal(images, split.images)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        next(batches(numbered(3), 0))


IMAGES = np.random.default_rng(0).integers(1, 256, size=(40, 6, 5, 3), dtype=np.uint8)


@given(st.integers(0, 3), st.booleans(), st.integers(0, 2**32))
def test_every_image_is_one_shift_and_maybe_a_mirroring_of_its_own(pad, flip, seed):
    result = flip_crop(flip=flip, pad=pad)(IMAGES, np.random.default_rng(seed))
    assert result.dtype == np.uint8
    assert result.shape == IMAGES.shape
    for image, changed in zip(IMAGES, result, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        possible = [
            padded[y : y + 6, x : x + 5] for y in range(2 * pad + 1) for x in range(2 * pad + 1)
        ]
        if flip:
            possible += [cut[:, ::-1] for cut in possible]
        assert any(np.array_equal(changed, cut) for cut in possible)


def test_equal_generators_give_equal_images_and_the_input_stays():
    before = IMAGES.copy()
    first, second, other = (flip_crop()(IMAGES, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(IMAGES, before)
    flip_crop(pad=0)(IMAGES, np.random.default_rng(3))
    assert np.array_equal(IMAGES, before)


def test_every_offset_and_about_half_of_the_mirrorings_occur():
    # One bright pixel off centre tells where an image went and whether it was mirrored.
    images = np.zeros((4000, 9, 9, 1), dtype=np.uint8)
    images[:, 4, 3] = 255
    result = flip_crop(pad=2)(images, np.random.default_rng(0))
    _, y, x, _ = np.nonzero(result)
    assert len(y) == 4000
    assert sorted(set(y)) == [2, 3, 4, 5, 6]
    assert sorted(set(x)) == [1, 2, 3, 4, 5, 6, 7]
    # Columns 1 and 2 are reached unmirrored only, 6 and 7 mirrored only.
    assert 0.45 < np.mean(x[(x < 3) | (x > 5)] > 5) < 0.55


def test_none_changes_nothing_and_draws_nothing():
    rng = np.random.default_rng(0)
    assert none()(IMAGES, rng) is IMAGES
    assert rng.random() == np.random.default_rng(0).random()


def test_a_negative_pad_is_refused():
    with pytest.raises(GluonexpError, match=r"augment\.pad"):
        flip_crop(pad=-1)
