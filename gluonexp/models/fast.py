"""A small convolutional network for 32x32 photographs; its first layer whitens their patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gluonexp.base.mx import nn

# Added to each eigenvalue, of inputs of about unit variance: directions that hardly occur are not
# blown up to noise.
_LEAST = 5e-4

_AT_ONCE = 100  # images whose patches are in memory


class ByPatches(nn.HybridBlock):
    """A network whose first layer is of 2x2 pixels, to (N, 8 C, H - 1, W - 1).

    Parameters
    ----------
    channels
        C, of the input.
    rest
        What lies behind it, to logits (N, K); they are multiplied by `scale`.
    """

    layer_name = "first"

    def __init__(self, channels: int, rest: nn.HybridBlock, scale: float) -> None:
        super().__init__(prefix="")
        layer = nn.Conv2D(8 * channels, 2, in_channels=channels, prefix=f"{self.layer_name}_")
        setattr(self, self.layer_name, layer)
        self.rest = rest
        self._scale = scale

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return the logits (N, K) of images (N, C, H, W)."""
        return self.rest(F.relu(getattr(self, self.layer_name)(x))) * self._scale


class Whitened(ByPatches):
    """The same; its first layer is set by training images before training begins.

    It has a name of its own, so that a freeze policy holds no layer that was not set.
    """

    layer_name = "whiten"

    def from_images(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the values of parameters, by structural name, that follow from training images.

        The eigenvectors of the covariance of patches of 2x2 pixels, each divided by the root of
        its eigenvalue, and the same with the other sign, which ReLU would lose: what the layer
        gives of images is uncorrelated and of variance one (Page, 2019; Jordan, 2024).

        Parameters
        ----------
        images
            (N, C, H, W), as the network takes them.
        """
        return {"whiten.weight": whitening(images)}


def whitening(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the whitening filters (8 C, C, 2, 2) of images (N, C, H, W)."""
    channels = images.shape[1]
    total, count = np.zeros((4 * channels, 4 * channels)), 0
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE].astype(np.float64)
        windows = sliding_window_view(part, (2, 2), axis=(2, 3))  # type: ignore[call-overload]
        # (n (H - 1) (W - 1), 4 C)
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 4 * channels)
        total += patches.T @ patches
        count += len(patches)
    values, vectors = np.linalg.eigh(total / count)
    # A vector's sign is LAPACK's choice: its largest entry is made positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(values))])
    filters = (vectors / np.sqrt(values + _LEAST)).T[::-1].reshape(-1, channels, 2, 2)
    made: NDArray[np.float32] = np.concatenate([filters, -filters]).astype(np.float32)
    return made


def fast_cnn(
    classes: int,
    channels: int = 3,
    widths: Sequence[int] = (32, 64, 128),
    whiten: bool = True,
    scale: float = 0.125,
) -> nn.HybridBlock:
    """Return a first layer of 2x2 pixels, and blocks of two convolutions with BatchNorm.

    Input (N, C, H, W) float32 with H, W of at least 17; output (N, `classes`) logits.

    Parameters
    ----------
    channels
        C.
    widths
        Filters of the two 3x3 convolutions of each block; each block halves height and width.
    whiten
        Set the first layer, ``whiten``, by patches of training images; it should be frozen then.
        False: it is ``first``, begins at random and learns.
    scale
        What the logits are multiplied by: below 1 it slows down how sure the network becomes.
    """
    rest = nn.HybridSequential(prefix="")
    for number, width in enumerate(widths):
        block = nn.HybridSequential(prefix=f"block{number}_")
        with block.name_scope():
            block.add(nn.Conv2D(width, 3, padding=1, use_bias=False), nn.MaxPool2D(2))
            block.add(nn.BatchNorm(), nn.Activation("relu"))
            block.add(nn.Conv2D(width, 3, padding=1, use_bias=False))
            block.add(nn.BatchNorm(), nn.Activation("relu"))
        rest.add(block)
    with rest.name_scope():
        rest.add(nn.GlobalMaxPool2D(), nn.Flatten(), nn.Dense(classes, prefix="output_"))
    return (Whitened if whiten else ByPatches)(channels, rest, scale)
