"""Batching and augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.data.augment import flip_crop, mixup, none
from gluonexp.data.batches import batches
from gluonexp.data.types import Split


def numbered(count: int) -> Split:
    """Make a split whose image and label number i both hold i."""
    labels = np.arange(count, dtype=np.int64)
    return Split(np.tile(labels.astype(np.uint8)[:, None, None, None], (1, 2, 2, 1)), labels)


@given(st.integers(0, 100), st.integers(1, 40), st.one_of(st.none(), st.integers(0, 99)))
def test_every_sample_comes_exactly_once_and_with_its_own_label(count, batch_size, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    seen = list(batches(numbered(count), batch_size, rng=rng))
    sizes = [len(batch) for batch in seen]
    short = [count % batch_size] if count % batch_size else []
    assert sizes == [batch_size] * (count // batch_size) + short
    for batch in seen:
        assert batch.images.dtype == np.uint8
        assert np.array_equal(batch.images[:, 0, 0, 0], batch.labels)
        assert batch.share is None
    labels = [label for batch in seen for label in batch.labels]
    assert sorted(labels) == list(range(count))
    if rng is None:
        assert labels == list(range(count))


def test_the_order_is_the_first_permutation_of_the_generator():
    labels = [
        label
        for batch in batches(numbered(50), 7, rng=np.random.default_rng(5))
        for label in batch.labels
    ]
    assert labels == np.random.default_rng(5).permutation(50).tolist()


def test_augmentation_draws_after_the_permutation_and_keeps_the_order():
    split = numbered(30)
    plain = batches(split, 8, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    augmented = batches(split, 8, rng=rng, augment=flip_crop(pad=1))
    for batch, changed in zip(plain, augmented, strict=True):
        assert np.array_equal(batch.labels, changed.labels)
        assert changed.images.shape == batch.images.shape
    assert rng.random() != np.random.default_rng(1).random()


def test_without_a_generator_nothing_is_augmented():
    def black(images, rng):
        return np.zeros_like(images)

    split = numbered(5)
    (batch,) = batches(split, 5, augment=black)
    assert np.array_equal(batch.images, split.images)


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


@given(st.integers(1, 60), st.floats(0.05, 5), st.integers(0, 2**32))
def test_mixup_blends_each_image_with_its_partner_in_the_share_it_states(count, alpha, seed):
    blend = mixup(alpha)(IMAGES[:count], np.random.default_rng(seed))
    count = len(blend.images)
    assert blend.images.dtype == np.uint8
    assert sorted(blend.partners) == list(range(count))
    assert blend.share.dtype == np.float32
    assert ((blend.share >= 0.5) & (blend.share <= 1)).all()
    share = blend.share.astype(np.float64)[:, None, None, None]
    exact = share * IMAGES[:count] + (1 - share) * IMAGES[blend.partners]
    assert np.abs(blend.images - exact).max() <= 0.5 + 1e-4


def test_mixup_shares_are_those_of_its_beta_distribution():
    images = np.zeros((20000, 1, 1, 1), np.uint8)
    share = mixup(0.4)(images, np.random.default_rng(0)).share
    # E[max(b, 1 - b)] = 1/2 + E|b - 1/2|, from the definition, by summing the density.
    b = (np.arange(10**6) + 0.5) / 10**6
    density = (b * (1 - b)) ** (0.4 - 1)
    expected = (np.maximum(b, 1 - b) * density).sum() / density.sum()
    assert share.mean() == pytest.approx(expected, abs=0.005)


def test_batches_of_a_blend_have_the_labels_of_both_and_the_same_order():
    split = Split(IMAGES, np.arange(len(IMAGES)))
    plain = batches(split, 16, rng=np.random.default_rng(1))
    first = next(batches(split, 16, rng=np.random.default_rng(1), augment=mixup(1.0)))
    assert np.array_equal(first.labels, next(plain).labels)
    assert sorted(first.others) == sorted(first.labels)
    share = first.share[:, None, None, None]
    blended = share * IMAGES[first.labels] + (1 - share) * IMAGES[first.others]
    assert np.abs(first.images - blended).max() <= 0.5 + 1e-4


def test_mixup_blends_what_comes_first():
    black = mixup(first=lambda images, rng: np.zeros_like(images))
    assert not black(IMAGES, np.random.default_rng(0)).images.any()
    with pytest.raises(GluonexpError, match=r"augment\.first"):
        mixup(first=mixup())(IMAGES, np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_mixup_needs_an_alpha_above_zero(alpha):
    with pytest.raises(GluonexpError, match=r"augment\.alpha"):
        mixup(alpha)
