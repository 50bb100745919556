"""Ranks, the best, groups over seeds, and names of the points of a sweep."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp.base.better import best_of
from gluonexp.base.text import brief, digits, duration, short_keys
from gluonexp.sweep.outcomes import Outcome, Summary, point_name
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING

STATUSES = (FINISHED, PRUNED, RUNNING, KILLED, FAILED)
NUMBERS = st.one_of(st.none(), st.floats(), st.sampled_from([0.5, 0.9]))


def summary(outcomes: Sequence[Outcome], mode: str = "max") -> Summary:
    return Summary("a title", "a command", "val/acc", mode, outcomes)


def point(job: int, objective: float | None, status: str = FINISHED, **varied: str) -> Outcome:
    return Outcome(job, varied, status, objective)


@st.composite
def sweeps(draw: st.DrawFn) -> Summary:
    ends = draw(st.lists(st.tuples(st.sampled_from(STATUSES), NUMBERS), max_size=12))
    outcomes = [point(job, value, status) for job, (status, value) in enumerate(ends)]
    return summary(outcomes, draw(st.sampled_from(["max", "min"])))


@given(sweeps())
def test_the_best_is_what_a_careful_reader_would_choose(sweep: Summary) -> None:
    known = {
        one.job: one.objective
        for one in sweep.outcomes
        if one.status == FINISHED and one.objective is not None and math.isfinite(one.objective)
    }
    best = sweep.best()
    if not known:
        assert best is None
        return
    assert best is not None
    chosen = max(known.values()) if sweep.mode == "max" else min(known.values())
    assert best.objective == chosen
    assert best.job == min(job for job, value in known.items() if value == chosen)


@given(sweeps())
def test_ranks(sweep: Summary) -> None:
    ranked, ranks = sweep.ranked(), sweep.ranks()
    assert sorted(one.job for one in ranked) == [one.job for one in sweep.outcomes]
    # First what finished with a value, then what finished without, and so on.
    order = [STATUSES.index(one.status) for one in ranked]
    assert order == sorted(order)
    assert list(ranks) == [one.job for one in ranked[: len(ranks)]]
    values = {one.job: one.objective for one in sweep.outcomes if one.job in ranks}
    for job, rank in ranks.items():
        value = values[job]
        assert value is not None
        better = [
            other
            for other in values.values()
            if other is not None and (other > value if sweep.mode == "max" else other < value)
        ]
        assert rank == len(better) + 1
    assert all(one.status == FINISHED for one in ranked[: len(ranks)])


def test_equal_points_share_a_rank_and_stand_by_number() -> None:
    sweep = summary([point(0, 0.5), point(1, 0.9), point(2, 0.9), point(3, 0.7)])
    assert [one.job for one in sweep.ranked()] == [1, 2, 3, 0]
    assert sweep.ranks() == {1: 1, 2: 1, 3: 3, 0: 4}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_not_finite_never_is_best(bad: float | None, mode: str) -> None:
    sweep = summary([point(0, bad), point(1, 0.1)], mode)
    best = sweep.best()
    assert best is not None
    assert best.job == 1
    assert sweep.ranks() == {1: 1}
    assert summary([point(0, bad)], mode).best() is None


def test_a_pruned_point_never_is_best() -> None:
    sweep = summary([point(0, 0.99, PRUNED), point(1, 0.1)])
    best = sweep.best()
    assert best is not None
    assert best.job == 1
    assert summary([point(0, 0.99, PRUNED)]).best() is None


def test_an_empty_sweep() -> None:
    sweep = summary([])
    assert sweep.best() is None
    assert sweep.ranked() == sweep.failures() == sweep.over_seeds() == sweep.varied_keys() == []
    assert sweep.ranks() == {}


def test_counts_and_keys() -> None:
    sweep = summary(
        [point(0, 1, lr="1"), point(1, 1, PRUNED, lr="2", wd="0"), point(2, 1, lr="3")]
    )
    assert (sweep.count(FINISHED), sweep.count(PRUNED), sweep.count(FAILED)) == (2, 1, 0)
    assert sweep.count(FINISHED, PRUNED) == 3
    assert sweep.varied_keys() == ["lr", "wd"]


def test_failures_are_told_with_their_reason() -> None:
    failed = dataclasses.replace(point(1, None, FAILED), error="no such folder")
    sweep = summary(
        [
            point(0, 0.9),
            failed,
            point(2, None, KILLED),
            point(3, math.nan),
            point(4, None, PRUNED),
            point(5, None, RUNNING),
        ]
    )
    assert [(outcome.job, reason) for outcome, reason in sweep.failures()] == [
        (1, "no such folder"),
        (2, "the reason was not recorded"),
        (3, "no finite value of val/acc"),
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(-1e6, 1e6), st.sampled_from(STATUSES)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["max", "min"]),
)
def test_mean_and_spread_over_seeds(points: list[tuple[str, float, str]], mode: str) -> None:
    outcomes = [
        # The order in which keys were given does not matter.
        Outcome(
            job,
            dict(sorted({"optim": name, "seed": str(job)}.items(), reverse=job % 2 == 1)),
            status,
            value,
        )
        for job, (name, value, status) in enumerate(points)
    ]
    groups = summary(outcomes, mode).over_seeds()
    assert sorted(group.varied["optim"] for group in groups) == sorted({p[0] for p in points})
    for group in groups:
        alike = [point for point in points if point[0] == group.varied["optim"]]
        values = [value for _, value, status in alike if status == FINISHED]
        assert list(group.varied) == ["optim"]
        assert group.points == len(alike)
        assert list(group.values) == values
        assert math.isnan(group.mean) == (not values)
        assert math.isnan(group.deviation) == (len(values) < 2)
        if values:
            assert group.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
        if len(values) > 1:
            assert group.deviation == pytest.approx(statistics.stdev(values))
    means = [group.mean for group in groups if group.values]
    assert means == sorted(means, reverse=mode == "max")
    assert all(group.values for group in groups[: len(means)])


def test_a_group_as_a_row() -> None:
    sweep = summary(
        [
            point(0, 0.9, lr="0.012345678", seed="0"),
            point(1, 0.8, lr="0.012345678", seed="1"),
            point(2, None, FAILED, lr="0.012345678", seed="2"),
        ]
    )
    (group,) = sweep.over_seeds()
    assert group.name == "lr=0.01235"
    assert group.row() == ("0.8500", "0.0707", "2 of 3", "0.8000", "0.9000")
    (alone,) = summary([point(0, 0.9, seed="0")]).over_seeds()
    assert (alone.name, alone.row()) == ("all", ("0.9000", "-", "1", "0.9000", "0.9000"))
    (none,) = summary([point(0, None, FAILED, seed="0")]).over_seeds()
    assert none.row() == ("-", "-", "0 of 1", "-", "-")


def test_without_seeds_that_vary_there_is_no_spread() -> None:
    assert summary([point(0, 0.9, lr="1"), point(1, 0.9, lr="2")]).over_seeds() == []


CURVES = st.lists(st.floats(), max_size=9).map(lambda values: list(enumerate(values)))


@given(CURVES, st.sampled_from(["max", "min"]))
def test_best_of_a_curve(curve: list[tuple[int, float]], mode: str) -> None:
    finite = [value for _, value in curve if math.isfinite(value)]
    best = best_of(curve, mode)
    if not finite:
        assert best is None
        return
    value = max(finite) if mode == "max" else min(finite)
    assert best == (next(epoch for epoch, other in curve if other == value), value)


KEYS = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join),
    unique=True,
    max_size=8,
)


@given(KEYS)
def test_short_keys_are_clear(keys: list[str]) -> None:
    shortened = short_keys(keys)
    assert len(set(shortened)) == len(keys)
    for short, key in zip(shortened, keys, strict=True):
        assert key == short or key.endswith(f".{short}")


def test_names() -> None:
    assert short_keys(["optim.lr", "head.lr", "model"]) == ["optim.lr", "head.lr", "model"]
    assert point_name({"optim.lr": "0.01", "optim": "adam"}) == "lr=0.01 optim=adam"
    outcome = point(3, 0.5, **{"optim.lr": "0.0031622776601683794", "model.channels": "[1,2]"})
    assert outcome.name == "lr=0.003162 channels=[1,2]"
    assert point(3, 0.5).name == "the only point"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("0.000123", "0.000123"),
        ("3.4131e-06", "3.413e-06"),
        ("1234567891", "1234567891"),
        ("a name that is long", "a name that is long"),
        ("null", "null"),
    ],
)
def test_brief(text: str, short: str) -> None:
    assert brief(text) == short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.0000"),
        (0.99314, "0.9931"),
        (-0.5, "-0.5000"),
        (1.25e-5, "1.25e-05"),
        (2.5e7, "2.5e+07"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.nan, "-"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
