"""MLflow, and the only door to it; importing this package does not import MLflow (1.5 s)."""

import os
import warnings

from gluonexp.base.text import in_kernel
from gluonexp.tracking.lifecycle import end_lost, tracked_run
from gluonexp.tracking.places import WORKDIR, Stray, relocate, strays
from gluonexp.tracking.read.records import CERTIFICATE_TAG, OWN_LOOP, PRUNED_TAG
from gluonexp.tracking.store import KIND, TORCHRUN, ensure_experiment, find_run, open_store, probe
from gluonexp.tracking.tracker import Tracker, UsedData
from gluonexp.tracking.uri import existing

# MLflow reads these while it is imported, which every module here does inside its functions.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
if in_kernel():  # it imports tqdm, which asks for ipywidgets there; our bars need none
    warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = [
    "CERTIFICATE_TAG",
    "KIND",
    "OWN_LOOP",
    "PRUNED_TAG",
    "TORCHRUN",
    "WORKDIR",
    "Stray",
    "Tracker",
    "UsedData",
    "end_lost",
    "ensure_experiment",
    "existing",
    "find_run",
    "open_store",
    "probe",
    "relocate",
    "strays",
    "tracked_run",
]
