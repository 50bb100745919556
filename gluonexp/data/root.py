"""Where data sets live on disk."""

from pathlib import Path

import platformdirs


def data_root(root: str | None) -> Path:
    """Return the folder that holds the data sets, without creating it.

    Parameters
    ----------
    root
        ``dataset.root`` (which the configuration fills from ``GLUONEXP_DATA``); a leading ``~``
        is the home folder. None or empty means the user's cache, ``gluonexp/data`` in it.
    """
    if root:
        return Path(root).expanduser()
    return platformdirs.user_cache_path("gluonexp", appauthor=False) / "data"
