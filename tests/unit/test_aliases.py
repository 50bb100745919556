"""Names from before the rooms: users' code, recorded configurations and models go on by them."""

import importlib
import sys
from dataclasses import asdict

import numpy as np
import pytest
import yaml

import gluonexp.experiment
import gluonexp.run
from gluonexp.assembly.targets import resolve
from gluonexp.base.aliases import ALIASES, current, former
from gluonexp.cli.settings import settings

# Every `_target_` that a configuration recorded so far may hold.
RECORDED = (
    "gluonexp.models.cnn.cnn",
    "gluonexp.models.mlp.mlp",
    "gluonexp.models.finetune.alexnet_ft",
    "gluonexp.models.finetune.zoo_ft",
    "gluonexp.data.augment.none",
    "gluonexp.data.augment.flip_crop",
    "gluonexp.data.augment.mixup",
    "gluonexp.data.digits.Digits",
    "gluonexp.data.idx.FashionMNIST",
    "gluonexp.data.cifar.CIFAR10",
    "gluonexp.data.folder.ImageFolder",
    "gluonexp.data.synthetic.Synthetic",
    "gluonexp.optim.constant",
    "gluonexp.optim.step",
    "gluonexp.optim.cosine",
    "gluonexp.loss.softmax_cross_entropy",
    "gluonexp.callbacks.Checkpoint",
    "gluonexp.callbacks.EarlyStopping",
)


@pytest.mark.parametrize("old", sorted(ALIASES))
def test_an_old_name_is_the_module_itself(old):
    module = importlib.import_module(old)
    assert module is importlib.import_module(ALIASES[old])
    assert module.__name__ == module.__spec__.name == ALIASES[old]
    assert sys.modules[old] is module


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_target_is_found(name):
    assert resolve(name, "key", ["gluonexp"]) is resolve(current(name), "key", ["gluonexp"])
    assert former(current(name)) == name  # a sweep knows its points again by that


def test_a_name_of_today_stays_as_it_is():
    assert current("gluonexp.lossy") == "gluonexp.lossy"
    assert current("gluonexp.loss.softmax_cross_entropy").startswith("gluonexp.models.loss.")


def test_what_the_readme_names_is_there():
    from gluonexp.callbacks import Checkpoint
    from gluonexp.loop import Callback
    from gluonexp.mx import nn

    from gluonexp.data.types import Samples, Spec, Split

    assert issubclass(Checkpoint, Callback)
    images = Split(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    assert len(Samples(images, None, "two images").train) == 2
    assert Spec(8, 8, 1, ("a", "b")).classes == ("a", "b")
    assert nn.Dense(2).weight.shape == (2, 0)
    assert callable(gluonexp.experiment.run)
    assert callable(gluonexp.run.compose)


def test_a_model_is_scored_by_the_data_that_an_older_version_recorded(compose, tmp_path):
    """Its loss had another name; a constructor of gluonexp that is not in conf/ is refused."""
    old_record = asdict(compose("dataset=digits"))
    old_record["loss"]["_target_"] = "gluonexp.loss.softmax_cross_entropy"
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(old_record))
    assert settings(path, []).dataset == compose("dataset=digits").dataset
