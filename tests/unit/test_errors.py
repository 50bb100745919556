"""What of other libraries' errors the user can mend is one sentence; a mistake of ours is none."""

import errno
import resource
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from safetensors.numpy import save_file

from gluonexp.base.errors import GluonexpError, debugging, sentence


def raised(work):
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def write(path):
    with open(path, "w") as file:
        file.write("x")


def fill_by_safetensors():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TemporaryDirectory() as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save_file({"a": np.ones(2000)}, Path(folder, "a.safetensors"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill():
    with sqlite3.connect(":memory:") as link:
        link.execute("PRAGMA max_page_count = 1")
        link.execute("CREATE TABLE a (b)")


FULL = {
    "python": lambda: write("/dev/full"),
    "safetensors": fill_by_safetensors,
    "sqlite": fill,
}


@pytest.mark.parametrize("work", FULL.values(), ids=FULL)
def test_a_full_disk_is_told_whoever_meets_it(work):
    assert "the disk is full" in sentence(raised(work))


MEMORY = [
    "std::bad_alloc",
    "Check failed: e == cudaSuccess: cudaMalloc retry failed: out of memory",
    "[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 4000000000000 bytes.",
    "Failed to allocate CPU Memory",
]


def test_memory_that_ran_out_is_told_whoever_meets_it():
    said = sentence(raised(lambda: np.ones(1 << 50, dtype=np.uint8)))
    assert said.startswith("memory ran out (Unable to allocate 1.00 PiB")
    assert "lower trainer.batch_size" in said
    assert all("memory ran out" in sentence(RuntimeError(text)) for text in MEMORY)


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    said = sentence(raised(lambda: write(tmp_path / "no" / "file")))
    assert said == f"{tmp_path / 'no' / 'file'} cannot be used: No such file or directory"


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("a mistake"), OSError(errno.EBADF, "Bad descriptor")]
)
def test_of_a_mistake_of_ours_nothing_is_told(error):
    assert sentence(error) is None


def test_what_a_message_quotes_commands_no_terminal():
    error = GluonexpError("named \x1b[2J\u202e\r in its file;\nput it there")
    assert str(error) == "named \\x1b[2J\\u202e\\r in its file;\nput it there"
    assert sentence(error) == str(error)


@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False), ("", False)])
def test_tracebacks_are_shown_where_they_are_asked_for(monkeypatch, value, on):
    monkeypatch.setenv("GLUONEXP_DEBUG", value)
    assert debugging() is on
