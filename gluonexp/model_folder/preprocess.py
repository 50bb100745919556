"""From uint8 images to the network's input: one block, used for training and for prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import nd, nn
from gluonexp.model_folder.signature import Preprocessing


class Preprocess(nn.HybridBlock):
    """Images (N, H, W, C) uint8 to (N, C', H', W') float32: scale, channels, normalize, resize.

    It runs on the device, batch by batch, so that images are kept as small bytes and are enlarged
    only where they are used. Resizing is bilinear with pixel centres at half integers.

    Parameters
    ----------
    image
        (H, W, C).
    """

    def __init__(self, steps: Preprocessing, image: tuple[int, int, int]) -> None:
        super().__init__(prefix="preprocess_")
        height, width, self._channels = image
        self._steps = steps
        self._resize = (height, width) != (steps.height, steps.width)

    def hybrid_forward(self, F, x):  # type: ignore[no-untyped-def]
        """Return the network's input; `F` is `nd` or `sym`."""
        steps = self._steps
        x = F.transpose(F.cast(x, "float32"), axes=(0, 3, 1, 2)) * (1 / 255)
        if self._channels == 1 and steps.channels == 3:
            x = F.repeat(x, repeats=3, axis=1)
        elif self._channels == 3 and steps.channels == 1:
            # ITU-R 601 luma, as Pillow's convert("L")
            red, green, blue = F.split(x, num_outputs=3, axis=1)
            x = 0.299 * red + 0.587 * green + 0.114 * blue
        if any(steps.mean) or any(value != 1 for value in steps.std):
            x = F.image.normalize(x, mean=steps.mean, std=steps.std)
        if self._resize:
            x = F.contrib.BilinearResize2D(
                x, height=steps.height, width=steps.width, align_corners=False
            )
        return x

    def inputs(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the network gets, on the CPU, as an array."""
        prepared: NDArray[np.float32] = self(nd.array(images, dtype="uint8")).asnumpy()
        return prepared
