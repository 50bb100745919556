"""Callbacks of a user's own, for tests: they end a run in the middle."""

import os
import signal
from pathlib import Path

from gluonexp.training.loop import Callback, Fit, StopFit


class Bomb(Callback):
    """Go off after the first epoch at one learning rate, unless there is a file ``defused``."""

    def __init__(self, lr: float) -> None:
        self._lr = lr

    def epoch_end(self, fit: Fit) -> None:
        if fit.lr == self._lr and not Path("defused").exists():
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupt(Callback):
    """Press Ctrl-C after the first epoch."""

    def epoch_end(self, fit: Fit) -> None:
        raise KeyboardInterrupt


class LoseRank(Callback):
    """Kill rank 1 in the middle of an epoch, unless torchrun has started it again."""

    def __init__(self, step: int) -> None:
        self._step = step

    def batch_end(self, fit: Fit) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if fit.step == self._step and first and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)


class StopInRank0(Callback):
    """End training after an epoch, in rank 0 alone: nothing that the others know."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def epoch_end(self, fit: Fit) -> None:
        if fit.epoch == self._epoch and os.environ.get("RANK", "0") == "0":
            raise StopFit("rank 0 has had enough")
