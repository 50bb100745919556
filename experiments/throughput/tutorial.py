"""The fine-tuning tutorial's loop as written: DataLoader, per-sample transforms, `asscalar`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from material import CLASSES, FOLDER, MEAN, SIZE, STD
from sides import BATCH, LR, pace

from gluonexp.base.mx import autograd, gluon, mx, nd, nn


class Tutorial:
    """AlexNet of the model zoo, its convolutions frozen by ``grad_req='null'``, a new classifier.

    Parameters
    ----------
    part
        The data root.
    weights
        A file of arrays by structural name, `backbone.0.weight` first.
    """

    def __init__(self, part: Path, weights: Path) -> None:
        self.part = part / FOLDER
        zoo = gluon.model_zoo.vision.alexnet()
        self.net = nn.HybridSequential()
        self.features, self.classifier = nn.HybridSequential(), nn.HybridSequential()
        for layer in list(zoo.features)[:9]:  # the convolutions and the Flatten behind them
            self.features.add(layer)
        for _ in range(2):
            self.classifier.add(nn.Dense(4096, activation="relu"), nn.Dropout(0.5))
        self.classifier.add(nn.Dense(CLASSES))
        self.net.add(self.features, self.classifier)
        self.net.initialize(mx.init.Xavier())
        self.net(nd.zeros((1, 3, SIZE, SIZE)))
        known = np.load(weights)
        for name, parameter in self.features._collect_params_with_prefix().items():
            parameter.set_data(nd.array(known[f"backbone.{name}"]))
        self.features.collect_params().setattr("grad_req", "null")
        self.net.hybridize(static_alloc=True, static_shape=True)
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss()

    def train(self, momentum: float, images: int) -> float:
        """Return the seconds an image of training takes."""
        settings = {"learning_rate": LR, "momentum": momentum}
        trainer = gluon.Trainer(self.classifier.collect_params(), "sgd", settings)

        def batches() -> Iterator[int]:
            total, accuracy = 0.0, mx.metric.Accuracy()
            for inputs, labels in self._batches("train", images, shuffle=True):
                with autograd.record():
                    logits = self.net(inputs)
                    losses = self.loss(logits, labels)
                losses.backward()
                trainer.step(len(labels))
                total += losses.mean().asscalar()
                accuracy.update(labels, logits)
                yield len(labels)

        return pace(batches())

    def test(self, images: int) -> float:
        """Return the seconds an image of the test split takes."""

        def batches() -> Iterator[int]:
            accuracy = mx.metric.Accuracy()
            for inputs, labels in self._batches("test", images, shuffle=False):
                accuracy.update(labels, self.net(inputs))
                yield len(labels)

        return pace(batches())

    def _batches(self, split: str, images: int, shuffle: bool) -> Iterator[tuple]:
        transforms = gluon.data.vision.transforms
        transform = transforms.Compose(
            [transforms.Resize(SIZE), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )
        files = gluon.data.vision.ImageFolderDataset(str(self.part / split))
        loader = gluon.data.DataLoader(files.transform_first(transform), BATCH, shuffle=shuffle)
        for at, batch in enumerate(loader, 1):
            yield batch
            if at * BATCH >= images:
                return
