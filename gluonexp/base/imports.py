"""Packages: which are installed, and the large ones imported sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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
    """Look for no garbage meanwhile: what MXNet and MLflow make, a million objects, all stays.

    Without it a sixth of the time goes into looking.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
