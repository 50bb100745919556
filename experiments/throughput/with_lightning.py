"""Lightning with MLFlowLogger, as its users write it.

usage: python with_lightning.py STORE   trains two batches, and prints the time of the first
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import lightning
import numpy as np
import torch
from eager import CNN_BATCH, CNN_LR, alexnet, cnn
from lightning.pytorch.loggers import MLFlowLogger
from material import FOLDER, MEAN, SIZE, STD
from sides import BATCH, LR
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

WORKERS = os.cpu_count() or 1


class Classifier(lightning.LightningModule):
    """Cross entropy and accuracy, logged by step and by epoch."""

    def __init__(self, net: nn.Module, optimizer: str, momentum: float = 0.0) -> None:
        super().__init__()
        self.net, self.optimizer, self.momentum = net, optimizer, momentum

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the batch's loss."""
        return self._step(batch, "train")

    def test_step(self, batch: list[Tensor], index: int) -> None:
        """Log the batch's scores."""
        self._step(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the recipe's."""
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.optimizer == "adam":
            return torch.optim.Adam(learning, lr=CNN_LR)
        return torch.optim.SGD(learning, lr=LR, momentum=self.momentum)

    def _step(self, batch: list[Tensor], split: str) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.log(f"{split}/loss", loss, prog_bar=True)
        self.log(f"{split}/acc", (logits.argmax(1) == labels).float().mean(), on_epoch=True)
        return loss


class Pace(lightning.Callback):
    """Times batches, once the first two are done, until the epoch has ended."""

    def __init__(self) -> None:
        self.started = self.seconds = self.first = 0.0
        self.images = 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.first = self.first or time.time()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self._count(batch, batch_idx)

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self._count(batch, batch_idx)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._end()

    def on_test_epoch_end(self, trainer, module) -> None:
        self._end()

    def seconds_an_image(self) -> float:
        """Return what was measured."""
        return self.seconds / self.images

    def _count(self, batch: list[Tensor], at: int) -> None:
        if at > 1:
            self.images += len(batch[1])
        elif at == 1:
            self.started = time.perf_counter()

    def _end(self) -> None:
        self.seconds = time.perf_counter() - self.started


def trainer(store: Path, callback: lightning.Callback, **settings) -> lightning.Trainer:
    """Return a trainer of one epoch that logs to MLflow."""
    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=MLFlowLogger("bench", tracking_uri=f"sqlite:///{store}/lightning.db"),
        callbacks=[callback],
        default_root_dir=store,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


class Lightning:
    """AlexNet, its convolutions frozen, under a new classifier; and the small network."""

    def __init__(self, part: Path, weights: Path, store: Path) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        lightning.seed_everything(0, verbose=False)
        self.net, self.store, self.cnn = alexnet(weights), store, cnn()
        prepared = transforms.Compose(
            [transforms.Resize(SIZE), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )
        self.files = {
            split: ImageFolder(str(part / FOLDER / split), prepared) for split in ("train", "test")
        }

    def train(self, momentum: float, images: int) -> float:
        """Return the seconds an image of training takes."""
        chosen = torch.randperm(len(self.files["train"]))[:images].tolist()
        loader = DataLoader(
            Subset(self.files["train"], chosen), BATCH, shuffle=True, num_workers=WORKERS
        )
        timed, module = Pace(), Classifier(self.net, "sgd", momentum)
        trainer(self.store, timed, enable_checkpointing=False).fit(module, loader)
        return timed.seconds_an_image()

    def test(self, images: int) -> float:
        """Return the seconds an image of the test split takes."""
        loader = DataLoader(Subset(self.files["test"], range(images)), BATCH, num_workers=WORKERS)
        timed, module = Pace(), Classifier(self.net, "sgd")
        trainer(self.store, timed).test(module, loader, verbose=False)
        return timed.seconds_an_image()


class Samples(Dataset):
    """Images in memory, transformed one by one."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return self.transform(self.images[at]), int(self.labels[at])


class LightningCnn:
    """The small network, from a DataLoader of samples."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, store: Path) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.store, self.net = store, cnn()
        self.data = Samples(np.asarray(images), np.asarray(labels))

    def epoch(self) -> float:
        """Train on it; return the seconds of an epoch, by its images after the first batches."""
        loader = DataLoader(self.data, CNN_BATCH, shuffle=True, num_workers=WORKERS)
        timed, module = Pace(), Classifier(self.net, "adam")
        trainer(self.store, timed).fit(module, loader)
        return timed.seconds_an_image() * len(self.data)


def main(store: Path) -> None:
    """Train two batches of made-up images, as the shortest run there is."""
    images, labels = torch.rand(2 * CNN_BATCH, 1, 28, 28), torch.zeros(2 * CNN_BATCH).long()
    timed = Pace()
    loader = DataLoader(TensorDataset(images, labels), CNN_BATCH)
    trainer(store, timed).fit(Classifier(cnn(), "adam"), loader)
    print(f"first batch at {timed.first}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
