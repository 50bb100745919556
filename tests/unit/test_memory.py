"""What a process keeps of the memory that it frees."""

import mmap
import platform
import subprocess
import sys

import pytest

from gluonexp.base.memory import forget_peak, peak

PAGES = """
import ctypes, resource, sys
from gluonexp.base.memory import keep_freed

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "kept":
    keep_freed()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(5):
    before = pages()
    array = ctypes.c_void_p(libc.malloc(1 << 26))
    ctypes.memset(array, 1, 1 << 26)
    libc.free(array)
    print(pages() - before)
"""


def test_the_peak_of_the_memory_counts_from_where_it_is_wanted():
    forget_peak()
    before, size = peak(), 1 << 28
    with mmap.mmap(-1, size) as filled:  # what malloc has given it may keep
        for _ in range(size >> 20):
            filled.write(b"x" * (1 << 20))
        assert peak() >= before + 0.9 * size or platform.system() != "Linux"
    forget_peak()
    assert peak() < before + 0.5 * size or platform.system() != "Linux"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize(
    ("way", "environment", "kept"),
    [
        ("kept", {}, True),
        ("plain", {}, False),
        ("kept", {"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
    ],
    ids=["kept", "left-alone", "the-user-chose"],
)
def test_freed_memory_is_taken_again(monkeypatch, way, environment, kept):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", PAGES, way], capture_output=True, text=True, check=True
    )
    taken = [int(line) for line in done.stdout.split()]
    assert taken[0] > 1000  # 64 MiB, in pages of 4 KiB or 64
    assert (max(taken[1:]) < 100) == kept
