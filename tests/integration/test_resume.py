"""Runs trained further: by their id, by a folder, and what may never be lost on the way."""

import json
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

from gluonexp import run, tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import in_bytes
from gluonexp.cli import main
from gluonexp.experiment import run as train
from gluonexp.tracking.read.records import PEAK_MEMORY
from gluonexp.tracking.read.runs import reader
from gluonexp.training import checkpoint, job_folder, stopping
from gluonexp.training.callbacks import StopOnDivergence
from gluonexp.training.system import SystemMetrics

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "optim=sgd", "optim.lr=0.05"),
    *("export=none", "trainer.batch_size=16", "dataset.source.train=64"),
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def trained(uri, tmp_path, capsys):
    """Train as typed, in a folder of its own unless one is given; return result and output."""

    def made(*overrides, folder=None):
        capsys.readouterr()
        config = run.compose(f"tracking.uri={uri}", *overrides)
        result = train(
            config, folder or tmp_path / f"job{len(list(tmp_path.iterdir()))}", overrides
        )
        return result, capsys.readouterr().out

    return made


@pytest.fixture(scope="module")
def one_epoch(uri, tmp_path_factory):
    """The result of a finished run of one epoch, which tests leave as it is."""
    config = run.compose(f"tracking.uri={uri}", *TINY, "trainer.epochs=1")
    return train(config, tmp_path_factory.mktemp("one"))


@pytest.fixture
def cut_off(uri, tmp_path, monkeypatch):
    """Train as typed until the second epoch breaks; return the run's id."""

    def breaks(self, fit):
        if fit.epoch == 1:
            raise RuntimeError("the machine went down")

    def made(*overrides, folder):
        monkeypatch.setattr(StopOnDivergence, "epoch_start", breaks)
        with pytest.raises(RuntimeError, match="went down"):
            train(run.compose(f"tracking.uri={uri}", *overrides), folder)
        monkeypatch.undo()
        return job_folder.owner(folder / "checkpoints").run_id

    return made


def _run(uri, run_id):
    return tracking.open_store(uri).get_run(run_id)


def _values(folder):
    return load_file(folder / "checkpoints" / "last" / checkpoint.PARAMETERS)


def _timeless(history):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in history]


def test_a_finished_run_is_trained_further_as_if_it_had_never_stopped(trained, uri):
    whole, _ = trained(*TINY, "trainer.epochs=4")
    first, _ = trained(*TINY, "trainer.epochs=2")
    assert {path.name for path in (first.folder / "checkpoints").iterdir()} == {
        *("best", "last", "run.json"),
    }
    longer, out = trained(f"trainer.resume={first.run_id[:8]}", "trainer.epochs=4")
    assert longer.run_id != first.run_id
    assert f"resumes run {first.run_id[:8]} after 2 epochs" in out
    assert _timeless(longer.history) == _timeless(whole.history)
    for name, value in _values(whole.folder).items():
        np.testing.assert_array_equal(value, _values(longer.folder)[name])
    data = _run(uri, longer.run_id).data
    assert data.tags["gluonexp.resumed_from"] == first.run_id
    assert data.params["optim.name"] == "sgd"
    assert _run(uri, first.run_id).info.status == "FINISHED"
    assert "note" not in out  # a constant learning rate is the same for any number of epochs


def _points(uri, run_id):
    """Return all that a run measured, but times: (step, value) by metric."""
    client = tracking.open_store(uri)
    names = [name for name in _run(uri, run_id).data.metrics if not name.startswith("time/")]
    histories = {name: client.get_metric_history(run_id, name) for name in names}
    return {key: [(point.step, point.value) for point in of] for key, of in histories.items()}


def test_a_run_that_was_cut_off_goes_on_as_itself_in_its_folder(trained, cut_off, uri, tmp_path):
    whole, _ = trained(*TINY, "trainer.epochs=3")
    crashed = cut_off(*TINY, "trainer.epochs=3", folder=tmp_path / "cut")
    assert _run(uri, crashed).info.status == "FAILED"
    (tmp_path / "cut" / "checkpoints" / ".new-x").mkdir()  # as a save that was cut off leaves it
    result, out = trained(f"trainer.resume={crashed[:8]}")
    assert (result.run_id, result.folder) == (crashed, tmp_path / "cut")
    assert f"resumes run {crashed[:8]} after 1 epochs" in out
    assert _timeless(result.history) == _timeless(whole.history)
    assert _timeless([result.metrics]) == _timeless([whole.metrics])
    again, straight = (_run(uri, run.run_id) for run in (result, whole))
    assert again.info.status == "FINISHED"
    assert again.data.params == straight.data.params
    assert "error" not in again.data.tags
    assert not any(tag.startswith("param_drift") for tag in again.data.tags)
    assert _points(uri, crashed) == _points(uri, whole.run_id)
    assert sorted(path.name for path in (tmp_path / "cut").rglob("*")) == sorted(
        path.name for path in whole.folder.rglob("*")
    )
    longer, _ = trained(f"trainer.resume={crashed}", "trainer.epochs=4")
    assert longer.run_id != crashed  # it has finished


def test_what_was_changed_in_a_run_that_goes_on_is_recorded(trained, cut_off, uri, tmp_path):
    crashed = cut_off(*TINY, "trainer.epochs=2", folder=tmp_path / "cut")
    for key in ("tracking.experiment", "tracking.run_name"):
        with pytest.raises(GluonexpError, match=f"{key} stays .*; leave it out"):
            trained(f"trainer.resume={crashed}", f"{key}=other")
    trained(f"trainer.resume={crashed}", "trainer.epochs=3")
    tags = _run(uri, crashed).data.tags
    assert tags["param_drift.trainer.epochs"] == "2 -> 3"
    assert [tag for tag in tags if tag.startswith("param_drift")] == ["param_drift.trainer.epochs"]


def test_a_run_that_no_store_has_goes_on_in_its_folder(trained, cut_off, uri):
    folder = Path(uri.removeprefix("sqlite:///")).parent / "hydra" / "offline"
    crashed = cut_off(*TINY, "trainer.epochs=2", "tracking=offline", folder=folder)
    result, _ = trained(f"trainer.resume={crashed[:8]}")
    assert (result.run_id, result.folder, len(result.history)) == (crashed, folder, 2)
    (run,) = reader(uri).fetch([crashed])
    assert run.status == "FINISHED"
    assert "error" not in run.tags


def test_of_a_run_that_was_cut_off_the_folder_is_needed(trained, cut_off, uri, tmp_path):
    crashed = cut_off(*TINY, "trainer.epochs=2", folder=tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut")
    with pytest.raises(GluonexpError, match=rf"{crashed} has no checkpoint in .*cut .*anew"):
        trained(f"trainer.resume={crashed}")


def test_how_busy_the_machine_was_is_recorded_by_looks_that_go_on(
    trained, cut_off, uri, tmp_path, monkeypatch
):
    """Four steps an epoch, and a look at each; the second epoch is done again."""
    with monkeypatch.context() as patch:
        patch.setattr(SystemMetrics, "every_s", 0.0)
        words = *TINY, "trainer.epochs=3", "tracking.system_metrics=true"
        crashed = cut_off(*words, folder=tmp_path / "cut")
        result, _ = trained(f"trainer.resume={crashed}")
    points = _points(uri, result.run_id)
    # As MLflow itself names them, on any machine; those of disk and network may be missing.
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        assert [step for step, _ in points[f"system/{name}"]] == list(range(12))
    peaks = points[PEAK_MEMORY]
    assert [step for step, _ in peaks] == [0, 1, 2]
    assert peaks == sorted(peaks, key=lambda point: point[1])
    words = ["runs", "--tracking-uri", uri, "--limit", "1"]
    heading, line = CliRunner().invoke(main, words, env={"COLUMNS": "200"}).output.splitlines()
    assert heading.split()[-1] == "memory"
    assert line.endswith(in_bytes(1e6 * peaks[-1][1]))


@pytest.fixture
def asked_to_end(uri, tmp_path, monkeypatch):
    """Train as typed, and get a signal in the second step of an epoch; return run and error."""

    def made(*overrides, epoch, signum):
        def signals(self, fit):
            if fit.epoch == epoch and fit.done == 2:
                signal.raise_signal(signum)

        monkeypatch.setattr(StopOnDivergence, "batch_end", signals)
        with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
            train(run.compose(f"tracking.uri={uri}", *overrides), tmp_path / "cut")
        monkeypatch.undo()
        return job_folder.owner(tmp_path / "cut" / "checkpoints").run_id, ended.value

    return made


@pytest.mark.parametrize("engine", ["mxnet", "torch"])
@pytest.mark.parametrize(
    ("signum", "code", "words", "lies"),
    [
        (signal.SIGINT, None, ["trainer.checkpoint_every_steps=3"], (1, 3)),
        (signal.SIGTERM, 143, ["trainer.checkpoint_every_steps=3"], (1, 3)),
        (signal.SIGTERM, 143, [], (1, 0)),
        (signal.SIGUSR1, 75, [], (2, 0)),
        (signal.SIGUSR1, 75, ["trainer.checkpoint_every_steps=3"], (1, 3)),
    ],
)
def test_training_ends_in_time_and_goes_on(
    trained, asked_to_end, uri, tmp_path, engine, signum, code, words, lies
):
    """Four steps an epoch; the first signal waits for the next checkpoint, if there is one."""
    words = *TINY, *words, f"engine={engine}", "trainer.epochs=3", "augment=mixup", "optim=adam"
    whole, _ = trained(*words)
    run_id, ended = asked_to_end(*words, epoch=1, signum=signum)
    assert getattr(ended, "code", None) == code
    assert _run(uri, run_id).info.status == "KILLED"
    newest = checkpoint.newest(tmp_path / "cut" / "checkpoints")[0]
    meta = checkpoint.read_meta(newest)
    assert (len(meta["history"]), meta.get("step", 0)) == lies
    result, _ = trained(f"trainer.resume={run_id}")
    assert result.run_id == run_id
    assert _timeless(result.history) == _timeless(whole.history)
    assert _timeless([result.metrics]) == _timeless([whole.metrics])
    assert _points(uri, run_id) == _points(uri, whole.run_id)
    for name, value in _values(whole.folder).items():
        np.testing.assert_array_equal(value, _values(result.folder)[name])
    assert not (result.folder / "checkpoints" / checkpoint.STEP).exists()


def test_the_checkpoint_that_has_begun_is_made_before_training_ends(uri, tmp_path, monkeypatch):
    """The time to wait for one is over while the third step, which has one, is saved."""

    def signals(self, fit):
        if (fit.epoch, fit.done) == (1, 3):
            signal.raise_signal(signal.SIGTERM)
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer):
                    thread.join()

    monkeypatch.setattr(stopping, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(StopOnDivergence, "batch_end", signals)  # it comes before the checkpoint
    words = f"tracking.uri={uri}", *TINY, "trainer.epochs=3", "trainer.checkpoint_every_steps=3"
    with pytest.raises(SystemExit):
        train(run.compose(*words), tmp_path)
    meta = checkpoint.read_meta(checkpoint.newest(tmp_path / "checkpoints")[0])
    assert (len(meta["history"]), meta["step"]) == (1, 3)


def test_after_max_hours_a_run_asks_to_be_started_again_until_it_has_finished(uri, tmp_path):
    words = f"tracking.uri={uri}", *TINY, "trainer.epochs=3", "trainer.max_hours=1e-9"
    with pytest.raises(SystemExit) as ended:
        train(run.compose(*words), tmp_path)
    assert ended.value.code == 75
    assert "trainer.max_hours=1e-09 are over" in ended.value.reason
    run_id = job_folder.owner(tmp_path / "checkpoints").run_id
    with pytest.raises(SystemExit):
        train(run.compose(*words[:1], f"trainer.resume={run_id}"), tmp_path)
    assert _run(uri, run_id).info.status == "KILLED"
    result = train(run.compose(*words[:1], f"trainer.resume={run_id}"), tmp_path)
    assert (result.run_id, len(result.history)) == (run_id, 3)
    assert _run(uri, run_id).info.status == "FINISHED"


def test_last_is_the_newest_run_with_a_checkpoint_also_if_it_failed(
    trained, cut_off, uri, tmp_path
):
    trained(*TINY, "trainer.epochs=1")
    cut_off(*TINY, "trainer.epochs=3", "seed=5", folder=tmp_path / "job")
    result, _ = trained("trainer.resume=last")
    assert len(result.history) == 3
    assert _run(uri, result.run_id).data.params["seed"] == "5"


def test_what_is_typed_comes_on_top_of_what_was_recorded(trained, uri):
    first, _ = trained(*TINY, "trainer.epochs=1")
    result, _ = trained(
        f"trainer.resume={first.run_id}",
        *("trainer.epochs=3", "callbacks=early_stopping", "callbacks.early_stopping.patience=1"),
        *("callbacks.early_stopping.min_delta=1", "objective.metric=val/loss"),
        *("objective.mode=min", "callbacks.checkpoint.keep=0"),
    )
    assert "val/loss has not improved for 1 epochs" in result.ending.reason
    assert len(result.history) == 2
    assert not (result.folder / "checkpoints").exists()
    with pytest.raises(
        GluonexpError, match=rf"^trainer\.resume={result.run_id}.*has no checkpoint"
    ):
        trained(f"trainer.resume={result.run_id}", "trainer.epochs=4")


@pytest.fixture
def photos(uri, tmp_path):
    """A run on a folder of images, and the folder, which has been moved."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "old" / name).mkdir(parents=True)
        for index in range(10):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(tmp_path / "old" / name / f"{index}.png")
    small = "model=mlp", "model.hidden=[8]", "export=none", "trainer.epochs=1"
    words = *small, "dataset=image_folder", f"dataset.root={tmp_path}/old", "dataset.resize=8"
    stops = "callbacks=early_stopping", "callbacks.early_stopping.patience=2"
    config = run.compose(f"tracking.uri={uri}", *words, *stops)
    return train(config, tmp_path / "job"), (tmp_path / "old").rename(tmp_path / "new")


def test_what_referred_to_another_key_follows_what_is_typed(photos, uri, tmp_path):
    first, new = photos
    words = f"tracking.uri={uri}", f"trainer.resume={first.run_id}"
    less = "objective.metric=val/loss", "objective.mode=min"
    followed = run.compose(*words, f"dataset.root={new}", *less)
    assert followed.dataset.source["root"] == str(new)
    assert followed.callbacks["checkpoint"]["metric"] == "val/loss"
    assert followed.callbacks["early_stopping"]["metric"] == "val/loss"
    assert followed.callbacks["early_stopping"]["patience"] == 2
    shaped = run.compose(*words, "dataset.resize=16", "dataset.channels=1", *less)
    assert (shaped.dataset.source["size"], shaped.dataset.source["channels"]) == (16, 1)
    assert shaped.callbacks["checkpoint"]["mode"] == "min"
    asked = run.compose(*words, f"dataset.root={new}", "++dataset.source.root=elsewhere")
    assert asked.dataset.source["root"] == "elsewhere"
    result = train(
        run.compose(*words, f"dataset.root={new}", "trainer.epochs=2"), tmp_path / "further"
    )
    assert len(result.history) == 2


def test_patience_and_schedule_start_anew_and_it_is_said(trained):
    stop = (
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=2"),
        *("callbacks.early_stopping.min_delta=1", "scheduler=cosine", "trainer.epochs=8"),
    )
    first, _ = trained(*TINY, *stop)
    assert len(first.history) == 3
    result, out = trained(f"trainer.resume={first.run_id}", "trainer.epochs=20")
    assert len(result.history) == 5
    assert "note: patience starts anew: the run had stopped, val/acc has not improved" in out
    assert "note: the learning rate is computed anew for 20 epochs (it was for 8)" in out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["optim.lr=0.1", "trainer.epochs=2"], r"optim\.lr was 0\.05 there and is 0\.1 now"),
        (["optim=adam", "trainer.epochs=2"], r"optim\.name was sgd there and is adam now"),
        (
            ["freeze=head_only", "trainer.epochs=2"],
            r"freeze\.name was none there and is head_only",
        ),
        (["scheduler=step", "trainer.epochs=2"], r"scheduler\.\S+ was"),
        ([], r"has 1 epochs already; ask for more with trainer\.epochs=N"),
        (["experiment=fashion_mnist_cnn"], "leave experiment= out"),
    ],
)
def test_what_cannot_be_changed_is_said_before_anything_is_recorded(
    trained, one_epoch, uri, typed, message
):
    client = tracking.open_store(uri)
    count = len(client.search_runs([first_experiment(client)]))
    with pytest.raises(GluonexpError, match=message):
        trained(f"trainer.resume={one_epoch.run_id}", *typed)
    assert len(client.search_runs([first_experiment(client)])) == count


def first_experiment(client):
    return client.get_experiment_by_name("gluonexp").experiment_id


def test_a_run_that_still_trains_is_not_resumed(trained, uri):
    first, _ = trained(*TINY, "trainer.epochs=1")
    second, _ = trained(*TINY, "trainer.epochs=1", "seed=7")
    client = tracking.open_store(uri)
    client.update_run(second.run_id, status="RUNNING")  # by this process, as its tags say
    with pytest.raises(GluonexpError, match=f"run {second.run_id} still trains"):
        run.compose(f"tracking.uri={uri}", f"trainer.resume={second.run_id[:9]}")
    config = run.compose(f"tracking.uri={uri}", "trainer.resume=last")
    assert config.trainer.resume == str(first.folder / "checkpoints" / "last")
    client.update_run(second.run_id, status="FINISHED")


def test_a_path_that_exists_wins_over_an_id(trained, one_epoch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / one_epoch.run_id).mkdir()
    with pytest.raises(GluonexpError, match="no complete checkpoint there"):
        trained(f"trainer.resume={one_epoch.run_id}")


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_stay_and_each_can_be_resumed(trained, keep):
    first, _ = trained(*TINY, "trainer.epochs=4", f"callbacks.checkpoint.keep={keep}")
    folder = first.folder / "checkpoints"
    older = [f"epoch-{epoch:04d}" for epoch in range(4)][-keep:] if keep > 1 else []
    assert sorted(path.name for path in folder.iterdir()) == ["best", *older, "last", "run.json"]
    for name in older:
        meta = checkpoint.read_meta(folder / name)
        assert meta["epoch"] == int(name[-4:])
        result, _ = trained(*TINY, f"trainer.resume={folder / name}", "trainer.epochs=5")
        assert [row["epoch"] for row in result.history] == list(range(5))


def test_another_run_in_the_folder_does_not_cost_the_one_that_was_cut_off(
    trained, cut_off, tmp_path
):
    """As the README's Python example, run again after a crash."""
    folder = tmp_path / "job"
    whole, _ = trained(*TINY, "trainer.epochs=3")
    crashed = cut_off(*TINY, "trainer.epochs=3", folder=folder)
    _, out = trained(*TINY, "trainer.epochs=1", "seed=3", folder=folder)
    aside = folder / f"checkpoints-{crashed[:8]}"
    assert f"an unfinished run left checkpoints here; they are in {aside} now" in out
    result, _ = trained(f"trainer.resume={crashed}")
    assert _timeless(result.history) == _timeless(whole.history)
    # What a whole run left gives way to the next one in its folder.
    again, _ = trained(*TINY, "trainer.epochs=1", "seed=4", folder=folder)
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        aside.name,
        "run.jsonl",
        "run.sent",
    }
    assert job_folder.owner(folder / "checkpoints").run_id == again.run_id


def test_nothing_is_removed_before_the_new_run_is_open(cut_off, tmp_path):
    folder = tmp_path / "job"
    crashed = cut_off(*TINY, folder=folder)
    before = sorted(folder.rglob("*"))
    other = tmp_path / "other.db"
    other.write_text("no database")
    with pytest.raises(GluonexpError, match=r"other\.db"):
        train(run.compose(*TINY, f"tracking.uri=sqlite:///{other}"), folder)
    assert sorted(folder.rglob("*")) == before
    assert job_folder.owner(folder / "checkpoints") == job_folder.Owner(crashed)


def test_a_checkpoint_of_the_kind_before_is_refused_by_its_version(tmp_path):
    folder = tmp_path / "checkpoints" / "last"
    folder.mkdir(parents=True)
    digests = {"model.params": "0" * 64, "optimizer.params": "0" * 64}
    (folder / "meta.json").write_text(json.dumps({"history": [], "sha256": digests}))
    with pytest.raises(GluonexpError, match=r"of gluonexp 0\.1, which resumes from it"):
        train(run.compose(*TINY, "tracking=none", f"trainer.resume={folder}"), tmp_path / "job")
