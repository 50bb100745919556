"""Whether the images of a data set fit into memory, before any of them is read."""

from gluonexp.base import memory
from gluonexp.base.errors import GluonexpError
from gluonexp.data.types import Spec


def needed(count: int, spec: Spec) -> int:
    """Return how much memory `count` images of `spec` take, bytes."""
    return count * spec.height * spec.width * spec.channels


def check(count: int, spec: Spec, remedy: str) -> None:
    """Refuse `count` images of `spec` if they take more memory than there is.

    Parameters
    ----------
    remedy
        What to do about it, for the message.

    Raises
    ------
    GluonexpError
        They do not fit.
    """
    size, left = needed(count, spec), memory.available()
    if left is not None and size > left:
        raise GluonexpError(
            f"{count:,} images of {spec.height}x{spec.width}x{spec.channels} take "
            f"{size / 2**30:,.1f} GiB of memory, where {left / 2**30:,.1f} are left: {remedy}"
        )
