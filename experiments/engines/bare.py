"""A loop that only trains, in PyTorch as its users write it: eager, channels-last."""

from __future__ import annotations

import time

import numpy as np
import torch
from eager import alexnet, autocast
from torch import nn
from torch.nn import functional as F

from gluonexp.base.mx import usable_cores

PIXELS = 224


class Bare:
    """A network that is trained whole, on images that are resized batch by batch."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, batch: int) -> None:
        torch.set_num_threads(usable_cores() or torch.get_num_threads())
        torch.manual_seed(0)
        self.net = _network(name).requires_grad_().to(memory_format=torch.channels_last).train()
        self.images = torch.from_numpy(np.array(images))
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64))
        self.batch = batch
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def epoch(self, precision: str) -> float:
        """Train one epoch; return its seconds."""
        started = time.perf_counter()
        for rows in torch.randperm(len(self.labels)).split(self.batch):
            pixels = self.images[rows].permute(0, 3, 1, 2).to(torch.float32).div_(255)
            large = F.interpolate(pixels, size=(PIXELS, PIXELS), mode="bilinear")
            inputs = large.contiguous(memory_format=torch.channels_last)
            self.optimizer.zero_grad()
            with autocast(precision):
                loss = F.cross_entropy(self.net(inputs), self.labels[rows])
            loss.backward()
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - started


def _network(name: str) -> nn.Module:
    if name == "alexnet":
        return alexnet(None)
    from torchvision import models

    made: nn.Module = getattr(models, name)(num_classes=10)
    return made
