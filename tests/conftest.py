"""What every test needs set before MXNet, MLflow or matplotlib is imported."""

import os

# One thread: training is then bit-reproducible, and parallel test workers do not fight for cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "Agg"

from collections.abc import Callable

import pytest
from hypothesis import settings

from gluonexp import run
from gluonexp.schema import Config

# On a shared machine a slow example says nothing of the code.
settings.register_profile("gluonexp", deadline=None)
settings.load_profile("gluonexp")


@pytest.fixture
def compose() -> Callable[..., Config]:
    """Compose a configuration as the command line would: ``compose("optim=sgd", "seed=1")``."""

    return run.compose
