"""What people see: `gluonexp ui --sweep` in a real browser, every curve of every run drawn."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from gluonexp.tracking import ensure_experiment, open_store

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")

METRICS = ("train/acc", "train/loss", "val/acc", "val/loss")
WAIT_MS = 60_000
CARD = '[data-testid="experiment-view-compare-runs-card"]'

# What plotly was given for the chart of a metric, and the points on each line that it drew. (A
# second line without points, behind each, is what smoothing is compared with.)
CURVES = """metric => {
  const cards = document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]');
  for (const card of cards) {
    const plot = card.querySelector('.js-plotly-plot');
    if (card.innerText.split('\\n')[0] !== metric || !plot || !plot.data) continue;
    const drawn = [...plot.querySelectorAll('.trace.scatter')]
      .filter(trace => trace.querySelector('path.js-line')?.getAttribute('d')?.includes('L'))
      .map(trace => trace.querySelectorAll('path.point').length)
      .filter(points => points > 0);
    const given = plot.data.filter(trace => trace.mode === 'lines+markers');
    return {
      drawn,
      runs: given.length,
      curves: Object.fromEntries(given.map(
        trace => [trace.name, {x: Array.from(trace.x), y: Array.from(trace.y)}])),
      box: card.getBoundingClientRect().toJSON(),
    };
  }
  return null;
}"""
ALL_DRAWN = f"""([metric, runs]) => {{
  const shown = ({CURVES})(metric);
  return shown && shown.runs === runs && shown.drawn.length === runs;
}}"""


class Sweep(NamedTuple):
    parent: str
    curves: dict[str, dict[str, list[float]]]  # of val/acc, by the run's name


def record_sweep(
    client: MlflowClient, experiment: str, lrs: list[float], failed: int | None = None
) -> Sweep:
    """Record a sweep as gluonexp does; child `failed` broke in epoch 2."""
    tags = {
        "gluonexp.kind": "sweep",
        "gluonexp.sweep.metric": "val/acc",
        "gluonexp.sweep.mode": "max",
    }
    parent = client.create_run(experiment, tags=tags, run_name=f"{len(lrs)} learning rates")
    curves = {}
    for job, lr in enumerate(lrs):
        name = f"lr={lr:g} optim=adam"
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "gluonexp.sweep.job": str(job),
            "gluonexp.sweep.varied": json.dumps({"optim.lr": f"{lr:g}", "optim": "adam"}),
        }
        run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        epochs = range(2 if job == failed else 5)
        best = 0.9 - 0.05 * abs(math.log10(lr) + 2)
        accs = [best - 0.3 * math.exp(-(epoch + 1) / (job + 1)) for epoch in epochs]
        values = {"train/acc": 1.02, "train/loss": -1.5, "val/acc": 1.0, "val/loss": -1.2}
        logged = [
            Metric(metric, factor * acc, 1_700_000_000_000 + epoch, epoch)
            for metric, factor in values.items()
            for epoch, acc in zip(epochs, accs, strict=True)
        ]
        params = {"optim.lr": f"{lr:g}", "optim.name": "adam", "seed": "0"}
        client.log_batch(run_id, logged, [Param(*item) for item in params.items()])
        client.set_terminated(run_id, "FAILED" if job == failed else "FINISHED")
        curves[name] = {"x": [float(epoch) for epoch in epochs], "y": accs}
    client.set_terminated(parent.info.run_id)
    return Sweep(parent.info.run_id, curves)


class Pages(NamedTuple):
    server: str  # its address
    printed: str
    four: Sweep
    twelve: Sweep
    folder: Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """`gluonexp ui --sweep` at work, over a store that holds two sweeps."""
    folder = tmp_path_factory.mktemp("pages")
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    client = open_store(uri)
    experiment = ensure_experiment(client, "digits", uri)
    four = record_sweep(client, experiment, [0.0003, 0.001, 0.003, 0.01])
    twelve = record_sweep(client, experiment, [10 ** (-4 + k / 4) for k in range(12)], failed=5)
    command = [sys.executable, "-m", "gluonexp", "ui", "--tracking-uri", uri, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--sweep", four.parent[:8]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    printed = ""
    try:
        for line in server.stdout:  # ends with the server, which gives up after a minute
            printed += line
            if line.startswith("Press"):
                break
        else:
            pytest.fail(f"no pages:\n{printed}")
        found = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert found, printed
        yield Pages(found[0], printed, four, twelve, folder)
    finally:
        server.send_signal(signal.SIGINT)
        # The pipe ends when the last process that inherited it has: none is left behind.
        server.communicate(timeout=60)
        assert server.returncode == 0
    assert [path.name for path in folder.iterdir()] == ["mlruns"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser that was never here; it cannot reach beyond this machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    beyond: list[str] = []
    errors: list[str] = []

    def only_here(route: Any) -> None:
        if route.request.url.startswith("http://127.0.0.1:"):
            route.continue_()
        else:
            beyond.append(route.request.url)
            route.abort()

    context.route("**/*", only_here)
    opened = context.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_default_timeout(WAIT_MS)
    yield opened
    context.close()
    assert beyond == []
    assert errors == []


def link_of(printed: str) -> str:
    """Return the sweep's link, which comes before all others."""
    found = re.search(r"^MLflow on .*\n  sweep +(\S+)\n  last run ", printed, re.MULTILINE)
    assert found, printed
    return found[1]


def assert_compared(page: Any, sweep: Sweep) -> None:
    """The first chart in sight is val/acc, with the line of every run and no other's."""
    page.wait_for_function(ALL_DRAWN, arg=["val/acc", len(sweep.curves)])
    shown = page.evaluate(CURVES, "val/acc")
    assert shown["curves"] == sweep.curves
    assert sorted(shown["drawn"]) == sorted(len(curve["y"]) for curve in sweep.curves.values())
    box, cards = shown["box"], page.locator(CARD)
    # Large, and in sight without scrolling, although a fresh browser opens MLflow's assistant too.
    assert box["height"] == 420 and box["width"] > 200
    assert box["top"] > 0 and box["bottom"] < 900
    titles = [text.partition("\n")[0] for text in cards.all_inner_texts()]
    assert titles[:3] == ["val/acc", "Parallel Coordinates", "optim.lr vs. val/acc"]
    # MLflow's own charts follow, of everything else.
    area = page.locator('[data-testid="experiment-view-compare-runs-chart-area"]').inner_text()
    sections = re.findall(r"^(\w+)\s+\((\d+)\)$", area, re.MULTILINE)
    assert sections == [("sweep", "3"), ("train", "2"), ("val", "1")]


def test_the_printed_link_shows_the_curve_of_every_run(pages: Pages, page: Any) -> None:
    page.goto(link_of(pages.printed))
    assert_compared(page, pages.four)


def test_twelve_runs_of_which_one_failed_are_all_shown(
    pages: Pages, page: Any, tmp_path: Path
) -> None:
    (tmp_path / "browser").write_text('#!/bin/sh\nprintf %s "$1" > "$0.opened"\n')
    (tmp_path / "browser").chmod(0o755)
    # The latest run belongs to this sweep, so it need not be named; and the pages are served
    # already, so the links are printed and one is opened, no more.
    command = [sys.executable, "-m", "gluonexp", "ui", "--tracking-uri", pages.server, "--open"]
    done = subprocess.run(
        command,
        cwd=pages.folder,
        env=os.environ | {"BROWSER": str(tmp_path / "browser")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    link = link_of(done.stdout)
    assert (tmp_path / "browser.opened").read_text() == link
    # A browser that looked at the experiment before, with MLflow's own choice of runs...
    found = re.search(r"^  experiment +(\S+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    page.goto(found[1])
    page.wait_for_function(ALL_DRAWN, arg=["train/acc", 10])
    page.goto(link)
    assert_compared(page, pages.twelve)
    # ... finds that choice again.
    saved = page.evaluate("Object.values(localStorage).filter(x => x.includes('FIRST_10_RUNS'))")
    assert len(saved) == 1
