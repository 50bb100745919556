"""Carving: stratified, disjoint, exhaustive, in order, by seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.data.split import carve, held_out, spread, thinned
from gluonexp.data.types import Split

LABELS = st.lists(st.integers(0, 4), min_size=8, max_size=200)


def numbered(labels: list[int]) -> Split:
    """Make a split whose image number i holds i."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.array(labels, dtype=np.int64))


@given(LABELS, st.floats(0.25, 0.95), st.integers(0, 2**32 - 1))
def test_the_parts_are_the_whole_in_order_and_every_class_still_trains(labels, fraction, seed):
    split = numbered(labels)
    # 8 samples of at most 5 classes: some class has 2, of which a quarter rounds to one.
    train, val = carve(split, fraction, seed)
    train_at, val_at = np.ravel(train.images), np.ravel(val.images)
    assert sorted([*train_at, *val_at]) == list(range(len(labels)))
    for part, at in ((train, train_at), (val, val_at)):
        assert list(at) == sorted(at)
        assert list(part.labels) == [labels[index] for index in at]
    for label in set(labels):
        size = labels.count(label)
        assert np.sum(val.labels == label) == min(int(fraction * size + 0.5), size - 1)


def test_the_parts_are_views_and_so_is_a_part_of_a_part():
    split = numbered([0, 1] * 20)
    part, val = carve(split, 0.25, seed=3)
    again = thinned(part, 0.5, seed=3)
    assert part.images.array is val.images.array is again.images.array is split.images
    chosen = np.array([4, 1, 1])
    wanted = np.asarray(again.images)[chosen]
    for found in (again.images[chosen], again.images.take(chosen), again.select(chosen).images[:]):
        assert np.array_equal(found, wanted)
    assert again.images.shape == (len(again), *split.images.shape[1:])
    assert np.array_equal(again.images[2], np.asarray(again.images)[2])


@given(LABELS, st.integers(0, 2**32 - 1))
def test_a_seed_always_gives_the_same_marks(labels, seed):
    array = np.array(labels)
    assert np.array_equal(held_out(array, 0.5, seed), held_out(array, 0.5, seed))


def test_another_seed_gives_other_marks():
    labels = np.repeat(np.arange(3), 30)
    assert not np.array_equal(held_out(labels, 0.5, 0), held_out(labels, 0.5, 1))


def test_the_marks_of_a_seed_never_change():
    # Results recorded with an older gluonexp stay comparable only as long as this holds.
    marks = held_out(np.repeat(np.arange(2), 10), 0.3, 7)
    assert np.flatnonzero(marks).tolist() == [0, 5, 8, 11, 12, 13]


def test_fraction_zero_carves_nothing():
    split = numbered([0, 1, 1])
    train, val = carve(split, 0, 3)
    assert train is split
    assert val is None


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(GluonexpError, match=r"\[0, 1\)"):
        carve(numbered([0, 1]), fraction, 0)


def test_a_fraction_too_small_for_the_data_names_its_key_and_one_that_is_not():
    split = numbered([0, 0, 0, 1, 1])
    told = r"^dataset\.val_fraction=0\.1 takes none .* has 3 of the 5 .*: use 0\.167 or more, or 0"
    with pytest.raises(GluonexpError, match=told):
        carve(split, 0.1, 0, "dataset.val_fraction")
    assert len(carve(split, 0.167, 0)[1]) == 1
    with pytest.raises(GluonexpError, match="has 1 of the 2 samples: use 0 to hold out nothing"):
        carve(numbered([0, 1]), 0.5, 0)


def test_a_fraction_that_keeps_all_names_its_key_and_one_that_does_not():
    split = numbered([0, 0, 0, 1, 1])
    told = r"^dataset\.train_fraction=0\.96 leaves out none .*: use 0\.833 or less, or 1 to"
    with pytest.raises(GluonexpError, match=told):
        thinned(split, 0.96, 0)
    assert thinned(split, 0.833, 0).labels.tolist() == [0, 0, 1, 1]
    assert thinned(split, 0.01, 0).labels.tolist() == [0, 1]
    assert thinned(split, 1, 0) is split
    with pytest.raises(GluonexpError, match="use 1 to train on all"):
        thinned(numbered([0, 1]), 0.5, 0)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), count=st.integers(0, 70))
def test_what_is_spread_has_of_each_class_as_many_as_there_are(labels, count):
    labels = np.array(labels)
    chosen = spread(labels, count)
    assert len(chosen) == min(count, len(labels))
    assert (np.diff(chosen) > 0).all()
    kept, there = (np.bincount(each, minlength=5) for each in (labels[chosen], labels))
    for one in range(5):
        members = np.flatnonzero(labels == one)
        assert set(chosen) >= set(members[: kept[one]])  # its first
        for other in range(5):
            assert kept[one] == there[one] or kept[one] >= kept[other] - 1


def test_a_data_set_in_the_order_of_its_classes_is_spread_too():
    labels = np.repeat(np.arange(10), 1000)
    assert np.bincount(labels[spread(labels, 256)]).tolist() == [26] * 6 + [25] * 4
