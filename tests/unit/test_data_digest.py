"""The fingerprint of a data set changes with anything in it."""

import hashlib
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.data.digest import digest
from gluonexp.data.types import Split

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog", "bird")
TRAIN = Split(
    RNG.integers(0, 256, size=(12, 4, 5, 3), dtype=np.uint8), np.arange(12, dtype=np.int64) % 3
)
TEST = Split(
    RNG.integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8), np.arange(6, dtype=np.int64) % 3
)
WHOLE = digest(CLASSES, {"train": TRAIN, "test": TEST})


def test_it_is_a_sha256_and_the_same_for_equal_data():
    assert len(WHOLE) == len(hashlib.sha256().hexdigest())
    copy = Split(TRAIN.images.copy(), TRAIN.labels.copy())
    assert digest(list(CLASSES), {"test": TEST, "train": copy}) == WHOLE


@given(st.sampled_from(["train", "test"]), st.data())
def test_one_pixel_anywhere_changes_it(name, data):
    splits = {"train": TRAIN, "test": TEST}
    images = splits[name].images.copy()
    images.flat[data.draw(st.integers(0, images.size - 1))] ^= data.draw(st.integers(1, 255))
    assert digest(CLASSES, {**splits, name: replace(splits[name], images=images)}) != WHOLE


@given(st.sampled_from(["train", "test"]), st.data())
def test_one_label_anywhere_changes_it(name, data):
    splits = {"train": TRAIN, "test": TEST}
    labels = splits[name].labels.copy()
    labels[data.draw(st.integers(0, len(labels) - 1))] += 1
    assert digest(CLASSES, {**splits, name: replace(splits[name], labels=labels)}) != WHOLE


def test_order_shape_split_and_class_names_change_it():
    swapped = np.array([1, 0, *range(2, 12)])
    reshaped = replace(TRAIN, images=TRAIN.images.reshape(12, 5, 4, 3))
    others = [
        (CLASSES, {"train": Split(TRAIN.images[swapped], TRAIN.labels[swapped]), "test": TEST}),
        (CLASSES, {"train": reshaped, "test": TEST}),
        (CLASSES, {"train": TEST, "test": TRAIN}),
        (CLASSES, {"train": TRAIN}),
        (CLASSES, {"train": TRAIN, "val": TEST}),
        (("dog", "cat", "bird"), {"train": TRAIN, "test": TEST}),
    ]
    digests = {digest(classes, splits) for classes, splits in others}
    assert len(digests | {WHOLE}) == len(others) + 1


def test_memory_layout_does_not_change_it():
    fortran = Split(np.asfortranarray(TRAIN.images), np.repeat(TRAIN.labels, 2)[::2])
    assert digest(CLASSES, {"train": fortran, "test": TEST}) == WHOLE


def test_an_empty_split_counts():
    empty = Split(np.empty((0, 4, 5, 3), np.uint8), np.empty(0, np.int64))
    assert digest(CLASSES, {"train": TRAIN, "test": empty}) != digest(CLASSES, {"train": TRAIN})
