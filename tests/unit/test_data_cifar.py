"""CIFAR-10 from every form of its archives, in miniature; and hostile files."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from functools import partial

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.data import cifar
from gluonexp.data.cifar import CIFAR10, FORMS, read_binary, read_pickle

PYTHON, BINARY = FORMS
ROWS = 4  # images a batch
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(6, ROWS, 3072), dtype=np.uint8)
LABELS = RNG.integers(0, 10, size=(6, ROWS))


def python2_pickle(pixels, labels):
    """Write a batch opcode by opcode as Python 2 pickled the published ones (protocol 2)."""

    def string(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R"
        b"(" + integer(1) + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
        b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
        b"\x89" + string(pixels.tobytes()) + b"tb"
    )
    return (
        b"\x80\x02}("
        + string(b"batch_label") + string(b"training batch 1 of 5")
        + string(b"labels") + b"](" + b"".join(map(integer, labels)) + b"e"
        + string(b"data") + array
        + string(b"filenames") + b"](" + string(b"leptodactylus_pentadactylus_s_000004.png") + b"e"
        + b"u."
    )  # fmt: skip


def modern_pickle(pixels, labels):
    return pickle.dumps({b"labels": labels.tolist(), b"data": pixels}, 3)


def binary(pixels, labels):
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes()


WRITERS = {PYTHON.archive: python2_pickle, BINARY.archive: binary}


def contents(form):
    """Write the six batches of a miniature CIFAR-10."""
    write = WRITERS[form.archive]
    return {name: write(PIXELS[i], LABELS[i]) for i, name in enumerate(form.digests)}


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    """Publish the miniature: its digests, and no mirror."""
    monkeypatch.setattr(cifar, "MIRRORS", ())
    for form in FORMS:
        for name, content in contents(form).items():
            digest = hashlib.new(form.algorithm, content).hexdigest()
            monkeypatch.setitem(form.digests, name, digest)


def unpack(base, form):
    folder = base / form.folder
    folder.mkdir(parents=True)
    for name, content in contents(form).items():
        (folder / name).write_bytes(content)
    return folder


def pack(base, form, **changed):
    base.mkdir(parents=True, exist_ok=True)
    with tarfile.open(base / form.archive, "w:gz") as tar:
        # Archives list their members in any order, and hold others.
        for name, content in [("readme.html", b"<html>"), *reversed(contents(form).items())]:
            member = tarfile.TarInfo(f"{form.folder}/{name}")
            content = changed.get(name, content)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return base / form.archive


@pytest.mark.parametrize("form", FORMS, ids=["python", "binary"])
@pytest.mark.parametrize("lay", [pack, unpack])
@pytest.mark.parametrize("below", ["cifar10", "."])
def test_every_form_gives_the_same_images(tmp_path, form, lay, below):
    lay(tmp_path / below, form)
    samples = CIFAR10(str(tmp_path)).load()
    assert samples.train.images.shape == (5 * ROWS, 32, 32, 3)
    planes = PIXELS.reshape(-1, 3, 32, 32)
    both = np.concatenate([samples.train.images, samples.test.images])
    for channel in range(3):
        assert np.array_equal(both[..., channel], planes[:, channel])
    labels = np.concatenate([samples.train.labels, samples.test.labels])
    assert labels.dtype == np.int64
    assert labels.tolist() == LABELS.ravel().tolist()
    assert samples.train.images.flags.c_contiguous
    assert samples.title == "CIFAR-10"


def test_an_incomplete_folder_gives_way_to_an_archive(tmp_path):
    folder = unpack(tmp_path / "cifar10", PYTHON)
    (folder / "data_batch_3").unlink()
    pack(tmp_path / "cifar10", BINARY)
    assert len(CIFAR10(str(tmp_path)).load().train) == 5 * ROWS


@pytest.mark.parametrize("form", FORMS, ids=["python", "binary"])
def test_a_changed_batch_is_found(tmp_path, form):
    name = list(form.digests)[2]
    path = unpack(tmp_path, form) / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(GluonexpError, match=rf"{form.folder}: {name} is not the published one"):
        CIFAR10(str(tmp_path)).load()


def test_a_truncated_archive_is_named(tmp_path):
    archive = pack(tmp_path, PYTHON)
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(GluonexpError, match=r"cifar-10-python\.tar\.gz cannot be read"):
        CIFAR10(str(tmp_path)).load()


def test_an_archive_of_something_else_is_named(tmp_path):
    with tarfile.open(tmp_path / PYTHON.archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(GluonexpError, match="does not hold cifar-10-batches-py/data_batch_1"):
        CIFAR10(str(tmp_path)).load()


def test_links_in_an_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(contents(PYTHON)["data_batch_1"])
    with tarfile.open(tmp_path / PYTHON.archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"{PYTHON.folder}/data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(member)
    with pytest.raises(GluonexpError, match="does not hold"):
        CIFAR10(str(tmp_path)).load()


@pytest.mark.fuzz
@pytest.mark.parametrize("form", FORMS, ids=["python", "binary"])
def test_any_damage_to_an_archive_is_read_or_refused(tmp_path, fuzz, form):
    archive = pack(tmp_path, form)
    with gzip.open(archive) as packed:
        tar = packed.read()
    # What is gzipped has a check sum, so that damage inside is looked for as well.
    contents = fuzz.damaged(archive.read_bytes()) | fuzz.damaged(tar).map(
        partial(gzip.compress, compresslevel=0)
    )
    fuzz(lambda path: CIFAR10(str(tmp_path)).load(), contents, form.archive)


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "read, write",
    [(read_pickle, python2_pickle), (read_pickle, modern_pickle), (read_binary, binary)],
    ids=["python 2", "python 3", "binary"],
)
def test_any_damage_to_a_batch_is_read_or_refused(fuzz, read, write):
    sound = write(PIXELS[0, :2], LABELS[0, :2])
    # Most of it is pixels: what is around them is damaged apart.
    small = write(PIXELS[0, :1, :0], LABELS[0, :1])
    fuzz(
        lambda path: read(path.read_bytes(), path.name),
        fuzz.damaged(sound) | fuzz.damaged(small),
        "data_batch_1",
    )


def test_without_files_and_mirrors_it_says_what_to_put_where(tmp_path):
    with pytest.raises(GluonexpError) as caught:
        CIFAR10(str(tmp_path)).load()
    assert f"put into {tmp_path / 'cifar10'}:" in str(caught.value)
    assert "cifar-10-python.tar.gz  (md5 c58f30108f718f92721af3b95e74349a)" in str(caught.value)


def test_numpy_reads_the_same_from_the_same_pickle():
    content = python2_pickle(PIXELS[0], LABELS[0])
    batch = pickle.loads(content, encoding="bytes")  # our own bytes: the unrestricted reader
    pixels, labels = read_pickle(content, "batch")
    assert np.array_equal(pixels, batch[b"data"])
    assert labels.tolist() == batch[b"labels"]


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def hostile(path):
    """Return pickles which, read by `pickle.loads`, create `path`."""
    code = f"open({str(path)!r}, 'w').close()"
    return {
        "open": pickle.dumps(Touch(path)),
        "inside a batch": pickle.dumps({b"labels": [Touch(path)], b"data": 0}, protocol=2),
        "eval": b"cbuiltins\neval\n(V" + code.encode() + b"\ntR.",
        "python 2 eval": b"c__builtin__\neval\n(V" + code.encode() + b"\ntR.",
        "stack global": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93(\x8c"
        + bytes([len(code)]) + code.encode() + b"tR.",
        "inst": b"(V" + code.encode() + b"\nibuiltins\nexec\n.",
        "through numpy": b"cnumpy.testing._private.utils\nrunstring\n(V"
        + code.encode() + b"\n}tR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__init__.__x__\x93.",
        "copyreg": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
        "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nV__class__\ntR.",
        "persistent id": b"Pos.system\n.",
        "extension": b"\x82\x01.",
    }  # fmt: skip


def test_hostile_pickles_do_harm_when_read_carelessly(tmp_path):
    # Otherwise the next test would prove nothing.
    harmful = ["open", "inside a batch", "eval", "python 2 eval", "stack global", "inst"]
    for name in harmful:
        path = tmp_path / name.replace(" ", "_")
        pickle.loads(hostile(path)[name], encoding="bytes")
        assert path.exists(), name


@pytest.mark.parametrize("name", hostile("x"))
def test_a_hostile_pickle_executes_nothing(tmp_path, name):
    path = tmp_path / "touched"
    with pytest.raises(GluonexpError, match="data_batch_1 is not a CIFAR-10 batch"):
        read_pickle(hostile(path)[name], "data_batch_1")
    assert not path.exists()


def test_an_honest_batch_with_a_hostile_entry_is_refused(tmp_path):
    path = tmp_path / "touched"
    honest = python2_pickle(PIXELS[0], LABELS[0])
    assert honest.endswith(b"u.")
    entry = b"T" + struct.pack("<i", 4) + b"more" + hostile(path)["eval"][:-1]
    with pytest.raises(GluonexpError, match=r"it names builtins\.eval"):
        read_pickle(honest[:-2] + entry + b"u.", "data_batch_1")
    assert not path.exists()


def test_a_hostile_pickle_with_the_right_digest_executes_nothing(tmp_path, monkeypatch):
    # Even where somebody found a collision of the published md5.
    path = tmp_path / "touched"
    content = hostile(path)["inside a batch"]
    digest = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(PYTHON.digests, "data_batch_1", digest)
    pack(tmp_path, PYTHON, data_batch_1=content)
    with pytest.raises(GluonexpError, match="data_batch_1 is not a CIFAR-10 batch"):
        CIFAR10(str(tmp_path)).load()
    assert not path.exists()


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_of_something_else_is_refused(protocol):
    for value in ([1, 2], {b"data": 1}, {b"labels": [1]}, None, b"data", {"data": [1]}):
        with pytest.raises(GluonexpError, match="is not a CIFAR-10 batch"):
            read_pickle(pickle.dumps(value, protocol=protocol), "batch")


def test_a_pickle_cut_short_is_refused():
    content = python2_pickle(PIXELS[0], LABELS[0])
    for end in range(0, len(content), 97):
        with pytest.raises(GluonexpError, match="is not a CIFAR-10 batch"):
            read_pickle(content[:end], "batch")


def test_data_and_labels_must_agree():
    with pytest.raises(GluonexpError, match="its data have the shape"):
        read_pickle(python2_pickle(PIXELS[0], LABELS[0][:-1]), "batch")


def test_a_binary_batch_cut_short_is_refused():
    with pytest.raises(GluonexpError, match="no whole number"):
        read_binary(binary(PIXELS[0], LABELS[0])[:-1], "data_batch_1.bin")
