"""Networks of the zoo in a loop that only trains, in PyTorch as its users write it."""

from __future__ import annotations

import numpy as np
import torch
from eager import EagerWhole, alexnet
from material import CLASSES, SIZE


class Bare(EagerWhole):
    """A network by torchvision's name, trained whole on images that are enlarged by the batch."""

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, batch: int, keep: bool = False
    ) -> None:
        torch.manual_seed(0)
        if name == "alexnet":
            net: torch.nn.Module = alexnet(None)
        else:
            from torchvision import models

            net = getattr(models, name)(num_classes=CLASSES)
        super().__init__(net, images, labels, batch, SIZE, keep)
