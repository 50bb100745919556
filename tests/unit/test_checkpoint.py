"""Checkpoints: exact, checked, atomic, and never a pickle."""

import json

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.engines.mxnet import optimizers
from gluonexp.engines.mxnet.engine import MXNetEngine
from gluonexp.training import checkpoint, job_folder


def _made(name="adam", units=3, seed=0):
    mx.random.seed(seed)
    with mx.name.NameManager():
        net = nn.HybridSequential()
        net.add(nn.Dense(4, in_units=2), nn.BatchNorm(in_channels=4), nn.Dense(units, in_units=4))
        net.initialize(mx.init.Xavier())
    rule = optimizers.optimizer(name, lr=0.1, weight_decay=0)
    return MXNetEngine(net, None, gluon.loss.L2Loss(), rule, mx.cpu())


def _step(engine):
    with autograd.record():
        loss = engine.net(nd.array([[1.0, 2.0], [3.0, -1.0]])).square()
    loss.backward()
    engine.trainer.step(2)


def _values(engine):
    return list(engine.state().values.values())


@pytest.mark.parametrize("name", ["sgd", "nag", "adam", "adamw", "rmsprop"])
def test_training_goes_on_as_if_it_had_never_stopped(tmp_path, name):
    engine = _made(name)
    for _ in range(3):
        _step(engine)
    checkpoint.save(tmp_path / "c", engine.state(), {"epoch": 2})
    other = _made(name, seed=9)
    assert checkpoint.load(tmp_path / "c", other, optimizer=True)["epoch"] == 2
    for _ in range(2):
        _step(engine)
        _step(other)
    for one, two in zip(_values(engine), _values(other), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("file", [checkpoint.PARAMETERS, checkpoint.OPTIMIZER])
def test_one_flipped_bit_is_refused(tmp_path, file):
    engine = _made()
    _step(engine)
    checkpoint.save(tmp_path / "c", engine.state(), {})
    path = tmp_path / "c" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(GluonexpError, match=f"{file}: damaged"):
        checkpoint.load(tmp_path / "c", engine, optimizer=True)


def test_what_is_no_checkpoint_is_said_so(tmp_path):
    engine = _made()
    with pytest.raises(GluonexpError, match="not a complete checkpoint"):
        checkpoint.load(tmp_path / "nothing", engine, optimizer=True)
    checkpoint.save(tmp_path / "c", engine.state(), {})
    (tmp_path / "c" / checkpoint.META).write_text("{")
    with pytest.raises(GluonexpError, match="not a complete checkpoint"):
        checkpoint.load(tmp_path / "c", engine, optimizer=True)


def test_another_network_or_optimizer_is_refused(tmp_path):
    engine = _made("adam")
    _step(engine)
    checkpoint.save(tmp_path / "c", engine.state(), {})
    with pytest.raises(GluonexpError, match="another network"):
        checkpoint.load(tmp_path / "c", _made(units=5), optimizer=False)
    with pytest.raises(GluonexpError, match="another optimizer"):
        checkpoint.load(tmp_path / "c", _made("sgd"), optimizer=True)


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    engine = _made()
    checkpoint.save(tmp_path / "c", engine.state(), {"epoch": 0})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "c", engine.state(), {"epoch": object()})
    assert checkpoint.load(tmp_path / "c", engine, optimizer=False)["epoch"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_save_cut_off_between_its_two_renames_is_still_loaded(tmp_path):
    engine = _made()
    checkpoint.save(tmp_path / "c", engine.state(), {"epoch": 0})
    (tmp_path / "c").rename(tmp_path / ".c-previous")
    assert checkpoint.load(tmp_path / "c", engine, optimizer=False)["epoch"] == 0
    checkpoint.save(tmp_path / "c", engine.state(), {"epoch": 1})
    assert checkpoint.load(tmp_path / "c", engine, optimizer=False)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_of_the_checkpoints_in_a_folder_the_one_trained_furthest_comes_first(tmp_path):
    for name, epochs, step in (
        *(("best", 1, 0), ("epoch-0000", 1, 0), ("epoch-0002", 3, 0)),
        *(("last", 3, 0), ("step", 3, 7)),
    ):
        meta = {"history": [{}] * epochs, "step": step}
        checkpoint.save(tmp_path / name, _made().state(), meta)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / checkpoint.META).touch()
    (tmp_path / "last").rename(tmp_path / ".last-previous")  # as a save that was cut off leaves it
    assert [path.name for path in checkpoint.newest(tmp_path)] == [
        *("step", "last", "epoch-0002", "best", "epoch-0000"),
    ]
    (tmp_path / "best" / checkpoint.META).write_text("{")
    assert checkpoint.newest(tmp_path)[-1].name == "best"
    (tmp_path / ".new-x").mkdir()
    checkpoint.tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best", "epoch-0000", "epoch-0002", "last", "mine", "step"),
    ]


def test_only_what_a_run_wrote_itself_is_cleared(tmp_path):
    folder = tmp_path / "checkpoints"
    job_folder.take(tmp_path, "a" * 32, resumed=None)
    for name in ("best", "last", "epoch-0007"):
        checkpoint.save(folder / name, _made().state(), {})
    (folder / "notes.txt").touch()
    (folder / "mine").mkdir()
    (folder / "mine" / "meta.json").write_text("{}")
    job_folder.clear(tmp_path, "b" * 32)
    assert job_folder.of_run(tmp_path, "a" * 32) == folder / "last"
    job_folder.clear(tmp_path, "a" * 32)
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "notes.txt"]
    (folder / "notes.txt").unlink()
    (folder / "mine" / "meta.json").unlink()
    (folder / "mine").rmdir()
    job_folder.take(tmp_path, "a" * 32, resumed=None)
    job_folder.clear(tmp_path, "a" * 32)
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_that_died_left_is_set_aside(tmp_path):
    """It could not say which files are its own."""
    for count in range(3):
        job_folder.take(tmp_path, None, resumed=None)
        checkpoint.save(tmp_path / "checkpoints" / "last", _made().state(), {"epoch": count})
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "artifacts" / "a.txt").write_text(str(count))
        job_folder.check(tmp_path, None)
    kept = ["", "-untracked", "-untracked-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}{which}" for name in ("artifacts", "checkpoints") for which in kept
    )
    for count, which in enumerate(("-untracked", "-untracked-2", "")):
        assert (tmp_path / f"artifacts{which}" / "a.txt").read_text() == str(count)
        last = tmp_path / f"checkpoints{which}" / "last"
        assert checkpoint.read_meta(last)["epoch"] == count


def test_meta_is_readable(tmp_path):
    engine = _made()
    _step(engine)
    checkpoint.save(tmp_path / "c", engine.state(), {"epoch": 7, "metrics": {"val/acc": 0.5}})
    meta = json.loads((tmp_path / "c" / checkpoint.META).read_text())
    assert meta["epoch"] == 7
    assert meta["metrics"] == {"val/acc": 0.5}
    assert set(meta["sha256"]) == {checkpoint.PARAMETERS, checkpoint.OPTIMIZER}
    assert meta["updates"] == {"0.weight": 1, "0.bias": 1, "1.gamma": 1, "1.beta": 1} | {
        "2.weight": 1,
        "2.bias": 1,
    }
