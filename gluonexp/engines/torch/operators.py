"""The table of MXNet's operators as functions on PyTorch's tensors.

It has the list of `gluonexp.export.onnx.translators` where PyTorch can train what they do. What is
not in it is refused, and so is an attribute that its function does not heed. No function branches
on a tensor, so that a network can be traced.
"""

from typing import Final

from gluonexp.engines.torch.arithmetic import ARITHMETIC
from gluonexp.engines.torch.layer import Entry
from gluonexp.engines.torch.layers import LAYERS
from gluonexp.engines.torch.losses import LOSSES
from gluonexp.engines.torch.shapes import SHAPES

OPERATORS: Final[dict[str, Entry]] = {**ARITHMETIC, **LAYERS, **LOSSES, **SHAPES}
