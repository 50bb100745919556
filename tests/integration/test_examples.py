"""The tutorials' scripts as they stand, and again tracked: what changed, and what that gives."""

import difflib
import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gluonexp.base.mx import gluon, mx, nd
from gluonexp.cli import main
from gluonexp.data.cifar import CLASSES as ANIMALS
from gluonexp.data.idx import CLASSES as CLOTHES
from gluonexp.model_folder.signature import read
from gluonexp.tracking.read.runs import reader

EXAMPLES = Path(__file__).parents[2] / "examples"
PAIRS = ("gluon_to_symbol", "fine_tuning")
MOST = 6  # lines that are added or removed; one that is changed is both


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(np, "bool", np.bool_)  # the scripts set it, for good


def run(name, *options):
    """Run an example as ``python examples/NAME.py`` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def gluonexp(*words):
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def epochs(said):
    """Return what a script printed of its epochs, without the seconds."""
    return [line.partition(" s\n")[0].rpartition(",")[0] for line in said if "Epoch" in line]


def changed(name):
    before, after = (
        (EXAMPLES / f"{each}.py").read_text("utf-8").splitlines()
        for each in (name, f"{name}_tracked")
    )
    return [line for line in difflib.ndiff(before, after) if line[0] in "+-"]


@pytest.mark.parametrize("name", PAIRS)
def test_tracking_changes_at_most_six_lines(name):
    lines = changed(name)
    assert 0 < len(lines) <= MOST, lines
    told = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"{line[0]}{line[2:]}" in told for line in lines)


def fashion_mnist(folder, count=40):
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = draw.integers(0, 256, (count, 28, 28), np.uint8)
        for path, header, content in (
            (folder / f"{part}-images-idx3-ubyte.gz", (2051, count, 28, 28), images),
            (folder / f"{part}-labels-idx1-ubyte.gz", (2049, count), labels),
        ):
            path.write_bytes(gzip.compress(np.array(header, ">i4").tobytes() + content.tobytes()))


def cifar10(folder, count=10):
    draw = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        labels = np.arange(count, dtype=np.uint8)[:, None] % 10
        images = draw.integers(0, 256, (count, 3072), np.uint8)
        np.concatenate([labels, images], axis=1).tofile(folder / name)


def test_gluon_to_symbol(tmp_path, capsys):
    fashion_mnist(tmp_path)
    options = ("--root", tmp_path, "--epochs", 2, "--batch-size", 16, "--limit", 36)
    run("gluon_to_symbol", *options)
    plain = capsys.readouterr().out.splitlines(keepends=True)
    made = {
        path.name for path in tmp_path.iterdir() if path.suffix in (".params", ".json", ".png")
    }
    symbol = {"fashion_mnist-symbol.json", "fashion_mnist-0002.params"}
    assert made == {"gluon.params", "prediction.png", *symbol}
    assert len(epochs(plain)) == 2 and plain[-1].startswith("Predicted: ")

    run("gluon_to_symbol_tracked", *options)
    tracked = capsys.readouterr().out.splitlines(keepends=True)
    assert epochs(tracked) == epochs(plain)  # tracking changes nothing of what is computed
    (found,) = reader(None).newest()
    assert (found.name, found.status) == ("gluon-to-symbol", "FINISHED")
    assert found.metrics.keys() == {"train/loss", "train/acc", "test/acc"}
    assert found.params["lr"] == "0.008" and found.params["data.test_images"] == "36"
    assert "36/36" in gluonexp("verify", "last")
    export = Path("mlruns/artifacts/gluonexp") / found.run_id / "artifacts/export"
    assert read(export).classes == CLOTHES
    arrays = mx.nd.load("fashion_mnist-0002.params"), mx.nd.load(f"{export}/model-0000.params")
    assert sorted(float(each.sum().asscalar()) for each in arrays[0].values()) == sorted(
        float(each.sum().asscalar()) for each in arrays[1].values()
    )


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """Write AlexNet's parameters, random ones: the published ones are 244 MB to download."""
    net = gluon.model_zoo.vision.alexnet()
    net.initialize(mx.init.Normal(0.02))
    with mx.autograd.pause():
        net(nd.zeros((1, 3, 224, 224)))
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.params"
    net.save_parameters(str(path))
    yield path
    path.unlink()


def test_fine_tuning(alexnet, tmp_path, capsys):
    cifar10(tmp_path)
    options = ("--root", tmp_path, "--params", alexnet, "--batch-size", 4, "--limit", 8)
    run("fine_tuning", *options)
    plain = epochs(capsys.readouterr().out.splitlines(keepends=True))
    net = run("fine_tuning_tracked", *options)["net"]
    assert epochs(capsys.readouterr().out.splitlines(keepends=True)) == plain
    before = mx.nd.load(str(alexnet))
    for name, value in net[0]._collect_params_with_prefix().items():  # they are frozen
        np.testing.assert_array_equal(before[f"features.{name}"].asnumpy(), value.data().asnumpy())
    (found,) = reader(None).newest()
    assert (found.name, found.status) == ("fine-tuning", "FINISHED")
    assert found.metrics.keys() == {"train/loss", "train/acc", "test/acc"}
    export = Path("mlruns/artifacts/gluonexp") / found.run_id / "artifacts/export"
    signature = read(export)
    assert signature.classes == ANIMALS and signature.image == (224, 224, 3)
    assert signature.preprocess.mean == pytest.approx((0.485, 0.456, 0.406))
    assert "4/4" in gluonexp("verify", "last")
