"""Names of the files of a model folder, and which of them each runtime reads; no MXNet here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SIGNATURE: Final = "signature.json"
NO_EXPORT: Final = (
    f"no export here ({SIGNATURE} is missing); name a run, or the folder that holds "
    "model-symbol.json"
)
"""What is said of a folder without one."""

SAMPLES: Final = "samples.safetensors"
CERTIFICATE: Final = "certificate.json"
CARD: Final = "README.md"  # what people read first; older exports have none
ONNX: Final = "model.onnx"
UINT8_ONNX: Final = "uint8.onnx"
INT8_RECORD: Final = "int8.json"
TORCH: Final = ("model.py", "model.safetensors")  # a network of PyTorch's, and its values

# Prefixes of pairs, a symbol and its parameters.
MODEL: Final = "model"  # takes float32 NCHW
UINT8: Final = "uint8"  # takes uint8 NHWC, images as a data set has them
INT8: Final = "int8"  # takes float32 NCHW, computes in eight bits


def pair(prefix: str) -> tuple[str, str]:
    """Return the names of a symbol and of its parameters, as MXNet has them."""
    return f"{prefix}-symbol.json", f"{prefix}-0000.params"


def paths(folder: Path, prefix: str) -> tuple[Path, Path]:
    """Return where the symbol and the parameters of `prefix` are."""
    symbol, params = pair(prefix)
    return folder / symbol, folder / params


RUNTIMES: Final = {
    "module": pair(MODEL),
    "symbolblock": pair(MODEL),
    "onnx": (ONNX,),
    "openvino": (ONNX,),
    "int8": pair(INT8),
    "torch": TORCH,
}
"""The files that each runtime reads besides the signature."""

IMAGE_RUNTIMES: Final = {UINT8: pair(UINT8), UINT8_ONNX: (UINT8_ONNX,)}
"""The same for what takes uint8 images: their preprocessing is part of the network."""

FILES: Final[dict[str, tuple[str, ...]]] = RUNTIMES | IMAGE_RUNTIMES
"""The same for all of them."""

CERTIFIED: Final = {SIGNATURE, SAMPLES, INT8_RECORD}.union(*FILES.values())
"""The files that an export may have besides its certificate."""
