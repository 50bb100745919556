"""Packages: which are installed, and the large ones imported sooner."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HEAVY = 100  # modules

_own = False


def own_process() -> None:
    """Say that this process does nothing but our work: there are no objects of a user's script.

    What a script has made must be found when it is garbage, at its exit at the latest: there a
    `DataLoader` of Gluon's with processes fails otherwise.
    """
    global _own
    _own = True


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
    """Do not collect garbage meanwhile; in a process of our own, never look at what came.

    MXNet and MLflow make a million objects that all stay. Looking through them takes a sixth of
    the time while they are imported, and a second or two when it is done once more before the
    first batch.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Only then: what a later job of this process leaves behind is to be found.
        if _own and len(sys.modules) - before > _HEAVY:
            gc.freeze()
            atexit.register(gc.collect)  # what is left of a job, while all that frees it is there
        if enabled:
            gc.enable()
