"""Runs trained again from their record: equal to the bit, or told where they part."""

import errno
import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner

from gluonexp import run
from gluonexp.cli import main
from gluonexp.experiment import execute
from gluonexp.experiment import run as train
from gluonexp.tracking import open_store
from gluonexp.training import fingerprints, schedules
from gluonexp.training.callbacks import StopOnDivergence

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "export=none"),
    *("trainer.epochs=2", "trainer.batch_size=16", "dataset.source.train=64"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run in a store; tests leave both as they are."""
    folder = tmp_path_factory.mktemp("recorded")
    uri = f"sqlite:///{folder}/mlflow.db"
    result = train(run.compose(f"tracking.uri={uri}", *TINY), folder / "job", TINY)
    return uri, result.run_id


@pytest.fixture
def replay(recorded):
    """Give the command; return its exit code and what it says."""

    def replay(*words, run_id=None):
        uri, own = recorded
        said = CliRunner().invoke(main, ["replay", run_id or own, *words, "--tracking-uri", uri])
        return said.exit_code, said.output

    return replay


def test_a_run_is_equal_to_the_bit(replay):
    code, said = replay()
    assert (code, said.splitlines()[-1]) == (
        0,
        "equal to the bit: 2 epochs, parameters and predictions",
    )


def test_the_first_epoch_that_differs_and_its_parameters_are_told(replay, monkeypatch):
    def warmed(schedule, base_lr, steps_per_epoch, warmup_epochs):
        return lambda step: schedule(step) * (1.01 if step >= steps_per_epoch else 1)

    monkeypatch.setattr(schedules, "_warmed", warmed)  # as if one line had changed
    code, said = replay()
    assert code == 1
    assert "not equal: epoch 1: 1.weight, 1.bias, 2.weight, 2.bias differ; train/loss " in said


def test_other_data_are_refused_before_training(replay):
    code, said = replay("dataset=synthetic", "dataset.source.train=65")
    assert code == 1
    assert "the data are not those of the run: their digest was " in said


def test_what_has_changed_around_it_is_told(recorded, replay, monkeypatch):
    from gluonexp.experiment import replay as replaying

    origin = replaying.provenance()
    sources = {**origin.sources, "gluonexp/training/loop.py": "0" * 12}
    changed = replaying.replace(
        origin, code="0" * 16, sources=sources, versions={**origin.versions, "numpy": "0.1"}
    )
    monkeypatch.setattr(replaying, "provenance", lambda packages, computing: changed)
    code, said = replay()
    assert code == 0
    assert "note: the code has changed in gluonexp/training/loop.py\n" in said
    assert "note: numpy was " in said


def test_a_run_that_does_not_exist_is_told(replay):
    code, said = replay(run_id="0" * 32)
    assert code == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), EOFError("cut")])
def test_no_mistake_ends_it_without_a_word(error, replay, recorded, monkeypatch):
    def raised(self, fit):
        raise error

    monkeypatch.setattr(StopOnDivergence, "epoch_end", raised)
    uri, run_id = recorded
    said = CliRunner().invoke(main, ["replay", run_id, "--tracking-uri", uri])
    assert isinstance(said.exception, RuntimeError)  # a traceback
    assert said.exception.__cause__ is error


@pytest.mark.parametrize(
    ("signum", "code", "reason"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGUSR1, 75, "SIGUSR1 came")],
)
def test_a_signal_ends_it_with_a_word(signum, code, reason, replay, monkeypatch):
    def killed(self, fit):
        signal.raise_signal(signum)

    monkeypatch.setattr(StopOnDivergence, "epoch_end", killed)
    ended, said = replay()
    assert ended == code
    assert f"{reason}: what was trained again is not compared\n" in said


def test_what_a_run_has_not_recorded_is_told(recorded, replay):
    uri, _ = recorded
    client = open_store(uri)
    run_id = client.create_run("0", tags={"gluonexp.kind": "sweep"}).info.run_id
    code, said = replay(run_id=run_id)
    assert code == 1
    assert f"{run_id} has not recorded config/resolved.yaml, config/environment.json, " in said
    assert said.endswith("; it is a sweep: name one of its runs\n")


def test_a_run_that_was_cut_off_and_resumed_is_equal_to_the_bit(tmp_path, replay, recorded):
    class CutOff(StopOnDivergence):
        def epoch_end(self, fit):
            if fit.epoch == 1:
                raise KeyboardInterrupt

    uri, _ = recorded
    words = (f"tracking.uri={uri}", *TINY, "trainer.epochs=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "StopOnDivergence", CutOff)
        with pytest.raises(KeyboardInterrupt):
            train(run.compose(*words), tmp_path / "job", words)
    (killed,) = open_store(uri).search_runs(["1"], "attributes.status = 'KILLED'")
    run_id = killed.info.run_id
    code, said = replay(run_id=run_id)
    assert (code, f"python -m gluonexp.run trainer.resume={run_id} ends it" in said) == (1, True)
    again = (f"trainer.resume={run_id}", f"tracking.uri={uri}")
    assert train(run.compose(*again), tmp_path / "other", again).run_id == run_id
    assert replay(run_id=run_id)[1].endswith(
        "equal to the bit: 3 epochs, parameters and predictions\n"
    )


def test_fingerprints_are_those_of_the_values(tmp_path):
    values = {"a": np.arange(5, dtype=np.float32), "b": np.zeros((2, 3), np.float16)}
    lines = fingerprints.Fingerprints()
    lines.write(tmp_path, 0, values)
    changed = {**values, "a": values["a"] + 1}
    lines.write(tmp_path, 1, changed)
    path = tmp_path / "artifacts" / fingerprints.FILE
    assert list(json.loads(path.read_text().splitlines()[1])["parameters"]) == ["a"]
    assert fingerprints.read(path) == {
        0: fingerprints.fingerprints(values),
        1: fingerprints.fingerprints(changed),
    }
