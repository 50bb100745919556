"""Print how the runs of this study below ./mlruns ended, as CSV."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

SCORES = ("train/loss", "train/acc", "test/loss", "test/acc")

rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow(["seed", "run_id", *SCORES, "images_per_s"])
for run in reader(None).of_experiment("fashion_mnist_cnn"):
    if run.status != "FINISHED" or "seed" not in run.params:  # the sweep itself has no seed
        continue
    scores = [f"{run.metrics[name]:.4f}" for name in SCORES]
    speed = f"{run.metrics['time/images_per_s']:.0f}"
    rows.writerow([run.params["seed"], run.run_id, *scores, speed])
