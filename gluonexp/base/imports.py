"""Packages: which are installed, and the large ones imported sooner."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HEAVY = 100  # modules


def installed(*packages: str) -> dict[str, str]:
    """Return the versions of those of `packages` that are installed, by their names on PyPI."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Look for no garbage meanwhile, nor ever among what is there when MXNet or MLflow has come.

    They make a million objects that all stay. Looking through them takes a sixth of the time while
    they are imported, and a second or two when it is done once more before the first batch.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Only then: what a later job of this process leaves behind is to be found.
        if len(sys.modules) - before > _HEAVY:
            gc.freeze()
            atexit.register(gc.collect)  # what is left of a job, while all that frees it is there
        if enabled:
            gc.enable()
