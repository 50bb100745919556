"""Batching and augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.data import colors
from gluonexp.data.augment import alternating_crop, bound, crop_color, flip_crop, mixup, none
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


def mirrored(result):
    """Tell which of `IMAGES` a result has mirrored; no image is its own mirror image."""
    both = zip(IMAGES, result, strict=True)
    seen = [(np.array_equal(a, b), np.array_equal(a[:, ::-1], b)) for a, b in both]
    assert all(sum(pair) == 1 for pair in seen)
    return np.array([flipped for _, flipped in seen])


@given(st.integers(0, 2**31 - 1), st.integers(0, 50), st.integers(0, 2**32))
def test_alternating_flips_show_each_image_both_ways_in_two_epochs(seed, epoch, draws):
    rows = np.random.default_rng(draws).permutation(1000)[: len(IMAGES)]
    augment = alternating_crop(pad=0)
    first, second, third = (
        mirrored(bound(augment, rows, seed, each)(IMAGES, np.random.default_rng(draws + each)))
        for each in (epoch, epoch + 1, epoch + 2)
    )
    assert np.array_equal(first, ~second)
    assert np.array_equal(first, third)
    # By the row alone, wherever it stands in a batch and whatever is drawn.
    order = np.argsort(rows)
    again = bound(augment, rows[order], seed, epoch)(IMAGES, np.random.default_rng(0))
    assert np.array_equal(mirrored(again), first[order])


def test_the_first_choice_is_a_fair_coin_by_seed_and_row():
    images = np.zeros((20_000, 1, 2, 1), np.uint8)
    images[:, :, 1] = 1
    chosen = [
        bound(alternating_crop(pad=0), np.arange(20_000), seed, 0)(images, None)[:, 0, 0, 0]
        for seed in range(4)
    ]
    shares = [np.mean(one == other) for one in chosen for other in chosen if one is not other]
    for share in (*map(np.mean, chosen), *shares, *(np.mean(c[1:] == c[:-1]) for c in chosen)):
        assert 0.48 < share < 0.52  # six standard deviations


def test_its_shifts_are_mirrored_at_the_edge():
    rng = np.random.default_rng
    result = bound(alternating_crop(pad=2), np.arange(40), 0, 0)(IMAGES, rng(1))
    for image, changed in zip(IMAGES, result, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
        cuts = [padded[y : y + 6, x : x + 5] for y in range(5) for x in range(5)]
        assert any(np.array_equal(changed, c) or np.array_equal(changed, c[:, ::-1]) for c in cuts)
    always = alternating_crop(pad=0, alternate=False)
    assert not np.array_equal(always(IMAGES, rng(1)), always(IMAGES, rng(2)))
    assert bound(always, np.arange(40), 0, 0) is always
    with pytest.raises(GluonexpError, match=r"augment\.pad"):
        alternating_crop(pad=-1)


def test_batches_tell_it_which_images_they_have_also_below_mixup():
    split = Split(IMAGES, np.arange(40))

    def epoch(number, augment, seed=5):
        made = batches(
            split, 16, rng=np.random.default_rng(number), augment=augment, seed=seed, epoch=number
        )
        parts = [*made]
        order = np.argsort(np.concatenate([part.labels for part in parts]))
        return np.concatenate([part.images for part in parts])[order]

    alternating = alternating_crop(pad=0)
    assert np.array_equal(epoch(0, alternating), epoch(2, alternating))
    assert np.array_equal(epoch(0, alternating), epoch(1, alternating)[:, :, ::-1])
    assert not np.array_equal(epoch(0, alternating), epoch(0, alternating, seed=6))
    # A share of next to 1 leaves what comes first.
    barely = mixup(1e-6, first=alternating)
    assert np.array_equal(epoch(0, barely), epoch(0, alternating))
    assert np.array_equal(epoch(1, barely), epoch(1, alternating))


PHOTOS = np.random.default_rng(1).integers(0, 256, size=(12, 16, 20, 3), dtype=np.uint8)
STILL = {"brightness": 0, "contrast": 0, "saturation": 0}


@given(st.floats(0.05, 1), st.floats(1, 3), st.booleans(), st.floats(0, 1), st.integers(0, 2**32))
def test_crop_color_gives_images_by_its_draws_alone(smallest, stretch, flip, amount, seed):
    jitter = dict.fromkeys(STILL, amount)
    augment = crop_color(smallest, stretch, flip, **jitter)
    before = PHOTOS.copy()
    first, second = (augment(PHOTOS, np.random.default_rng(seed)) for _ in range(2))
    assert (first.shape, first.dtype) == (PHOTOS.shape, np.uint8)
    assert np.array_equal(first, second)
    assert np.array_equal(PHOTOS, before)
    # An image of one colour is that colour in every part.
    plain = np.full((3, 9, 7, 1), 77, np.uint8)
    assert (
        crop_color(smallest, stretch, flip, **STILL)(plain, np.random.default_rng(seed)) == 77
    ).all()


@given(st.integers(0, 2**32), st.floats(0.1, 1), st.floats(1, 2))
def test_a_part_has_the_area_and_the_sides_it_may_have(seed, smallest, stretch):
    # Of a ramp, the difference of the ends tells how wide a part was.
    ramp = np.broadcast_to(
        np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (8, 64, 64, 1)
    )
    draws = np.random.default_rng(seed).random((4, 8))
    wide = colors.cropped(ramp, *draws, smallest, stretch)[..., 0].astype(int)
    wide = (wide[:, 0, -1] - wide[:, 0, 0]) / 255
    tall = ramp.transpose(0, 2, 1, 3)
    high = colors.cropped(tall, *draws, smallest, stretch)[..., 0].astype(int)
    high = (high[:, -1, 0] - high[:, 0, 0]) / 255
    assert (high * wide > smallest / stretch - 0.08).all()
    assert (high <= 1).all() and (wide <= 1).all()
    free = (high < 0.97) & (wide < 0.97)  # no side was cut to that of the image
    assert (high * wide > smallest - 0.08)[free].all()
    assert (np.maximum(high / wide, wide / high) < stretch * 1.12)[free].all()


def test_nothing_asked_for_changes_nothing_and_a_flip_only_mirrors():
    rng = np.random.default_rng
    assert np.array_equal(crop_color(1, 1, False, **STILL)(PHOTOS, rng(0)), PHOTOS)
    flipped = crop_color(1, 1, True, **STILL)(PHOTOS, rng(0))
    each = [
        np.array_equal(a, b) or np.array_equal(a[:, ::-1], b)
        for a, b in zip(PHOTOS, flipped, strict=True)
    ]
    assert all(each) and not np.array_equal(flipped, PHOTOS)


def test_colours_change_as_pillows_enhancers_change_them():
    from PIL import Image, ImageEnhance

    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    ones, factors = np.ones(12), np.linspace(0.5, 1.5, 12)
    for number, kind in enumerate(kinds):
        given = [ones, ones, ones]
        given[number] = factors
        made = colors.jittered(PHOTOS, *given).astype(int)
        for image, factor, found in zip(PHOTOS, factors, made, strict=True):
            enhanced = np.asarray(kind(Image.fromarray(image)).enhance(factor)).astype(int)
            assert np.abs(found - enhanced).max() <= 2  # Pillow's greys are whole numbers
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    two = np.full(2, 2.0)
    assert np.array_equal(colors.jittered(grey, two / 2, two / 2, two), grey)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"smallest": value} for value in (0, 1.1, float("nan"))),
        *({"stretch": value} for value in (0.9, float("inf"), float("nan"))),
        *({name: value} for name in STILL for value in (-0.1, 1.1)),
    ],
)
def test_what_crop_color_cannot_do_is_refused_by_name(wrong):
    with pytest.raises(GluonexpError, match=rf"augment\.{next(iter(wrong))}"):
        crop_color(**wrong)
