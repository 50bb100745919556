"""Print how the runs of this study below ./mlruns ended, as CSV."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

SCORES = ("train/loss", "train/acc", "test/loss", "test/acc")

rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow(["engine", "precision", "seed", "run_id", *SCORES, "images_per_s"])
for run in reader(None).of_experiment("engines"):
    if run.status != "FINISHED" or "seed" not in run.params:  # a sweep itself has no seed
        continue
    scores = [f"{run.metrics[name]:.4f}" for name in SCORES]
    speed = f"{run.metrics['time/images_per_s']:.0f}"
    engine = [run.params["engine.name"], run.params["engine.precision"]]
    rows.writerow([*engine, run.params["seed"], run.run_id, *scores, speed])
