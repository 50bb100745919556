"""Many runs record at once into one store: how long it takes, and whether all of it arrived.

    python -m experiments.scale.writers http://127.0.0.1:5000 --writers 50 --epochs 20

Each writer is a process that records what a small run does: the parameters of its configuration,
data sets, eight metrics in each epoch, files. They begin together, as the children of one sweep.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.scale.counting import asked
from gluonexp.base.imports import heavy_imports
from gluonexp.config.schema import TrackingConfig
from gluonexp.run import compose
from gluonexp.tracking import open_store, tracked_run
from gluonexp.tracking.sweeps import SWEEP, SweepRun
from gluonexp.tracking.tracker import UsedData

with heavy_imports():  # once, for all writers: it is no part of what is measured
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

# A connection is not to be shared by processes: none is opened before they are forked.
FORK = multiprocessing.get_context("fork")
METRICS = [
    *("train/loss", "train/acc", "val/loss", "val/acc"),
    *("optim/lr", "time/epoch_s", "time/images_per_s", "time/input_s"),
]
FILES_KB = {
    "config.yaml": 6,
    "plan/plan.csv": 4,
    "plots/curves.png": 60,
    "export/x.params": 400,
}


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, and print what was measured as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("uri", help="tracking.uri")
    parser.add_argument("--writers", type=int, default=8, help="processes at once")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epoch-s", type=float, default=0.0, help="how long each lasts")
    parser.add_argument("--experiment", default="writers")
    wanted = parser.parse_args(words)
    settings = TrackingConfig(uri=wanted.uri, experiment=wanted.experiment)
    with FORK.Pool(1) as pool:
        sweep, children = pool.apply(begun, (settings, wanted.writers))
    barrier = FORK.Barrier(wanted.writers)
    with FORK.Pool(wanted.writers, together.append, (barrier,)) as pool:
        given = [
            (settings, child, number, wanted.epochs, wanted.epoch_s)
            for number, child in enumerate(children)
        ]
        start = time.perf_counter()
        told = pool.starmap(written, given, chunksize=1)
        took = time.perf_counter() - start
    with FORK.Pool(1) as pool:
        lost, twice = pool.apply(checked, (settings, children, wanted.epochs))
    seconds = [each["seconds"] for each in told]
    requests = [each["asked"] for each in told]
    answers = sorted(second for each in requests for second in each.answers)
    result = {
        "sweep": sweep,
        "writers": wanted.writers,
        "epochs": wanted.epochs,
        "seconds": round(took, 1),
        "run_s": {"median": round(statistics.median(seconds), 1), "max": round(max(seconds), 1)},
        "points": len(children) * wanted.epochs * len(METRICS),
        "points_lost": lost,
        "points_twice": twice,
        "errors": [each["unsent"] for each in told if each["unsent"]],
        "failed_requests": dict(sum((each.failed for each in requests), Counter())),
        "requests": len(answers),
        "bytes_sent": sum(each.sent for each in requests),
    }
    if answers:
        result["requests_a_second"] = round(len(answers) / took, 1)
        result["answer_s"] = {
            name: round(answers[min(int(len(answers) * part), len(answers) - 1)], 3)
            for name, part in (("median", 0.5), ("p95", 0.95), ("max", 1.0))
        }
    print(json.dumps(result))
    return result


CONFIG = asdict(compose("model=mlp"))
together: list[Any] = []  # the barrier, in a writer


def begun(settings: TrackingConfig, count: int) -> tuple[str, list[str]]:
    """Return the ids of a new sweep and of its children, which are to be written."""
    with tracked_run(settings, SWEEP) as tracker:
        assert tracker.run_id is not None
        sweep = SweepRun(open_store(settings.uri), tracker.run_id, tracker)
        return tracker.run_id, [
            sweep.begin(job, f"{job:064x}", {"seed": str(job)}, f"seed={job}")
            for job in range(count)
        ]


def written(
    settings: TrackingConfig, run_id: str, number: int, epochs: int, epoch_s: float
) -> dict[str, Any]:
    """Record one run; return what that took."""
    counted = asked()
    config = {**CONFIG, "seed": number}
    settings = TrackingConfig(uri=settings.uri, experiment=settings.experiment, run_id=run_id)
    with tempfile.TemporaryDirectory() as place:
        folder, files = Path(place), Path(place, "artifacts")
        for name, kilobytes in FILES_KB.items():
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).write_bytes(bytes([number % 256]) * 1024 * kilobytes)
        together[0].wait(timeout=300)
        start = time.perf_counter()
        with tracked_run(settings, {}, folder) as tracker:
            tracker.log_params(config)
            for split in ("training", "validation", "testing"):
                data = UsedData("digits", "d" * 64, split, "digits", 1797, (8, 8, 1), list("0123"))
                tracker.log_dataset(data)
            for epoch in range(epochs):
                time.sleep(epoch_s)
                tracker.log_metrics({name: value(number, epoch) for name in METRICS}, epoch)
                tracker.flush()
            tracker.log_artifacts(files)
        took = time.perf_counter() - start
    return {"seconds": took, "unsent": tracker.unsent(), "asked": counted}


def value(number: int, epoch: int) -> float:
    """Return what run `number` measures in an epoch: another number for each."""
    return number + epoch / 1024


def checked(settings: TrackingConfig, children: Sequence[str], epochs: int) -> tuple[int, int]:
    """Return how many points did not arrive, and how many are there twice."""
    client = open_store(settings.uri)
    lost = twice = 0
    for number, child in enumerate(children):
        for name in METRICS:
            points = client.get_metric_history(child, name)
            found = Counter((point.step, point.value) for point in points)
            wanted = {(epoch, value(number, epoch)) for epoch in range(epochs)}
            lost += len(wanted - found.keys())
            twice += found.total() - len(found)
    return lost, twice


if __name__ == "__main__":
    main()
