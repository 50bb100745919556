"""Models from anybody: `predict`, `verify` and `evaluate` run nothing that is in them.

Every model here would make a file if any of its code ran, one way or another.
"""

import io
import json
import os
import pickle
import shutil
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from gluonexp import experiment
from gluonexp.base.files import sha256
from gluonexp.base.workers import Workers
from gluonexp.cli import main
from gluonexp.run import compose as composed
from gluonexp.tracking import open_store
from gluonexp.verification import score, verify

ROOT = Path(__file__).parents[2]
MARK = "it-ran"

# Imported, called or unpickled: each makes the file.
EVIL = f"""\
import pathlib
def make(*args, **kwargs):
    (pathlib.Path(__file__).parent / "{MARK}").touch()
make()
_load_pyfunc = load_model = make
class Data:
    def __init__(self):
        make()
        raise ValueError("no data")
"""


class Bomb:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """Train, export and certify; return the artifacts of the run, which are in order."""
    folder = tmp_path_factory.mktemp("certified")
    overrides = ["model=mlp", "trainer.epochs=1", "dataset.source.size=8", "tracking=none"]
    experiment.run(composed(*overrides), folder, overrides, Console(file=io.StringIO()))
    artifacts = folder / "artifacts"
    assert (artifacts / "export" / "certificate.json").exists()
    return artifacts


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A worker for the proofs, which could import evil.py."""
    folder = tmp_path_factory.mktemp("importable")
    (folder / "evil.py").write_text(EVIL)
    with Workers(1, score.warm_up) as workers, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
        workers.start()
        patch.undo()
        yield workers
        ((_, found),) = workers.stream([(0, lambda: find_spec("evil").origin, ())])
        assert found == str(folder / "evil.py")
    assert not (folder / MARK).exists()


@pytest.fixture
def model(certified, tmp_path, monkeypatch, one_pool, pool):
    """Return a copy of the run; commands are given beside it, where evil.py can be imported."""
    shutil.copytree(certified, tmp_path / "model")
    (tmp_path / "evil.py").write_text(EVIL)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.setattr(verify, "workers", lambda macs=None: one_pool(pool))
    yield tmp_path / "model"
    sys.modules.pop("evil", None)


def ask(*command, status=1):
    """Give a command; return what it says."""
    result = CliRunner().invoke(main, command)
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


COMMANDS = {
    "predict": ["predict", "model", "image.png"],
    "verify": ["verify", "model"],
    "evaluate": ["evaluate", "model"],
}
EACH = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def ran(model):
    return (model.parent / MARK).exists()


@EACH
def test_the_honest_model_is_used(model, command):
    ask(*command, status=0)
    assert not ran(model)


def vouch(model):
    """Let the certificate have the right digests: it vouches for whatever is there."""
    path = model / "export" / "certificate.json"
    certificate = json.loads(path.read_text())
    certificate["files"] = {
        file.name: sha256(file) for file in path.parent.iterdir() if file != path
    }
    path.write_text(json.dumps(certificate))


# --- parameters and symbols ----------------------------------------------------------------------


@EACH
def test_pickled_parameters_are_refused(model, command):
    path = model / "export" / "model-0000.params"
    path.write_bytes(pickle.dumps(Bomb(f"touch {model.parent / MARK}")))
    pickle.loads(path.read_bytes())  # it would
    assert ran(model)
    (model.parent / MARK).unlink()
    vouch(model)
    assert "model-0000.params: not a file of MXNet's NDArrays" in ask(*command)
    assert not ran(model)


@EACH
@pytest.mark.parametrize("operator", ["_Native", "Custom", "scatter_nd", "SequenceReverse"])
def test_operators_that_call_what_they_are_told_are_refused(model, command, operator):
    path = model / "export" / "model-symbol.json"
    graph = json.loads(path.read_text())
    node = next(node for node in graph["nodes"] if node["op"] != "null")
    node |= {"op": operator, "attrs": {"info": "0x41414141", "op_type": "evil"}}
    path.write_text(json.dumps(graph))
    vouch(model)
    assert f"its operator {operator} can run code" in ask(*command)
    assert not ran(model)


@EACH
def test_a_reshape_beyond_its_array_is_refused(model, command):
    path = model / "export" / "model-symbol.json"
    graph = json.loads(path.read_text())
    node = next(node for node in graph["nodes"] if node["op"] == "Flatten")
    node |= {"op": "Reshape", "attrs": {"shape": "(1, -1)"}}  # which is right for one image
    path.write_text(json.dumps(graph))
    vouch(model)
    assert "refused: it does not take 1 to 64 images at once" in ask(*command)
    assert not ran(model)


@EACH
def test_a_link_below_the_export_is_refused(model, command):
    (model / "export" / "below").mkdir()
    (model / "export" / "below" / "x").symlink_to("/etc/hostname")
    assert "is a link that leaves the folder" in ask(*command).replace("\n", " ")


@EACH
def test_a_class_cannot_command_the_terminal(model, command):
    path = model / "export" / "signature.json"
    signature = json.loads(path.read_text())
    signature["classes"][0] = "\x1b]0;owned\x07"
    path.write_text(json.dumps(signature))
    vouch(model)
    told = ask(*command)
    assert "characters that command a terminal" in told.replace("\n", " ")
    assert "\x1b" not in told


# --- MLflow's models -----------------------------------------------------------------------------


def mlmodel(folder, **flavor):
    loader = {"loader_module": "evil", "code": "code", "data": "data", "env": {}} | flavor
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "evil.py").write_text(EVIL)
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Bomb("true")))
    flavors = {"python_function": loader, "gluonexp": loader}
    text = yaml.safe_dump({"flavors": flavors, "model_uuid": "0" * 32})
    (folder / "MLmodel").write_text(text + "extra: !!python/object/apply:evil.make []\n")


@EACH
def test_an_mlmodel_is_not_obeyed(model, command):
    mlmodel(model)
    ask(*command, status=0)  # the export beside it is read, and nothing else
    assert not ran(model)
    assert not (model / "code" / MARK).exists()


@EACH
def test_a_model_that_is_nothing_but_code_is_refused(model, command):
    shutil.rmtree(model)
    mlmodel(model)
    assert "signature.json is missing" in ask(*command)
    assert not ran(model)
    assert not (model / "code" / MARK).exists()


def test_a_registered_model_is_not_obeyed_either(model, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = open_store(uri)
    client.create_registered_model("foreign")
    for inside in ("data", None):
        folder = tmp_path / "registered" / str(inside)
        mlmodel(folder)
        if inside:
            shutil.copytree(model / "export", folder / inside)
        client.create_model_version("foreign", str(folder))
    ask("predict", "models:/foreign/1", "image.png", status=0)
    told = ask("predict", "models:/foreign/2", "image.png")
    assert "signature.json is missing" in told
    assert not list(tmp_path.rglob(MARK))


# --- configurations ------------------------------------------------------------------------------


def record(model, change):
    path = model / "config" / "resolved.yaml"
    whole = yaml.safe_load(path.read_text())
    change(whole)
    path.write_text(yaml.safe_dump(whole))


TARGETS = {
    "own-package": ("evil.make", "build.allow=[evil]"),
    "class": ("evil.Data", "build.allow=[evil]"),
    "system": ("os.system", "build.allow=[os]"),
    "imported": ("gluonexp.data.folder.os.system", "is not what gluonexp itself has there"),
    "other-part": ("gluonexp.base.download.fetch", "is not what gluonexp itself has there"),
    "other-data": ("gluonexp.data.cifar.Cifar10", "is not what gluonexp itself has there"),
}


@pytest.mark.parametrize("node", ["dataset", "loss"])
@pytest.mark.parametrize(("target", "told"), TARGETS.values(), ids=TARGETS)
def test_a_record_cannot_name_code(model, node, target, told):
    def change(whole):
        whole["build"]["allow"] = ["evil", "os"]
        bad = {"_target_": target, "command": f"touch {model.parent / MARK}"}
        if node == "dataset":
            whole["dataset"]["source"] = bad
        else:
            whole["loss"] = bad

    record(model, change)
    assert told in ask("evaluate", "model")
    assert not ran(model)


def test_nor_under_the_name_of_no_data_set_of_ours(model):
    def change(whole):
        whole["build"]["allow"] = ["evil"]
        whole["dataset"]["name"] = "../dataset/digits"
        whole["dataset"]["source"] = {"_target_": "evil.Data"}

    record(model, change)
    assert "build.allow=[evil]" in ask("evaluate", "model")
    assert not ran(model)


def test_nor_within_an_argument(model):
    def change(whole):
        whole["build"]["allow"] = ["evil"]
        whole["dataset"]["source"]["size"] = {"_target_": "evil.make"}

    record(model, change)
    assert "only gluonexp may be named" in ask("evaluate", "model")
    assert not ran(model)


def test_what_the_user_allows_is_run(model):
    def change(whole):
        whole["dataset"]["source"] = {"_target_": "evil.Data"}

    record(model, change)
    assert "no data" in ask("evaluate", "model", "build.allow=[evil]")
    assert ran(model)  # the other tests would see it


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dataset: !!python/object/apply:evil.make []", "not the configuration of a run"),
        ("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\ndataset: {source: [*b, *b]}", "configuration"),
        ("dataset: &d {source: *d}\nloss: {}\nseed: 0", "nested too deeply"),
        ("dataset: {name: digits, root: '${oc.env:HOME}'}\nloss: {}\nseed: 0", "refers to some"),
        ("dataset: {name: digits, 'a.b': 1}\nloss: {}\nseed: 0", "has the key 'a.b'"),
        ("dataset: {name: digits, root: [[1]]}\nloss: {}\nseed: 0", "more than values"),
        ("dataset: {'source[_target_]': os.system}\nloss: {}\nseed: 0", "has the key 'source["),
        ("x" * (1 << 21), "larger than any configuration"),
    ],
    ids=["object", "bomb", "endless", "reference", "key", "list", "brackets", "huge"],
)
def test_a_record_is_only_plain_values(model, text, told):
    (model / "config" / "resolved.yaml").write_text(text)
    assert told in ask("evaluate", "model")
    assert not ran(model)


def test_a_record_of_honest_data_is_not_needed(model):
    record(model, lambda whole: whole["dataset"].update(source={"_target_": "evil.make"}))
    typed = ["dataset=digits", "dataset.source.size=8"]
    assert "accuracy" in ask("evaluate", "model", *typed, status=0)
    assert not ran(model)
    assert asdict(composed(*typed))["dataset"]["source"]["size"] == 8
