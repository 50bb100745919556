"""Print how the runs of this study below ./mlruns ended, as CSV: a row a run."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

NAMED = ("seed", "data.title", "data.train_images", "trainer.epochs", "trainer.batch_size")
ENGINE = ("engine.name", "engine.precision")
SCORES = ("train/loss", "val/acc", "test/loss", "test/acc")

runs = [
    run
    for run in reader(None).of_experiment("cifar10_fast")
    if run.status == "FINISHED" and "seed" in run.params  # a sweep itself has no seed
]
rows = csv.writer(sys.stdout, lineterminator="\n")
rows.writerow(["left_out", *NAMED, *ENGINE, "run_id", *SCORES])
for run in sorted(runs, key=lambda run: (run.name, run.params["seed"])):
    params = [run.params[name] for name in (*NAMED, *ENGINE)]
    scores = [f"{run.metrics[name]:.4f}" for name in SCORES]
    rows.writerow([run.name, *params, run.run_id, *scores])
