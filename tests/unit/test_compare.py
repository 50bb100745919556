"""Comparing runs: what differs, in which order, who is best; and how it is told."""

import csv
import io
import json
import math
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gluonexp.base.plain import write_json
from gluonexp.compare import Comparison, Row, columns, comparison, listing, machine, terminal
from gluonexp.tracking.read.records import RunRecord

START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)


def run(number=0, params=None, tags=None, status="FINISHED", metrics=None, name=None):
    return RunRecord(
        run_id=f"{number:08x}{'0' * 24}",
        name=name or f"run-{number}",
        status=status,
        experiment="digits",
        experiment_id="1",
        start=START,
        seconds=4.5,
        params=params or {},
        metrics=metrics or {},
        tags=tags or {},
    )


def varied(**choices):
    return {"gluonexp.sweep.varied": json.dumps(choices)}


# --- what differs --------------------------------------------------------------------------------


def test_only_what_differs_is_a_difference():
    one = {"seed": "0", "optim.lr": "0.1", "optim.momentum": "0.9"}
    other = {"seed": "0", "optim.lr": "0.2", "trainer.epochs": "3"}
    keys, same = comparison.differences([run(0, one), run(1, other)])
    assert sorted(keys) == ["optim.lr", "optim.momentum", "trainer.epochs"]
    assert same == {"seed": "0"}


def test_that_a_sweep_tried_a_point_again_is_no_difference():
    again = {"seed": "0", "trainer.resume": "checkpoints/last"}
    runs = [run(0, {"seed": "0", "trainer.resume": "None"}), run(1, again)]
    assert comparison.differences(runs)[0] == ["trainer.resume"]
    runs = [replace(one, tags={"mlflow.parentRunId": "f" * 32}) for one in runs]
    assert comparison.differences(runs) == ([], {"seed": "0"})


def test_a_sweep_that_has_ended_is_as_large_as_it_has_points():
    counts = {"finished": "3", "pruned": "0", "failed": "0", "killed": "0"}
    tags = {f"gluonexp.sweep.{status}": count for status, count in counts.items()}
    ended = run(0, tags={"gluonexp.kind": "sweep", **tags}, name="over lr")
    attempts = {ended.run_id: 4}  # one point was tried twice
    reader = SimpleNamespace(
        count_children=lambda _: attempts,
        existing=lambda _: [],
        curves=lambda ids, _: {ids[0]: []},
    )
    for one, size in ((ended, 3), (replace(ended, status="RUNNING"), 4)):
        out = io.StringIO()
        listing.render(Console(file=out, width=100), reader, [one])
        assert f"over lr (sweep of {size})" in out.getvalue()


def test_one_run_differs_in_nothing():
    assert comparison.differences([run(0, {"seed": "0"})]) == ([], {"seed": "0"})


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("0.001", "1e-3", False),
        ("1", "1.0", False),
        ("nan", "nan", False),
        ("true", "True", True),
        ("[1,2]", "[1, 2]", True),
        ("0.1", "0.10000001", True),
        # Where a class was before the rooms is no other class.
        ("gluonexp.optim.cosine", "gluonexp.training.schedules.cosine", False),
        ("gluonexp.optim.cosine", "gluonexp.training.schedules.step", True),
    ],
)
def test_equal_values_are_no_difference(one, other, differ):
    keys, _ = comparison.differences([run(0, {"x": one}), run(1, {"x": other})])
    assert keys == (["x"] if differ else [])


def test_what_was_typed_comes_first_and_what_follows_from_it_last():
    tags = {"gluonexp.overrides": "seed=1 model=cnn +optim.lr=0.1 hydra.verbose=true"}
    params = [
        {
            "data.digest": digit,
            "network.parameters": digit,
            "augment.flip": digit,
            "optim.name": digit,
            "model.hidden": digit,
            "model._target_": digit,
            "optim.lr": digit,
            "seed": digit,
        }
        for digit in "12"
    ]
    keys, _ = comparison.differences([run(0, params[0], tags), run(1, params[1])])
    assert keys == [
        "seed",
        "model._target_",
        "optim.lr",
        "optim.name",
        "model.hidden",
        "augment.flip",
        "data.digest",
        "network.parameters",
    ]


def test_what_the_sweep_varied_comes_before_what_all_its_jobs_have():
    tags = varied(**{"optim.lr": "0.1"}) | {"gluonexp.overrides": "trainer.epochs=3 optim.lr=0.1"}
    both = [{"trainer.epochs": digit, "optim.lr": digit} for digit in "12"]
    keys, _ = comparison.differences([run(0, both[0], tags), run(1, both[1], tags)])
    assert keys == ["optim.lr", "trainer.epochs"]


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        ("", {}),
        ("a=1 b.c=x=y", {"a": "1", "b.c": "x=y"}),
        ("+a=1 ++b=2 ~c model@net=cnn", {"a": "1", "b": "2", "model": "cnn"}),
        ("hydra/launcher=joblib hydra.job.num=3 sweep.parent=f tracking.uri=x build.allow=y", {}),
        ("a='1 2' b=3", {"a": "1 2", "b": "3"}),
        ("a=it's", {"a": "it's"}),
    ],
)
def test_overrides_are_read(overrides, asked):
    assert comparison.asked(run(0, tags={"gluonexp.overrides": overrides})) == asked


def test_a_cut_tag_is_no_reason_to_fail():
    tags = {"gluonexp.sweep.varied": '{"optim.lr": "0.0...', "gluonexp.overrides": "seed=1"}
    assert comparison.asked(run(0, tags=tags)) == {"seed": "1"}


def test_a_run_that_failed_early_differs_only_in_what_was_chosen_for_it():
    recorded = {"seed": "0", "optim.lr": "0.1", "model._target_": "gluonexp.models.cnn.cnn"}
    early = run(1, tags=varied(**{"optim.lr": "0.1", "model": "mlp"}), status="FAILED")
    keys, same = comparison.differences([run(0, recorded), early])
    assert keys == []
    assert set(same) == set(recorded)
    other = run(1, tags=varied(**{"optim.lr": "7"}), status="FAILED")
    assert comparison.differences([run(0, recorded), other])[0] == ["optim.lr"]
    # Its group is shown where other runs show theirs.
    assert comparison.settings(early)["model._target_"] == "mlp"


def test_runs_that_all_failed_early_are_told_apart_by_their_sweep():
    runs = [run(lr, tags=varied(**{"optim.lr": str(lr), "seed": "0"})) for lr in (1, 2)]
    assert comparison.differences(runs) == (["optim.lr"], {"seed": "0"})


# --- which is best -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/acc", "max"),
        ("val/loss", "min"),
        ("val/top1_error", "min"),
        ("time/epoch_s", "min"),
        ("time/images_per_s", "max"),
        ("Val/Loss", "min"),
        ("custom", "max"),
    ],
)
def test_the_direction_follows_from_the_name(metric, mode):
    assert comparison.direction([run()], metric) == mode


def test_the_objective_has_the_direction_that_was_declared():
    odd = {"objective.metric": "val/acc", "objective.mode": "min"}
    assert comparison.direction([run(), run(1, odd)], "val/acc") == "min"
    assert comparison.direction([run(1, odd)], "test/acc") == "max"


# --- on the terminal -----------------------------------------------------------------------------


def made(runs, curves, metric="val/acc", mode="max"):
    """A comparison of runs that are ranked already."""
    keys, same = comparison.differences(runs)
    rows = []
    for one, curve in zip(runs, curves, strict=True):
        epoch, best = max(curve, key=lambda point: point[1]) if curve else (None, None)
        rows.append(Row(one, comparison.settings(one), best, epoch, curve))
    names = sorted({name for one in runs for name in one.metrics})
    return Comparison(metric, mode, rows, keys, same, names)


def told(compared, width=80, encoding="utf-8", title="these runs"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.render(Console(file=file, width=width), title, compared)
    file.seek(0)
    return file.read()


def test_few_runs_stand_side_by_side_if_one_line_is_not_enough():
    params = [{f"group.key_{index}": f"value {digit}" for index in range(12)} for digit in "12"]
    metrics = {"val/acc": 0.9, "test/acc": 0.875}
    runs = [run(0, params[0], metrics=metrics), run(1, params[1], metrics=metrics)]
    lines = told(made(runs, [[(0, 0.5), (1, 0.9)], [(0, 0.25)]])).splitlines()
    assert lines[0] == "these runs, highest val/acc first"
    assert lines[1] == "12 settings differ, 0 are the same"
    cells = [line.split("  ") for line in lines]
    words = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert ["run", "00000000", "00000001"] in words
    assert ["group.key_7", "value 1", "value 2"] in words
    assert ["best val/acc", "0.9000", "0.2500"] in words
    assert ["in epoch", "1", "0"] in words
    assert ["test/acc", "0.8750", "0.8750"] in words
    assert words[-1] == ["val/acc by epoch", "▄█", "▁"]
    order = [row[0] for row in words if row]
    assert order.index("group.key_0") < order.index("best val/acc") < order.index("test/acc")


def test_many_runs_have_a_line_each_and_what_does_not_fit_is_named():
    runs = [
        run(
            number,
            {f"group.setting_{index:02d}": str(number + index) for index in range(20)},
            metrics={f"extra/metric_{index:02d}": 0.5 for index in range(20)},
        )
        for number in range(30)
    ]
    text = told(made(runs, [[(0, 1 - number / 100)] for number in range(30)]))
    lines = text.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert [line.split()[0] for line in lines[4:34]] == [one.run_id[:8] for one in runs]
    assert lines[-1].startswith("not shown here: ")
    shown = lines[3].split()
    for index in range(20):
        for heading, full in (("setting", "group.setting"), ("extra/metric", "extra/metric")):
            assert (f"{heading}_{index:02d}" in shown) != (f"{full}_{index:02d}" in lines[-1])
    assert shown[:2] == ["run", "setting_00"]
    assert shown[-2:] == ["by", "epoch"]


def test_a_failed_run_is_told_and_one_without_the_metric():
    runs = [run(0, {"x": "1"}), run(1, {"x": "2"}, status="FAILED")]
    lines = told(made(runs, [[(0, 0.5)], []])).splitlines()
    assert lines[-2].split() == ["00000000", "FINISHED", "1", "run-0", "0.5000", "0", "▅"]
    assert lines[-1].split() == ["00000001", "FAILED", "2", "run-1", "-", "-"]


def test_one_run_needs_no_comparison():
    lines = told(made([run(0, {"x": "1"})], [[(0, 0.5)]]), title="1 run").splitlines()
    assert lines[0] == "1 run"
    assert lines[1] == ""
    assert lines[-1].split() == ["00000000", "run-0", "0.5000", "0", "▅"]


def test_no_colour_codes_and_no_markup():
    runs = [run(0, {"x": "[red]1[/red]"}, name="[bold]"), run(1, {"x": "2"})]
    text = told(made(runs, [[], []]), title="[b]title[/b]")
    assert "\x1b" not in text
    assert "[red]1[/red]" in text
    assert "[bold]" in text
    assert text.startswith("[b]title[/b]")


def test_a_terminal_without_unicode_gets_ascii():
    text = told(made([run()], [[(0, 0.0), (1, 1.0)]]), encoding="ascii")
    assert text.splitlines()[-1].split()[-1] == "_@"


@given(
    st.integers(1, 12),
    st.lists(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=30), max_size=12),
    st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=60),
    st.integers(80, 200),
)
def test_no_line_is_too_long_and_no_id_is_cut(count, keys, value, width):
    runs = [run(number, {key: f"{value}{number}" for key in keys}) for number in range(count)]
    text = told(made(runs, [[(step, step / 9) for step in range(9)]] * count), width)
    table = [line for line in text.splitlines() if not line.startswith("not shown")]
    assert max(map(len, table)) <= width
    assert all(one.run_id[:8] in text for one in runs)


@pytest.mark.parametrize(
    ("curve", "width", "line"),
    [
        ([(0, 0.0), (1, 0.5), (2, 1.0)], 20, "▁▅█"),
        ([(0, 0.0), (2, 1.0)], 20, "▁ █"),
        ([(0, 0.0), (1, math.nan)], 20, "▁x"),
        ([(0, 0.0), (1, math.inf)], 20, "▁x"),
        ([], 20, ""),
        ([(0, 0.0), (1, 0.5), (2, 1.0)], 2, "▅█"),
    ],
)
def test_sparklines(curve, width, line):
    assert terminal.sparkline(curve, [0, 1, 2], (0, 1), width) == line


def test_a_flat_curve_is_drawn_in_the_middle():
    assert terminal.sparkline([(0, 3.0)], [0], (3, 3), 20) == "▅"


# --- columns -------------------------------------------------------------------------------------


def settings_of(*values, key="x", mode="max"):
    runs = [run(number, {key: value}) for number, value in enumerate(values)]
    (column,) = columns.settings(made(runs, [[] for _ in runs], mode=mode))
    return column


def test_a_choice_is_named_as_it_is_typed():
    column = settings_of("gluonexp.models.cnn.cnn", "mine.nets.big", key="model._target_")
    assert (column.heading, column.short, column.values) == ("model", "model", ["cnn", "big"])


def test_what_differs_is_seen_to_differ():
    assert settings_of("one.net", "two.net").values == ["one.net", "two.net"]
    digests = ["a" * 63 + "0", "a" * 63 + "1"]
    assert settings_of(*digests, key="data.digest").values == digests
    assert settings_of("0.123456781", "0.123456782").values == ["0.123456781", "0.123456782"]


def test_long_values_are_shortened():
    assert settings_of("a" * 64, "b" * 64, key="data.digest").values == ["a" * 12, "b" * 12]
    assert settings_of("0.012345678", "2").values == ["0.01235", "2"]
    assert settings_of("0.012345678", "2").is_number
    assert not settings_of("0.1", "high").is_number


# --- for programs --------------------------------------------------------------------------------


@pytest.fixture
def compared():
    runs = [
        run(0, {"x": "1,5", "same": "y"}, metrics={"val/acc": 0.1 + 0.2, "m": math.nan}),
        run(1, {"x": 'a "b"', "same": "y"}, metrics={"val/acc": 0.25}),
        run(2, {"same": "y"}, status="FAILED"),
    ]
    return made(runs, [[(0, 0.1 + 0.2), (1, math.nan)], [(0, 0.25)], []])


def test_csv_is_whole(compared):
    out = io.StringIO()
    machine.comparison_csv(compared, out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert rows[0] == {
        "run_id": "00000000" + "0" * 24,
        "name": "run-0",
        "experiment": "digits",
        "status": "FINISHED",
        "start": "2026-11-22T10:00:00.000+00:00",
        "seconds": "4.5",
        "metric": "val/acc",
        "best": "0.30000000000000004",
        "epoch": "0",
        "params.x": "1,5",
        "metrics.m": "",
        "metrics.val/acc": "0.30000000000000004",
    }
    assert rows[1]["params.x"] == 'a "b"'
    assert (rows[2]["best"], rows[2]["epoch"], rows[2]["params.x"]) == ("", "", "")


def test_json_is_whole_and_valid(compared):
    out = io.StringIO()
    write_json(out, machine.comparison(compared))
    whole = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert whole["same"] == {"same": "y"}
    assert (whole["metric"], whole["mode"], whole["differ"]) == ("val/acc", "max", ["x"])
    assert whole["runs"][0]["curve"] == [[0, 0.1 + 0.2], [1, None]]
    assert whole["runs"][0]["metrics"] == {"val/acc": 0.1 + 0.2, "m": None}
    assert (whole["runs"][2]["best"], whole["runs"][2]["curve"]) == (None, [])
