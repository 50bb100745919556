"""`callbacks=ema`: runs whose network is the average of the weights that are trained."""

from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from gluonexp import run as app
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import nd
from gluonexp.cli import main
from gluonexp.experiment import run as train
from gluonexp.training import checkpoint
from gluonexp.training.callbacks import check_finite
from gluonexp.training.engine import State
from gluonexp.training.loop import Callback

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "optim=sgd", "optim.lr=0.05"),
    *("tracking=none", "trainer.batch_size=16", "dataset.source.train=64", "trainer.epochs=2"),
)
EMA = ("callbacks=ema", "callbacks.ema.decay=0.5")
# A frozen front of convolutions and BatchNorm layers below Dense layers, which are trained from
# features until a part of the front learns too.
FRONT = (
    *TINY,
    *("dataset.source.size=12", "export=none", "trainer.epochs=3"),
    *("~model.hidden", "model._target_=tests.integration.test_features_run.Tiny"),
    *("+model.dense=true", "build.allow=[tests]", "features.engine=mxnet"),
    "freeze.rules=[{match: 'front.*', state: frozen}, {match: '*'}]",
    "freeze.unfreeze=[{epoch: 2, match: 'front.1.*'}]",
)
ENGINES = pytest.mark.parametrize("engine", ["mxnet", "torch"])


class Watch(Callback):
    """Keeps the state after each step; may end the run there as a crash does."""

    def __init__(self, until=None):
        self.until, self.states = until, []

    def batch_end(self, fit):
        self.states.append(fit.engine.state())
        if fit.step == self.until:
            raise RuntimeError("the machine went down")


def averages(states, decay):
    """Return what the average of each parameter should be after the last of some steps."""
    kept = {}
    for step, state in enumerate(states, 1):
        keep = min(decay, (1 + step) / (10 + step))
        for name, raw in state.raw.items():
            kept[name] = keep * kept[name] + (1 - keep) * raw if name in kept else raw
    return kept


@ENGINES
def test_the_average_is_evaluated_chosen_and_exported(engine, tmp_path):
    watch = Watch()
    result = train(app.compose(*TINY, *EMA, f"engine={engine}"), tmp_path / "a", against=watch)
    steps = len(watch.states) // 2
    best = checkpoint.read_meta(tmp_path / "a" / "checkpoints" / "best")["epoch"]
    expected = averages(watch.states[: steps * (best + 1)], 0.5)
    exported = nd.load(str(tmp_path / "a" / "artifacts" / "export" / "model-0000.params"))
    assert len(expected) == len(exported) == 4
    kept = load_file(tmp_path / "a" / "checkpoints" / "best" / checkpoint.PARAMETERS)
    exported = {array.shape: array.asnumpy() for array in exported.values()}
    for name, value in expected.items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
        np.testing.assert_array_equal(exported[value.shape], kept[name])
        assert np.abs(value - watch.states[-1].raw[name]).max() > 1e-4

    # Training itself goes on as without it; what is measured of val is not of its weights.
    without = Watch()
    other = train(app.compose(*TINY, f"engine={engine}"), tmp_path / "b", against=without)
    for name, value in without.states[-1].values.items():
        np.testing.assert_array_equal(value, watch.states[-1].raw[name])
    assert [row["train/loss"] for row in result.history] == [
        row["train/loss"] for row in other.history
    ]
    assert result.history[0]["val/loss"] != other.history[0]["val/loss"]


@ENGINES
@pytest.mark.parametrize("until", [3, 11])
def test_resumed_equals_uninterrupted(engine, tmp_path, until):
    wanted = (*FRONT, *EMA, f"engine={engine}", "trainer.checkpoint_every_steps=2")
    train(app.compose(*wanted), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="went down"):
        train(app.compose(*wanted), tmp_path / "cut", against=Watch(until))
    (newest, *_) = checkpoint.newest(tmp_path / "cut" / "checkpoints")
    assert newest.name == "step"
    train(app.compose(*wanted, f"trainer.resume={newest}"), tmp_path / "again")
    for file in (checkpoint.PARAMETERS, checkpoint.OPTIMIZER):
        whole, again = (
            load_file(tmp_path / job / "checkpoints" / "last" / file) for job in ("whole", "again")
        )
        assert whole.keys() == again.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert "raw|rest.1.weight" in whole


@ENGINES
def test_what_is_frozen_is_no_average_until_it_learns(engine, tmp_path, capsys):
    watch = Watch()
    train(app.compose(*FRONT, *EMA, f"engine={engine}"), tmp_path, against=watch)
    out = capsys.readouterr().out
    assert "computed once: " in out and "features are not used" not in out
    assert "freeze audit clean" in out  # what is still frozen
    first, last = watch.states[0], watch.states[-1]
    assert {name.partition(".")[0] for name in first.raw} == {"rest"}
    assert {name for name in last.raw if name.startswith("front.1")} == {
        *(f"front.1.{name}" for name in ("0.weight", "0.bias", "1.gamma", "1.beta")),
    }
    steps = len(watch.states) // 3
    whole = averages(watch.states, 0.5)
    kept = load_file(tmp_path / "checkpoints" / "last" / checkpoint.PARAMETERS)
    for name, value in whole.items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for name, value in kept.items():
        if name not in whole:  # frozen, or a statistic
            np.testing.assert_array_equal(value, last.values[name])
    assert len(watch.states[2 * steps - 1].raw) == len(first.raw)


def test_it_is_replayed_and_goes_on_with_nothing_else(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    typed = (*TINY, *EMA, "export=none", "tracking=mlflow", f"tracking.uri={uri}")
    first = train(app.compose(*typed), tmp_path / "job", typed)
    said = CliRunner().invoke(main, ["replay", first.run_id, "--tracking-uri", uri])
    assert said.output.splitlines()[-1].startswith("equal to the bit: 2 epochs"), said.output
    resume = f"trainer.resume={tmp_path}/job/checkpoints/last", "trainer.epochs=3"
    with pytest.raises(GluonexpError, match=r"callbacks\.ema\.decay was 0\.5 there and is None"):
        train(app.compose(*TINY, *resume), tmp_path / "other")


def test_a_weight_that_is_not_finite_is_found_behind_its_average():
    state = State({"weight": np.ones(2)}, raw={"weight": np.array([1, np.inf])})
    with pytest.raises(GluonexpError, match="weight is not finite"):
        check_finite(state, SimpleNamespace(epoch=1, step=9, lr=0.1))


@pytest.mark.parametrize("decay", [0, 1, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay, tmp_path):
    with pytest.raises(GluonexpError, match=r"callbacks\.ema\.decay"):
        train(app.compose(*TINY, *EMA, f"callbacks.ema.decay={decay}"), tmp_path)


def test_it_comes_before_what_saves_and_there_is_one(tmp_path):
    late = ("+callbacks.mine={_target_: gluonexp.training.average.Ema}",)
    with pytest.raises(GluonexpError, match="two of them average"):
        train(app.compose(*TINY, *EMA, *late), tmp_path)
