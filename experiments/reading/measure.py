"""Time gluonexp's commands on stores of many runs, behind MLflow's server; print a CSV.

Each is timed in a process of its own, once all that it imports is imported, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.reading.fill import fill
from experiments.server.postgres import postgres
from gluonexp.tracking.serving import serving

COMMANDS = {
    "compare --sweep": "compare --sweep {sweep}",
    "compare --experiment": "compare --experiment made-0",
    "runs": "runs",
    "runs --sweep": "runs --sweep {sweep} --limit 1000",
    "runs --status failed": "runs --status failed",
    "recover": "recover",
    "ui --sweep": "ui --sweep {sweep}",
}


def one(command: str, uri: str) -> None:
    """Run one command here; print its seconds and its requests as JSON."""
    import mlflow.store.tracking.rest_store  # noqa: F401
    import requests

    import gluonexp.compare.machine
    import gluonexp.compare.terminal
    import gluonexp.tracking.read.runs  # noqa: F401
    from gluonexp.cli import main as command_line

    asked = 0
    send = requests.Session.request

    def counted(self: requests.Session, *arguments: object, **more: object) -> requests.Response:
        nonlocal asked
        asked += 1
        return send(self, *arguments, **more)  # type: ignore[arg-type]

    requests.Session.request = counted  # type: ignore[method-assign, assignment]
    out = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        command_line([*command.split(), "--tracking-uri", uri], standalone_mode=False)
    took = time.perf_counter() - began
    print(json.dumps({"s": took, "requests": asked, "lines": out.getvalue().count("\n")}))


def main() -> None:
    """Fill a store in PostgreSQL and one in SQLite; measure each command through a server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the stores are made, 2 GB")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="+", default=["PostgreSQL", "SQLite"])
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    given = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with ExitStack() as open_:
        folder = given.folder or Path(open_.enter_context(TemporaryDirectory()))
        folder = folder.absolute()
        uris = {"SQLite": f"sqlite:///{folder}/mlflow.db"}
        if "PostgreSQL" in given.stores:
            folder.chmod(0o755)  # PostgreSQL has a user of its own where this one is root
            uris["PostgreSQL"] = open_.enter_context(postgres(folder / "postgres"))
        uris = {name: uris[name] for name in given.stores}
        sweeps = {name: fill(uri, given.runs) for name, uri in uris.items()}
        bases = {
            name: open_.enter_context(serving(uri, folder / "artifacts", workers=2)).base
            for name, uri in uris.items()
        }
        for _ in range(given.rounds + 1):  # the first warms the servers up
            for name in given.commands:
                command = COMMANDS[name]
                for store, base in bases.items():
                    words = [command.format(sweep=sweeps[store]), base]
                    one = [sys.executable, "-m", "experiments.reading.measure", "--one", *words]
                    done = subprocess.run(one, check=True, capture_output=True, text=True)
                    found.setdefault((name, store), []).append(json.loads(done.stdout))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["command", "store", "median_s", "min_s", "max_s", "requests"])
    for (name, store), times in found.items():
        seconds = sorted(time["s"] for time in times[1:])
        row = (statistics.median(seconds), seconds[0], seconds[-1])
        told = [f"{value:.2f}" for value in row]
        table.writerow([name, store, *told, int(times[-1]["requests"])])


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main()
