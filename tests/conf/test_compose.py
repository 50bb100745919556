"""Composition: every choice composes, and what cannot work is one clear message."""

import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import GenericAlias
from typing import get_type_hints

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import OmegaConf

from gluonexp import run
from gluonexp.assembly import components
from gluonexp.base.errors import GluonexpError
from gluonexp.config import hydra_private, optimizers, schema
from gluonexp.config.overrides import TEXT_ARGUMENTS, as_typed, text_of, typed
from gluonexp.sweep.points import digest_of
from hydra_plugins.gluonexp import sweepers

CONF = Path(run.conf_dir())
CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.stem[0] != "_"
)
FILES = sorted(CONF.rglob("*.yaml"))


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


def declared(path):
    """Return what the schema says of the place that a file of conf/ is composed into."""
    group = path.parent.name
    if path.parent == CONF or "@package _global_" in path.read_text("utf-8"):
        return OmegaConf.structured(schema.Config)
    if group == "optim":
        return ConfigStore.instance().load(f"schema/optim/{path.stem}.yaml").node
    typed = getattr(schema, f"{group.title()}Config", None)
    return OmegaConf.structured(typed) if typed else OmegaConf.create()


def repeated(given, schema):
    """Return the keys whose values change nothing of what the schema says."""
    found = []
    for key in given:
        if key not in schema or OmegaConf.is_interpolation(given, key):
            continue
        below = schema._get_node(key)
        if is_dataclass(OmegaConf.get_type(below)):
            found += [f"{key}.{inner}" for inner in repeated(given._get_node(key), below)]
        elif OmegaConf.merge(schema, OmegaConf.masked_copy(given, [key])) == schema:
            found.append(key)
    return found


def test_a_default_of_the_schema_stands_in_no_file_as_well():
    # But an experiment says all that was run, whatever becomes of the defaults.
    files = [path for path in FILES if path.parent.name != "experiment"]
    found = {path: repeated(OmegaConf.load(path), declared(path)) for path in files}
    assert {path: keys for path, keys in found.items() if keys} == {}


def constructed(node):
    """Return every part of a configuration that names its constructor."""
    if not isinstance(node, dict):
        return []
    below = [found for value in node.values() for found in constructed(value)]
    return [node, *below] if "_target_" in node else below


def test_hydra_can_look_through_our_plugins_on_python_3_10():
    # There inspect.isclass takes `tuple[int, bytes]` for a class, and issubclass does not.
    for name in ("launchers", "ray_launcher", "submitit_launcher", "sweepers"):
        module = import_module(f"hydra_plugins.gluonexp.{name}")
        aliases = [key for key, held in vars(module).items() if isinstance(held, GenericAlias)]
        assert aliases == [], name


def test_python_and_the_command_line_construct_by_the_same_defaults():
    # Both have to say them: a key that its file does not name cannot be overridden.
    compared = 0
    for path in FILES:
        for node in constructed(OmegaConf.to_container(OmegaConf.load(path))):
            module, _, name = node["_target_"].rpartition(".")
            parameters = signature(getattr(import_module(module), name)).parameters
            for key, value in node.items():
                default = parameters[key].default if key in parameters else None
                if default not in (None, Parameter.empty) and not str(value).startswith("${"):
                    given = tuple(value) if isinstance(value, list) else value
                    assert default == given, f"{path}: {key}"
                    compared += 1
    assert compared > 20


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
    ("override", "message"),
    [
        ("+trainer.epoch=5", r"trainer\.epoch is read by nobody: did you mean trainer\.epochs\?"),
        ("++optim.learning_rate=1", r"optim\.learning_rate is read by nobody: optim has name, lr"),
        ("+trainer.lr_find.step=9", r"did you mean trainer\.lr_find\.steps\?"),
        ("+foo=1", "^foo is read by nobody: the configuration has seed, device"),
        ("+optm=adam", r"did you mean optim\?"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(compose, override, message):
    with pytest.raises(GluonexpError, match=message):
        compose(override)


def test_a_key_that_another_refers_to_is_read(compose):
    assert compose("+width=64", "model.hidden=${width}").model["hidden"] == 64


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("tracking.experiment", "1.10"),
        ("tracking.experiment", "été"),
        ("tracking.run_name", "1e5"),
        ("tracking.run_name", "true"),
        ("dataset.root", "2024_01_01"),
        ("dataset.root", "[old]"),
        ("dataset.root", "photos/a=b"),
        ("dataset.root", "photos (1)"),
        ("dataset.root", "~/photos"),
        ("dataset.root", "rock'n'roll; a&b"),
        ("dataset.source.title", "1_000"),
        ("model.weights", "+.50"),
    ],
)
def test_a_text_is_what_was_typed(compose, key, typed):
    choice = "model=alexnet_ft" if key == "model.weights" else "dataset=cifar10_images"
    config = OmegaConf.structured(compose(choice, f"{key}={typed}"))
    assert OmegaConf.select(config, key) == typed
    if key == "dataset.root":
        assert config.dataset.source.root == typed
    assert as_typed(as_typed([f"{key}={typed}"])) == as_typed([f"{key}={typed}"])


def test_texts_of_a_sweep_are_what_was_typed():
    words = as_typed(["dataset.root=1.10,'a,(b)',2_0, x", "seed=1,2", "model.weights=choice(1.0)"])
    assert words == [
        "dataset.root='1.10','a,(b)','2_0',x",
        "seed=1,2",
        "model.weights=choice('1.0')",
    ]


def test_one_word_is_a_list_of_one(compose):
    assert compose("metrics.names=top5").metrics.names == ["top5"]
    assert compose("notify.when=failed").notify.when == ["failed"]
    assert compose("notify.command=null").notify.command is None
    for word in ("metrics.names=[top5,ece]", "metrics.names=top5,ece", "dataset.mean=0.5"):
        assert as_typed([word]) == [word]


def test_what_is_null_a_reference_or_quoted_stays_it(compose, monkeypatch):
    monkeypatch.setenv("PHOTOS", "/photos")
    assert compose("dataset.root=null").dataset.root is None
    assert compose("dataset.root=${oc.env:PHOTOS}/a (1)").dataset.root == "/photos/a (1)"
    assert compose("tracking.run_name='null'").tracking.run_name == "null"


@pytest.mark.parametrize("override", ["optim.lr=0.1(", "dataset.root=a, b (1)", "+model.name=é"])
def test_a_value_that_cannot_be_read_is_shown_quoted(compose, override):
    with pytest.raises(HydraException) as error:
        compose(override)
    key, _, value = override.partition("=")
    assert f"if a text is meant, type it as \"{key}='{value}'\"" in str(error.value)


@pytest.mark.parametrize(
    "text", ["a b", "a=b", "1.10", "a,b", "r'n'r", "a\\", "(x)", "null", "~/x", "", " a", "a\\'b"]
)
def test_an_override_as_one_types_it_is_read_as_it_was(text):
    (word,) = shlex.split(typed("trainer.resume", text))
    assert text_of(word) == text
    assert as_typed([word]) == [word]


def test_texts_among_the_arguments_of_constructors_are_all_known(compose):
    nodes = {}
    for choice in CHOICES:
        node = compose(choice)
        nodes |= {"dataset.source": node.dataset.source, "model": node.model}
        for key, target in [(key, node["_target_"]) for key, node in nodes.items()]:
            module, _, name = target.rpartition(".")
            hints = get_type_hints(getattr(import_module(module), name))
            texts = {
                f"{key}.{name}" for name in nodes[key] if hints.get(name) in (str, str | None)
            }
            assert texts <= {*TEXT_ARGUMENTS, "dataset.source.on_error"}


@pytest.mark.parametrize("override", ["+callbacks.stop=1", "+callbacks.stop.patience=3"])
def test_a_callback_that_is_none_is_named(compose, override):
    with pytest.raises(GluonexpError, match=r"^callbacks\.stop names no _target_"):
        components(compose(override))


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
    assert type(config.optim) is optimizers.AdamConfig


def test_a_point_is_told_from_others_by_what_it_computes(compose):
    point = digest_of(compose())
    callback = "callbacks.checkpoint"
    kept = f"++{callback}.keep=3"
    moved = "loss._target_=gluonexp.loss.softmax_cross_entropy"  # where it was before the rooms
    for how in ("tracking=none", "trainer.resume=there", "sweep.fail_fast=true", kept, moved):
        assert digest_of(compose(how)) == point
    for what in ("seed=1", "trainer.epochs=3", f"{callback}.metric=val/loss", f"{callback}=null"):
        assert digest_of(compose(what)) != point


def test_a_folder_of_groups_is_recorded_so_that_it_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"path": "my conf (1)", "schema": "file", "provider": "command-line"}
    runtime = {"overrides": {"hydra": []}, "runtime": {"config_sources": [given]}}
    words = sweepers._typed(OmegaConf.create({"hydra": runtime}), ["seed=1,2"])
    assert as_typed(words) == words
    searched = OverridesParser.create().parse_override(words[0])
    assert searched.key_or_group == "hydra.searchpath"
    assert searched.value() == [f"file://{tmp_path}/my conf (1)"]


@pytest.fixture
def other(tmp_path):
    """Another application of Hydra at work in this process: its folder."""
    (tmp_path / "config.yaml").write_text("x: 1", encoding="utf-8")
    with hydra.initialize_config_dir(version_base="1.2", config_dir=str(tmp_path), job_name="it"):
        composed = hydra.compose("config", return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        yield tmp_path
        assert hydra.compose("config", ["x=2"]) == {"x": 2}
        assert HydraConfig.get().job.name == "it"
        assert VersionBase.instance().getbase().minor == 2


@pytest.mark.usefixtures("other")
def test_another_application_of_hydra_goes_on(compose):
    assert compose("seed=3").seed == 3
    with pytest.raises(HydraException):
        compose("modle=cnn")


def test_threads_compose_at_once(compose):
    with ThreadPoolExecutor(4) as pool:
        assert [config.seed for config in pool.map(lambda n: compose(f"seed={n}"), range(8))] == [
            *range(8)
        ]


def test_the_configuration_of_another_application_is_refused():
    with pytest.raises(GluonexpError, match="of another application"):
        schema.to_config(OmegaConf.create({"x": 1}))


def test_where_hydra_has_moved_its_parts_tab_completes_nothing(monkeypatch):
    assert hydra_private.completions(run.conf_dir(), ["optim=ada"])
    monkeypatch.setitem(sys.modules, "hydra._internal.utils", None)
    assert hydra_private.completions(run.conf_dir(), ["optim=ada"]) == []
