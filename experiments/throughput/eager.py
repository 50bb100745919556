"""PyTorch: eager, channels-last, and with a hand-written cache of features; the small network too.

Images are decoded once and kept in memory; a batch is resized and normalized as a whole, which is
faster than per sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from material import CLASSES, FOLDER, MEAN, SIZE, STD
from PIL import Image
from sides import BATCH, LR, pace
from torch import Tensor, nn
from torch.nn import functional as F

from gluonexp.base.memory import keep_freed
from gluonexp.base.mx import usable_cores

CNN_LR, CNN_BATCH = 0.008, 256  # of the fashion_mnist_cnn recipe


def alexnet(weights: Path | None) -> nn.Sequential:
    """Return the convolutions of AlexNet, frozen, and a new classifier on them."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
    )
    if weights is not None:
        known = np.load(weights)
        layers = [layer for layer in features if isinstance(layer, nn.Conv2d)]
        for layer, at in zip(layers, (0, 2, 4, 5, 6), strict=True):  # the zoo's places
            layer.weight.data = torch.from_numpy(known[f"backbone.{at}.weight"])
            layer.bias.data = torch.from_numpy(known[f"backbone.{at}.bias"])
    features.requires_grad_(False)
    head = nn.Sequential(
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, CLASSES),
    )
    return nn.Sequential(features, head)


def cnn() -> nn.Sequential:
    """Return the network of the fashion_mnist_cnn recipe."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1250, 256), nn.ReLU(), nn.Linear(256, CLASSES)),
    )


def autocast(precision: str) -> torch.autocast:
    """Return the context in which PyTorch computes in this precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


class Eager:
    """AlexNet, its convolutions frozen, under a new classifier."""

    def __init__(self, part: Path, weights: Path) -> None:
        torch.set_num_threads(usable_cores() or torch.get_num_threads())
        torch.manual_seed(0)
        started = time.perf_counter()
        self.images, self.labels = {}, {}
        for split in ("train", "test"):
            folders = sorted((part / FOLDER / split).iterdir())
            files = [(at, file) for at, f in enumerate(folders) for file in sorted(f.iterdir())]
            pixels = np.stack([np.asarray(Image.open(file)) for _, file in files])
            self.images[split] = torch.from_numpy(pixels)  # (N, H, W, C) uint8
            self.labels[split] = torch.tensor([label for label, _ in files])
        count = sum(map(len, self.labels.values()))
        self.seconds_to_read = (time.perf_counter() - started) / count
        self.net = alexnet(weights).to(memory_format=torch.channels_last)
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        self.features: dict[str, Tensor] = {}

    def read(self) -> float:
        """Return the seconds that reading an image took."""
        return self.seconds_to_read

    def train(self, precision: str, momentum: float, images: int) -> float:
        """Return the seconds an image of training takes."""
        inputs = self.images["train"]
        return pace(self._training(inputs, self._prepared, self.net, precision, momentum, images))

    def test(self, precision: str, images: int) -> float:
        """Return the seconds an image of the test split takes."""
        return pace(
            self._scoring(self.images["test"], self._prepared, self.net, precision, images)
        )

    def compute(self, precision: str, images: int) -> float:
        """Compute the features of some images of both splits; return the seconds of one."""
        for split in ("test", "train"):  # `images` of train are timed
            count = min(images, len(self.labels[split]))
            self.features[split] = torch.empty(count, 9216)
            seconds = pace(self._computing(split, precision, count))
        return seconds

    def train_cached(self, precision: str, momentum: float) -> float:
        """Return the seconds an image takes when the head learns from the features in memory."""
        inputs = self.features["train"]
        batches = self._training(inputs, _as_it_is, self.net[1], precision, momentum, len(inputs))
        return pace(batches)

    def test_cached(self, precision: str) -> float:
        """Return the seconds an image takes when it is scored from its features."""
        inputs = self.features["test"]
        return pace(self._scoring(inputs, _as_it_is, self.net[1], precision, len(inputs)))

    def _prepared(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        large = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear")
        normal = (large - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)

    def _computing(self, split: str, precision: str, images: int) -> Iterator[int]:
        with torch.inference_mode(), autocast(precision):
            for start in range(0, images, BATCH):
                rows = slice(start, min(start + BATCH, images))
                computed = self.net[0](self._prepared(self.images[split][rows]))
                self.features[split][rows] = computed.float()
                yield len(computed)

    def _training(self, inputs, prepared, net, precision, momentum, images) -> Iterator[int]:
        learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=LR, momentum=momentum)
        net.train()
        for rows in torch.randperm(len(inputs))[:images].split(BATCH):
            optimizer.zero_grad()
            with autocast(precision):
                loss = F.cross_entropy(net(prepared(inputs[rows])), self.labels["train"][rows])
            loss.backward()
            optimizer.step()
            loss.item()
            yield len(rows)

    def _scoring(self, inputs, prepared, net, precision, images) -> Iterator[int]:
        net.eval()
        with torch.inference_mode(), autocast(precision):
            for rows in torch.arange(min(images, len(inputs))).split(BATCH):
                right = net(prepared(inputs[rows])).argmax(1) == self.labels["test"][rows]
                right.sum().item()
                yield len(rows)


def _as_it_is(inputs: Tensor) -> Tensor:
    return inputs


class EagerWhole:
    """A network that is trained whole, its images in memory.

    Parameters
    ----------
    pixels
        The size that images are enlarged to.
    keep
        Whether the process keeps the memory that it frees, as gluonexp's does.
    """

    def __init__(
        self,
        net: nn.Module,
        images: np.ndarray,
        labels: np.ndarray,
        batch: int,
        pixels: int | None = None,
        keep: bool = False,
    ) -> None:
        if keep:
            keep_freed()
        torch.set_num_threads(usable_cores() or torch.get_num_threads())
        self.net = net.requires_grad_().to(memory_format=torch.channels_last).train()
        self.images = torch.from_numpy(np.array(images))
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64))
        self.batch, self.pixels = batch, pixels
        self.optimizer = self.optimized()

    def optimized(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.net.parameters(), lr=LR, momentum=0.9)

    def epoch(self, precision: str) -> float:
        """Train one epoch; return its seconds."""
        started = time.perf_counter()
        for rows in torch.randperm(len(self.labels)).split(self.batch):
            inputs = self.images[rows].permute(0, 3, 1, 2).to(torch.float32).div_(255)
            if self.pixels is not None:
                inputs = F.interpolate(inputs, size=(self.pixels, self.pixels), mode="bilinear")
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            self.optimizer.zero_grad()
            with autocast(precision):
                loss = F.cross_entropy(self.net(inputs), self.labels[rows])
            loss.backward()
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - started


class EagerCnn(EagerWhole):
    """The small network."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, keep: bool = False) -> None:
        torch.manual_seed(0)
        super().__init__(cnn(), images, labels, CNN_BATCH, keep=keep)

    def optimized(self) -> torch.optim.Optimizer:
        """Return the recipe's."""
        return torch.optim.Adam(self.net.parameters(), lr=CNN_LR)
