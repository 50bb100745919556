"""What a store for many bears: sizes, costs of requests, fifty writers at once.

    python -m experiments.scale.measure FOLDER --runs 10000 --workers 2

A PostgreSQL and MLflow's server are started in FOLDER. One run is really made; it is copied, table
by table, until there are as many as asked for, in sweeps of 200. Costs are times of processors, so
that they hold on a machine that has other things to do, too.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from experiments.scale.counting import asked, busy
from experiments.server.postgres import postgres
from gluonexp import experiment
from gluonexp.run import compose
from gluonexp.tracking import open_store
from gluonexp.tracking.serving import serving

EPOCHS, SWEEP = 20, 200
# Which table says by which column whose a row is.
OF_A_RUN = {
    "runs": "run_uuid",
    "params": "run_uuid",
    "tags": "run_uuid",
    "metrics": "run_uuid",
    "latest_metrics": "run_uuid",
    "inputs": "destination_id",
    "logged_models": "source_run_id",
}
OF_A_MODEL = ("logged_model_params", "logged_model_metrics", "logged_model_tags")


def main() -> None:
    """Measure, and write `results.json` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--writers", type=int, default=50)
    wanted = parser.parse_args()
    folder = wanted.folder.absolute()
    found = Found(folder / "results.json")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # and what was started ends
    with postgres(folder / "postgres") as uri, closing(psycopg2.connect(uri)) as link:
        link.autocommit = True
        with serving(uri, folder / "artifacts", workers=wanted.workers) as server:
            run_id, found["run"] = one_run(server.base, folder)
            found["rows"] = rows(link, run_id)
            found["filled"] = fill(link, run_id, wanted.runs)
            found["tables"] = sizes(link, wanted.runs)
            database = psutil.Process(
                int((folder / "postgres/data/postmaster.pid").open().readline())
            )
            found["costs"] = costs(server.base, server.process.pid, database.pid, run_id)
            found["connections"] = count(link, "SELECT count(*) FROM pg_stat_activity")
            before = busy(server.process.pid), busy(database.pid)
            found["writers"] = written(server.base, wanted.writers)
            after = busy(server.process.pid), busy(database.pid)
            found["cpu_s_then"] = [round(b - a, 1) for a, b in zip(before, after, strict=True)]
            found["connections_then"] = count(link, "SELECT count(*) FROM pg_stat_activity")
            found["memory_mb"] = memory(server.process.pid), memory(database.pid)


class Found(dict[str, Any]):
    """What was measured, kept in a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(f"{name}: {json.dumps(value)}", flush=True)
        self._file.write_text(json.dumps(self, indent=1) + "\n")


def one_run(base: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Make a real run; return its id, and what it asked of the server."""
    counted = asked()
    job = folder / "job"
    job.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    result = experiment.run(
        compose("model=mlp", f"trainer.epochs={EPOCHS}", f"tracking.uri={base}"), job
    )
    files = list((folder / "artifacts").rglob("*.*"))
    assert result.run_id is not None
    return result.run_id, {
        "seconds": round(time.perf_counter() - start, 1),
        "requests": sum(counted.kinds.values()),
        "kinds": dict(counted.kinds.most_common()),
        "bytes_sent": counted.sent,
        "files": len(files),
        "bytes_of_files": sum(file.stat().st_size for file in files),
        "log_bytes": (job / "run.jsonl").stat().st_size,
    }


def rows(link: Any, run_id: str) -> dict[str, int]:
    """Return how many rows a run has in each table."""
    model = "SELECT model_id FROM logged_models WHERE source_run_id = %s"
    found = {
        table: count(link, f"SELECT count(*) FROM {table} WHERE {column} = %s", run_id)
        for table, column in OF_A_RUN.items()
    }
    return found | {
        table: count(link, f"SELECT count(*) FROM {table} WHERE model_id IN ({model})", run_id)
        for table in OF_A_MODEL
    }


def fill(link: Any, run_id: str, runs: int) -> float:
    """Copy a run until there are `runs`, in sweeps; return how long it took, s."""
    start = time.perf_counter()
    other = "md5('run' || n)"
    # Of 201 copies one is the parent of the others.
    parent = f"md5('run' || (n - n % {SWEEP + 1}))"
    for table, column in OF_A_RUN.items():
        new = {column: other, "input_uuid": "md5('input' || t.input_uuid || n)"}
        new |= {"model_id": "'m-' || md5('model' || n)", "start_time": "t.start_time + n"}
        copy(link, table, new, f"t.{column} = '{run_id}'", runs)
    for table in OF_A_MODEL:
        whose = (
            f"t.model_id = (SELECT model_id FROM logged_models WHERE source_run_id = '{run_id}')"
        )
        new = {"model_id": "'m-' || md5('model' || n)", "run_id": other}
        copy(link, table, new, whose, runs)
    with link.cursor() as cursor:
        for key, text, which in (
            ("mlflow.parentRunId", parent, "!= 0"),
            ("gluonexp.kind", "'sweep'", "= 0"),
            ("gluonexp.sweep.metric", "'val/acc'", "= 0"),
            ("gluonexp.sweep.job", "n::text", "!= 0"),
            ("gluonexp.sweep.point", other, "!= 0"),
            ("gluonexp.sweep.varied", """'{"optim.lr": "' || n || '"}'""", "!= 0"),
        ):
            cursor.execute(
                f"INSERT INTO tags (key, value, run_uuid) SELECT '{key}', {text}, {other} "
                f"FROM generate_series(0, {runs - 1}) n WHERE n % {SWEEP + 1} {which}"
            )
        changed = "FROM generate_series(0, %s) n WHERE run_uuid = md5('run' || n) AND"
        cursor.execute(f"UPDATE params SET value = n::text {changed} key = 'optim.lr'", [runs])
        cursor.execute(
            f"UPDATE latest_metrics SET value = (n %% 997) / 997.0 {changed} key = 'val/acc'",
            [runs],
        )
        cursor.execute("VACUUM ANALYZE")
    return round(time.perf_counter() - start, 1)


def copy(link: Any, table: str, new: dict[str, str], whose: str, runs: int) -> None:
    """Copy the rows of a table that are a run's, with new values in some columns."""
    with link.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
            "AND table_schema = 'public' ORDER BY ordinal_position",
            [table],
        )
        columns = [name for (name,) in cursor.fetchall()]
        values = ", ".join(new.get(name, f't."{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} t, "
            f"generate_series(0, {runs - 1}) n WHERE {whose}"
        )


def sizes(link: Any, runs: int) -> dict[str, dict[str, float]]:
    """Return rows, and bytes with indices, of each table, and bytes a run."""
    found = {}
    for table in (*OF_A_RUN, *OF_A_MODEL):
        whole = count(link, "SELECT pg_total_relation_size(%s)", table)
        bare = count(link, "SELECT pg_relation_size(%s)", table)
        many = count(link, f"SELECT count(*) FROM {table}")
        found[table] = {"rows": many, "mb": whole // 10**6, "mb_without_indices": bare // 10**6}
    whole = count(link, "SELECT pg_database_size(current_database())")
    return {**found, "database": {"mb": whole // 10**6, "kb_a_run": round(whole / runs / 1000, 1)}}


def costs(base: str, server: int, database: int, run_id: str) -> dict[str, dict[str, float]]:
    """Return what each kind of request costs the server and the database, ms of a processor."""
    from mlflow.entities import Metric

    client = open_store(base)
    experiment_id = client.get_run(run_id).info.experiment_id
    new = client.create_run(experiment_id).info.run_id
    steps = iter(range(10**9))
    parent = "tags.mlflow.parentRunId = '%s'"
    (sweep,) = client.search_runs([experiment_id], "tags.`gluonexp.kind` = 'sweep'", max_results=1)

    def points(many: int) -> list[Metric]:
        return [Metric(f"m{index % 8}", 0.5, 1, next(steps)) for index in range(many)]

    file = Path(__file__)
    kinds: dict[str, tuple[int, Callable[[], object]]] = {
        "get_run": (100, lambda: client.get_run(run_id)),
        "log_batch of 8 points": (100, lambda: client.log_batch(new, metrics=points(8))),
        "log_batch of 200 points": (20, lambda: client.log_batch(new, metrics=points(200))),
        "log_artifact of 5 kB": (100, lambda: client.log_artifact(new, str(file))),
        "create_run": (50, lambda: client.create_run(experiment_id)),
        "search_runs, page of 1000": (
            3,
            lambda: client.search_runs([experiment_id], max_results=1000),
        ),
        "search_runs, newest 100": (
            10,
            lambda: client.search_runs([experiment_id], max_results=100),
        ),
        "search_runs, a sweep of 200": (
            10,
            lambda: client.search_runs([experiment_id], parent % sweep.info.run_id),
        ),
        "get_metric_history of 20": (100, lambda: client.get_metric_history(run_id, "val/acc")),
    }
    found = {}
    for name, (times, ask) in kinds.items():
        ask()
        before = time.perf_counter(), busy(server), busy(database)
        for _ in range(times):
            ask()
        after = time.perf_counter(), busy(server), busy(database)
        wall, cpu, store = (
            round((b - a) / times * 1000, 1) for a, b in zip(before, after, strict=True)
        )
        found[name] = {"wall_ms": wall, "server_cpu_ms": cpu, "database_cpu_ms": store}
    return found


def written(base: str, writers: int) -> dict[str, Any]:
    """Let many processes write at once; see `writers`."""
    words = [sys.executable, "-m", "experiments.scale.writers", base, f"--writers={writers}"]
    told = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return result


def count(link: Any, question: str, *given: object) -> int:
    """Return the one number that a question asks for."""
    with link.cursor() as cursor:
        cursor.execute(question, given)
        return int(cursor.fetchone()[0])


def memory(pid: int) -> int:
    """Return the memory of a process and those below it that is theirs alone, MB."""
    whole = psutil.Process(pid)
    family = (whole, *whole.children(recursive=True))
    return sum(process.memory_full_info().uss for process in family) // 10**6


if __name__ == "__main__":
    main()
