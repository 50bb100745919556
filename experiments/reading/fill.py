"""Fill a store's tables with runs as large as real ones: fill.py URI [RUNS].

A run has 77 parameters, 25 tags, and six metrics over 20 epochs, as a run of gluonexp does. Half
of the runs are children of sweeps of 100; the newest 200 are one sweep, whose id is printed.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from mlflow.store.tracking.dbmodels import models
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import insert

EPOCHS, LAST, SWEEP, EXPERIMENTS = 20, 200, 100, 10
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "optim/lr", "time/epoch_s")
BEGAN, EVERY = 1_790_000_000_000, 60_000  # ms: when the first run began, and one after another
TABLES: dict[str, Any] = {
    "runs": models.SqlRun,
    "params": models.SqlParam,
    "tags": models.SqlTag,
    "metrics": models.SqlMetric,
    "latest_metrics": models.SqlLatestMetric,
}


def fill(uri: str, runs: int) -> str:
    """Add `runs` runs to the store at `uri`, made if it is not there; return the last sweep."""
    store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
    experiments = [store.create_experiment(f"made-{index}") for index in range(EXPERIMENTS)]
    draw = random.Random(0)
    parent, left, number = None, 0, 0
    while number < runs:
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        for _ in range(min(500, runs - number)):
            is_last = number == runs - LAST - 1
            if is_last or (left == 0 and number % (2 * SWEEP) == 0):
                left = LAST if is_last else SWEEP
                parent = add(rows, draw, number, experiments[number * EXPERIMENTS // runs], None)
            elif left:
                left -= 1
                add(rows, draw, number, experiments[number * EXPERIMENTS // runs], parent)
            else:
                add(rows, draw, number, experiments[number * EXPERIMENTS // runs], "")
            number += 1
        with store.engine.begin() as link:
            for name, table in TABLES.items():
                link.execute(insert(table.__table__), rows[name])
    return str(parent)


def add(
    rows: dict[str, list[dict[str, Any]]],
    draw: random.Random,
    number: int,
    experiment: str,
    parent: str | None,
) -> str:
    """Add one run: a sweep (None), a child of one, or one of its own; return its id."""
    run, start = f"{draw.getrandbits(128):032x}", BEGAN + EVERY * number
    lr = f"{10 ** draw.uniform(-4, -1):.4g}"
    rows["runs"].append(
        {
            **{"run_uuid": run, "name": f"lr={lr}", "source_type": "LOCAL", "source_name": ""},
            **{"entry_point_name": "", "user_id": "", "status": "FINISHED", "start_time": start},
            **{"end_time": start + 50_000, "source_version": "", "lifecycle_stage": "active"},
            "artifact_uri": f"mlflow-artifacts:/{experiment}/{run}/artifacts",
            "experiment_id": int(experiment),
        }
    )
    tags = {f"gluonexp.tag{index}": "a" * 35 for index in range(20)}
    tags |= {"mlflow.runName": f"lr={lr}", "gluonexp.overrides": f"seed={number} optim.lr={lr}"}
    if parent is None:
        tags |= {"gluonexp.kind": "sweep", "gluonexp.sweep.metric": "val/acc"}
    elif parent:
        tags |= {"mlflow.parentRunId": parent, "gluonexp.sweep.job": str(number)}
        tags |= {"gluonexp.sweep.point": run, "gluonexp.sweep.varied": f'{{"optim.lr": "{lr}"}}'}
    rows["tags"] += [{"key": key, "value": text, "run_uuid": run} for key, text in tags.items()]
    if parent is None:
        return run
    params = {f"group{index // 8}.key{index}": "b" * 10 for index in range(72)}
    params |= {"objective.metric": "val/acc", "objective.mode": "max"}
    params |= {"optim.lr": lr, "seed": str(number), "data.digest": "c" * 16}
    rows["params"] += [
        {"key": key, "value": text, "run_uuid": run} for key, text in params.items()
    ]
    for metric in METRICS:
        for step in range(EPOCHS):
            point = {"key": metric, "value": draw.random(), "step": step, "run_uuid": run}
            at = start + 2000 * step
            rows["metrics"].append({**point, "timestamp": at, "is_nan": False})
        rows["latest_metrics"].append({**point, "timestamp": at, "is_nan": False})
    return run


if __name__ == "__main__":
    print(fill(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000))
