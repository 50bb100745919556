"""Composition: every choice composes, and what cannot work is one clear message."""

import re
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from gluonexp import run
from gluonexp.base.errors import GluonexpError
from gluonexp.config import schema
from gluonexp.sweep.points import digest_of

CONF = Path(run.conf_dir())
CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.stem[0] != "_"
)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_with_the_defaults(compose, choice):
    config = compose(choice)
    group, _, name = choice.partition("=")
    if group == "optim":
        assert config.optim.name == name


def test_the_names_users_type_are_there(compose):
    names = """seed device trainer.epochs trainer.batch_size trainer.log_every optim.lr
    optim.momentum optim.weight_decay dataset.root dataset.val_fraction dataset.resize
    tracking.uri tracking.experiment tracking.run_name export.onnx"""
    config = OmegaConf.structured(compose("optim=sgd"))
    missing = object()
    assert [
        n for n in names.split() if OmegaConf.select(config, n, default=missing) is missing
    ] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=0.1", "Key 'lrr' not in 'AdamConfig'"),
        ("optim.momentum=0.9", "Key 'momentum' not in 'AdamConfig'"),
        ("optim.lr=fast", "optim.lr"),
        ("trainer.epochs=1.5", "trainer.epochs"),
        ("model.hiden=3", "hiden"),
        ("optim=adma", "adamw"),
        ("modle=cnn", "modle"),
        ("dataset=mnist", "fashion_mnist"),
    ],
)
def test_a_typo_dies_while_composing_with_its_key(compose, override, message):
    with pytest.raises(HydraException) as error:
        compose(override)
    assert message in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize(
    "override",
    [
        "trainer.epochs=0",
        "trainer.batch_size=0",
        "trainer.batch_size=-4",
        "trainer.log_every=-1",
        "optim.lr=0",
        "optim.lr=-0.1",
        "optim.lr=nan",
        "optim.weight_decay=-1",
        "optim.beta1=1",
        "dataset.val_fraction=1",
        "dataset.val_fraction=-0.1",
        "dataset.resize=0",
        "dataset.channels=2",
        "dataset.std=[0]",
        "objective.mode=maximum",
        "objective.metric=val/f1",
        "tracking.backend=wandb",
        "export.preprocess=nowhere",
        "export.register=a/b",
        "export.images=0",
        "export.images=257",
        "seed=-1",
        "seed=2147483648",
    ],
)
def test_a_value_out_of_range_is_refused_by_name(compose, override):
    key = override.partition("=")[0]
    with pytest.raises(GluonexpError, match=f"^{re.escape(key)}="):
        compose(override)


def test_edges_of_the_ranges_are_accepted(compose):
    config = compose("dataset.val_fraction=0", "trainer.epochs=1", "optim.weight_decay=0")
    assert config.dataset.val_fraction == 0


def test_a_missing_value_is_named(compose):
    with pytest.raises(GluonexpError, match=r"optim\.lr has no value"):
        compose("optim.lr=???")


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_it(compose):
    config = compose("experiment=fashion_mnist_cnn", "trainer.epochs=1")
    assert config.dataset.name == "fashion_mnist"
    assert (config.optim.lr, config.trainer.batch_size, config.trainer.epochs) == (0.008, 256, 1)


def test_a_composed_config_is_plain_objects(compose):
    config = compose()
    assert isinstance(config, schema.Config)
    assert type(config.model) is dict
    assert type(config.optim) is schema.AdamConfig


def test_a_point_is_told_from_others_by_what_it_computes(compose):
    point = digest_of(compose())
    callback = "callbacks.checkpoint"
    kept = f"++{callback}.keep=3"
    for how in ("tracking=none", "trainer.resume=there", "sweep.fail_fast=true", kept):
        assert digest_of(compose(how)) == point
    for what in ("seed=1", "trainer.epochs=3", f"{callback}.metric=val/loss", f"{callback}=null"):
        assert digest_of(compose(what)) != point
