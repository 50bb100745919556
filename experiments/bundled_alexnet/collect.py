"""Print how the stages below ./mlruns ended, as CSV."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

SETTINGS = {"pixels": "dataset.resize", "epochs": "trainer.epochs", "lr": "optim.lr"}
SCORES = [f"{split}/{score}" for split in ("train", "val", "test") for score in ("loss", "acc")]

rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow([*SETTINGS, "run_id", *SCORES, "images_per_s"])
for run in reader(None).of_experiment("bundled_alexnet"):
    if run.status != "FINISHED":
        continue
    settings = [run.params[name] for name in SETTINGS.values()]
    scores = [f"{run.metrics[name]:.4f}" for name in SCORES]
    rows.writerow([*settings, run.run_id, *scores, f"{run.metrics['time/images_per_s']:.0f}"])
