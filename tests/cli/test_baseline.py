"""`gluonexp compare` with a baseline: how far each run is from it, and which run that is."""

import csv
import io
import json
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from gluonexp import compare as comparing
from gluonexp.cli import main
from gluonexp.compare import baseline, terminal
from gluonexp.tracking import ensure_experiment, open_store
from gluonexp.tracking.read.client import Client
from gluonexp.tracking.read.runs import Reader, reader


class Store:
    """A store with runs of two experiments, a sweep, and a registered model."""

    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.client = open_store(self.uri)
        self.sweep = self.make("digits", "few", tags={"gluonexp.kind": "sweep"})
        of = {"mlflow.parentRunId": self.sweep}
        lr = "optim.lr"
        # test/zero is 0 at the baseline, odd has no direction that is known.
        self.base = self.point("a", {lr: "0.1", "seed": "1"}, 0.5, 0.8, of, zero=0.0, odd=2.0)
        self.good = self.point("b", {lr: "0.1", "seed": "2"}, 0.75, 0.4, of, zero=0.25, odd=3.0)
        self.bad = self.point("c", {lr: "0.3", "seed": "1"}, 0.25, 1.2, of, zero=0.0, odd=1.0)
        self.client.set_tag(self.sweep, "gluonexp.sweep.best", self.good)
        self.other = self.point("d", {lr: "0.1", "seed": "1"}, 0.5, 0.8, {}, experiment="other")
        self.client.create_registered_model("digits")
        for run_id in (self.bad, self.base):
            self.client.create_model_version("digits", f"{folder}/export", run_id)
        self.client.set_registered_model_alias("digits", "champion", "2")

    def point(self, name, params, acc, loss, tags, experiment="digits", **more):
        params = {"objective.metric": "val/acc", "objective.mode": "max", **params}
        metrics = {"val/acc": acc, "val/loss": loss}
        metrics |= {f"test/{key}": value for key, value in more.items()}
        return self.make(experiment, name, params, metrics, tags)

    def make(self, experiment, name, params=(), metrics=(), tags=()):
        from mlflow.entities import Metric, Param

        number = ensure_experiment(self.client, experiment, self.uri)
        run = self.client.create_run(number, tags=dict(tags), run_name=name).info.run_id
        values = [Metric(key, value, 1, 0) for key, value in dict(metrics).items()]
        given = [Param(key, value) for key, value in dict(params).items()]
        self.client.log_batch(run, values, given)
        self.client.set_terminated(run)
        return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def invoke(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("COLUMNS", "160")

    def invoke(*arguments, status=0):
        result = CliRunner().invoke(main, ["compare", *arguments])
        assert result.exit_code == status, result.output
        return result

    return invoke


def by_name(whole):
    return {run["name"]: run for run in whole["runs"]}


# --- how far -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "base", "mode", "text", "better"),
    [
        (0.75, 0.5, "max", "+50.0%", True),
        (0.75, 0.5, "min", "+50.0%", False),
        (0.25, 0.5, "min", "-50.0%", True),
        (0.505, 0.5, "max", "+1.00%", True),
        (0.500001, 0.5, None, "+0.0002%", None),
        (-0.5, -1.0, "max", "+50.0%", True),  # of the size, so that the sign is the direction
        (5.0, 0.5, "max", "+900%", True),
        (0.5, 0.5, "max", "=", None),
        (0.25, 0.0, "min", "+0.25", False),
        (0.0, 0.0, "min", "=", None),
        (1e300, 1e-300, "max", "+1e+300", True),
    ],
)
def test_a_change_is_signed_and_has_a_direction(value, base, mode, text, better):
    found = baseline.change(value, base, mode)
    assert (found.text, found.better) == (text, better)


@pytest.mark.parametrize(
    "pair", [(None, 1.0), (1.0, None), (float("nan"), 1.0), (1, float("inf"))]
)
def test_what_is_not_known_is_not_compared(pair):
    assert baseline.change(*pair, "max") is None


def test_json_has_the_differences_and_what_is_not_as_there(invoke, store):
    whole = json.loads(invoke("--sweep", "last", "--baseline", store.base[:8], "--json").stdout)
    assert whole["baseline"] == store.base
    runs = by_name(whole)
    good, bad, base = runs["b"], runs["c"], runs["a"]
    assert good["percent"]["best"] == good["percent"]["val/acc"] == pytest.approx(50)
    assert good["percent"]["val/loss"] == pytest.approx(-50)
    assert (good["difference"]["test/zero"], good["percent"]["test/zero"]) == (0.25, None)
    told = ("best", "val/acc", "val/loss", "test/odd", "test/zero")
    assert [good["better"][key] for key in told] == [True, True, True, None, None]
    assert [bad["better"][key] for key in told] == [False, False, False, None, None]
    assert (good["others"], bad["others"]) == (["seed"], ["optim.lr"])
    assert (base["percent"], base["others"]) == ({}, [])
    without = json.loads(invoke("--sweep", "last", "--json").stdout)
    assert without["baseline"] is None and "percent" not in without["runs"][0]


def test_csv_has_a_column_for_each(invoke, store):
    out = invoke("--sweep", "last", "--baseline", store.base, "--csv").stdout
    good, base, bad = csv.DictReader(io.StringIO(out))
    assert {row["baseline"] for row in (good, base, bad)} == {store.base}
    assert float(good["percent.val/loss"]) == pytest.approx(-50)
    assert (good["difference.test/zero"], good["percent.test/zero"]) == ("0.25", "")
    assert base["percent.best"] == "" and float(bad["percent.best"]) == pytest.approx(-50)


def test_a_terminal_shows_them_beside_the_values(invoke, store):
    lines = invoke("--sweep", "last", "--baseline", store.base).stdout.splitlines()
    assert f"differences are to the baseline {store.base[:8]} (a); * is not as there" in lines
    good, base, bad = (re.split("  +", line.strip()) for line in lines[-3:])
    assert good[:3] == [store.good[:8], "0.1", "*2"]
    assert base[0] == f"{store.base[:8]} baseline"
    assert bad[:3] == [store.bad[:8], "*0.3", "1"]
    assert "0.7500 +50.0%" in good and "0.4000 -50.0%" in good and "0.2500 +0.25" in good
    assert "0.2500 -50.0%" in bad and not any("%" in cell or "*" in cell for cell in base)


def test_better_and_worse_have_their_colours(store):
    found = reader(store.uri)
    runs = found.fetch([store.base, store.good, store.bad])
    compared = comparing.compare(found, runs, baseline=runs[0])
    console = Console(
        file=io.StringIO(), force_terminal=True, width=200, color_system="standard", no_color=False
    )
    terminal.render(console, "title", compared)
    out = console.file.getvalue()
    green, red = "\x1b[1;32m", "\x1b[31m"  # the best row is bold
    assert f"{green}0.7500 +50.0%" in out and f"{green}0.4000 -50.0%" in out
    assert f"{red}0.2500 -50.0%" in out and f"{red}1.2000 +50.0%" in out
    assert not re.search(r"\x1b\[(1;)?3[12]m3\.0000", out)  # which way is better is not known


def test_a_page_shows_them(invoke, store, tmp_path):
    invoke("--sweep", "last", "--baseline", store.base, "--html", "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r'data-tone="better"[^>]*>0.4000 -50.0%<', page)
    assert re.search(r'data-tone="worse"[^>]*>1.2000 \+50.0%<', page)
    assert re.search(r'data-tone="other"[^>]*>\*0.3<', page)
    assert f"the baseline {store.base[:8]} (a)" in page


# --- which run it is -----------------------------------------------------------------------------


def test_it_is_added_where_it_is_not_among_the_runs(invoke, store):
    for name in ("models:/digits@champion", "models:/digits/2", f"runs:/{store.base}"):
        whole = json.loads(invoke(store.good, "--baseline", name, "--json").stdout)
        assert (whole["baseline"], set(by_name(whole))) == (store.base, {"a", "b"})
    whole = json.loads(invoke(store.bad, "--baseline", store.sweep, "--json").stdout)
    assert whole["baseline"] == store.good  # the best of the sweep


def test_one_is_pinned_used_and_taken_off(invoke, store):
    done = invoke("--pin", store.base[:8])
    assert f"digits: run {store.base[:8]} (a) is the baseline" in done.stderr
    used = invoke("--sweep", "last", "--json")
    assert json.loads(used.stdout)["baseline"] == store.base
    assert f"run {store.base[:8]}, which is pinned; --no-baseline" in used.stderr
    mlflow = Reader(Client(store.client))  # through MLflow, as a server is read
    assert baseline.pinned(mlflow, mlflow.fetch([store.bad])).run_id == store.base
    for words in (["--no-baseline"], ["--baseline", store.bad]):
        whole = json.loads(invoke("--sweep", "last", "--json", *words).stdout)
        assert whole["baseline"] == (store.bad if "--baseline" in words else None)
    # Runs of an experiment without one are compared as ever.
    assert json.loads(invoke(store.other, "--json").stdout)["baseline"] is None
    assert json.loads(invoke("--unpin", "digits", "--json").stdout) == {"pinned": {"digits": None}}
    assert "had no baseline" in invoke("--unpin", "digits").stderr
    assert json.loads(invoke("--sweep", "last", "--json").stdout)["baseline"] is None


def test_a_name_is_pinned_that_moves(invoke, store):
    done = invoke("--pin", "models:/digits@champion", "--experiment", "other")
    assert "other: models:/digits@champion is the baseline" in done.stderr
    assert f"and follows the alias; now that is run {store.base[:8]} (a)" in done.stderr
    for version, run_id in (("1", store.bad), ("2", store.base)):
        store.client.set_registered_model_alias("digits", "champion", version)
        assert json.loads(invoke(store.other, "--json").stdout)["baseline"] == run_id
    # Two experiments with baselines of their own: neither is chosen.
    invoke("--pin", store.good)
    both = invoke(store.other, store.bad, "--json")
    assert json.loads(both.stdout)["baseline"] is None
    assert "digits, other have different baselines" in both.stderr
    store.client.delete_registered_model_alias("digits", "champion")
    gone = invoke(store.other, "--json")
    assert json.loads(gone.stdout)["baseline"] is None
    assert "the pinned baseline is not there" in gone.stderr
    assert "to take it off: gluonexp compare --unpin other" in " ".join(gone.stderr.split())
    store.client.set_registered_model_alias("digits", "champion", "2")
    invoke("--unpin", "digits")
    invoke("--unpin", "other")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["last", "--baseline", "abcdef"], 1, "no run id begins with abcdef"),
        (["last", "--baseline", "models:/digits@none"], 1, "none"),
        (["last", "--baseline", "last", "--no-baseline"], 2, "name one of them"),
        (["last", "--json", "--csv"], 2, "--csv and --json: name one of them"),
        (["--pin", "nonsense"], 1, "nonsense: not a run"),
        (["--unpin", "digit"], 1, "no experiment digit in .* there is digits"),
    ],
    ids=str,
)
def test_what_is_no_baseline_is_said_once(invoke, arguments, status, told):
    (line,) = (
        line
        for line in invoke(*arguments, status=status).stderr.splitlines()
        if line.startswith("Error: ")
    )
    assert re.search(told, line)
