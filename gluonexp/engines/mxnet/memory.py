"""The memory of MXNet's arrays, for NumPy."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from typing import Final

import numpy as np

from gluonexp.base.mx import mx, nd
from gluonexp.engines.mxnet.blas import Floats

_LARGE: Final = 1 << 23  # bytes, of which a huge page holds a quarter
_COLLAPSE: Final = 25  # MADV_COLLAPSE of Linux 6.1, which Python has no name for


class Memory:
    """Finds it, and has Linux put large arrays into huge pages, once each.

    That changes no value. Small pages take many more look-ups of addresses, which on a virtual
    machine cost an update a tenth to a third of its speed.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def view(self, array: nd.NDArray) -> Floats:
        """Return an array's values in the order of its indices; nothing may be at work on it."""
        address = ctypes.POINTER(ctypes.c_float)()
        mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
        found = np.ctypeslib.as_array(address, array.shape)
        place = found.ctypes.data, found.nbytes
        if found.nbytes >= _LARGE and place not in self._seen:
            self._seen.add(place)
            with contextlib.suppress(AttributeError):  # a system's library without it
                _use_huge_pages(*place)
        return found


def _use_huge_pages(address: int, size: int) -> None:
    """Ask for huge pages; a system that has none, or too little memory, refuses silently."""
    if sys.platform == "linux":
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        pages, length = ctypes.c_void_p(start), ctypes.c_size_t(address + size - start)
        for advice in (mmap.MADV_HUGEPAGE, _COLLAPSE):
            ctypes.CDLL(None).madvise(pages, length, advice)
