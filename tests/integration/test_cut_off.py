"""Training that goes on from where a run was cut off: the same training, or none."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gluonexp import experiment
from gluonexp.base.errors import GluonexpError
from gluonexp.run import compose

ROOT = Path(__file__).parents[2]
SMALL = [
    *("model=mlp", "model.hidden=[32]", "tracking=none", "export=none"),
    *("trainer.epochs=3", "trainer.batch_size=64"),
]


def run(folder, *overrides):
    return experiment.run(compose(*SMALL, *overrides), folder)


def timeless(history):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in history]


def tensors(folder):
    """Return the files of a checkpoint that hold its parameters and the optimizer's state."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    assert found
    return found


def cut_off(folder):
    """Make the checkpoints of a whole run those of one that was cut off at its very end."""
    (folder / "checkpoints" / "run.json").unlink()
    return folder / "checkpoints" / "last"


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of three epochs, cut off at its very end: (its folder, its result)."""
    folder = tmp_path_factory.mktemp("ended")
    result = run(folder)
    cut_off(folder)
    return folder, result


@pytest.fixture
def used(ended, tmp_path):
    """A copy of its folder, which the test may use again."""
    return shutil.copytree(ended[0], tmp_path / "used")


def test_a_run_cut_off_after_its_last_epoch_is_completed(ended, tmp_path):
    folder, whole = ended
    again = run(tmp_path, f"trainer.resume={folder}/checkpoints/last")
    assert again.metrics == whole.metrics
    files = [job / "artifacts/checkpoint/model.params" for job in (folder, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_is_resumed_in_its_own_folder(used, tmp_path):
    straight = run(tmp_path / "straight", "trainer.epochs=5")
    resumed = run(used, f"trainer.resume={used}/checkpoints/last", "trainer.epochs=5")
    assert timeless(resumed.history) == timeless(straight.history)
    assert resumed.metrics["test/acc"] == straight.metrics["test/acc"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, keep):
    words = f"callbacks.checkpoint.keep={keep}", "objective.metric=train/acc", "trainer.epochs=2"
    whole = run(tmp_path, *words)
    last = cut_off(tmp_path)
    content = bytearray((last / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (last / "model.safetensors").write_bytes(content)  # in place: also that of the best, linked
    if keep == 1:
        with pytest.raises(GluonexpError, match=r"last/model\.safetensors: damaged"):
            run(tmp_path, *words, f"trainer.resume={last}")
        return
    capsys.readouterr()
    again = run(tmp_path, *words, f"trainer.resume={last}")
    assert timeless(again.history) == timeless(whole.history)
    assert timeless([again.metrics]) == timeless([whole.metrics])
    out = capsys.readouterr().out
    assert "note: " in out and "model.safetensors: damaged" in out
    assert f"training goes on from {last.with_name('epoch-0000')}, after 1 epochs" in out


def test_patience_that_was_used_up_stays_used_up(tmp_path):
    stop = "callbacks=early_stopping", "callbacks.early_stopping.min_delta=1", "trainer.epochs=9"
    whole = run(tmp_path / "a", *stop)
    last = cut_off(tmp_path / "a")
    again = run(tmp_path / "b", *stop, f"trainer.resume={last}")
    assert len(whole.history) == len(again.history) == 4
    assert again.metrics == whole.metrics


@pytest.mark.parametrize(
    "changed",
    [
        "trainer.batch_size=32",
        "optim=adamw",
        "seed=1",
        "augment=flip_crop",
        "dataset.val_fraction=0.2",
        "optim.weight_decay=0.1",
        "scheduler.warmup_epochs=1",
        "dataset.mean=[0.5]",
        "dataset.source.size=20 dataset.resize=28",
    ],
)
def test_going_on_with_something_else_is_refused_by_name(ended, tmp_path, changed):
    last = ended[0] / "checkpoints" / "last"
    key = {"optim": "optim.name", "dataset.source.size": "the data"}
    named = key.get(changed.partition("=")[0], changed.partition("=")[0])
    with pytest.raises(GluonexpError, match=f"{re.escape(named)}.* was .* is "):
        run(tmp_path, f"trainer.resume={last}", *changed.split())


def test_an_old_checkpoint_in_a_reused_folder_is_not_taken_for_this_runs(used, tmp_path):
    fresh = run(tmp_path / "b", "callbacks.checkpoint=null", "trainer.epochs=1")
    reused = run(used, "callbacks.checkpoint=null", "trainer.epochs=1")
    assert reused.metrics["test/acc"] == fresh.metrics["test/acc"]


CUT_OFF = """
    import os, sys
    from pathlib import Path
    from gluonexp import experiment
    from gluonexp.run import compose

    settings = ["model.channels=[6,12]", "export=none", "tracking=none", "trainer.epochs=3"]
    settings += ["dataset.train_fraction=0.3", "trainer.batch_size=64"]
    interrupt = "+callbacks.interrupt={_target_: tests.integration.bomb.Interrupt}"

    def run(name, *more):
        return experiment.run(compose(*settings, *more), Path(name))

    assert "OMP_NUM_THREADS" not in os.environ
    run("whole")
    try:
        run("cut", interrupt, "build.allow=[tests]")
    except KeyboardInterrupt:
        assert len(run("again", "trainer.resume=cut/checkpoints/last").history) == 3
"""


def test_resumed_is_bit_for_bit_the_same_with_as_many_threads_as_there_are(tmp_path):
    environment = {key: value for key, value in os.environ.items() if "OMP" not in key}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CUT_OFF)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    last = {name: tmp_path / name / "checkpoints" / "last" for name in ("whole", "cut", "again")}
    assert tensors(last["again"]) == tensors(last["whole"]) != tensors(last["cut"])
    predicted = [tmp_path / name / "artifacts/predictions/test.csv" for name in ("whole", "again")]
    assert predicted[0].read_bytes() == predicted[1].read_bytes()
