"""One model that two processes train, started by torchrun: as one process would train it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluonexp import experiment
from gluonexp.run import compose
from gluonexp.tracking import open_store
from gluonexp.tracking.log import records

ROOT = Path(__file__).parents[2]
BATCH, STEPS, EPOCHS = 40, 8, 3
TRAIN = BATCH * (STEPS - 1) + 1  # an epoch's last batch is one image, fewer than processes
LOST = STEPS + 3  # rank 1 is killed after so many, in the second epoch
BOMB = "tests.integration.bomb"
SETTINGS = [
    *("engine=torch", "dataset=synthetic", f"dataset.source.train={TRAIN + 30}"),
    *("dataset.source.test=0", f"dataset.val_fraction={30 / (TRAIN + 30)}", "model=mlp"),
    *("model.hidden=[32]", "optim=sgd", "optim.lr=0.05", "optim.clip_norm=1", "augment=mixup"),
    *("scheduler=cosine", f"trainer.batch_size={BATCH}", "trainer.epochs=9", "export=none"),
    *("callbacks=ema", "callbacks.ema.decay=0.8"),
    *("trainer.log_every=1", "build.allow=[tests]", "metrics.names=[macro_f1,log_loss,ece]"),
    f"+callbacks.stop={{_target_: {BOMB}.StopInRank0, epoch: {EPOCHS - 1}}}",
]


def measured(client, run_id, name):
    """Return what a run measured, by step."""
    return {point.step: point.value for point in client.get_metric_history(run_id, name)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process: (its store, its result)."""
    folder = tmp_path_factory.mktemp("alone")
    uri = f"sqlite:///{folder}/m.db"
    result = experiment.run(compose(*SETTINGS, f"tracking.uri={uri}"), folder / "job")
    return open_store(uri), result


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Two processes, of which one is lost and all are started again: (folder, output, the run)."""
    folder, temporary = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("temporary")
    uri = f"sqlite:///{folder}/m.db"
    open_store(uri)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "--max-restarts=1", "-m", "gluonexp.run", *SETTINGS]
    command += [f"+callbacks.lose={{_target_: {BOMB}.LoseRank, step: {LOST}}}"]
    torchrun = subprocess.Popen(
        [*command, f"tracking.uri={uri}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = torchrun.communicate(timeout=200)
    finally:
        torchrun.terminate()  # it ends those that it started
        torchrun.wait()
    assert torchrun.returncode == 0, output
    (run,) = open_store(uri).search_runs(["1"])
    return folder, output, run


def test_two_processes_train_as_one_also_a_batch_of_one_image_and_after_a_restart(alone, together):
    folder, _, run = together
    client = open_store(f"sqlite:///{folder}/m.db")
    expected, result = measured(alone[0], alone[1].run_id, "batch/loss"), alone[1]
    found = measured(client, run.info.run_id, "batch/loss")
    assert sorted(found) == sorted(expected) == [*range(1, EPOCHS * STEPS + 1)]
    assert found == pytest.approx(expected, abs=1e-5)
    extra = "val/macro_f1", "val/log_loss", "val/ece"
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "optim/grad_norm", *extra):
        history = {int(row["epoch"]): row[name] for row in result.history}
        assert measured(client, run.info.run_id, name) == pytest.approx(history, abs=1e-5)


def test_a_lost_process_ends_the_run_failed_and_the_restart_goes_on_in_it(together):
    _, output, run = together
    log = Path(run.data.tags["gluonexp.workdir"], "run.jsonl")
    ends = [record["status"] for record in records(log) if record["kind"] == "status"]
    assert ends == ["FAILED", "FINISHED"] and run.info.status == "FINISHED"
    assert output.count("rank 1 was lost: its process has ended without a word") == 1
    assert f"resumes run {run.info.run_id[:8]} after 1 epochs" in output
    assert "error" not in run.data.tags


def test_what_rank_0_decides_all_do_and_rank_0_alone_writes(together):
    folder, output, run = together
    assert output.count("stopped early: rank 0 has had enough") == 1
    jobs = [
        path for path in (folder / "mlruns" / "hydra").iterdir() if (path / "run.jsonl").exists()
    ]
    assert jobs == [Path(run.data.tags["gluonexp.workdir"])]
