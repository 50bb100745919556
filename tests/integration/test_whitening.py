"""Networks whose first layer is set from training images, as `experiment=cifar10_fast` has it."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from gluonexp import assembly
from gluonexp import run as app
from gluonexp.assembly import networks
from gluonexp.base.errors import GluonexpError
from gluonexp.cli import main
from gluonexp.experiment import run as train
from gluonexp.models.fast import whitening
from gluonexp.training import checkpoint
from gluonexp.training.loop import Callback

# The recipe in miniature.
TINY = (
    *("experiment=cifar10_fast", "dataset=synthetic", "dataset.source.size=20"),
    *("dataset.source.channels=3", "dataset.source.train=90", "model.widths=[4, 6]"),
    *("dataset.val_fraction=0.2", "trainer.batch_size=16", "trainer.epochs=2", "export=none"),
    "optim.lr=0.05",
)
ENGINES = pytest.mark.parametrize("engine", ["mxnet", "torch"])


class Crash(Callback):
    """Ends a run as a crash does, in its second epoch."""

    def batch_end(self, fit):
        if fit.step == 8:
            raise RuntimeError("the machine went down")


def _values(folder, name="last"):
    return load_file(folder / "checkpoints" / name / checkpoint.PARAMETERS)


@ENGINES
def test_it_is_set_from_the_training_split_and_stays(engine, tmp_path, capsys):
    typed = (*TINY, "tracking=none", f"engine={engine}")
    config = app.compose(*typed)
    train(config, tmp_path)
    assert "freeze audit clean: 1 frozen" in capsys.readouterr().out
    source = assembly.components(config).source
    steps = networks.preprocessing(config.dataset, source.spec())
    images = assembly.data(config, source).train.images[:].astype(np.float64) / 255
    prepared = (images - np.array(steps.mean)) / np.array(steps.std)
    expected = whitening(prepared.transpose(0, 3, 1, 2).astype(np.float32))
    found = _values(tmp_path)["whiten.weight"]
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@ENGINES
def test_resumed_equals_uninterrupted(engine, tmp_path):
    typed = (*TINY, "tracking=none", f"engine={engine}", "trainer.checkpoint_every_steps=2")
    train(app.compose(*typed), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="went down"):
        train(app.compose(*typed), tmp_path / "cut", against=Crash())
    resume = f"trainer.resume={tmp_path}/cut/checkpoints/step"
    train(app.compose(*typed, resume), tmp_path / "again")
    again = _values(tmp_path / "again")
    for name, value in _values(tmp_path / "whole").items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


def test_it_is_replayed_to_the_bit_and_exported(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    typed = (
        *TINY,
        f"tracking.uri={uri}",
        "export=default",
        "export.images=16",
        "trainer.epochs=1",
    )
    result = train(app.compose(*typed), tmp_path / "job", typed)
    said = CliRunner().invoke(main, ["replay", result.run_id, "--tracking-uri", uri])
    assert said.output.splitlines()[-1].startswith("equal to the bit: 1 epoch"), said.output


def test_a_layer_that_was_not_set_is_not_frozen(tmp_path):
    with pytest.raises(GluonexpError, match=r"whiten\.weight"):
        train(app.compose(*TINY, "tracking=none", "model.whiten=false"), tmp_path)
