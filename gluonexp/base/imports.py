"""Large packages, imported sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
