"""Print what the certificates of the runs below ./mlruns say, as CSV."""

import csv
import sys
from pathlib import Path

from gluonexp.model_folder import samples
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.references import fetch_export
from gluonexp.tracking.store import open_store
from gluonexp.verification import certificate

client = open_store(None)
rows = csv.writer(sys.stdout, lineterminator="\n")
columns = ["network", "runtime", "images", "logits differ by", "classes equal", "ties"]
rows.writerow([*columns, "classes predicted", "accuracy", "images/s", "threads", "run"])
for run in reversed(reader(None).of_experiment("export_families")):
    if not run.parent_id or run.status != "FINISHED":
        continue
    folder = fetch_export(client, run.run_id, Path("downloads"))
    known = samples.read(folder)
    target = run.params["model._target_"].rpartition(".")[2]
    for each in certificate.read(folder).agreements:
        rows.writerow(
            [
                run.params.get("model.backbone", target),
                each.runtime,
                each.images,
                f"{each.max_difference:.1e}",
                each.argmax_equal,
                each.ties,
                len(set(known.logits.argmax(1))),
                f"{each.accuracy:.4f}",
                f"{each.images_per_second:.1f}",
                each.threads,
                run.run_id[:8],
            ]
        )
