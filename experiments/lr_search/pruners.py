"""Print how many epochs of a search each pruner saves, replayed on the grid's curves, as CSV.

A trial gets the curve of that run of the grid below ./mlruns whose learning rate is nearest to its
own, and reports it epoch by epoch, as a job would. Only the sampler's seed differs.

usage: python pruners.py [SEEDS]
"""

import csv
import math
import statistics
import sys
import tempfile

from gluonexp.sweep.study.dimensions import Number
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.reporter import open_trial
from gluonexp.sweep.study.search import open_study
from gluonexp.tracking.read.runs import reader

TRIALS = 20
SPACE = {"optim.lr": Number(1e-4, 1e-1, log=True)}  # as in conf/sweep/lr_search.yaml


def searched(curves, pruner, seed, journal):
    """Return how many epochs the trials of one search take."""
    epochs = 0
    options = {"metric": "val/acc", "mode": "max", "n_trials": TRIALS, "seed": seed}
    with open_study(journal, "replay", SPACE, **options) as study:
        while (trial := study.ask()) is not None:
            wanted = math.log(float(trial.params["optim.lr"]))
            curve = curves[min(curves, key=lambda lr: abs(math.log(lr) - wanted))]
            reporter = open_trial(journal, "replay", trial.number, pruner, len(curve))
            for epoch, value in enumerate(curve):
                epochs += 1
                if pruned := reporter.report(value, epoch):
                    break
            study.tell(trial.number, max(curve), "pruned" if pruned else "complete")
    return epochs


def main():
    seeds = int(sys.argv[1]) if sys.argv[1:] else 100
    store = reader(None)
    runs = [run for run in store.of_experiment("lr_grid") if run.parent_id]
    points = store.curves([run.run_id for run in runs], "val/acc")
    curves = {
        float(run.params["optim.lr"]): [value for _, value in points[run.run_id]] for run in runs
    }
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["pruner", "searches", "epochs saved", "fewest", "most", "grid"])
    whole = TRIALS * len(next(iter(curves.values())))
    for pruner in ("asha", "median"):
        saved = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                journal = place(f"{folder}/study.journal")
                saved.append(1 - searched(curves, pruner, seed, journal) / whole)
        figures = [statistics.mean(saved), min(saved), max(saved)]
        rows.writerow([pruner, seeds, *(f"{each:.3f}" for each in figures), runs[0].parent_id[:8]])


if __name__ == "__main__":
    main()
