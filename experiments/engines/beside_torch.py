"""`trained` in a process that is set up as that of a run with `engine=torch`."""

from gluonexp.base import mx

mx.import_beside_torch()

from trained import Trained  # noqa: E402, F401
