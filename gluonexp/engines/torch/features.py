"""Features by PyTorch: a part of a network that does not learn, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.engines.torch.lowering import Lowered, lower
from gluonexp.graph.graph import Graph


def module(
    graph: Graph, values: Mapping[str, NDArray[np.float32]], entry: str, image: tuple[int, ...]
) -> Lowered:
    """Return a graph of one input, images (N, H, W, C), with these values by its names.

    Raises
    ------
    GluonexpError
        A layer cannot be lowered.
    """
    tensors = {name: torch.from_numpy(value) for name, value in values.items()}
    return lower(graph, tensors, {entry: (1, *image)}).eval()


def stream(
    module: Lowered, precision: str, where: str
) -> Callable[[Iterable[NDArray[np.uint8]]], Iterator[NDArray[np.float32]]]:
    """Return what computes batches of images (N, H, W, C), in their order.

    Parameters
    ----------
    module
        From images to features; it is moved to the device `where`.
    precision
        Of products and convolutions: ``float32`` or ``bfloat16``.

    Raises
    ------
    GluonexpError
        The processor has no bfloat16.
    """
    low, device = precision == "bfloat16", torch.device(where)
    if low and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise GluonexpError(
            "features.precision=bfloat16: this processor has no bfloat16; take float32"
        )
    memory: Any = {"memory_format": torch.channels_last}  # as the images are
    module.to(device).to(**memory)
    for parameter in module.parameters():
        if low and parameter.dim() > 1:  # or each batch would have the weights converted again
            parameter.data = parameter.data.bfloat16()

    def run(batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        for images in batches:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, low):
                made = module(torch.tensor(images, device=device))
            yield made.float().contiguous().cpu().numpy()

    return run
