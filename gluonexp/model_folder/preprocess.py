"""From images at rest to the network's input: one block, used for training and for prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gluonexp.base.mx import nn


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images at rest, in this order; written to ``signature.json``.

    Attributes
    ----------
    height, width, channels
        The network's input; a single channel is repeated, three are averaged to luma.
    mean, std
        Per channel (or one for all), applied after scaling to [0, 1].
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_json` was made of."""
        return cls(
            height=int(fields["height"]),
            width=int(fields["width"]),
            channels=int(fields["channels"]),
            mean=tuple(map(float, fields["mean"])),
            std=tuple(map(float, fields["std"])),
        )


class Preprocess(nn.HybridBlock):
    """Images (N, H, W, C) uint8 to (N, C', H', W') float32: scale, channels, normalize, resize.

    It runs on the device, batch by batch, so that images rest as small bytes and are enlarged
    only where they are used. Resizing is bilinear with pixel centres at half integers.
    """

    def __init__(self, steps: Preprocessing, *, height: int, width: int, channels: int) -> None:
        super().__init__(prefix="preprocess_")
        self._steps = steps
        self._resize = (height, width) != (steps.height, steps.width)
        self._channels = channels

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
