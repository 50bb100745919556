"""`gluonexp compare` and `gluonexp runs`, on stores with real runs."""

import csv
import io
import json
import math
import re
import sqlite3
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gluonexp.cli import main
from gluonexp.tracking import ensure_experiment, open_store

MANY = 200
START = 1_790_000_000_000  # ms since 1970


def height(number):
    return 0.9 - abs(number - 77) / 1000


class Store:
    """A store of runs: a sweep of 200, one with a winner and failures, and some on their own."""

    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.client = open_store(self.uri)
        self.begun = 0
        self.many = self.make("digits", "all", tags={"gluonexp.kind": "sweep"})
        self.big = self.points()
        few = {"gluonexp.kind": "sweep"}
        self.few = self.make("other", "few", tags=few, status="FAILED")
        self.small = [
            self.child(self.few, "other", {"optim.lr": "0.1"}, [0.5, 0.75, 0.625], test=0.7),
            self.child(self.few, "other", {"optim.lr": "10"}, [0.25, math.nan], status="FAILED"),
        ]
        self.client.set_tag(self.few, "gluonexp.sweep.best", self.small[0])
        loss = {"objective.metric": "val/loss", "objective.mode": "min", "seed": "1"}
        self.alone = self.make("other", "alone", loss, {"val/loss": [0.5, 0.25]})
        self.running = self.make("other", "busy", {"seed": "2"}, {}, status="RUNNING")

    def points(self):
        """Make one run of the big sweep, and the others from it, which MLflow takes a minute for.

        The best is in the middle, and no two are alike.
        """
        first = self.child(self.many, "digits", {"optim.lr": "0.001"}, [0.5, height(0)])
        ids = [first, *(f"{number:04x}" + first[4:] for number in range(1, MANY))]
        with sqlite3.connect(self.uri.removeprefix("sqlite:///")) as link:
            link.row_factory = sqlite3.Row
            for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
                rows = link.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [first])
                for row in rows.fetchall():
                    for number, run in enumerate(ids[1:], 1):
                        changed = {"run_uuid": run}
                        if table == "runs":
                            changed["start_time"] = row["start_time"] + number
                        elif row["key"] == "optim.lr":
                            changed["value"] = str((number + 1) / 1000)
                        elif table.endswith("metrics") and row["step"] == 1:
                            changed["value"] = height(number)
                        values = list((dict(row) | changed).values())
                        marks = ", ".join("?" for _ in values)
                        link.execute(f"INSERT INTO {table} VALUES ({marks})", values)
        return ids

    def child(self, parent, experiment, varied, curve, test=None, status="FINISHED"):
        tags = {"mlflow.parentRunId": parent, "gluonexp.sweep.varied": json.dumps(varied)}
        more = {"objective.metric": "val/acc", "objective.mode": "max", "seed": "0"}
        curves = {"val/acc": curve} | ({} if test is None else {"test/acc": [test]})
        name = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())
        return self.make(experiment, name, varied | more, curves, tags, status)

    def make(self, experiment, name, params=(), curves=(), tags=(), status="FINISHED"):
        from mlflow.entities import Metric, Param

        number = ensure_experiment(self.client, experiment, self.uri)
        start = START + 1000 * self.begun
        self.begun += 1
        run = self.client.create_run(number, start, dict(tags), name).info.run_id
        self.client.log_batch(
            run,
            [
                Metric(key, value, start + step, step)
                for key, curve in dict(curves).items()
                for step, value in enumerate(curve)
            ],
            [Param(key, value) for key, value in dict(params).items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(run, status, start + 4500)
        return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def invoke(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments, status=0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status, result.output
        return result.stdout if status == 0 else result.output

    return invoke


def words(line):
    return line.split()


# --- compare -------------------------------------------------------------------------------------


def test_two_hundred_runs_are_ranked(invoke, store):
    lines = invoke("compare", "--sweep", store.many[:8]).splitlines()
    assert lines[0] == f"{MANY} runs of sweep {store.many}, highest val/acc first"
    assert lines[1] == "1 setting differs, 3 are the same"
    assert words(lines[3]) == ["run", "lr", "val/acc", "epoch", "by", "epoch"]
    ranked = sorted(range(MANY), key=lambda number: abs(number - 77))
    assert [words(line)[0] for line in lines[4:]] == [store.big[n][:8] for n in ranked]
    assert words(lines[4])[1:] == ["0.078", "0.9000", "1", "▁█"]
    assert max(map(len, lines)) <= 80


def test_two_hundred_runs_for_programs(invoke, store):
    whole = json.loads(invoke("compare", "--experiment", "digits", "--json"))
    assert {row["run_id"] for row in whole["runs"]} == set(store.big)
    for row in whole["runs"]:
        number = store.big.index(row["run_id"])
        assert row["params"] == {"optim.lr": str((number + 1) / 1000)}
        assert row["curve"] == [[0, 0.5], [1, height(number)]]
        assert (row["epoch"], row["best"]) == (1, row["curve"][1][1])
    table = list(csv.DictReader(io.StringIO(invoke("compare", store.many, "--csv"))))
    assert [row["run_id"] for row in table] == [row["run_id"] for row in whole["runs"]]


def test_runs_of_any_experiment_are_compared(invoke, store):
    output = invoke("compare", store.small[0][:8], store.alone, store.big[0])
    assert output.splitlines()[0] == "3 runs, highest val/acc first"
    assert all(run[:8] in output for run in (store.small[0], store.alone, store.big[0]))
    assert "other" in output
    assert "digits" in output


def test_another_metric_and_its_direction(invoke, store):
    whole = json.loads(
        invoke("compare", "--experiment", "other", "--metric", "val/loss", "--json")
    )
    assert (whole["metric"], whole["mode"]) == ("val/loss", "min")
    first, *others = whole["runs"]
    assert (first["run_id"], first["best"], first["epoch"]) == (store.alone, 0.25, 1)
    assert {run["best"] for run in others} == {None}
    # A run that still runs is among them, the sweep itself is not.
    assert {run["name"] for run in others} == {"lr=0.1", "lr=10", "busy"}


def test_a_diverged_run_keeps_what_it_reached(invoke, store):
    lines = invoke("compare", "--sweep", store.few).splitlines()
    best, failed = (re.split("  +", line.strip()) for line in lines[-2:])
    assert best == [store.small[0][:8], "FINISHED", "0.1", "0.7500", "1", "0.7000", "▅█▇"]
    assert failed == [store.small[1][:8], "FAILED", "10", "0.2500", "0", "-", "▁x"]


def test_last_is_the_sweep_begun_last(invoke, store):
    assert store.few in invoke("compare", "--sweep", "last")


def test_a_page_is_written(invoke, store, tmp_path):
    assert invoke("compare", "--sweep", store.few, "--html", "page.html") == ""
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(run in page for run in store.small)
    for text in ("optim.lr", "best val/acc", "0.7500", "<svg", "objective.metric"):
        assert text in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "cannot be written" in invoke(
        "compare", store.alone, "--html", "no/such/folder.html", status=1
    )


def test_a_page_and_a_table_at_once(invoke, store, tmp_path):
    output = invoke("compare", store.alone, "--html", "page.html", "--csv")
    assert output.startswith("run_id,name,")
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["abcdef"], "no run id begins with abcdef"),
        (["nonsense"], "nonsense: not a run"),
        (["--experiment", "digit"], "no experiment digit in .* there is digits"),
        (["--experiment", "Default"], "experiment Default has no runs"),
        (["--sweep", "ALONE"], "is no sweep"),
        (["ALONE", "--metric", "val/los"], "--metric val/los: none of these runs has it"),
        (["--metric", "val/acc"], "name what to compare"),
        (["ALONE", "--sweep", "last"], "name what to compare"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_said_once(invoke, store, arguments, told):
    arguments = [store.alone if word == "ALONE" else word for word in arguments]
    status = 2 if told.startswith("name") else 1
    output = invoke("compare", *arguments, status=status)
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert re.search(told, line)
    assert "Traceback" not in output


# --- runs ----------------------------------------------------------------------------------------


def test_the_newest_runs_are_listed_and_a_sweep_is_one_line(invoke, store):
    lines = invoke("runs").splitlines()
    assert max(map(len, lines)) <= 80
    assert words(lines[0]) == ["run", "name", "experiment", "status", "started", "best"]
    rows = [re.split("  +", line.strip()) for line in lines[1:]]
    assert [row[0] for row in rows] == [
        run[:8] for run in (store.running, store.alone, store.few, store.many)
    ]
    sweeps = ["few (sweep of 2)", f"all (sweep of {MANY})"]
    assert [row[1] for row in rows] == ["busy", "alone", *sweeps]
    assert [row[2] for row in rows] == ["other", "other", "other", "digits"]
    assert [row[3] for row in rows] == ["RUNNING", "FINISHED", "FAILED", "FINISHED"]
    assert [row[5] for row in rows] == ["-", "val/loss 0.2500", "val/acc 0.7500", "-"]


def test_a_wide_terminal_shows_more(invoke, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = invoke("runs", "--experiment", "other").splitlines()
    head = ["run", "name", "status", "started", "took", "best", "test/acc"]
    assert words(lines[0]) == head
    rows = [re.split("  +", line.strip()) for line in lines[1:]]
    assert [row[4] for row in rows[1:]] == ["4.5 s", "4.5 s"]
    assert [row[6] for row in rows] == ["-", "-", "0.7000"]


def test_a_sweep_is_listed_on_demand(invoke, store):
    lines = invoke("runs", "--sweep", store.few).splitlines()
    assert words(lines[0]) == ["run", "name", "status", "started", "took", "val/acc", "test/acc"]
    assert [words(line)[0] for line in lines[1:]] == [run[:8] for run in store.small[::-1]]
    only = invoke("runs", "--sweep", store.few, "--status", "failed").splitlines()
    assert [words(line)[0] for line in only[1:]] == [store.small[1][:8]]


def test_a_status_is_looked_for_in_sweeps_too(invoke, store):
    lines = invoke("runs", "--status", "failed").splitlines()
    assert [words(line)[0] for line in lines[1:]] == [store.small[1][:8], store.few[:8]]
    assert invoke("runs", "--status", "killed") == "there are no such runs\n"


def test_the_limit(invoke, store):
    lines = invoke("runs", "--limit", "2", "--experiment", "other").splitlines()
    assert [words(line)[0] for line in lines[1:]] == [store.running[:8], store.alone[:8]]


def test_the_list_for_programs(invoke, store):
    table = list(csv.DictReader(io.StringIO(invoke("runs", "--sweep", store.few, "--csv"))))
    assert [row["run_id"] for row in table] == store.small[::-1]
    assert {row["parent"] for row in table} == {store.few}
    assert [row["metrics.val/acc"] for row in table] == ["", "0.625"]  # the last; NaN is none
    whole = json.loads(invoke("runs", "--experiment", "other", "--json"))
    assert [run["run_id"] for run in whole] == [store.running, store.alone, store.few]
    assert whole[0]["seconds"] is None
    assert whole[1]["params"]["objective.mode"] == "min"


def test_an_experiment_is_completed(store):
    from gluonexp.cli import compare

    option = next(param for param in compare.params if param.name == "experiment")
    context = compare.make_context("compare", ["--tracking-uri", store.uri, "--sweep", "last"])
    assert [item.value for item in option.shell_complete(context, "di")] == ["digits"]
    nowhere = compare.make_context("compare", ["--tracking-uri", "sqlite:////no/x.db", "abc"])
    assert option.shell_complete(nowhere, "di") == []


@pytest.mark.parametrize(
    "command", [["runs"], ["compare", "abcdef"], ["compare", "--sweep", "last"]]
)
def test_where_nothing_was_recorded_nothing_is_made(invoke, tmp_path, monkeypatch, command):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    output = invoke(*command, status=1)
    assert "there is no store at" in output
    assert list(tmp_path.iterdir()) == []


# --- fast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["compare", "--sweep", "last"], ["runs"]], ids=" ".join)
def test_no_heavy_library_is_loaded(store, command):
    command = [sys.executable, "-X", "importtime", "-m", "gluonexp", *command]
    done = subprocess.run(
        [*command, "--tracking-uri", store.uri], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert store.few[:8] in done.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "gluonexp" in loaded
    assert loaded & {"mxnet", "mlflow", "matplotlib", "pandas", "numpy", "hydra"} == set()
