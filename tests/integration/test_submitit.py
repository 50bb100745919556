"""``hydra/launcher=submitit``: jobs of a sweep on a cluster, here on what stands in for one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from gluonexp import run
from gluonexp.tracking import open_store
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.statuses import FINISHED, KILLED
from gluonexp.training import job_folder
from hydra_plugins.gluonexp.submitit_launcher import SubmititLauncher

pytest.importorskip("submitit", reason="hydra/launcher=submitit needs the extra `slurm`")

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "export=none"),
    *("dataset.source.train=200", "hydra/launcher=submitit", "hydra.sweep.dir=out"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def once_trained(here: Path) -> Iterator[Callable[[int, Callable[[int], None]], None]]:
    """Call back with the process id of a job, once that has trained an epoch."""
    over = threading.Event()

    def watch(number: int, then: Callable[[int], None]) -> None:
        checkpoints = here / "out" / str(number) / "checkpoints"
        while not (checkpoints / "last" / "meta.json").is_file():
            if over.wait(0.02):
                return
        run_id = job_folder.owner(checkpoints).run_id
        then(int(open_store(None).get_run(run_id).data.tags["gluonexp.pid"]))

    def start(number: int, then: Callable[[int], None]) -> None:
        threading.Thread(target=watch, args=(number, then), daemon=True).start()

    yield start
    over.set()


def test_one_is_out_of_time_and_goes_on_one_dies(
    here: Path, once_trained: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    # As submitit's process does a while before the end of a job's time.
    once_trained(0, lambda process: os.kill(process, signal.SIGUSR2))
    once_trained(1, lambda process: os.kill(process, signal.SIGKILL))
    summary = run.sweep(*TINY, "hydra.launcher.cluster=local", "trainer.epochs=30", "seed=0,1")
    assert [one.status for one in summary.outcomes] == [FINISHED, KILLED]
    assert [one.attempts for one in summary.outcomes] == [1, 1]
    assert str(summary.outcomes[1].error).endswith("no result and no message, as by signal 9")
    log = (here / "out" / "0" / "console.log").read_text()
    assert log.count("synthetic patterns") == 2
    assert f"resumes run {str(summary.outcomes[0].run_id)[:8]} after" in log
    assert [step for step, _ in summary.outcomes[0].curve] == list(range(30))
    assert "its output: out/1/console.log" in capfd.readouterr().out
    # What is left there has no configuration in it.
    assert {path.suffix for path in (here / "out" / "submitit").iterdir()} == {".err", ".out"}


def test_a_sweep_that_is_interrupted_ends_its_jobs_in_order(here: Path, once_trained: Any) -> None:
    known: list[int] = []

    def interrupt(process: int) -> None:
        known.append(process)
        os.kill(os.getpid(), signal.SIGINT)

    once_trained(0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        one = ("hydra.launcher.cluster=local", "hydra.launcher.n_jobs=1")
        run.sweep(*TINY, *one, "trainer.epochs=600", "seed=0,1")
    _, runs = reader(None).sweep("last")
    assert {one.status for one in runs} == {KILLED}
    for process in known:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    # It has closed its run itself.
    assert job_folder.owner(here / "out" / "0" / "checkpoints").artifacts is not None


def test_in_this_process(here: Path) -> None:
    summary = run.sweep(
        *(*TINY, "hydra.launcher.cluster=debug", "trainer.epochs=1", "seed=0,1"),
        "hydra.launcher.additional_parameters={account: mine}",
    )
    assert [one.status for one in summary.outcomes] == [FINISHED] * 2


@pytest.mark.parametrize(("code", "left"), [(3, True), (128 + signal.SIGTERM, False)])
def test_a_job_that_leaves_by_itself_is_not_lost(code: int, left: bool) -> None:
    # In a process of its own, whose signals it handles.
    job = f"""
import sys
from gluonexp.sweep import requeue
requeue._carried_out = lambda *given: sys.exit({code})
died = requeue.Task("local", 1.0)(b"", b"")
print(died, died.left)
"""
    done = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, check=True)
    assert done.stdout == f"it left with exit code {code} {left}\n"


def test_without_slurm_that_is_said_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    launcher = SubmititLauncher()
    launcher.start()
    launcher.start()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("no Slurm is installed here; the jobs run on this machine\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster=slurm", 'Could not detect "srun"'),
        ("cluster=cloud", "hydra.launcher.cluster=cloud: slurm, local, debug"),
        ("timeout_min=soon", "hydra.launcher.timeout_min=soon: a whole number, 1 or more"),
        ("timeout_min=2", "hydra.launcher.signal_delay_s=120: less than a job's whole time"),
        ("mem_gb=much", 'Parameter "mem_gb" expected type'),
        ("n_jobs=0", "hydra.launcher.n_jobs=0: 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, override: str, message: str
) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(HydraException, match=message):
        run.sweep(*TINY, f"hydra.launcher.{override}", "seed=0,1")
    assert not list(here.iterdir())
