"""The images that the sides train on: a part of CIFAR-10 (JPEG), or made-up files of its size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "cifar10-images"  # as gluonexp's dataset=cifar10_images has it
CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SIZE = 224


def whole() -> Path | None:
    """Return the data root that holds all of CIFAR-10 (JPEG); None where there is none."""
    named = os.environ.get("GLUONEXP_DATA")
    return Path(named) if named and (Path(named) / FOLDER / "train").is_dir() else None


def part(root: Path, train: int, test: int) -> str:
    """Lay out so many images as class folders below `root`; return what they are."""
    title, found = "random images of CIFAR-10's size", whole()
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        each = -(-count // CLASSES)
        if found is not None:
            title = "CIFAR-10 (JPEG)"
            for folder in sorted((found / FOLDER / split).iterdir()):
                target = root / FOLDER / split / folder.name
                target.mkdir(parents=True)
                for file in sorted(folder.iterdir())[:each]:
                    (target / file.name).symlink_to(file)
            continue
        for label in range(CLASSES):
            target = root / FOLDER / split / f"class {label}"
            target.mkdir(parents=True)
            for at in range(each):
                pixels = rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(target / f"{at:05d}.jpg")
    return title


def small(images: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Return a title, (n, 28, 28, 1) uint8 images and their labels: Fashion-MNIST, or made up."""
    from gluonexp import assembly, run
    from gluonexp.data.root import data_root

    config = run.compose("experiment=fashion_mnist_cnn", "device=cpu")
    if (data_root(config.dataset.root) / "fashion-mnist").exists():
        data = assembly.data(config, assembly.components(config).source)
        return data.title, data.train.images[:images], data.train.labels[:images]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(images, 28, 28, 1), dtype=np.uint8)
    return "random images", pixels, rng.integers(0, CLASSES, size=images)
