"""Whether the images of a data set fit into memory, before any of them is read."""

from gluonexp.base import memory
from gluonexp.base.errors import GluonexpError
from gluonexp.data.types import Spec


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
    needed, left = count * spec.height * spec.width * spec.channels, memory.available()
    if left is not None and needed > left:
        raise GluonexpError(
            f"{count:,} images of {spec.height}x{spec.width}x{spec.channels} take "
            f"{needed / 2**30:,.1f} GiB of memory, where {left / 2**30:,.1f} are left: {remedy}"
        )
