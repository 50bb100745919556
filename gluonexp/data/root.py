"""Where data sets live on disk."""

from pathlib import Path

from gluonexp.base.files import user_cache


def data_root(root: str | None) -> Path:
    """Return the folder that holds the data sets, without creating it.

    Parameters
    ----------
    root
        ``dataset.root`` (which the configuration fills from ``GLUONEXP_DATA``); a leading ``~``
        is the home folder. None or empty means the user's cache, ``gluonexp/data`` in it.
    """
    return Path(root).expanduser() if root else user_cache() / "data"
