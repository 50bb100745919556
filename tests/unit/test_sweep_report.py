"""The report of a sweep: the page, the CSV and the terminal's table say what the summary says."""

import dataclasses
import io
import math
import random
import re
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gluonexp.base.better import best_of
from gluonexp.base.text import digits
from gluonexp.report import charts, choices, page
from gluonexp.sweep import report
from gluonexp.sweep.outcomes import Outcome, Summary
from gluonexp.sweep.table import sweep_table
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED, RUNNING

NASTY = "<b>&amp; $x^2$ 'q' \"r\"</b><script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its text, and what it would load."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr", "path", "use", "rect", "image"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def has(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.tags)

    def pictures(self) -> list[str]:
        """Return what the pictures are called by those who do not see them."""
        return [attrs["aria-label"] for _, attrs in self.tags if attrs.get("role") == "img"]

    def hints(self) -> list[str]:
        """Return what is said of the things pointed at."""
        return [attrs["class"] for _, attrs in self.tags if attrs.get("class") == "hint"]


def outcome(
    job: int,
    varied: dict[str, str],
    values: Sequence[float],
    status: str = FINISHED,
    error: str | None = None,
    mode: str = "max",
    attempts: int = 1,
) -> Outcome:
    curve = list(enumerate(values))
    best = best_of(curve, mode)
    measured = best is not None and status in (FINISHED, PRUNED)
    metrics = {"val/acc": values[-1], "train/loss": 0.1 / (job + 1)} if values else {}
    if measured and status == FINISHED and best is not None:
        metrics |= {"test/acc": best[1] - 1 / 128, "test/loss": 0.25}
    return Outcome(
        job,
        varied,
        status,
        objective=best[1] if measured and best is not None else None,
        epoch=best[0] if measured and best is not None else None,
        seconds=12.5 + job,
        run_id=f"{job:02d}" + random.Random(job).randbytes(15).hex(),
        error=error,
        metrics=metrics,
        curve=curve,
        attempts=attempts,
    )


def of(outcomes: Sequence[Outcome], mode: str = "max", metric: str = "val/acc") -> Summary:
    return Summary("A <title>", "run -m 'a=1,2' && b", metric, mode, outcomes, "f" * 32, "1")


def grid() -> Summary:
    """Six points: a tie for the best, one that failed and one that was killed."""
    points = {"0.0003": 0.5, "0.001": 0.75, "0.003": 0.9, "0.01": 0.9}
    outcomes = [
        outcome(job, {"optim.lr": lr}, [value / 2, value, value / 2])
        for job, (lr, value) in enumerate(points.items())
    ]
    outcomes.append(outcome(4, {"optim.lr": "100"}, [0.1], FAILED, f"loss is nan {NASTY}"))
    killed = outcome(5, {"optim.lr": "0.03"}, [0.4], KILLED, "killed by SIGKILL", attempts=2)
    return of([*outcomes, killed])


def searched(count: int = 60) -> Summary:
    """Trials of mixed choices, many of them pruned."""
    chance = random.Random(count)
    outcomes = []
    for job in range(count):
        lr, wd = 10 ** chance.uniform(-4, -1), 10 ** chance.uniform(-6, -2)
        varied = {
            "optim": chance.choice(["adam", "sgd"]),
            "optim.lr": repr(lr),
            "optim.wd": repr(wd),
            "model.channels": chance.choice(["[16,32]", "[32,64]", "null"]),
        }
        top = 0.95 - 0.05 * abs(math.log10(lr) + 2.5)
        status = chance.choice([FINISHED, FINISHED, PRUNED]) if job % 10 else FAILED
        epochs = {FINISHED: 8, PRUNED: 3, FAILED: 1}[status]
        values = [top * (1 - 0.5 ** (epoch + 1)) for epoch in range(epochs)]
        outcomes.append(outcome(job, varied, values, status, "no" if status == FAILED else None))
    return of(outcomes)


def seeded() -> Summary:
    outcomes = []
    for lr in ("0.001", "0.01"):
        for seed in range(3):
            value = 0.75 + (0.125 if lr == "0.01" else 0) + seed / 64
            varied = {"optim.lr": lr, "seed": str(seed)}
            outcomes.append(outcome(len(outcomes), varied, [value / 2, value]))
    return of(outcomes)


def all_failed() -> Summary:
    return of(
        [outcome(job, {"optim.lr": lr}, [], FAILED, "no data") for job, lr in enumerate("123")]
    )


def all_nan() -> Summary:
    points = [outcome(job, {"optim.lr": lr}, [math.nan] * 2) for job, lr in enumerate("123")]
    return of([dataclasses.replace(point, objective=math.nan) for point in points])


def odd() -> Summary:
    """Values that are lists, nothing, mark-up, very long, or missing; a status of each kind."""
    varied = [
        {"model.channels": "[1,2]", "data.limit": "null"},
        {"model.channels": NASTY, "data.limit": "1000"},
        {"model.channels": "x" * 300, "data.limit": "\x1b[31mred"},
        {"model.channels": "[1,2]"},
        {"model.channels": "$5", "data.limit": "1e400"},
    ]
    statuses = [FINISHED, PRUNED, RUNNING, FINISHED, KILLED]
    return of(
        [
            outcome(job, chosen, [0.5, 0.25], status)
            for job, (chosen, status) in enumerate(zip(varied, statuses, strict=True))
        ]
    )


CASES = {
    "grid": grid(),
    "searched": searched(),
    "seeded": seeded(),
    "all failed": all_failed(),
    "all NaN": all_nan(),
    "odd": odd(),
    "only pruned": of(
        [
            outcome(job, {"optim.lr": str(job), "optim": "adam" * job}, values, status)
            for job, (values, status) in enumerate(
                [([], FINISHED), ([math.nan], FINISHED), ([0.5], PRUNED), ([-1e120], PRUNED)]
            )
        ]
    ),
    "one": of([outcome(0, {}, [0.5])]),
    "none": of([]),
    "lowest": dataclasses.replace(
        of([outcome(job, {"optim.lr": lr}, [2 ** int(lr), 1e9], mode="min")
            for job, lr in enumerate("312")]),
        metric="val/loss",
        mode="min",
    ),
}  # fmt: skip


def written(summary: Summary, folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font may have it
        report.html(summary, folder / "new" / "report.html")
    return (folder / "new" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("summary", CASES.values(), ids=CASES)
def test_the_page_has_every_point_and_needs_nothing_else(summary: Summary, tmp_path: Path) -> None:
    source = written(summary, tmp_path)
    parsed = Page(source)
    rows = parsed.tables[0][1:]
    assert [row[-1] for row in rows] == [one.run_id for one in summary.ranked()]
    ranks = summary.ranks()
    keys = summary.varied_keys()
    for row, one in zip(rows, summary.ranked(), strict=True):
        assert row[0] == str(ranks.get(one.job, ""))
        assert row[1 + len(keys)] == digits(one.objective)
        assert one.status.lower() in row[-2]
        assert (f"attempt {one.attempts}" in row[-2]) == (one.attempts > 1)
    text = "".join(parsed.text)
    for _, reason in summary.failures():
        assert reason in text
    assert summary.command in text
    assert summary.title in text
    # Nothing runs, nothing is loaded: no address at all is in the file.
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "base"}
    assert "//" not in re.sub(r"\s", "", source).replace("&lt;/", "")
    assert "@import" not in source
    for _, attrs in parsed.tags:
        assert all(attrs[name].startswith("#") for name in ("href", "src") if name in attrs)
        assert not any(name.startswith("on") for name in attrs)


def test_the_page_is_the_same_each_time_and_its_ids_are_unique(tmp_path: Path) -> None:
    source = written(searched(30), tmp_path / "a")
    assert written(searched(30), tmp_path / "b") == source
    ids = [attrs["id"] for _, attrs in Page(source).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([\w-]+)', source)) == set(ids)


def test_what_is_on_the_page_of_a_grid(tmp_path: Path) -> None:
    parsed = Page(written(grid(), tmp_path))
    text = " ".join(" ".join(parsed.text).split())
    assert "6 points: 4 finished, 1 failed, 1 killed" in text
    assert "best val/acc 0.9000 with lr=0.003 epoch 1 test/acc 0.8922" in text
    assert "2 points share this value" in text
    assert "highest value of all epochs" in text
    table = parsed.tables[0]
    assert table[0] == ["rank", "lr", "val/acc", "epoch", "test/acc", "time", "status", "run"]
    assert [row[:2] for row in table[1:]] == [
        ["1", "0.003"],
        ["1", "0.01"],
        ["3", "0.001"],
        ["4", "0.0003"],
        ["", "0.03"],
        ["", "100"],
    ]
    assert table[1][2:7] == ["0.9000", "1", "0.8922", "14.5 s", "✓ finished"]
    curves, by_lr = parsed.pictures()
    assert curves.startswith("val/acc by epoch of 6 runs")
    assert by_lr.startswith("val/acc by optim.lr of 6 runs, 2 without a value; best values: 0.003")
    # A line or a dot for each point, and each says which it is.
    assert len(parsed.hints()) == 12
    assert text.count("lr=0.0003 0.5000") == 1
    assert "killed, failed: no value" in text


def test_every_choice_has_its_picture(tmp_path: Path) -> None:
    parsed = Page(written(searched(), tmp_path))
    assert [picture.split(" of ")[0].split(" as ")[0] for picture in parsed.pictures()] == [
        "val/acc by epoch",
        "val/acc by optim",
        "val/acc by optim.lr",
        "val/acc by optim.wd",
        "val/acc by model.channels",
        "60 runs",
    ]
    assert len(parsed.hints()) == 6 * 60


def test_the_seed_is_no_choice_but_has_its_section(tmp_path: Path) -> None:
    parsed = Page(written(seeded(), tmp_path))
    _, spread = parsed.tables
    assert spread == [
        ["points", "mean", "standard deviation", "n", "min", "max"],
        ["lr=0.01", "0.8906", "0.0156", "3", "0.8750", "0.9062"],
        ["lr=0.001", "0.7656", "0.0156", "3", "0.7500", "0.7812"],
    ]
    pictures = parsed.pictures()
    assert len(pictures) == 3
    assert "optim.lr" in pictures[1]
    assert pictures[2].startswith("Mean and standard deviation of val/acc of 2 groups")


def test_a_sweep_without_values_says_so(tmp_path: Path) -> None:
    for summary in (all_failed(), of([])):
        parsed = Page(written(summary, tmp_path))
        assert not parsed.has("svg")
        assert "No point finished with a value of val/acc." in "".join(parsed.text)


def test_what_a_user_wrote_is_text(tmp_path: Path) -> None:
    source = written(odd(), tmp_path) + written(grid(), tmp_path)
    assert "<b>" not in source
    assert "<script" not in source
    text = "".join(Page(source.replace("<!DOCTYPE html>", "")).text)
    assert NASTY in text
    assert "$5" in text


@pytest.mark.parametrize("summary", CASES.values(), ids=CASES)
def test_the_csv_is_the_summary(summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    report.results_csv(summary, path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    ranks, ranked = summary.ranks(), summary.ranked()
    assert list(table["job"]) == [str(one.job) for one in ranked]
    assert list(table["rank"]) == [str(ranks.get(one.job, "")) for one in ranked]
    assert list(table["status"]) == [one.status for one in ranked]
    assert list(table["run_id"]) == [one.run_id for one in ranked]
    assert list(table["error"]) == [one.error or "" for one in ranked]
    assert list(table["attempts"]) == [str(one.attempts) for one in ranked]
    assert [float(text) for text in table["seconds"]] == [one.seconds for one in ranked]
    assert list(table["epoch"]) == ["" if one.epoch is None else str(one.epoch) for one in ranked]
    for key in summary.varied_keys():
        assert list(table[key]) == [one.varied.get(key, "") for one in ranked]
    for column, values in (
        (f"{summary.metric} (best)", [one.objective for one in ranked]),
        ("test/acc", [one.metrics.get("test/acc") for one in ranked]),
        ("train/loss (last)", [one.metrics.get("train/loss") for one in ranked]),
    ):
        if column not in table:
            assert set(values) <= {None}
            continue
        for text, value in zip(table[column], values, strict=True):
            assert text == ("" if value is None else repr(value))


def test_the_columns_of_the_csv(tmp_path: Path) -> None:
    report.results_csv(grid(), tmp_path / "a.csv")
    head, first, *_ = (tmp_path / "a.csv").read_text().splitlines()
    assert head == (
        "rank,job,status,optim.lr,val/acc (best),epoch,test/acc,test/loss,train/loss (last),"
        "val/acc (last),seconds,attempts,run_id,error"
    )
    assert first.startswith("1,2,FINISHED,0.003,0.9,1,0.8921875,0.25,0.0333")


def printed(summary: Summary, width: int = 80, limit: int = 20) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    sweep_table(console, summary, limit)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("summary", CASES.values(), ids=CASES)
def test_the_terminal_table_fits_and_ends_with_the_best(summary: Summary) -> None:
    lines = printed(summary)
    # A reason is one line however long it is, so that it can be searched for and copied.
    tables = [line for line in lines if not line.startswith(("job ", "best: "))]
    assert all(len(line) <= 80 for line in tables)
    text = " ".join(" ".join(lines).split())
    best = summary.best()
    if best is None:
        assert text.endswith("no point finished with a value of val/acc")
    else:
        run = (best.run_id or "")[:8]
        head = f"best: {best.name} {summary.metric} {digits(best.objective)} run {run}"
        assert text.endswith(head)
        assert lines[1].split()[0] == "1"
        assert next(line.split()[-1] for line in lines[1:]) == run


def test_the_terminal_table_of_a_grid() -> None:
    summary = grid()
    ids = [(one.run_id or "")[:8] for one in summary.outcomes]
    assert printed(summary, width=100) == [
        "#  lr      val/acc  epoch  test acc    time  status    run",
        f"1  0.003    0.9000      1    0.8922  14.5 s  FINISHED  {ids[2]}",
        f"1  0.01     0.9000      1    0.8922  15.5 s  FINISHED  {ids[3]}",
        f"3  0.001    0.7500      1    0.7422  13.5 s  FINISHED  {ids[1]}",
        f"4  0.0003   0.5000      1    0.4922  12.5 s  FINISHED  {ids[0]}",
        f"   0.03          -      -         -  17.5 s  KILLED    {ids[5]}",
        f"   100           -      -         -  16.5 s  FAILED    {ids[4]}",
        "job 4 FAILED: lr=100: loss is nan <b>&amp; $x^2$ 'q' \"r\"</b><script>alert(1)</script>",
        "job 5 KILLED: lr=0.03: killed by SIGKILL",
        f"best: lr=0.003  val/acc 0.9000  run {ids[2]}",
    ]


def test_a_long_table_is_cut_but_not_its_end() -> None:
    lines = printed(searched(60), width=200, limit=5)
    assert lines[6] == "... 55 more in sweep/results.csv"
    assert sum(" FAILED: " in line for line in lines) == 5
    assert lines[-2] == "... 1 more in sweep/results.csv"
    assert lines[-1].startswith("best: ")


def test_the_terminal_shows_the_mean_over_seeds() -> None:
    lines = printed(seeded())
    at = lines.index("over seeds")
    assert [line.split() for line in lines[at + 1 : at + 4]] == [
        ["points", "mean", "sd", "n", "min", "max"],
        ["lr=0.01", "0.8906", "0.0156", "3", "0.8750", "0.9062"],
        ["lr=0.001", "0.7656", "0.0156", "3", "0.7500", "0.7812"],
    ]


@pytest.mark.parametrize(
    ("key", "texts", "log", "middle"),
    [
        ("optim.lr", ["0.1", "0.2", "0.4"], True, 0.5),
        ("optim.wd", ["0.1", "0.2", "0.4"], False, 1 / 3),
        ("optim.wd", ["1", "10", "20"], True, math.log(10) / math.log(20)),
        ("optim.wd", ["-1", "10", "20"], False, 11 / 21),
        ("optim.wd", ["0", "10", "20"], False, 0.5),
        ("optim", ["a", "b", "c"], False, 0.5),
        ("data.limit", ["1", "10", "null"], False, 0.5),
    ],
)
def test_the_scale_of_a_key(key: str, texts: list[str], log: bool, middle: float) -> None:
    scale = choices.Scale.of(key, [texts[1], *texts, texts[1]])
    assert scale.log == log
    parts = [scale.part(text) for text in texts]
    assert parts == pytest.approx([0, middle, 1])
    assert [text for _, text in scale.marks()] == texts


@given(
    st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=40),
    st.sampled_from(["optim.lr", "trainer.epochs"]),
)
def test_the_marks_of_numbers_are_in_order_and_few(numbers: list[float], key: str) -> None:
    scale = choices.Scale.of(key, [repr(number) for number in numbers])
    parts = [part for part, _ in scale.marks()]
    assert parts == sorted(parts)
    assert 1 <= len(parts) <= 17
    assert -1e-9 <= parts[0] <= parts[-1] <= 1 + 1e-9


def test_a_loss_that_exploded_hides_nothing() -> None:
    assert charts.visible([0.1, 0.2, 1e9, math.nan, math.inf], "min") == (0.1, 0.2)
    assert charts.visible([0.01, 0.012, 0.9], "max") == (0.01, 0.9)
    assert charts.visible([0.0, 0.0], "min") == (0.0, 0.0)
    assert all(map(math.isnan, charts.visible([math.nan], "max")))


def test_named_lines_and_pale_ones() -> None:
    lines = [charts.Line(f"run {i}", [(0, i / 9), (1, i / 8)], i == 3) for i in range(9)]
    few = charts.curves(lines[:8], "val/acc", "max").svg
    for line in lines[:8]:
        assert f">{line.label}</text>" in few
    many = charts.curves(lines, "val/acc", "max").svg
    assert ">best: run 3</text>" in many
    assert ">run 4</text>" not in many
    assert many.count('class="hint"') == 9
    assert charts.COLOURS[1].lower() not in many.lower()
    ended = [dataclasses.replace(lines[0], ended="pruned"), lines[3]]
    assert ">pruned</text>" in charts.curves(ended, "val/acc", "max").svg


def test_a_page_of_its_own_parts() -> None:
    text = page.page(
        NASTY,
        [
            page.Section("One", [page.Text(NASTY, quiet=True), page.Code("a\n  b")]),
            page.Section("", [page.Facts([("x", NASTY)]), page.Table(["h"], [[NASTY]])]),
        ],
        "sub",
    )
    parsed = Page(text)
    assert parsed.tables == [[["h"], [NASTY]]]
    assert parsed.text.count(NASTY) == 5  # as title, heading, paragraph, fact and cell
    assert "a\n  b" in parsed.text
    assert sum(tag == "h2" for tag, _ in parsed.tags) == 1


ANY = st.text(max_size=30) | st.sampled_from(
    ["1e-3", "0.1", "null", "[1,2]", "-5", "nan", "1e999"]
)


@settings(max_examples=8)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["a", "optim.lr", "seed"]) | ANY, ANY, max_size=3),
            st.lists(st.floats(), max_size=3),
            st.sampled_from([FINISHED, PRUNED, FAILED, KILLED, RUNNING]),
            st.none() | st.text(max_size=20),
        ),
        max_size=4,
    ),
    st.sampled_from(["max", "min"]),
)
def test_any_sweep_can_be_reported(
    tmp_path_factory: pytest.TempPathFactory,
    points: list[tuple[dict[str, str], list[float], str, str | None]],
    mode: str,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    summary = of(
        [
            outcome(job, varied, values, status, error, mode)
            for job, (varied, values, status, error) in enumerate(points)
        ],
        mode,
    )
    report.results_csv(summary, folder / "a.csv")
    printed(summary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that are missing
        report.html(summary, folder / "a.html")
    parsed = Page((folder / "a.html").read_text(encoding="utf-8"))
    assert [row[-1] for row in parsed.tables[0][1:]] == [one.run_id for one in summary.ranked()]
