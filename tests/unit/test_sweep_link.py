"""The address that compares the runs of a sweep: what it says, and which sweep is meant."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import ensure_experiment, open_store
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.uri import sweep_link, view_link
from gluonexp.tracking.views import share_sweep, shown_sweep, sweep_of

BASE = "http://127.0.0.1:5000"
SWEEP = {
    "gluonexp.kind": "sweep",
    "gluonexp.sweep.metric": "val/loss",
    "gluonexp.sweep.mode": "min",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlruns/mlflow.db")


@pytest.fixture
def experiment(store: MlflowClient, request: pytest.FixtureRequest) -> str:
    return ensure_experiment(store, request.node.name, store.tracking_uri)


def child(store: MlflowClient, experiment: str, parent: str, varied: dict, params: dict) -> str:
    tags = {"mlflow.parentRunId": parent, "gluonexp.sweep.varied": json.dumps(varied)}
    run_id: str = store.create_run(experiment, tags=tags).info.run_id
    for key, value in params.items():
        store.log_param(run_id, key, value)
    store.set_terminated(run_id)
    return run_id


def view(store: MlflowClient, experiment: str, parent: str) -> dict:
    tags = store.get_experiment(experiment).tags
    (kept,) = [json.loads(value) for key, value in tags.items() if key.endswith(parent)]
    assert f"mlflow.sharedViewState.{parent}" in tags
    return kept


def axes(state: dict) -> tuple[list[str], list[str]]:
    """Return the axes of the parallel coordinates, and of the scatter plots."""
    cards = state["compareRunCharts"]
    parallel = [name for card in cards for name in card.get("selectedParams", [])]
    return parallel, [card["xaxis"]["key"] for card in cards if card["type"] == "SCATTER"]


# --- what it says --------------------------------------------------------------------------------


def test_the_link_is_the_one_that_was_seen_to_work() -> None:
    assert sweep_link(f"{BASE}/", "7", "0123abcd", "val/acc", "max") == (
        f"{BASE}/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&orderByKey=metrics.%60val%2Facc%60&orderByAsc=false"
        "&searchFilter=tags.mlflow.parentRunId%20%3D%20%270123abcd%27"
    )
    assert view_link(BASE, "7", "0123abcd") == (
        f"{BASE}/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&viewStateShareKey=0123abcd"
    )


@given(
    metric=st.from_regex(r"[/\w.\- :]{1,30}", fullmatch=True),
    mode=st.sampled_from(["max", "min"]),
)
def test_a_browser_reads_from_the_link_what_was_meant(metric: str, mode: str) -> None:
    page, _, query = urlsplit(sweep_link(BASE, "1", "ab", metric, mode)).fragment.partition("?")
    assert page == "/experiments/1/runs"
    assert parse_qs(query, strict_parsing=True) == {
        "workflowType": ["machine_learning"],
        "compareRunsMode": ["CHART"],
        "orderByKey": [f"metrics.`{metric}`"],
        "orderByAsc": ["true" if mode == "min" else "false"],
        "searchFilter": ["tags.mlflow.parentRunId = 'ab'"],
    }


# --- the view it opens ---------------------------------------------------------------------------


def test_the_view_has_the_objective_first_and_what_varied_as_axes(
    store: MlflowClient, experiment: str
) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    for name, lr in [("adam", "0.1"), ("adam", "0.01"), ("sgd", "0.1")]:
        params = {"optim.lr": lr, "optim.name": name, "seed": "0", "optimal": lr}
        if name == "sgd":
            params["optim.momentum"] = "0.9"
        varied = {"optim": name, "optim.lr": lr}
        child(store, experiment, parent, varied, params)
    child(store, experiment, parent, {"optim": "rmsprop"}, {})  # failed before it had parameters
    record = shown_sweep(store, parent)
    assert share_sweep(store, BASE, record) == view_link(BASE, experiment, parent)
    state = view(store, experiment, parent)
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert state["searchFilter"] == f"tags.mlflow.parentRunId = '{parent}'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/loss`", True)
    assert [card["type"] for card in state["compareRunCharts"]] == ["LINE", "PARALLEL", "SCATTER"]
    assert state["compareRunCharts"][0]["metricKey"] == "val/loss"
    # Not `optim.momentum`, which only one has, nor `optimal`, which was not varied.
    parallel, scatter = axes(state)
    assert sorted(parallel) == ["optim.lr", "optim.name"]
    assert scatter == ["optim.lr"]


def test_a_sweep_has_one_view_which_is_brought_up_to_date(
    store: MlflowClient, experiment: str
) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    child(store, experiment, parent, {"seed": "0"}, {"seed": "0"})
    links = {share_sweep(store, BASE, shown_sweep(store, parent)) for _ in range(2)}
    assert axes(view(store, experiment, parent)) == ([], [])  # one run: nothing varies
    child(store, experiment, parent, {"seed": "1"}, {"seed": "1"})
    links.add(share_sweep(store, BASE, shown_sweep(store, parent)))
    assert axes(view(store, experiment, parent)) == (["seed"], ["seed"])
    assert links == {view_link(BASE, experiment, parent)}


def test_where_no_view_can_be_kept_the_link_still_shows_the_runs(
    store: MlflowClient, experiment: str
) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    child(store, experiment, parent, {"seed": "0"}, {"seed": "0"})
    record = shown_sweep(store, parent)
    with closing(sqlite3.connect(store.tracking_uri.removeprefix("sqlite:///"))) as database:
        for event in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER only_read_{event} BEFORE {event} ON experiment_tags "
                f"WHEN NEW.experiment_id = {experiment} BEGIN SELECT RAISE(ABORT, 'read'); END"
            )
    plain = sweep_link(BASE, experiment, parent, "val/loss", "min")
    assert share_sweep(store, BASE, record) == plain


def test_a_view_too_long_for_a_tag_is_not_kept(store: MlflowClient, experiment: str) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    keys = [f"{letter * 240}" for letter in "abcdef"]
    for value in ("1", "2"):
        values = dict.fromkeys(keys, value)
        child(store, experiment, parent, values, values)
    plain = sweep_link(BASE, experiment, parent, "val/loss", "min")
    assert share_sweep(store, BASE, shown_sweep(store, parent)) == plain


# --- which sweep is meant ------------------------------------------------------------------------


def test_a_sweep_is_named_by_its_id_the_start_of_it_or_last(
    store: MlflowClient, experiment: str
) -> None:
    parents = []
    for start in (10**13, 10**13 - 1):  # later than any other in this store
        parents.append(store.create_run(experiment, start, SWEEP).info.run_id)
        child(store, experiment, parents[-1], {}, {})
    last, first = parents
    assert shown_sweep(store, first).run_id == first
    assert shown_sweep(store, first[:8]).run_id == first
    assert shown_sweep(store, "last").run_id == last
    store.delete_run(last)
    assert shown_sweep(store, "last").run_id == first


def test_what_is_no_sweep_is_told_so(store: MlflowClient, experiment: str) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    with pytest.raises(GluonexpError, match=f"sweep {parent} has no runs yet"):
        shown_sweep(store, parent)
    run_id = child(store, experiment, parent, {}, {})
    with pytest.raises(GluonexpError, match=f"{run_id} is no sweep: it belongs to sweep {parent}"):
        shown_sweep(store, run_id)
    alone = store.create_run(experiment).info.run_id
    with pytest.raises(GluonexpError, match=f"{alone} is no sweep"):
        shown_sweep(store, alone)
    with pytest.raises(GluonexpError, match="no run id begins with 012345"):
        shown_sweep(store, "012345")


def test_without_any_sweep_the_way_to_one_is_told(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(GluonexpError, match=r"there is no sweep in .* gluonexp.run -m "):
        shown_sweep(store, "last")


def test_the_sweep_of_a_run(store: MlflowClient, experiment: str) -> None:
    parent = store.create_run(experiment, tags=SWEEP).info.run_id
    other = store.create_run(experiment).info.run_id
    runs = {
        name: child(store, experiment, its_parent, {}, {})
        for name, its_parent in {"own": parent, "no sweep": other, "by hand": "nobody's"}.items()
    }

    def found(run_id: str) -> str | None:
        (record,) = reader(store.tracking_uri).fetch([run_id])
        sweep = sweep_of(store, record)
        return sweep and sweep.run_id

    assert found(runs["own"]) == parent
    assert found(runs["no sweep"]) is found(runs["by hand"]) is found(parent) is None
    store.delete_run(parent)
    assert found(runs["own"]) is None


def test_the_command_refuses_before_it_starts_a_server(
    store: MlflowClient, experiment: str
) -> None:
    run_id = store.create_run(experiment).info.run_id
    command = [sys.executable, "-m", "gluonexp", "ui", "--tracking-uri", store.tracking_uri]
    done = subprocess.run(
        [*command, "--sweep", run_id], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"Error: run {run_id} is no sweep.*\n", done.stderr)
