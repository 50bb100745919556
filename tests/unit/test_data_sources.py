"""The sources without files of their own, the data root, and every data set's YAML."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import DatasetConfig, FeaturesConfig
from gluonexp.data.augment import flip_crop
from gluonexp.data.digits import Digits
from gluonexp.data.root import data_root
from gluonexp.data.synthetic import Synthetic

CONF = Path(__file__).parents[2] / "conf"
DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


def test_digits_are_real_enlarged_and_split_alike_for_everybody():
    source = Digits()
    samples = source.load()
    assert samples.train.images.shape == (1438, 28, 28, 1)
    assert samples.test.images.shape == (359, 28, 28, 1)
    assert source.spec().classes[samples.train.labels[0]] == "0"
    share = np.bincount(samples.test.labels) / np.bincount(
        np.concatenate([samples.train.labels, samples.test.labels])
    )
    assert np.abs(share - 0.2).max() < 0.005
    assert np.asarray(samples.train.images).max() == 255
    assert np.array_equal(Digits().load().test.images, samples.test.images)


def test_digits_at_their_own_size_are_the_bundled_ones():
    from sklearn.datasets import load_digits

    samples = Digits(size=8).load()
    ours = np.concatenate([samples.train.images, samples.test.images])[..., 0]
    theirs = np.round(load_digits().images / 16 * 255).astype(np.uint8)
    # Each in order within its split, so compare as sets of images.
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


@pytest.mark.parametrize(
    ("size", "channels", "classes"), [(28, 1, 10), (32, 3, 100), (5, 3, 2), (224, 3, 7)]
)
def test_synthetic_images_are_separable_and_balanced(size, channels, classes):
    source = Synthetic(size=size, channels=channels, classes=classes, train=3 * classes, test=20)
    spec = source.spec()
    samples = source.load()
    assert (spec.height, spec.width, spec.channels) == samples.train.images.shape[1:]
    assert len(spec.classes) == classes
    assert np.bincount(samples.train.labels).tolist() == [3] * classes
    # The nearest class mean of the train split knows every test sample.
    train, test = (
        split.images.reshape(len(split), -1) / 255 for split in (samples.train, samples.test)
    )
    means = np.stack(
        [train[samples.train.labels == label].mean(axis=0) for label in range(classes)]
    )
    distances = ((test[:, None] - means[None]) ** 2).sum(axis=-1)
    assert distances.argmin(axis=1).tolist() == samples.test.labels.tolist()


def test_synthetic_images_follow_the_seed():
    first, again, other = (Synthetic(seed=seed).load().train.images for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_synthetic_without_a_test_split():
    assert Synthetic(test=0).load().test is None


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"classes": 1}, {"channels": 2}, {"train": 9}, {"test": -1}, {"seed": -1}],
)
def test_synthetic_numbers_that_make_no_sense_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(GluonexpError, match=rf"dataset\.source\.{name} must be"):
        Synthetic(**arguments).load()


def test_synthetic_images_that_do_not_fit_into_memory_are_not_drawn():
    said = (
        r"^1,200 images of 1000000x1000000x1 take .* choose a smaller dataset\.source\.size, train"
    )
    with pytest.raises(GluonexpError, match=said):
        Synthetic(size=1_000_000).spec()


def test_digits_refuse_a_size_below_one():
    with pytest.raises(GluonexpError, match=r"dataset\.source\.size"):
        Digits(size=0).load()


def test_the_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_root("~/sets") == tmp_path / "sets"
    assert data_root(None) == data_root("")
    assert data_root(None).parts[-2:] == ("gluonexp", "data")
    assert data_root(None).is_relative_to(tmp_path)


def composed(name, monkeypatch, root):
    if root is None:
        monkeypatch.delenv("GLUONEXP_DATA", raising=False)
    else:
        monkeypatch.setenv("GLUONEXP_DATA", str(root))
    given = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    dataset = OmegaConf.merge(OmegaConf.structured(DatasetConfig), given)
    return OmegaConf.create({"dataset": dataset, "features": FeaturesConfig()}).dataset


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_builds_and_its_statistics_fit_its_channels(name, monkeypatch, tmp_path):
    for class_name in ("airplane", "bird"):
        folder = tmp_path / "train" / class_name
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "image.png")
    (tmp_path / "cifar10-images").mkdir()
    (tmp_path / "cifar10-images" / "train").symlink_to(tmp_path / "train")
    (tmp_path / "cifar10-images" / "test").symlink_to(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    dataset = composed(name, monkeypatch, tmp_path)
    assert dataset.name == name
    spec = instantiate(dataset.source).spec()
    assert spec.channels in (1, 3)
    assert len(dataset.mean) == len(dataset.std) == spec.channels
    if name == "cifar10_images":
        samples = instantiate(dataset.source).load()
        assert samples.title == "CIFAR-10 (JPEG)"
        assert "not bit-identical" in samples.notes[0]


def test_image_folder_asks_for_its_folder(monkeypatch):
    dataset = composed("image_folder", monkeypatch, None)
    with pytest.raises(GluonexpError, match=r"dataset\.root is not set.*GLUONEXP_DATA"):
        instantiate(dataset.source).spec()


def test_other_data_sets_have_a_default_root(monkeypatch):
    fashion = instantiate(composed("fashion_mnist", monkeypatch, None).source)
    assert fashion.folder == data_root(None) / "fashion-mnist"
    assert instantiate(composed("cifar10", monkeypatch, None).source).root == data_root(None)


@pytest.mark.parametrize("name", ["none", "flip_crop"])
def test_every_augmentation_builds(name):
    augment = instantiate(OmegaConf.load(CONF / "augment" / f"{name}.yaml"))
    images = np.random.default_rng(0).integers(0, 256, size=(8, 9, 9, 3), dtype=np.uint8)
    result = augment(images, np.random.default_rng(1))
    expected = flip_crop()(images, np.random.default_rng(1)) if name == "flip_crop" else images
    assert np.array_equal(result, expected)
