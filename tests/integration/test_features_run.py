"""What is frozen is computed once: in runs, and in what is around them."""

import copy
import functools
import io
import json
import multiprocessing
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import load_file

from gluonexp import experiment, tracking
from gluonexp import run as app
from gluonexp.base.arrays import ArrayCache
from gluonexp.base.errors import GluonexpError
from gluonexp.base.imports import installed
from gluonexp.base.mx import mx, nn
from gluonexp.cli.settings import settings
from gluonexp.config.schema import FeaturesConfig
from gluonexp.data.types import Samples, Spec, Split
from gluonexp.experiment.opening import opened
from gluonexp.features import compute, outlook
from gluonexp.training import checkpoint
from gluonexp.training.loop import Callback

HERE = "tests.integration.test_features_run"
TINY = [
    *("dataset=synthetic", f"dataset.source._target_={HERE}.Patterns", "export=none"),
    *("model=mlp", "~model.hidden", f"model._target_={HERE}.Tiny", "build.allow=[tests]"),
    *("tracking=none", "trainer.epochs=1", "trainer.batch_size=16", "optim=sgd", "optim.lr=0.05"),
    *("dataset.source.train=100", "dataset.source.test=30", "dataset.source.classes=3"),
    *(
        "dataset.source.size=8",
        "features.engine=mxnet",
        "callbacks.checkpoint.keep=1",
        "freeze.name=first",
    ),
    "freeze.rules=[{match: 'front.*', state: frozen}, {match: '*'}]",
]
OPENVINO = pytest.mark.skipif(
    len(installed("openvino", "onnx")) < 2, reason="OpenVINO or ONNX is not installed"
)

TORCH = pytest.mark.skipif(not installed("torch"), reason="PyTorch is not installed")


class Known(mx.init.Initializer):
    """Values that no seed changes, as those of pretrained parameters; by `more` larger."""

    def __init__(self, more):
        super().__init__(more=more)
        self.more = more

    def _init_weight(self, name, array):
        values = np.random.default_rng(len(name)).normal(0, 0.5, array.shape)
        values.flat[0] += self.more
        array[:] = values


class Tiny(nn.HybridBlock):
    """A front of two blocks that has its values, and a rest with BatchNorm and dropout."""

    def __init__(self, classes, dropout=0.0, more=0.0, scale=0.05, dense=False):
        super().__init__(prefix="")
        self.front = nn.HybridSequential(prefix="front_")
        self.rest = nn.HybridSequential(prefix="rest_")
        with self.front.name_scope():
            for amount in (0, more):
                block = nn.HybridSequential()
                with block.name_scope():
                    block.add(nn.Conv2D(4, 3, weight_initializer=Known(amount)))
                    block.add(nn.BatchNorm(), nn.Activation("relu"))
                self.front.add(block)
        with self.rest.name_scope():
            if not dense:
                self.rest.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"))
            self.rest.add(nn.Dropout(dropout), nn.Dense(8, activation="relu"))
            last = mx.init.Uniform(scale) if scale else mx.init.Zero()
            self.rest.add(nn.Dense(classes, weight_initializer=last))

    def hybrid_forward(self, F, x):
        return self.rest(self.front(x))


class Listed:
    """Images that are no array, but can be used as one; reading some may be interrupted."""

    def __init__(self, images, interrupted=None):
        self.images, self.interrupted = images, interrupted
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self):
        return len(self.images)

    def __getitem__(self, chosen):
        if isinstance(chosen, slice) and chosen.start and chosen.start == self.interrupted:
            raise KeyboardInterrupt
        return self.images[chosen]

    def take(self, chosen, axis):
        return self.images.take(chosen, axis=axis)


class Patterns:
    """A pattern for each class, under noise, in whatever a source may hand images over."""

    def __init__(
        self,
        *,
        size=8,
        channels=1,
        classes=3,
        train=100,
        test=30,
        seed=0,
        kind="array",
        changed=0,
        relabelled=0,
        interrupted=None,
    ):
        self.image, self.classes, self.counts = (size, size, channels), classes, (train, test)
        self.seed, self.kind, self.changed = seed, kind, changed
        self.relabelled, self.interrupted = relabelled, interrupted

    def spec(self):
        return Spec(*self.image, tuple("abcdefghij"[: self.classes]))

    def split(self, count, seed):
        rng = np.random.default_rng(self.seed + seed)
        labels = rng.integers(0, self.classes, count)
        patterns = np.random.default_rng(0).integers(0, 256, (self.classes, *self.image))
        images = 0.3 * patterns[labels] + 0.7 * rng.integers(0, 256, (count, *self.image))
        return images.astype(np.uint8), labels

    def load(self):
        images, labels = self.split(self.counts[0], 1)
        images[7, 3, 3] += self.changed
        labels[: self.relabelled] = 0
        train, test = Split(images, labels), Split(*self.split(self.counts[1], 2))
        if self.kind == "same":
            test = Split(images, labels)
        if self.kind == "map":
            np.save("images.npy", images)
            train = Split(np.load("images.npy", mmap_mode="r"), labels)
        if self.kind == "list":
            train = Split(Listed(images, self.interrupted), labels)
        return Samples(train, test, "patterns")


class Losses(Callback):
    """Note the mean loss of each step."""

    seen = []  # noqa: RUF012

    def epoch_start(self, fit):
        self.sum = self.samples = 0

    def batch_end(self, fit):
        scores = fit.engine.running()
        total = scores.loss * scores.samples
        self.seen.append((total - self.sum) / (scores.samples - self.samples))
        self.sum, self.samples = total, scores.samples


LOSSES = f"+callbacks.losses={{_target_: {HERE}.Losses}}"


@functools.cache
def composed(*overrides):
    return app.compose(*TINY, *overrides)


def configured(folder, overrides, values):
    """Compose, then change some values (``optim__lr=1``): that is faster than to compose anew."""
    config = copy.deepcopy(composed(*overrides))
    for name, value in {"features__folder": str(folder), **values}.items():
        *path, last = name.split("__")
        node = config
        for part in path:
            node = node[part] if isinstance(node, dict) else getattr(node, part)
        if isinstance(node, dict):
            node[last] = value
        else:
            setattr(node, last, value)
    return config


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where features are kept."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "arrays"


@pytest.fixture
def train(kept, tmp_path):
    """Train as typed, in a folder of its own; return result, and what was said."""

    def run(*overrides, **values):
        console = Console(file=io.StringIO(), width=500)
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        config = configured(kept, overrides, values)
        result = experiment.run(config, folder, overrides, console)
        return result, console.file.getvalue()

    return run


@pytest.fixture
def look(kept, tmp_path):
    """Open a run as typed, up to its features; return them by split, and what was said."""

    def made(*overrides, folder=kept, **values):
        console = Console(file=io.StringIO(), width=500)
        config = configured(folder, overrides, values)
        with opened(config, tmp_path / f"job{len(list(tmp_path.iterdir()))}", [], console) as run:
            found = run.shortcut.enter(0, run.data.splits())
            run.shortcut.leave()
        return found, console.file.getvalue()

    return made


def timeless(history):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in history]


def parameters(result):
    return load_file(result.folder / "checkpoints" / "last" / checkpoint.PARAMETERS)


def alike(first, second, tolerance=1e-4):
    """Compare two trained networks: what was measured on the way, and what came of it."""
    for one, other in zip(timeless(first.history), timeless(second.history), strict=True):
        assert one == pytest.approx(other, rel=tolerance)
    assert [name for name in first.metrics if name.startswith("test/")]
    for name, value in first.metrics.items():
        if not name.startswith("time/"):
            assert second.metrics[name] == pytest.approx(value, rel=tolerance)
    mine, theirs = parameters(first), parameters(second)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_allclose(theirs[name], value, tolerance, tolerance, err_msg=name)


def lines(said, *words):
    return [line for line in said.splitlines() if all(word in line for word in words)]


COMPUTED = "computing the features of 100 images (train and val) once"
FOUND = "features of 100 images (train and val) are from the cache"


# The same training.


@pytest.mark.parametrize(
    ("overrides", "values", "tolerance"),
    [
        (["optim=sgd"], {"optim__momentum": 0.9}, 1e-4),
        (["optim=sgd"], {"optim__momentum": 0.9, "model__dense": True}, 1e-4),
        (["optim=sgd"], {"optim__weight_decay": 0.01, "model__dense": True}, 1e-4),
        (["optim=adam"], {"optim__lr": 0.005}, 1e-4),
        (["optim=sgd"], {"optim__clip_norm": 0.1, "model__more": 1.5}, 1e-4),
        pytest.param(
            ["optim=sgd"], {"optim__momentum": 0.9, "features__engine": "openvino"}, 1e-3,
            marks=OPENVINO,
        ),
    ],
    ids=["sgd", "dense", "plain dense", "adam", "clipped", "openvino"],
)  # fmt: skip
def test_cached_training_is_live_training(train, overrides, values, tolerance):
    results, losses = [], []
    for cache in ("on", "off"):
        Losses.seen = []
        result, said = train(
            *overrides, LOSSES, **values, features__cache=cache, trainer__epochs=4,
            trainer__test_each_epoch=True,
        )  # fmt: skip
        results.append(result)
        losses.append(Losses.seen)
        assert bool(lines(said, COMPUTED)) == (cache == "on")
        assert "freeze audit clean: 12 frozen" in said
    assert len(losses[0]) == 24
    np.testing.assert_allclose(*losses, atol=tolerance)
    alike(*results, tolerance)


def test_where_early_stopping_stops_is_the_same(train):
    stopping = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    ended = [
        train(*stopping, features__cache=cache, trainer__epochs=9, optim__lr=0.3)[0]
        for cache in ("on", "off")
    ]
    assert len(ended[0].history) < 9 and ended[0].ending == ended[1].ending
    alike(*ended)


def test_dropout_behind_the_front_goes_on_drawing(train):
    result, said = train(model__dropout=0.5)
    assert lines(said, "computed once: 4 of 9 layers")
    live, _ = train(model__dropout=0.5, features__cache="off")
    alike(result, live)  # drawn from the same numbers


# What is found, and what is not.


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder in which the features of this network on these images are."""
    folder = tmp_path_factory.mktemp("shared")
    with opened(
        configured(folder / "arrays", (), {}), folder / "job", [], Console(file=io.StringIO())
    ) as run:
        run.shortcut.enter(0, run.data.splits())
    return folder / "arrays"


@pytest.mark.parametrize(
    ("values", "hit"),
    [
        ({}, True),
        ({"seed": 3, "dataset__val_fraction": 0.3}, True),
        ({"optim__lr": 0.1, "trainer__batch_size": 32}, True),
        ({"dataset__train_fraction": 0.8}, True),
        ({"model__scale": 0.2, "model__dropout": 0.5}, True),  # behind the front
        ({"dataset__source__relabelled": 9}, True),
        ({"features__cache": "on", "features__budget_gb": 1}, True),
        ({"model__more": 1e-6}, False),
        ({"dataset__source__changed": 1}, False),
        ({"dataset__source__train": 101}, False),
        ({"dataset__resize": 10}, False),
        ({"dataset__mean": [0.4]}, False),
        ({"features__dtype": "float16"}, False),
        pytest.param({"features__engine": "openvino"}, False, marks=OPENVINO),
    ],
    ids=str,
)
def test_what_features_are_of(look, shared, values, hit):
    found, said = look(folder=shared, **values)
    among = " among them" if "dataset__train_fraction" in values else ""
    assert bool(lines(said, f"images (train and val{among}) are from the cache")) == hit
    assert bool(lines(said, "computing the features of", f"(train and val{among})")) != hit
    assert found["train"].images.shape[1] == 4


def test_of_a_small_part_no_more_is_computed_than_it_needs(look):
    _, said = look(dataset__train_fraction=0.2)
    (line,) = lines(said, "computing the features of", "(train and val)")
    assert "of 27 images" in line or "of 28 images" in line
    found, said = look(dataset__train_fraction=0.2, optim__lr=0.1)
    assert lines(said, "(train and val) are from the cache")
    _, said = look(dataset__train_fraction=0.2, seed=1)
    assert lines(said, "computing the features of", "(train and val)")
    whole, _ = look()
    part = found["train"]
    assert part.images.shape == (len(part), 4, 4, 4)
    for image in np.asarray(part.images):
        assert (np.asarray(whole["train"].images) == image).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("kind", ["list", "map", "same"])
def test_images_of_any_kind(look, kind):
    array, _ = look()
    found, said = look(dataset__source__kind=kind)
    if kind == "same":
        assert len(lines(said, "100 images (train and val and test)")) == 1
        assert np.asarray(found["test"].images).shape == (100, 4, 4, 4)
    else:
        assert lines(said, FOUND)
    np.testing.assert_array_equal(found["train"].images, array["train"].images)
    np.testing.assert_array_equal(found["val"].images, array["val"].images)


# Not trusted, not there, not possible.


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.name.startswith("features-"))


def replaced(folder, change):
    """Put other values into the place of an entry, with digests that are right."""
    meta = json.loads((folder / "meta.json").read_text())
    values = change(np.load(folder / "array.npy"))
    shutil.rmtree(folder)

    def fill(array):
        array[:] = values

    made = ArrayCache(folder.parent, 1e9).get(
        "features", meta["key"], meta["shape"], meta["dtype"], fill, "cheats"
    )
    assert made.folder == folder and made.made


@pytest.mark.parametrize(
    ("of", "change"),
    [
        (100, lambda values: values * 1.01),
        (100, lambda values: np.where(values > 0.5, np.nan, values)),
        (100, np.zeros_like),
        (30, lambda values: values[::-1]),
    ],
    ids=["larger", "NaN", "zero", "test"],
)
def test_features_that_lead_elsewhere_are_refused_by_name(train, kept, of, change, tmp_path):
    more = {"trainer__test_each_epoch": True, "trainer__epochs": 2}
    expected, _ = train(**more)
    (entry,) = [each for each in entries(kept) if len(np.load(each / "array.npy")) == of]
    replaced(entry, change)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = ["tracking=mlflow"] if of == 30 else []
    result, said = train(*tracked, tracking__uri=uri, **more)
    why = "those of 4 of 9 layers of Tiny (mxnet, float32) lead to logits that differ by "
    remedy = f"anew: gluonexp cache clear --kind features --folder {kept}. Every epoch"
    assert lines(said, f"not used: {why}", "from the network's, where 1e-04 is allowed", remedy)
    if tracked:
        tags = tracking.open_store(uri).get_run(result.run_id).data.tags
        assert tags["gluonexp.features"].startswith(f"not used: {why}")
    alike(result, expected)


def test_where_the_network_says_nothing_yet_nothing_is_proved(look):
    """A last layer that begins with zeros: any features would give its logits."""
    found, said = look(model__scale=0.0)
    assert lines(said, "not used: they cannot be proved right, as all logits of the network are 0")
    assert found["train"].images.dtype == np.uint8


@pytest.mark.parametrize("problem", ["budget", "folder"])
def test_what_cannot_be_kept_is_said_and_the_run_goes_on(train, kept, problem):
    live, _ = train(features__cache="off")
    if problem == "budget":
        result, said = train(features__budget_gb=1e-6)
        assert lines(said, "not used: ", "no room for 26 kB more", "budget_gb", "Every epoch")
    else:
        kept.write_text("a file")
        result, said = train(features__cache="on")
        assert lines(said, "not used: ", str(kept), "features.folder", "Every epoch")
    assert result.ending.status == "FINISHED"
    alike(result, live)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_entry_is_made_again(look, kept, damage, capsys):
    found, _ = look()
    before = {name: np.array(split.images) for name, split in found.items()}
    del found
    for entry in entries(kept):
        with (entry / "array.npy").open("r+b") as file:
            if damage == "cut":
                file.truncate(1000)
            else:
                file.seek(300)
                byte = file.read(1)
                file.seek(300)
                file.write(bytes([byte[0] ^ 4]))
    found, said = look()
    assert lines(said, COMPUTED)
    assert capsys.readouterr().err.count("it is made again") == 2
    for name, split in found.items():
        np.testing.assert_array_equal(split.images, before[name])


@pytest.mark.parametrize("where", [64, 4096])
def test_ctrl_c_while_features_are_computed_leaves_nothing(train, kept, where, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    more = {"dataset__source__kind": "list", "dataset__source__train": 5000}
    with pytest.raises(KeyboardInterrupt):
        train("tracking=mlflow", tracking__uri=uri, dataset__source__interrupted=where, **more)
    assert not kept.exists() or entries(kept) == [] == [*kept.glob(".new-*")]
    client = tracking.open_store(uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["augment=flip_crop"], "augment=flip_crop draws at random"),
        (["augment=mixup"], "augment=mixup draws at random"),
        (
            [f"augment._target_={HERE}.own_augmentation"],
            "augment=own_augmentation draws at random",
        ),
    ],
    ids=str,
)
def test_random_images_have_no_features(look, overrides, why, kept, tmp_path):
    found, said = look(*overrides)
    assert found is None and f"computed once: nothing, {why}\n" in said
    assert not kept.exists()
    with pytest.raises(GluonexpError) as error:
        look(*overrides, features__cache="on")
    assert str(error.value) == (
        f"features.cache=on: nothing of the network can be computed once, {why}; "
        "features.cache=auto trains it all the same"
    )
    assert not (tmp_path / "job2").exists()  # before there is a run


def own_augmentation():
    return lambda images, rng: images[:, ::-1]


def test_an_engine_or_a_precision_that_is_not_there(look, monkeypatch):
    with pytest.raises(GluonexpError, match=r"^features\.precision=bfloat16 is OpenVINO's"):
        look(features__precision="bfloat16")
    monkeypatch.setattr(outlook, "installed", lambda *packages: {})
    message = r"^features\.engine=openvino: OpenVINO and ONNX are not installed: .*engine=mxnet$"
    with pytest.raises(GluonexpError, match=message):
        look(features__engine="openvino")
    with pytest.raises(GluonexpError, match=r"^features\.engine=torch: PyTorch is not installed"):
        look(features__engine="torch")
    # A configuration that was recorded where they are installed, and needs none of them here.
    found, _ = look(features__engine="openvino", features__cache="off")
    assert found is None
    found, said = look(features__engine="auto")
    assert lines(said, "computed once: 4 of 9 layers", "(mxnet, float32)") and found


@pytest.mark.parametrize(
    "values",
    [
        {"features__dtype": "float16"},
        pytest.param(
            {"features__engine": "openvino", "features__precision": "bfloat16"}, marks=OPENVINO
        ),
        pytest.param({"features__engine": "torch"}, marks=TORCH),
        pytest.param(
            {"features__engine": "torch", "features__precision": "bfloat16"}, marks=TORCH
        ),
    ],
    ids=str,
)
def test_other_arithmetic(train, values, kept):
    if "features__precision" in values and not bfloat16(values["features__engine"]):
        pytest.skip("this processor has no bfloat16")
    result, said = train(**values)
    assert lines(said, COMPUTED) and not lines(said, "differ")
    live, _ = train(features__cache="off")
    for name, value in live.metrics.items():
        if name.endswith("loss"):
            assert result.metrics[name] == pytest.approx(value, rel=0.02)
    dtype = np.load(entries(kept)[0] / "array.npy").dtype
    assert dtype == values.get("features__dtype", "float32")


def bfloat16(engine):
    if engine == "torch":
        import torch

        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_what_openvino_cannot_load_is_no_end_of_the_run(look, monkeypatch):
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")

    def write(network, folder, image, dtype):
        (folder / "model.onnx").write_bytes(b"no model")
        return folder / "model.onnx"

    monkeypatch.setattr(compute.convert, "write", write)
    found, said = look(features__engine="openvino")
    (line,) = lines(said, "features are not used: OpenVINO cannot load it: ")
    assert line.endswith("features.engine=mxnet needs no ONNX. Every epoch computes all layers")
    assert found["train"].images.dtype == np.uint8


@TORCH
def test_what_pytorch_cannot_compute_is_no_end_of_the_run(look, monkeypatch):
    def refuse(*arguments):
        raise GluonexpError("engine=torch: layer a (B) cannot be computed; take engine=mxnet")

    from gluonexp.engines.torch import features

    monkeypatch.setattr(features, "lower", refuse)
    found, said = look(features__engine="torch")
    (line,) = lines(said, "features are not used: layer a (B) cannot be computed; ")
    assert line.endswith("computed; features.engine=mxnet can. Every epoch computes all layers")
    assert found["train"].images.dtype == np.uint8


# What is around it.

GRADUAL = [
    *("freeze.unfreeze=[{epoch: 2, match: 'front.1.*'}, {epoch: 4, match: 'front.*'}]",),
    *("trainer.epochs=6", "optim.momentum=0.9"),
]


def test_a_front_becomes_shorter_and_goes_as_it_is_released(train):
    live, _ = train(*GRADUAL, features__cache="off")
    whole, said = train(*GRADUAL)
    alike(whole, live)
    assert lines(said, "computed once: 4 of 9 layers, 83% of the arithmetic, until epoch 2 (mxnet")
    spoken = [line for line in said.splitlines() if line.startswith(("epoch", "comput", "Epoch"))]
    assert [line.partition(".")[0].partition(" in ")[0] for line in spoken] == [
        "computed once: 4 of 9 layers, 83% of the arithmetic, until epoch 2 (mxnet, float32)",
        "computing the features of 100 images (train and val) once (mxnet, float32)",
        "computed",
        *("Epoch 0", "Epoch 1"),
        "epoch 2: front",
        "epoch 2: computed once from here on: 2 of 9 layers, 30% of the arithmetic",
        "computing the features of 100 images (train and val) once (mxnet, float32)",
        "computed",
        *("Epoch 2", "Epoch 3"),
        "epoch 4: front",
        "epoch 4: nothing is computed once from here on, front",
        *("Epoch 4", "Epoch 5"),
    ]


@pytest.mark.parametrize("dense", [False, True])
def test_resumed_in_the_middle_is_as_if_never_stopped(train, dense):
    whole, _ = train(*GRADUAL, model__dense=dense)
    for after in (1, 3) if dense else (1, 3, 5):
        first, _ = train(*GRADUAL, trainer__epochs=after, model__dense=dense)
        last = str(first.folder / "checkpoints" / "last")
        resumed, said = train(*GRADUAL, trainer__resume=last, model__dense=dense)
        alike(resumed, whole, 1e-6)
        found = len(lines(said, "features of 100 images (train and val) are from the cache"))
        assert found == {1: 2, 3: 1, 5: 0}[after]
        assert bool(lines(said, "epoch 2: computed once from here on")) == (after == 1)


def test_what_is_released_behind_the_front_learns_there(train, kept):
    """The front stays; a BatchNorm behind it goes by its statistics first, then by batches."""
    rules = "[{match: 'front.*', state: frozen}, {match: 'rest.1.*', state: frozen}, {match: '*'}]"
    policy = [f"freeze.rules={rules}", "freeze.unfreeze=[{epoch: 1, match: 'rest.1.*'}]"]
    live, _ = train(*policy, trainer__epochs=3, features__cache="off")
    cached, said = train(*policy, trainer__epochs=3)
    alike(cached, live)
    assert len(lines(said, "computing the features")) == 1
    assert len(lines(said, "from here on")) == 0
    assert lines(said, "epoch 1: rest.1 learns now")
    before, after = parameters(train(*policy)[0]), parameters(cached)
    for name in ("rest.1.gamma", "rest.1.running_var"):
        assert not np.array_equal(before[name], after[name])


def test_a_learning_rate_is_looked_for_with_them(train):
    search = ["trainer=lr_find"]
    train()
    cached, said = train(*search, trainer__lr_find__steps=40)
    assert lines(said, "features of 100 images (train among them) are from the cache")
    live, _ = train(*search, trainer__lr_find__steps=40, features__cache="off")
    curves = [pd.read_csv(each.folder / "artifacts/lr_find/curve.csv") for each in (cached, live)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_what_is_recorded(train, kept, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result, _ = train(
        "tracking=mlflow", tracking__uri=uri, features__engine="auto", trainer__epochs=2
    )
    run = tracking.open_store(uri).get_run(result.run_id)
    engine = "openvino" if len(installed("openvino", "onnx")) == 2 else "mxnet"
    assert {key: value for key, value in run.data.params.items() if "features" in key} == {
        "features.cache": "auto",
        "features.engine": engine,
        "features.precision": "float32",
        "features.dtype": "float32",
    }
    assert re.fullmatch(
        rf"4 of 9 layers, 83% of the arithmetic; {engine}, float32, kept as float32; logits of "
        r"40 images within \d\.\de-\d\d of the network's \(limit 1e-04\)",
        run.data.tags["gluonexp.features"],
    )
    assert run.data.metrics["time/features_s"] > 0
    recorded = Path(run.info.artifact_uri.removeprefix("file://")) / "config" / "resolved.yaml"
    config = yaml.safe_load(recorded.read_text())
    assert config["features"]["engine"] == engine

    # Trained further, it takes what this machine has now; so does what was recorded before there
    # were features.
    for old in (False, True):
        if old:
            del config["features"]
            recorded.write_text(yaml.safe_dump(config))
            assert settings(recorded, []).features == FeaturesConfig()
        words = [f"trainer.resume={result.run_id}", "trainer.epochs=3", "build.allow=[tests]"]
        typed = app.compose(f"tracking.uri={uri}", f"features.folder={kept}", *words)
        console = Console(file=io.StringIO(), width=500)
        experiment.run(typed, tmp_path / f"again{old}", words, console)
        assert lines(console.file.getvalue(), FOUND)
    elsewhere = app.compose(f"tracking.uri={uri}", f"trainer.resume={result.run_id}", *words[1:])
    assert elsewhere.features.folder is None


SWEPT = [
    *("dataset=synthetic", "dataset.source.train=100", "dataset.source.test=20", "model=cnn"),
    *("dataset.source.size=14", "model.channels=[4,4]", "model.hidden=8", "export=none"),
    *("trainer.epochs=1", "features.engine=mxnet", "freeze.name=first", "optim=sgd"),
    *("freeze.rules=[{match: '0.*', state: frozen}, {match: '*'}]", "optim.lr=0.01,0.1"),
]


def test_the_second_point_of_a_sweep_computes_nothing(kept):
    summary = app.sweep(*SWEPT, f"features.folder={kept}")
    assert [outcome.status for outcome in summary.outcomes] == ["FINISHED"] * 2
    said = "".join(log.read_text() for log in Path().rglob("console.log"))
    assert said.count("computing the features of 100 images") == 1, said
    assert said.count("features of 100 images (train and val) are from the cache") == 1, said
    assert len(entries(kept)) == 1


def grown(folder):
    """Return by how many MB the features of 4,000 images let this process grow, and their size."""

    def look(**values):
        config = configured(folder / "arrays", (), values)
        with opened(config, folder / f"job{values}", [], Console(quiet=True)) as run:
            found = run.shortcut.enter(0, run.data.splits())
            status = Path("/proc/self/status").read_text()
            assert len(found["train"]) == values["dataset__source__train"]
            run.shortcut.leave()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    wide = {
        "dataset__source__size": 52,
        "dataset__val_fraction": 0,
        "objective__metric": "train/acc",
    }
    before = look(**wide, dataset__source__train=64)
    after = look(**wide, dataset__source__train=4000)
    return after - before, max(e.stat().st_size for e in folder.rglob("array.npy")) / 2**20


def test_features_take_no_memory(tmp_path):
    """But that of their file; measured in a process in which nothing else has run."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        grew, size = pool.submit(grown, tmp_path).result()
    assert size > 100
    assert grew < size / 2  # what a batch takes, but no copy
