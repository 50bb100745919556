"""Print how the runs of this study below ./mlruns ended, as CSV."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

SCORES = ("train/loss", "train/acc", "test/loss", "test/acc")

runs = [
    run
    for run in reader(None).of_experiment("cifar10_alexnet")
    if run.status == "FINISHED" and "seed" in run.params  # a sweep itself has no seed
]
rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow(["data", "train_images", "weights", "seed", "run_id", *SCORES, "images_per_s"])
for run in sorted(runs, key=lambda run: run.parent_id is None):  # those of sweeps first
    named = ("data.title", "data.train_images", "model.weights", "seed")
    scores = [f"{run.metrics[name]:.4f}" for name in SCORES]
    speed = f"{run.metrics['time/images_per_s']:.0f}"
    rows.writerow([*(run.params[name] for name in named), run.run_id, *scores, speed])
