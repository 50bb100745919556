"""Fashion-MNIST and idx files: in miniature, and the real set where it is at hand."""

import gzip
import hashlib
import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonexp.base.errors import GluonexpError
from gluonexp.data import idx
from gluonexp.data.idx import FashionMNIST, parse_idx, read_gzip_or_plain


def idx_bytes(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


@given(hnp.arrays(np.uint8, SHAPES))
def test_an_array_survives(tmp_path_factory, array):
    parsed = parse_idx(idx_bytes(array), tmp_path_factory.getbasetemp())
    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, array)


@pytest.mark.fuzz
def test_any_damage_is_read_or_refused(fuzz):
    sound = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))

    def read(path):
        parse_idx(read_gzip_or_plain(path, 1000), path)

    sides = st.lists(st.integers(0, 2) | st.integers(0, 2**32 - 1), max_size=40)
    headers = sides.map(lambda shape: struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape))
    fuzz(read, fuzz.damaged(sound) | headers | headers.map(lambda head: head + b"x"), "some-idx")


@pytest.mark.fuzz
def test_any_damage_to_a_gzipped_file_is_read_or_refused(fuzz):
    sound = gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    fuzz(lambda path: read_gzip_or_plain(path, 1000), fuzz.damaged(sound), "some-idx.gz")


@given(hnp.arrays(np.uint8, SHAPES), st.data())
def test_a_cut_or_longer_file_is_refused(tmp_path_factory, array, data):
    content = idx_bytes(array)
    wrong = data.draw(
        st.one_of(
            st.integers(0, len(content) - 1).map(lambda end: content[:end]),
            st.binary(min_size=1, max_size=9).map(lambda more: content + more),
        )
    )
    with pytest.raises(GluonexpError, match="some-file"):
        parse_idx(wrong, tmp_path_factory.getbasetemp() / "some-file")


def test_another_kind_of_file_is_refused(tmp_path):
    floats = struct.pack(">HBBI", 0, 13, 1, 1) + bytes(4)
    for content in (b"", b"<!DOCTYPE html>", floats):
        with pytest.raises(GluonexpError, match="not an idx file of unsigned bytes"):
            parse_idx(content, tmp_path / "page")


ARRAYS = {
    "train-images-idx3-ubyte": np.random.default_rng(0).integers(
        0, 256, size=(7, 28, 28), dtype=np.uint8
    ),
    "train-labels-idx1-ubyte": np.arange(7, dtype=np.uint8),
    "t10k-images-idx3-ubyte": np.random.default_rng(1).integers(
        0, 256, size=(3, 28, 28), dtype=np.uint8
    ),
    "t10k-labels-idx1-ubyte": np.array([9, 8, 7], dtype=np.uint8),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Lay out a Fashion-MNIST of ten images, gzipped and plain mixed, published with no mirror."""
    monkeypatch.setattr(idx, "MIRRORS", ())
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name, array in ARRAYS.items():
        content = idx_bytes(array)
        monkeypatch.setitem(idx.FILES, name, hashlib.sha256(content).hexdigest())
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
        else:
            (folder / name).write_bytes(content)
    return tmp_path


def test_gzipped_and_plain_files_are_read(root):
    samples = FashionMNIST(str(root)).load()
    for split, prefix in ((samples.train, "train"), (samples.test, "t10k")):
        assert np.array_equal(split.images[..., 0], ARRAYS[f"{prefix}-images-idx3-ubyte"])
        assert split.labels.tolist() == ARRAYS[f"{prefix}-labels-idx1-ubyte"].tolist()
        assert split.labels.dtype == np.int64
    assert samples.train.images.shape == (7, 28, 28, 1)
    assert samples.title == "Fashion-MNIST"


def test_how_a_file_was_compressed_does_not_matter(root):
    path = root / "fashion-mnist" / "train-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=1))
    assert len(FashionMNIST(str(root)).load().train) == 7
    path.write_bytes(content)  # not compressed, whatever its name says
    assert len(FashionMNIST(str(root)).load().train) == 7


def test_one_changed_pixel_is_found(root):
    path = root / "fashion-mnist" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(GluonexpError, match=r"t10k-images-idx3-ubyte is not the published"):
        FashionMNIST(str(root)).load()


def test_a_truncated_gzip_is_named(root):
    path = root / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(GluonexpError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        FashionMNIST(str(root)).load()


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(10_000_000)))
    assert len(read_gzip_or_plain(path, 100)) == 101


def test_what_is_missing_is_listed_with_its_digest(root):
    folder = root / "fashion-mnist"
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(GluonexpError) as caught:
        FashionMNIST(str(root)).load()
    message = str(caught.value)
    assert f"put into {folder}:" in message
    for name, digest in idx.FILES.items():
        assert (f"{name}.gz  (sha256 of the decompressed content {digest})" in message) == (
            "labels" in name
        )
    assert "GLUONEXP_DATA" in message


def test_the_real_set():
    root = os.environ.get("GLUONEXP_DATA")
    if not root or not (FashionMNIST(root).folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("GLUONEXP_DATA holds no fashion-mnist/")
    source = FashionMNIST(root)
    samples = source.load()
    spec = source.spec()
    assert samples.train.images.shape == (60_000, spec.height, spec.width, spec.channels)
    assert np.bincount(samples.train.labels).tolist() == [6000] * len(spec.classes)
    assert np.bincount(samples.test.labels).tolist() == [1000] * len(spec.classes)
    assert spec.classes[samples.test.labels[0]] == "ankle boot"
