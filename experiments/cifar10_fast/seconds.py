"""Print how long the whole recipe takes to its accuracy, by each engine, as CSV.

Each run is a process of its own, on as many threads as there are cores; nothing else should run.
Arguments with = are overrides for all of them, others are engines: mxnet, torch, bfloat16.
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ENGINES = {
    "mxnet": ("engine=mxnet",),
    "torch": ("engine=torch",),
    "bfloat16": ("engine=torch", "engine.precision=bfloat16"),
}
RECIPE = ("experiment=cifar10_fast", "dataset=cifar10_images", "export=none", "tracking=none")

overrides = [word for word in sys.argv[1:] if "=" in word]
chosen = [word for word in sys.argv[1:] if "=" not in word] or [*ENGINES]
rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow(["engine", "epochs", "test_acc", "trained_s", "whole_s"])
for engine in chosen:
    with tempfile.TemporaryDirectory() as folder:
        words = [*RECIPE, *ENGINES[engine], *overrides, f"hydra.run.dir={folder}/job"]
        started = time.perf_counter()
        command = [sys.executable, "-m", "gluonexp.run", *words]
        subprocess.run(command, check=True, stdout=2, cwd=folder)  # our standard error
        whole = time.perf_counter() - started
        artifacts = Path(folder) / "job" / "artifacts"
        history = pd.read_csv(artifacts / "metrics" / "history.csv")
        said = pd.read_csv(artifacts / "predictions" / "test.csv")
        accuracy = (said["label"] == said["predicted"]).mean()
        trained = history["time/epoch_s"].sum()  # neither reading nor evaluation
        rows.writerow([engine, len(history), f"{accuracy:.4f}", f"{trained:.1f}", f"{whole:.1f}"])
        sys.stdout.flush()
