"""A store for many: MLflow's server over PostgreSQL, several processes that record at once."""

import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from experiments.server import __main__ as entry
from experiments.server import postgres as database
from gluonexp import run as app
from gluonexp.base.errors import GluonexpError
from gluonexp.cli import main
from gluonexp.data.synthetic import Synthetic
from gluonexp.sweep import conduct
from gluonexp.tracking.serving import Server, serving
from tests.postgres import new_database, postgres  # noqa: F401

ROOT = Path(__file__).parents[2]
BEGIN = """
import multiprocessing, sys
import mlflow.store.tracking.sqlalchemy_store
from gluonexp.tracking import open_store

fork = multiprocessing.get_context("fork")
together = fork.Barrier(4)

def begin():
    together.wait(60)
    open_store(sys.argv[1])

processes = [fork.Process(target=begin) for _ in range(4)]
for process in processes:
    process.start()
for process in processes:
    process.join(60)
sys.exit(any(process.exitcode for process in processes))
"""
SERVE = """
import sys, time
from pathlib import Path
from experiments.server.postgres import postgres

with postgres(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    time.sleep(100)
"""
NAMES = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(scope="module")
def server(new_database, tmp_path_factory):  # noqa: F811
    """A server that asks who one is; gives its address, and logs in as the administrator."""
    pytest.importorskip("flask_wtf", reason="MLflow's login: pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("server")
    options, environment = entry.secured(folder, new_database())
    uri = new_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in NAMES:
            patch.delenv(name, raising=False)
        with serving(
            uri, folder / "artifacts", options=options, environment=environment
        ) as running:
            refused = CliRunner().invoke(main, ["runs", f"--tracking-uri={running.base}"])
            assert refused.exit_code == 1
            assert f"asks who you are; set {' and '.join(NAMES)}" in refused.stderr
            for name, value in zip(
                NAMES, ("admin", (folder / "admin-password").read_text()), strict=True
            ):
                patch.setenv(name, value)
            yield running.base


def test_a_port_that_was_typed_and_is_taken_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GluonexpError, match=f"port {port} is in use on this machine"):
            entry.from_packages(tmp_path, port, workers=1, login=False)
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_killed_is_told():
    with subprocess.Popen(["sleep", "100"]) as process:
        process.kill()
        told = entry.ended(Server("", process))
    assert str(told).startswith(
        "MLflow's server was killed by signal 9, so PostgreSQL was stopped"
    )


def test_a_database_ends_with_its_command_even_if_that_is_killed(
    new_database,  # noqa: F811
    monkeypatch,
):
    new_database()  # or there is none to be had
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        words = [sys.executable, "-c", SERVE, folder]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            url = process.stdout.readline().strip()
            monkeypatch.setattr(database, "_ENDS_S", 0.0)
            with (
                pytest.raises(GluonexpError, match=r"already, process .* `kill -INT \d+`"),
                database.postgres(Path(folder)),
            ):
                pass
            monkeypatch.undo()
            process.kill()
        with database.postgres(Path(folder), durable=False) as again:
            assert url.rpartition(":")[0] == again.rpartition(":")[0]  # all but the port


def test_eight_writers_at_once_lose_nothing_and_write_nothing_twice(server):
    words = ["-m", "experiments.scale.writers", server, "--writers=8", "--epochs=4"]
    told = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert '"errors": []' in told.stdout, told.stdout
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("writers")
    runs = client.search_runs([experiment.experiment_id], "params.seed LIKE '%'")
    assert sorted(int(run.data.params["seed"]) for run in runs) == list(range(8))
    for run in runs:
        seed = int(run.data.params["seed"])
        assert run.info.status == "FINISHED"
        assert {entry.dataset.digest for entry in run.inputs.dataset_inputs} == {"d" * 36}
        assert len(run.data.metrics) == 8
        for name in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, name)
            once = {(epoch, seed + epoch / 1024): 1 for epoch in range(4)}
            assert Counter((point.step, point.value) for point in points) == once
        (part,) = client.list_artifacts(run.info.run_id, "export")
        assert (part.path, part.file_size) == ("export/x.params", 400 * 1024)

    of_server = f"--tracking-uri={server}"
    compared = CliRunner().invoke(main, ["compare", "--sweep", "last", "--json", of_server])
    assert compared.exit_code == 0, compared.output
    shown = CliRunner().invoke(main, ["ui", "--sweep", "last", of_server])
    assert "viewStateShareKey" in shown.output
    listed = CliRunner().invoke(main, ["runs", of_server], env={"COLUMNS": "200"})
    assert "(sweep of 8)" in listed.output


class OfTheProcess(Synthetic):
    """Other data in each process, as if each were on a host with files of its own."""

    def load(self):
        return Synthetic.load(replace(self, seed=os.getpid()))


def test_hosts_that_have_other_data_and_no_disk_in_common(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # for the workers
    monkeypatch.setattr(platform, "node", lambda: "leader")  # they are on another host
    monkeypatch.setattr(conduct, "CONSOLE", "on-another-disk.log")
    summary = app.sweep(
        *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "export=none"),
        "dataset.source._target_=tests.integration.test_server.OfTheProcess",
        *("dataset.source.train=200", "dataset.source.test=50", "build.allow=[tests]"),
        *("hydra/launcher=processes", "hydra.launcher.n_jobs=2", f"tracking.uri={server}"),
        *("trainer.epochs=1", "seed=0,1", "tracking.experiment=hosts"),
    )
    assert sorted(one.status for one in summary.outcomes) == ["FAILED", "FINISHED"]
    (failed,) = (one for one in summary.outcomes if one.status == "FAILED")
    assert "are not those of other jobs of the sweep" in failed.error
    assert failed.error.endswith(f" (on {os.uname().nodename})")
    fetched = f"download {failed.run_id[:8]} console.log --to . --tracking-uri {server}"
    assert f"its output: gluonexp {fetched}" in capsys.readouterr().out
    done = CliRunner().invoke(main, fetched.split())
    assert done.exit_code == 0, done.output
    assert "synthetic patterns" in (tmp_path / "console.log").read_text()


def test_processes_that_begin_together_make_the_tables_of_a_database_once(postgres):  # noqa: F811
    command = [sys.executable, "-c", BEGIN, postgres]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
