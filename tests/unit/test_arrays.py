"""Arrays that are computed once: made, found again, verified, removed to make room."""

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path

import numpy as np
import pytest

from gluonexp.base import array_entry, arrays
from gluonexp.base.arrays import ArrayCache, NoCache, NoRoom

SHAPE = (4, 3)
SIZE = 48 + 128  # bytes of a file: the array's and the header's


def fill(array):
    array[:] = np.arange(array.size).reshape(array.shape)
    return {"title": "twelve numbers"}


def get(cache, of="a", fill=fill, **other):
    asked = {"kind": "features", "key": {"of": of}, "shape": SHAPE, "dtype": "float32", **other}
    return cache.get(**asked, fill=fill, doing="computes the numbers")


def never(array):
    raise AssertionError("it is there already")


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "arrays", 1e6)


def visible(cache):
    return sorted(name for name in os.listdir(cache.folder) if name[0] != "." or "new" in name)


def test_an_array_is_computed_once(cache):
    first = get(cache)
    second = get(cache, fill=never)
    assert (first.made, second.made) == (True, False)
    assert second.notes == {"title": "twelve numbers"}
    for entry in (first, second):
        assert entry.array.tolist() == np.arange(12).reshape(4, 3).tolist()
        assert isinstance(entry.array, np.memmap) and not entry.array.flags.writeable
    assert visible(cache) == [first.folder.name]


@pytest.mark.parametrize(
    "other",
    [{"key": {"of": "b"}}, {"kind": "images"}, {"shape": (3, 4)}, {"dtype": "float16"}],
    ids=str,
)
def test_whatever_differs_is_another_entry(cache, other):
    get(cache)
    assert get(cache, **other).made
    assert not get(cache, fill=never).made


def spoil_bit(folder):
    data = bytearray((folder / "array.npy").read_bytes())
    data[-1] ^= 1
    (folder / "array.npy").write_bytes(data)


def spoil_length(folder):
    os.truncate(folder / "array.npy", SIZE - 1)


def spoil_meta(folder):
    (folder / "meta.json").write_text("{")


def spoil_notes(folder):
    text = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text(text.replace("twelve", "eleven"))


def spoil_key(folder):
    """Put another entry, whole, in its place."""
    other = get(ArrayCache(folder.parent, 1e6), "other").folder
    for name in ("array.npy", "meta.json"):
        (folder / name).write_bytes((other / name).read_bytes())


def spoil_by_link(folder):
    other = folder.parent.parent / "elsewhere"
    folder.rename(other)
    folder.symlink_to(other)


def spoil_by_linked_file(folder):
    (folder / "array.npy").rename(folder / "elsewhere.npy")
    (folder / "array.npy").symlink_to("elsewhere.npy")


def spoil_by_pipe(folder):
    (folder / "array.npy").unlink()
    os.mkfifo(folder / "array.npy")


def spoil_by_absence(folder):
    (folder / "meta.json").unlink()


SPOILERS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_damaged_entry_is_said_and_made_again(cache, capsys, spoil):
    folder = get(cache).folder
    assert cache.verify(folder) is None
    spoil(folder)
    assert cache.verify(folder)
    again = get(cache)
    assert again.made and again.array[3, 2] == 11
    said = capsys.readouterr().err
    assert f"{folder} is damaged (" in said and said.count("\n") == 1
    assert not get(cache, fill=never).made
    assert not [name for name in visible(cache) if name.startswith(".new")]


@pytest.mark.parametrize("other", [{"dtype": "thing"}, {"dtype": None}, {"shape": 7}], ids=str)
def test_a_foreign_entry_that_agrees_with_itself_is_damaged(cache, other):
    folder = get(cache).folder
    meta = {**json.loads((folder / "meta.json").read_text()), **other}
    del meta["digest"]
    meta["digest"] = hashlib.sha256(array_entry._canonical(meta)).hexdigest()
    identity = {name: meta[name] for name in ("kind", "key", "shape", "dtype")}
    folder = folder.rename(cache.folder / array_entry.name_of(identity))
    (folder / "meta.json").write_text(json.dumps(meta))
    assert cache.verify(folder) == "array.npy is not of the recorded shape and type"


def test_no_pickle_is_opened(cache):
    folder = get(cache).folder
    np.save(folder / "array.npy", np.array([print], dtype=object), allow_pickle=True)
    assert get(cache).made


@pytest.mark.parametrize("code", [ENOSPC, EDQUOT])
def test_a_disk_that_is_full_while_writing(cache, code):
    def full(array):
        array[:2] = 7
        raise OSError(code, os.strerror(code))

    with pytest.raises(NoRoom, match=f"{cache.folder} has no room for 176 bytes more"):
        get(cache, fill=full)
    assert visible(cache) == []
    assert get(cache).made


def test_the_disk_is_taken_before_anything_is_written(cache):
    """A map whose disk is full would kill the process: of that there is no exception."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(NoRoom, match="File too large"):
            get(cache, fill=never)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert visible(cache) == []


def test_what_fill_raises_comes_out_and_leaves_nothing(cache):
    def broken(array):
        raise OSError(EIO, "not of the cache")

    with pytest.raises(OSError, match="not of the cache"):
        get(cache, fill=broken)
    with pytest.raises(ZeroDivisionError):
        get(cache, fill=lambda array: 1 / 0)
    assert visible(cache) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NoCache, match=r"is no folder; name another folder with features\.folder"):
        get(ArrayCache(tmp_path / "file" / "arrays", 1e6))


def test_more_than_the_budget_is_refused_before_anything_goes(cache):
    get(cache)
    with pytest.raises(NoRoom, match=r"has no room for 4.0 GB more: features.budget_gb allows"):
        get(cache, shape=(10**9,), fill=never)
    assert not get(cache, fill=never).made


def test_a_disk_with_little_room_is_left_alone(cache, monkeypatch):
    monkeypatch.setattr(arrays, "MARGIN", 10**18)
    with pytest.raises(NoRoom, match="its disk is to keep"):
        get(cache, fill=never)


def age(folder, seconds):
    os.utime(folder / "array.npy", (seconds, seconds))


def test_the_least_recently_used_goes_first_and_none_in_use(cache):
    cache.budget = 3.5 * SIZE
    folders = {of: get(cache, of).folder for of in "abc"}
    for seconds, folder in enumerate(folders.values()):
        age(folder, seconds)
    used = get(cache, "a", never)  # opened last, and in use
    assert [kept.in_use for kept in cache.entries()] == [False, False, True]
    view = used.array[1:]
    del used
    age(folders["a"], 0)
    get(cache, "d")  # b goes: a is still used, by a view of it
    assert get(cache, "c", never) and get(cache, "a", never) and not folders["b"].exists()
    assert not cache.remove(folders["a"])
    del view
    assert cache.remove(folders["a"]) and not folders["a"].exists()


def test_where_all_is_in_use_nothing_goes(cache):
    cache.budget = 2.5 * SIZE
    held = [get(cache, of) for of in "ab"]
    with pytest.raises(NoRoom, match="in use"):
        get(cache, "c", never)
    assert [cache.verify(entry.folder) for entry in held] == [None, None]


def test_what_is_not_ours_stays(cache):
    cache.budget = SIZE
    cache.folder.mkdir()
    (cache.folder / "thesis").mkdir()
    (cache.folder / ".new-thesis").mkdir()
    get(cache)
    get(cache, "b")
    assert len(visible(cache)) == 3
    assert {"thesis", ".new-thesis"} < set(visible(cache))


CHILD = """
import os, pathlib, signal, sys
from gluonexp.base.arrays import ArrayCache
def fill(array):
    array[:] = 7
    {body}
ArrayCache(pathlib.Path(sys.argv[1]), 1e6).get(
    "features", {{"of": "a"}}, (4, 3), "float32", fill, "computes the numbers")
"""


def child(cache, body):
    """Start another process that makes the entry, and carries out `body` before it is done."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=body), str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("next_one", ["a", "b"])
def test_what_a_killed_process_leaves_is_not_trusted_and_goes(cache, next_one):
    with child(cache, "os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait(100) == -signal.SIGKILL
    (draft,) = visible(cache)
    assert draft.startswith(".new-features-") and cache.entries() == []
    assert get(cache, next_one).made
    assert len(visible(cache)) == 1 and draft not in visible(cache)


def test_two_processes_make_it_once_and_the_second_says_that_it_waits(cache, monkeypatch):
    with child(cache, "print('fills', flush=True); sys.stdin.readline()") as process:
        assert process.stdout.readline() == "fills\n"
        assert get(cache, "b").made  # another one need not wait, and takes no living draft away

        class Stderr(io.StringIO):
            def write(self, text):
                process.stdin.write("go on\n")
                process.stdin.flush()
                return super().write(text)

        monkeypatch.setattr(sys, "stderr", Stderr())
        entry = get(cache, fill=never)
        said = sys.stderr.getvalue()
    assert process.returncode == 0
    assert said.splitlines() == ["waiting for another process that computes the numbers"]
    assert not entry.made and (entry.array == 7).all()


def test_what_is_said_of_an_entry_without_reading_it(cache):
    entry = get(cache)
    (kept,) = cache.entries()
    assert (kept.folder, kept.kind, kept.size, kept.in_use) == (
        *(entry.folder, "features", SIZE, True),
    )
    assert kept.notes == {"title": "twelve numbers"}
    assert kept.made <= kept.used + 1
    meta = json.loads((entry.folder / "meta.json").read_text())
    assert (meta["key"], meta["shape"], meta["dtype"]) == ({"of": "a"}, [4, 3], "<f4")
    assert ArrayCache(cache.folder / "none", 1).entries() == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells")
def test_no_memory_is_taken_for_an_array(cache):
    """Neither while it is made nor when it is opened and verified."""

    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    size = 64 << 20
    before = anonymous()
    entries = [
        get(cache := ArrayCache(cache.folder, 1e9), shape=(size,), dtype="uint8", fill=ones)
        for _ in range(2)
    ]
    assert [entry.made for entry in entries] == [True, False]
    assert entries[1].array[:: 1 << 20].all()
    assert anonymous() - before < size / 4


def ones(array):
    array[:] = 1


@pytest.mark.parametrize("none", [None, ""])
def test_where_no_folder_is_named_it_is_the_users(none, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert ArrayCache.configured(none, 2).folder == arrays.default_folder()
    named = ArrayCache.configured("~/arrays", 2)
    assert (named.folder, named.budget) == (Path("/home/me/arrays"), 2e9)
