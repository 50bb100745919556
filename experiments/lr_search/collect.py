"""Print, for the grid and each search below ./mlruns, what was found and what it cost, as CSV."""

import csv
import sys

from gluonexp.tracking.read.runs import reader

store = reader(None)
rows = csv.writer(sys.stdout, lineterminator="\n")
columns = ["sweep", "points", "pruned", "epochs", "best lr", "best val/acc", "test/acc", "run"]
rows.writerow(columns)
for experiment in store.experiments():
    if not experiment.startswith("lr_"):
        continue
    runs = [run for run in store.of_experiment(experiment) if run.parent_id]
    curves = store.curves([run.run_id for run in runs], "val/acc")
    reached = {
        run.run_id: max(value for _, value in curves[run.run_id])
        for run in runs
        if run.status == "FINISHED"
    }
    best = max((run for run in runs if run.run_id in reached), key=lambda r: reached[r.run_id])
    rows.writerow(
        [
            experiment,
            len(runs),
            sum(run.status == "PRUNED" for run in runs),
            sum(map(len, curves.values())),
            f"{float(best.params['optim.lr']):.4g}",
            f"{reached[best.run_id]:.4f}",
            f"{best.metrics['test/acc']:.4f}",
            best.run_id[:8],
        ]
    )
