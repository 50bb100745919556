"""What every test needs set before MXNet, MLflow or matplotlib is imported."""

import os
import signal

# One thread: training is then bit-reproducible, and parallel test workers do not fight for cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "Agg"

# What runs in a shell's background, or under nohup, ignores these, and so do its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from collections.abc import Callable

import pytest
from hypothesis import settings

from gluonexp import run
from gluonexp.config.schema import Config

# On a shared machine a slow example says nothing of the code.
settings.register_profile("gluonexp", deadline=None)
settings.load_profile("gluonexp")


@pytest.fixture
def compose() -> Callable[..., Config]:
    """Compose a configuration as the command line would: ``compose("optim=sgd", "seed=1")``."""

    return run.compose
