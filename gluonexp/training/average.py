"""Averaged weights: what training jumps about, their average comes closer to."""

from __future__ import annotations

from gluonexp.base.errors import GluonexpError
from gluonexp.training.loop import Callback, Fit


class Ema(Callback):
    """Let the network be the exponential moving average of the weights that training moves.

    It is what is evaluated after each epoch, chosen, checkpointed and exported; training itself
    goes on with the weights as they are, and `train/` metrics are theirs. After update t (counted
    from 1, over the whole run) the average keeps min(`decay`, (1 + t) / (10 + t)) of itself, so
    that it forgets how the weights began.

    BatchNorm's running statistics stay as they are: they are moving averages already, over fewer
    batches. Where the learning rate falls towards zero, as it should with averaging too, they
    come to be those of the averaged weights.

    Parameters
    ----------
    decay
        In (0, 1): the average is over about the last 1 / (1 - `decay`) updates.

    Raises
    ------
    GluonexpError
        If `decay` is out of its range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not isinstance(decay, int | float) or not 0 < decay < 1:
            raise GluonexpError(f"callbacks.ema.decay={decay}: must be above 0 and below 1")
        self.decay = decay

    def batch_end(self, fit: Fit) -> None:
        """Move the average; nothing here waits for the device."""
        fit.engine.average(min(self.decay, (1 + fit.step) / (10 + fit.step)))
