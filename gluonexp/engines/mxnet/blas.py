"""Matrix products in place, in threads that share out the work.

NumPy's product neither adds to its result nor scales it, and SciPy's function in Python keeps the
interpreter's lock. So SciPy's sgemm is called through the pointer that it gives to Cython, and
BLAS itself uses one thread meanwhile. What is computed does not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import mx

Job = TypeVar("Job")
Floats = NDArray[np.float32]

_BYTES: Final = np.dtype(np.float32).itemsize
# What Cython says of sgemm's arguments: two flags, three sizes, then numbers and arrays.
_ARGUMENTS: Final = b"void (char *, char *, int *, int *, int *, "


class Team:
    """Threads that share out jobs among themselves; the caller is one of them."""

    def __init__(self, size: int) -> None:
        from threadpoolctl import ThreadpoolController

        _sgemm()  # loads the library that `alone` limits
        self.size = size
        self._others = ThreadPoolExecutor(max(1, size - 1), "gluonexp-dense")
        blas = ThreadpoolController().select(user_api="blas")
        paths = [library["filepath"] for library in blas.info()]
        # MXNet's own computes in MXNet's threads.
        theirs = Path(mx.__file__).parent
        self._blas = blas.select(filepath=[p for p in paths if theirs not in Path(p).parents])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep BLAS from using threads of its own while these are at work."""
        with self._blas.limit(limits=1), _silent():
            yield

    def each(self, work: Callable[[Job, int], None], jobs: Iterable[Job]) -> None:
        """Call `work` with each job and the number of the thread, in [0, size)."""
        jobs = [*jobs]
        left = iter(jobs)

        def share(thread: int) -> None:
            with _silent():
                for job in left:  # taking the next one is atomic
                    work(job, thread)

        helpers = range(1, min(self.size, len(jobs)))
        others = [self._others.submit(share, thread) for thread in helpers]
        try:
            share(0)
        finally:
            wait(others)  # they compute in memory that is the caller's
        for other in others:
            other.result()


def _silent() -> Any:
    """Let numbers become infinite or NaN as MXNet does: the next loss shows it."""
    return np.errstate(all="ignore")


def gemm(out: Floats, a: Floats, b: Floats, alpha: float = 1.0, beta: float = 0.0) -> None:
    """Compute ``out = alpha * a @ b + beta * out`` without the interpreter's lock.

    Parameters
    ----------
    out
        Shape (m, n), its rows contiguous; may be part of a larger array.
    a, b
        Shapes (m, k) and (k, n), the rows or the columns contiguous.
    """
    if beta not in (0.0, 1.0):
        out *= beta  # NumPy is faster at it than OpenBLAS
        beta = 1.0
    (rows, columns), inner = out.shape, a.shape[1]
    flag, *result = _operand(out)
    if a.shape[0] != rows or b.shape != (inner, columns) or flag != b"N":
        raise ValueError(f"{a.shape} times {b.shape} into {out.shape} of strides {out.strides}")
    # BLAS goes by columns, so it sees the transposes: out' = b' a'.
    (flag_b, *first), (flag_a, *second) = _operand(b), _operand(a)
    sizes = [ctypes.byref(ctypes.c_int(size)) for size in (columns, rows, inner)]
    scales = [ctypes.byref(ctypes.c_float(scale)) for scale in (alpha, beta)]
    _sgemm()(flag_b, flag_a, *sizes, scales[0], *first, *second, scales[1], *result)


def _operand(array: Floats) -> tuple[bytes, Any, Any]:
    """Return whether BLAS has to transpose it, its address, and from one vector to the next."""
    (rows, columns), (down, along) = array.shape, array.strides
    if array.dtype == np.float32 and along == _BYTES:
        flag, step = b"N", max(down // _BYTES, columns)
    elif array.dtype == np.float32 and down == _BYTES:
        flag, step = b"T", max(along // _BYTES, rows)
    else:
        raise ValueError(f"{array.dtype} of strides {array.strides}: nothing is contiguous")
    return flag, array.ctypes.data, ctypes.byref(ctypes.c_int(step))


def usable() -> bool:
    """Whether the SciPy that is installed has the function that `gemm` calls."""
    try:
        _sgemm()
    except (ImportError, AttributeError, KeyError, RuntimeError):
        return False
    return True


@cache
def _sgemm() -> Callable[..., None]:
    """Return SciPy's sgemm."""
    from scipy.linalg import cython_blas

    capsule, api = cython_blas.__pyx_capi__["sgemm"], ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(
        capsule
    )
    if not name.startswith(_ARGUMENTS):
        raise RuntimeError(f"this SciPy's sgemm takes other arguments: {name.decode()}")
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    address = pointer(("PyCapsule_GetPointer", api))(capsule, name)
    flag, reference, array = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p
    vectors = (array, reference)
    kinds = (*(flag,) * 2, *(reference,) * 4, *vectors, *vectors, reference, *vectors)
    return ctypes.CFUNCTYPE(None, *kinds)(address)
