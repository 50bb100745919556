"""Sweeps as users start them: real jobs in miniature, a real store."""

import io
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import hydra
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from gluonexp import experiment
from gluonexp import run as app
from gluonexp.config import hydra_private
from gluonexp.data import synthetic
from gluonexp.data.types import Samples
from gluonexp.sweep.answer import command as answer_command
from gluonexp.sweep.ledger import Begun, Recorded
from gluonexp.sweep.outcomes import Outcome, Summary
from gluonexp.sweep.points import Point, digest_of
from gluonexp.sweep.study.dimensions import Number
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.reporter import open_trial
from gluonexp.sweep.study.search import Study, open_study
from gluonexp.tracking import lease, open_store
from gluonexp.tracking.push import every
from gluonexp.tracking.recovery import stop
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED, PRUNED
from gluonexp.tracking.sweeps import argument_tags
from gluonexp.tracking.tracker import LogTracker, Status

ROOT = Path(__file__).parents[2]
TINY = [
    "dataset=synthetic",
    "model=mlp",
    "export=none",
    "trainer.epochs=2",
    "trainer.batch_size=64",
    "dataset.source.train=200",
    "dataset.source.test=50",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # workers import callbacks from the tests
    return tmp_path


def children(client: MlflowClient, parent: str) -> list[Run]:
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted(found, key=lambda run: int(run.data.tags["gluonexp.sweep.job"]))


def still_running(client: MlflowClient, run: Run) -> None:
    """Let a run that ended be one that had trained its last epoch and had not ended yet."""
    Path(run.data.tags["gluonexp.workdir"], "checkpoints", "run.json").unlink(missing_ok=True)
    client.update_run(run.info.run_id, status="RUNNING")


def statuses(summary: Summary) -> list[str]:
    return [outcome.status for outcome in summary.outcomes]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "gluonexp.run", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_grid_is_one_parent_with_its_children(folder: Path) -> None:
    summary = app.sweep(*TINY, "optim.lr=0.001,0.01", "seed=0,1", "tracking.experiment=grid")

    client = open_store(None)
    parent = client.get_run(summary.parent_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["gluonexp.kind"] == "sweep"
    runs = children(client, parent.info.run_id)
    assert [run.info.run_name for run in runs] == [
        "lr=0.001 seed=0",
        "lr=0.001 seed=1",
        "lr=0.01 seed=0",
        "lr=0.01 seed=1",
    ]
    assert {run.info.experiment_id for run in runs} == {parent.info.experiment_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.data.params["optim.lr"] for run in runs] == ["0.001", "0.001", "0.01", "0.01"]
    # What the sweep says is what the runs recorded.
    for outcome, run in zip(summary.outcomes, runs, strict=True):
        history = client.get_metric_history(run.info.run_id, "val/acc")
        assert outcome.run_id == run.info.run_id
        assert outcome.objective == max(point.value for point in history)
        assert outcome.curve == [(point.step, point.value) for point in history]
    best = summary.best()
    assert best is not None and best.objective == max(o.objective for o in summary.outcomes)
    assert parent.data.tags["gluonexp.sweep.best"] == best.run_id
    assert best.run_id[:8] in parent.data.tags["mlflow.note.content"]
    # Only the best can be trained further.
    folders = {run.info.run_id: Path(run.data.tags["gluonexp.workdir"]) for run in runs}
    kept = [run_id for run_id, job in folders.items() if list(job.glob("checkpoints/*/meta.json"))]
    assert kept == [best.run_id]
    # Nothing but mlruns appears where the user stands.
    assert [path.name for path in folder.iterdir()] == ["mlruns"]
    # The parent has its log, too, where `gluonexp push --all` looks for logs.
    assert {log.run_id for log in every(None)} == {parent.info.run_id, *folders}


def test_the_report_lies_in_the_parent_and_best_yaml_repeats_the_best(folder: Path) -> None:
    summary = app.sweep(*TINY, "optim=sgd", "optim.lr=0.001,0.1", "+callbacks.more=null")
    client = open_store(None)
    local = Path(client.download_artifacts(summary.parent_id, "sweep", str(folder)))
    assert sorted(path.name for path in local.iterdir()) == [
        "best.yaml",
        "report.html",
        "results.csv",
    ]
    table = pd.read_csv(local / "results.csv")
    assert list(table["run_id"]) == [outcome.run_id for outcome in summary.ranked()]

    best = summary.best()
    assert best is not None
    done = subprocess.run(
        command("--config-dir", str(local), "--config-name", "best", "--cfg", "job"),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    typed = [*TINY, "optim=sgd", f"optim.lr={best.varied['optim.lr']}", "+callbacks.more=null"]
    wanted = app.compose(*typed)
    again = subprocess.run(
        command(*typed, "--cfg", "job"),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout == again.stdout
    (run,) = [run for run in children(client, summary.parent_id) if run.info.run_id == best.run_id]
    assert run.data.tags["gluonexp.sweep.point"] == digest_of(wanted)


def test_the_best_of_a_preset_is_one_run(folder: Path) -> None:
    summary = app.sweep(*TINY, "sweep=seeds", "seed=range(2)")
    assert statuses(summary) == [FINISHED] * 2
    client = open_store(None)
    local = client.download_artifacts(summary.parent_id, "sweep/best.yaml", str(folder))
    done = subprocess.run(
        command("--config-dir", str(Path(local).parent), "--config-name", "best", "tracking=none"),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    best = summary.best()
    assert best is not None
    assert f"test   {best.metrics['test/loss']:.4f}" in done.stdout


def test_a_failing_point_is_told_and_the_others_finish(capsys: pytest.CaptureFixture[str]) -> None:
    """One diverges, one never gets as far as a run, one is fine."""
    values = "optim.lr=0.01,1e30,-1"
    summary = app.sweep(*TINY, "optim=sgd", values, "tracking.experiment=failing")
    assert statuses(summary) == [FINISHED, FAILED, FAILED]
    said = capsys.readouterr().out
    assert "training diverged" in said
    assert "optim.lr=-1.0: must be above 0" in said

    client = open_store(None)
    parent = client.get_run(summary.parent_id)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["error"] == "2 of 3 points failed"
    for run in children(client, summary.parent_id)[1:]:
        assert run.info.status == "FAILED"
        trace = client.download_artifacts(run.info.run_id, "error/traceback.txt")
        assert "GluonexpError" in Path(trace).read_text()


def test_paths_count_from_where_the_user_started(folder: Path) -> None:
    """With hydra.job.chdir=True each job is begun in its own folder."""
    for number in range(8):
        path = folder / "photos" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), number * 30).save(path)
    words = [word for word in TINY if not word.startswith("dataset")]
    data = ["dataset=image_folder", "dataset.root=photos", "dataset.resize=9"]
    more = ["hydra.job.chdir=True", "dataset.val_fraction=0.25"]
    summary = app.sweep(*words, *data, *more, "optim.lr=0.01,0.02")
    assert [outcome.error for outcome in summary.outcomes] == [None, None]
    assert statuses(summary) == [FINISHED, FINISHED]
    assert {path.name for path in folder.iterdir()} == {"mlruns", "photos"}
    assert not list((folder / "mlruns/hydra").rglob("mlflow.db"))
    assert Path.cwd() == folder


def test_resuming_runs_only_what_is_missing() -> None:
    first = app.sweep(*TINY, "optim=sgd", "optim.lr=0.01,1e30,0.1")
    again = app.sweep(f"sweep.resume={first.parent_id[:10]}")

    assert again.parent_id == first.parent_id
    client = open_store(None)
    runs = children(client, first.parent_id)
    # Three points, of which the one that failed was tried once more.
    assert [run.data.params.get("optim.lr") for run in runs] == ["0.01", "1e+30", "0.1", "1e+30"]
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FINISHED", "FAILED"]
    assert sorted(outcome.attempts for outcome in again.outcomes) == [1, 1, 2]
    assert client.get_run(first.parent_id).info.status == "FAILED"

    # A good value in place of the bad one completes it.
    whole = app.sweep(f"sweep.resume={first.parent_id}", "optim.lr=0.01,0.1,0.2")
    assert len(children(client, first.parent_id)) == 5
    assert whole.count(FINISHED) == 3
    assert client.get_run(first.parent_id).info.status == "FINISHED"


def test_a_finished_point_is_run_again_when_the_data_or_the_code_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = app.sweep(*TINY, "seed=0,1")
    client = open_store(None)
    app.sweep(f"sweep.resume={first.parent_id}")
    assert len(children(client, first.parent_id)) == 2

    for run in children(client, first.parent_id)[:1]:
        client.set_tag(run.info.run_id, "gluonexp.code", "that of yesterday")
    app.sweep(f"sweep.resume={first.parent_id}")
    runs = children(client, first.parent_id)
    assert [run.data.params["seed"] for run in runs] == ["0", "1", "0"]

    load = synthetic.Synthetic.load

    def other(self: synthetic.Synthetic) -> Samples:
        samples = load(self)
        samples.train.images[0] ^= 1
        return samples

    monkeypatch.setattr(synthetic.Synthetic, "load", other)
    app.sweep(f"sweep.resume={first.parent_id}")
    ended = [run.info.status for run in children(client, first.parent_id)]
    assert ended == [FINISHED] * 5


def test_data_that_are_not_those_of_other_jobs_end_one(monkeypatch: pytest.MonkeyPatch) -> None:
    load, times = synthetic.Synthetic.load, iter(range(9))

    def other(self: synthetic.Synthetic) -> Samples:
        samples = load(self)
        samples.train.images[0] ^= next(times) == 1
        return samples

    monkeypatch.setattr(synthetic.Synthetic, "load", other)
    summary = app.sweep(*TINY, "trainer.epochs=1", "seed=0,1,2")
    assert statuses(summary) == [FINISHED, FAILED, FINISHED]
    failed = children(open_store(None), summary.parent_id)[1]
    assert failed.data.params["data.digest"][:8] in str(summary.outcomes[1].error)
    assert "are not those of other jobs of the sweep (" in str(summary.outcomes[1].error)
    assert not failed.data.metrics
    assert statuses(app.sweep("sweep.resume=last")) == [FINISHED] * 3


@pytest.mark.parametrize("option", ["sweep.fail_fast=true", "sweep.max_failures=1"])
def test_failures_can_end_a_sweep(option: str) -> None:
    summary = app.sweep(*TINY, "optim=sgd", "optim.lr=1e30,0.01,0.1", option)
    assert statuses(summary) == [FAILED]
    error = open_store(None).get_run(summary.parent_id).data.tags["error"]
    assert error == f"1 of 3 points failed, 2 were not started ({option.partition('=')[0]})"


def test_a_wrong_key_ends_it_before_anything_is_recorded(folder: Path) -> None:
    with pytest.raises(HydraException, match="lrr"):
        app.sweep(*TINY, "optim.lrr=0.1,0.2")
    assert not (folder / "mlruns" / "mlflow.db").exists()


def test_a_sweep_without_a_store_has_an_answer_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = app.sweep(*TINY, "optim.lr=0.001,0.01", "tracking=none")
    assert statuses(summary) == [FINISHED, FINISHED]
    assert summary.best() is not None
    assert "best: lr=" in capsys.readouterr().out
    assert not (folder / "mlruns" / "mlflow.db").exists()


def test_a_sweep_within_another_application_of_hydra_leaves_it_its_own(folder: Path) -> None:
    (folder / "config.yaml").write_text("x: 1", encoding="utf-8")
    log = logging.FileHandler(folder / "log", mode="w")
    logging.getLogger().addHandler(log)
    before = logging.getLogger().handlers[:]

    def theirs(config: DictConfig) -> int:
        assert statuses(app.sweep(*TINY, "trainer.epochs=1", "seed=1,2", "tracking=none")) == [
            FINISHED,
            FINISHED,
        ]
        assert logging.getLogger().handlers == before
        logging.getLogger().error("still written")
        return int(config.x)

    grid = f"hydra.sweeper._target_={app.GRID['_target_']}"
    quiet = "hydra/job_logging=none", "hydra/hydra_logging=none"
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            application = GlobalHydra.instance().hydra
            assert application is not None
            ended = application.multirun("config", theirs, ["x=5,6", *quiet])
            assert [job.return_value for job in ended[0]] == [5, 6]
            with pytest.raises(HydraException, match="of another application"):
                application.multirun("config", theirs, ["x=5,6", grid, *quiet])
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    assert (folder / "log").read_text().count("still written") == 2


def test_a_job_of_another_sweeper_is_a_run_like_any_other() -> None:
    theirs = "hydra.sweeper._target_=hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    words = [*TINY, "trainer.epochs=1", "tracking=none", "optim=sgd", "optim.lr=0.01", theirs]
    with hydra.initialize_config_dir(
        version_base="1.3", config_dir=app.conf_dir(), job_name="run"
    ):
        ((done,),) = hydra_private.multirun("config", app.main.__wrapped__, words)
        assert isinstance(done.return_value, float)
        with pytest.raises(HydraException, match="training diverged"):
            hydra_private.multirun("config", app.main.__wrapped__, [*words, "optim.lr=1e30"])


def test_a_run_left_by_a_dead_process_is_tried_again() -> None:
    """Not by one that is at work, even where its number is taken by another process now."""
    summary = app.sweep(*TINY, "seed=0,1")
    client = open_store(None)
    first, second = children(client, summary.parent_id)

    def resumed() -> list[str]:
        app.sweep("sweep.resume=last")
        return [run.info.status for run in children(client, summary.parent_id)]

    code = (
        "from gluonexp.base.processes import this_process\n"
        "print(this_process(), flush=True); input()"
    )
    sleeper = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert sleeper.stdout is not None
    for run, process in ((first, sleeper.stdout.readline().strip()), (second, f"{sleeper.pid}@1")):
        client.set_tag(run.info.run_id, "gluonexp.process", process)
        still_running(client, run)
    try:
        assert resumed() == ["RUNNING", "KILLED", "FINISHED"]
        assert client.get_run(summary.parent_id).info.status == "RUNNING"
    finally:
        sleeper.communicate("")
    assert resumed() == ["KILLED", "KILLED", "FINISHED", "FINISHED"]
    assert client.get_run(summary.parent_id).info.status == "FINISHED"


@pytest.mark.parametrize("waits", [False, True])
def test_what_another_host_left_is_run_when_its_lease_says_so(waits: bool) -> None:
    summary = app.sweep(*TINY, "seed=0,1")
    client = open_store(None)
    run = children(client, summary.parent_id)[0]
    process = {"gluonexp.host": "elsewhere", "gluonexp.process": "1@2"}
    for key, value in process.items():
        client.set_tag(run.info.run_id, key, value)
    leased, lease = run.info.run_id, "gluonexp.lease"
    if waits:  # for its own process, so that the one which leads the sweep counts
        client.delete_tag(run.info.run_id, lease)
        leased, lease = str(summary.parent_id), "gluonexp.lease.elsewhere.1_2"
    still_running(client, run)
    now = datetime.now(timezone.utc)
    for minutes, expected in ((-60, 2), (29, 2), (31, 3)):
        client.set_tag(leased, lease, (now - timedelta(minutes=minutes)).isoformat())
        app.sweep("sweep.resume=last")
        assert len(children(client, summary.parent_id)) == expected
    ended = [run.info.status for run in children(client, summary.parent_id)]
    assert ended == ["KILLED", "FINISHED", "FINISHED"]


def test_a_sweep_that_is_told_to_stop_begins_no_more_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Recorded.begin

    def told(ledger: Recorded, point: Point) -> Begun | Outcome:
        stop(None, ledger._run.run_id)
        return begin(ledger, point)

    with monkeypatch.context() as patch:
        patch.setattr(lease, "_GLANCE_S", -1.0)
        patch.setattr(lease, "_ANSWER_S", 60.0)
        patch.setattr(Recorded, "begin", told)
        summary = app.sweep(*TINY, "seed=0,1,2")
    assert statuses(summary) == ["FINISHED"]
    assert str(summary.problem).startswith("2 were not started (`gluonexp stop` by process ")
    assert statuses(app.sweep("sweep.resume=last")) == ["FINISHED"] * 3


def test_a_password_is_not_recorded() -> None:
    words = [*TINY, "seed=0,1", "tracking.uri=http://bob:s3cret@127.0.0.1"]
    assert "s3cret" not in json.dumps(argument_tags(words, "sqlite:////s/mlflow.db"))
    assert "s3cret" not in answer_command(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainer.resume=somewhere"], r"trainer\.resume: .* sweep\.resume=ID"),
        (["sweep.register=tiny"], r"sweep\.register=tiny: .* export"),
        (["sweep.register=a/b"], r"sweep\.register=a/b: .* no '/'"),
        (["tracking=none", "sweep.register=tiny"], r"sweep\.register=tiny: with tracking=none"),
        (["tracking.experiment=a,b"], "tracking: a sweep has one"),
        (["dataset.val_fraction=0"], r"objective\.metric=val/acc: dataset\.val_fraction=0"),
        (["trainer=lr_find"], "trainer=lr_find ends in no result"),
        (["objective.metric=val/los"], r"objective\.metric=val/los: choose one of"),
        (["optim.lr=interval(0.1,0.2)"], "hydra/sweeper=optuna searches intervals"),
        (["optim.lr=range(3,3)"], "nothing to run"),
        (["+trainer.epoch=5"], r"did you mean trainer\.epochs\?"),
        (["hydra/sweeper=optuna", "+hydra.sweeper.trials=3"], r"hydra\.sweeper\.trials: Key"),
        (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=x"], r"hydra\.sweeper\.n_trials: Value"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_no_sweep_can_be_is_refused_at_once(
    folder: Path, words: list[str], told: str
) -> None:
    with pytest.raises(HydraException, match=told):
        app.sweep(*TINY, "seed=0,1", *words)
    assert not list(folder.glob("mlruns/hydra/*"))


def test_the_best_is_registered() -> None:
    tiny = [word for word in TINY if word != "export=none"]
    summary = app.sweep(*tiny, "optim.lr=0.001,0.01", "sweep.register=tiny")
    version = open_store(None).get_model_version("tiny", "1")
    best = summary.best()
    assert best is not None and version.run_id == best.run_id
    assert version.aliases == ["champion"]
    assert "/models/m-" in version.source  # the model that the run logged

    app.sweep("sweep.resume=last")  # nothing is new, and nothing is registered again
    assert len(open_store(None).search_model_versions("name = 'tiny'")) == 1


# A user's own package: a process of the test's finds it as one of the user's does.
PAUSE = """
import signal
from pathlib import Path
from gluonexp.training.loop import Callback

class Pause(Callback):
    def epoch_end(self, fit):
        if fit.epoch == 2 and not Path("go").exists():
            Path("paused").write_text("now")
            signal.pause()
"""


@pytest.mark.parametrize(
    ("signum", "returncode", "more"),
    [
        (signal.SIGINT, 130, ["hydra/launcher=processes", "hydra.launcher.n_jobs=1"]),
        (signal.SIGTERM, 143, []),
    ],
    ids=["INT-processes", "TERM"],
)
def test_an_interrupted_sweep_is_killed_and_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, signum: int, returncode: int, more: list[str]
) -> None:
    (folder / "pausing.py").write_text(PAUSE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pausing", raising=False)
    client = open_store(None)
    os.mkfifo("paused")
    paused = os.open("paused", os.O_RDONLY | os.O_NONBLOCK)
    pause = "+callbacks.pause={_target_: pausing.Pause}"
    process = subprocess.Popen(
        command("-m", *TINY, *more, "trainer.epochs=2,4", pause, "build.allow=[pausing]"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ready, _, _ = select.select([paused], [], [], 100)  # the second point, after three epochs
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    os.close(paused)
    assert ready, said
    assert process.returncode == returncode, said
    assert "Traceback" not in said

    (parent,) = client.search_runs(["1"], "tags.`gluonexp.kind` = 'sweep'")
    assert parent.info.status == "KILLED"
    finished, killed = children(client, parent.info.run_id)
    assert (finished.info.status, killed.info.status) == ("FINISHED", "KILLED")
    assert f"sweep.resume={parent.info.run_id[:8]}" in said
    assert client.list_artifacts(parent.info.run_id, "sweep")

    # It goes on with the second point, from its checkpoint.
    Path("go").touch()
    app.sweep(f"sweep.resume={parent.info.run_id}")
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    assert "error" not in client.get_run(parent.info.run_id).data.tags
    *_, last = runs = children(client, parent.info.run_id)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FINISHED"]
    assert last.data.tags["gluonexp.resumed_from"] == killed.info.run_id
    steps = [point.step for point in client.get_metric_history(last.info.run_id, "val/acc")]
    assert steps == list(range(4))


def start_sweeps(commands: Sequence[list[str]]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            each, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for each in commands
    ]


def test_six_sweeps_start_at_once_where_there_is_no_store() -> None:
    names = [f"experiment {index % 3}" for index in range(6)]
    tiny = ["-m", *TINY, "seed=3"]
    processes = start_sweeps(
        [
            command(*tiny, f"tracking.experiment={name}", f"optim.lr=0.00{index + 1}")
            for index, name in enumerate(names)
        ]
    )
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, "\n".join(said)

    client = open_store(None)
    parents = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        "tags.`gluonexp.kind` = 'sweep'",
    )
    assert len(parents) == 6
    seen = []
    for parent in parents:
        assert parent.info.status == "FINISHED"
        experiment = client.get_experiment(parent.info.experiment_id).name
        (run,) = children(client, parent.info.run_id)
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "val/acc")) == 2
        seen.append((run.data.params["optim.lr"], experiment))
    assert sorted(seen) == [(f"0.00{index + 1}", name) for index, name in enumerate(names)]


def test_a_killed_worker_loses_its_own_point_only(folder: Path) -> None:
    """Five points, two at a time: one diverges, one is killed; resuming completes the sweep."""
    summary = app.sweep(
        *TINY,
        "optim=sgd",
        "optim.lr=0.01,0.02,1e30,0.03,0.04",
        "hydra/launcher=processes",
        "hydra.launcher.n_jobs=2",
        "+callbacks.bomb={_target_: tests.integration.bomb.Bomb, lr: 0.03}",
        "build.allow=[tests]",
    )
    client = open_store(None)
    parent = client.get_run(summary.parent_id)
    assert parent.data.tags["error"] == "2 of 5 points failed"
    runs = {
        run.data.tags["gluonexp.sweep.varied"]: run for run in children(client, parent.info.run_id)
    }
    by_rate = {json.loads(key)["optim.lr"]: run for key, run in runs.items()}
    ended = {rate: run.info.status for rate, run in by_rate.items()}
    assert ended == {
        "0.01": FINISHED,
        "0.02": FINISHED,
        "1e+30": FAILED,
        "0.03": KILLED,
        "0.04": FINISHED,
    }
    assert "SIGKILL" in by_rate["0.03"].data.tags["error"]
    report = Path(client.download_artifacts(parent.info.run_id, "sweep/report.html")).read_text()
    assert "SIGKILL" in report and "training diverged" in report

    (folder / "defused").touch()
    app.sweep(f"sweep.resume={parent.info.run_id}", "optim.lr=0.01,0.02,0.03,0.04")
    assert client.get_run(parent.info.run_id).info.status == FINISHED
    runs = children(client, parent.info.run_id)
    assert len(runs) == 6
    assert runs[-1].info.status == "FINISHED"
    assert json.loads(runs[-1].data.tags["gluonexp.sweep.varied"]) == {"optim.lr": "0.03"}


def test_a_pruned_run_is_closed_before_its_checkpoints_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials had an accuracy of 2 from the start; what this one has is hopeless."""
    journal = folder / "study.journal"
    space = {"x": Number(0.0, 1.0)}
    study = open_study(place(str(journal)), "x", space, metric="val/acc", mode="max", n_trials=9)
    for _ in range(3):
        number = asked(study)
        reporter = open_trial(place(str(journal)), "x", number, "none", 3)
        assert not any(reporter.report(2.0, epoch) for epoch in range(3))
        study.tell(number, FINISHED, 2.0)
    trial = {"storage": journal, "study": "x", "number": asked(study), "pruner": "median"}
    words = [f"sweep.trial.{key}={value}" for key, value in trial.items()]
    config = app.compose(*TINY, "trainer.epochs=3", "callbacks.checkpoint.keep=0", *words)

    close, kept, stored = LogTracker.close, [], []

    def closed(tracker: LogTracker, status: Status, error: BaseException | None = None) -> None:
        kept.extend(path.parent.name for path in folder.glob("job/checkpoints/*/meta.json"))
        close(tracker, status, error)

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("run "):
                stored.append(open_store(None).get_run(text.split()[1]).info.status)
            return super().write(text)

    monkeypatch.setattr(LogTracker, "close", closed)
    screen = Screen()
    result = experiment.run(config, folder / "job", (), Console(file=screen, width=100))
    said = screen.getvalue()
    assert result.ending.status == PRUNED
    assert re.search(r"^stopped early: pruned, val/acc \S+ after epoch 1 is behind", said, re.M)
    assert f"\nrun {result.run_id} PRUNED\n" in said
    assert "best epoch" not in said and "gluonexp predict" not in said
    assert sorted(kept) == ["best", "last"]
    assert stored == ["FINISHED"]  # MLflow has no other word for it
    assert not (folder / "job" / "checkpoints").exists()


def asked(study: Study) -> int:
    """Return the number of a new trial."""
    trial = study.ask()
    assert trial is not None
    return trial.number


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_two_processes_share_one_search(
    folder: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = [
        "-m",
        *TINY,
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.study=shared",
        "optim.lr=interval(1e-4,1e-1)",
    ]
    database = None if kind == "file" else request.getfixturevalue("postgres")
    if database is not None:
        monkeypatch.setenv("STUDIES", database)
        search.append("hydra.sweeper.storage=${oc.env:STUDIES}")
    processes = start_sweeps([command(*search), command(*search)])
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    client = open_store(None)
    (parent,) = client.search_runs(["1"], "tags.`gluonexp.kind` = 'sweep'")
    assert parent.info.status == "FINISHED"
    runs = children(client, parent.info.run_id)
    assert len(runs) == 6
    assert len({run.data.params["optim.lr"] for run in runs}) == 6
    assert len({run.data.tags["gluonexp.pid"] for run in runs}) == 2
    table = pd.read_csv(client.download_artifacts(parent.info.run_id, "sweep/results.csv"))
    assert set(table["status"]) <= {FINISHED, PRUNED} and len(table) == 6
    if database is None:
        return
    password = database.split(":")[2].split("@")[0].encode()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if password in path.read_bytes()] == []
    assert password.decode() not in "".join(said)
    assert search[-1] in app.again([f"sweep.resume={parent.info.run_id}"])
