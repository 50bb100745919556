"""Pictures and tables of runs; the only importer of matplotlib."""

import os
import sys
from contextlib import suppress


def _import_matplotlib() -> None:
    """Import matplotlib, also where it does not have the backend that ``MPLBACKEND`` names.

    Notebooks hand theirs down to what they start, and the import fails where it is not installed.
    Pictures here need no backend; whoever shows others has the one that was asked for.
    """
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    if asked:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = asked


if "matplotlib" not in sys.modules:
    _import_matplotlib()
