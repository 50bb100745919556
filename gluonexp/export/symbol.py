"""Symbol JSON, params and signature: written, loaded back, proved equal to the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.errors import GluonexpError
from gluonexp.mx import gluon, mx, nd, nn, sym

PREFIX = "model"
SIGNATURE = "signature.json"

# Logits may differ by this share of the largest: other kernels sum in another order.
TOLERANCE = 1e-4

Runtime = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Input (N, C, H, W) float32 to logits (N, K)."""


@dataclass(frozen=True)
class Agreement:
    """How far one runtime's logits are from the trained network's."""

    runtime: str
    max_difference: float  # relative to the largest logit
    argmax_equal: int
    ties: int  # images whose two best logits are too close for the class to be certain
    images: int

    @property
    def holds(self) -> bool:
        """Whether the logits are within `TOLERANCE` and every class that is certain the same."""
        same = self.argmax_equal + self.ties >= self.images
        return same and self.max_difference <= TOLERANCE

    def sentence(self) -> str:
        """Say it for people."""
        return (
            f"logits within {self.max_difference:.1e} of the largest, "
            f"{self.argmax_equal} of {self.images} classes equal"
        )


def export(
    net: nn.HybridBlock,
    folder: Path,
    *,
    image: tuple[int, int, int],
    input_shape: tuple[int, int, int],
    preprocess: dict[str, Any],
    classes: Sequence[str],
) -> None:
    """Write ``model-symbol.json``, ``model-0000.params`` and ``signature.json`` into `folder`.

    Parameters
    ----------
    net
        Hybridized, and called at least once.
    image
        (H, W, C) of an image at rest, uint8.
    input_shape
        (C, H, W) of the network's input, float32.
    preprocess
        The steps from one to the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nd.waitall()  # device sync: what is read for saving must not be stale
    net.export(str(folder / PREFIX), epoch=0)
    height, width, channels = image
    signature = {
        "format": 1,
        "image": {
            "height": height,
            "width": width,
            "channels": channels,
            "dtype": "uint8",
            "layout": "NHWC",
        },
        "preprocess": {
            "steps": ["scale to [0, 1]", "channels", "normalize", "resize (bilinear)", "NCHW"],
            **preprocess,
        },
        "input": {
            "name": "data",
            "shape": [None, *input_shape],
            "dtype": "float32",
            "layout": "NCHW",
        },
        "output": {"shape": [None, len(classes)], "meaning": "logits"},
        "classes": list(classes),
    }
    text = json.dumps(signature, indent=2, ensure_ascii=False)
    (folder / SIGNATURE).write_text(text + "\n", encoding="utf-8")


def read_signature(folder: Path) -> dict[str, Any]:
    """Return the signature of the export in `folder`."""
    try:
        signature: dict[str, Any] = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GluonexpError(
            f"{folder}: no export here ({SIGNATURE} is missing); name a run, or the folder that "
            "holds model-symbol.json"
        ) from None
    except (OSError, ValueError) as error:
        raise GluonexpError(f"{folder / SIGNATURE}: cannot be read: {error}") from None
    return signature


def load_module(folder: Path) -> Runtime:
    """Load the export the classic way: symbol, params, arg and aux, `mx.mod.Module`, bind."""
    signature = read_signature(folder)
    name, shape = signature["input"]["name"], signature["input"]["shape"]
    symbol, arguments, statistics = _files(folder)
    module = mx.mod.Module(
        symbol, data_names=[name], label_names=None, context=mx.cpu(), logger=_SILENT
    )
    module.bind(for_training=False, data_shapes=[(name, (1, *shape[1:]))])
    module.set_params(arguments, statistics)

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = mx.io.DataBatch([nd.array(inputs, dtype="float32")])
        module.forward(batch, is_train=False)  # binds anew where the batch size changed
        logits: NDArray[np.float32] = module.get_outputs()[0].asnumpy()
        return logits

    return run


def load_symbolblock(folder: Path) -> Runtime:
    """Load the export as a Gluon block."""
    name = read_signature(folder)["input"]["name"]
    symbol, arguments, statistics = _files(folder)
    block = gluon.SymbolBlock(symbol, sym.var(name, dtype="float32"))
    for key, parameter in block.collect_params().items():
        value = arguments[key] if key in arguments else statistics[key]
        parameter._load_init(value, mx.cpu())

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = block(nd.array(inputs, dtype="float32")).asnumpy()
        return logits

    return run


RUNTIMES: dict[str, Callable[[Path], Runtime]] = {
    "module": load_module,
    "symbolblock": load_symbolblock,
}


def verify(
    folder: Path, inputs: NDArray[np.float32], expected: NDArray[np.float32]
) -> list[Agreement]:
    """Load the export in every runtime and compare with the trained network.

    Parameters
    ----------
    inputs
        (N, C, H, W), real images as the network saw them.
    expected
        (N, K), the network's logits for them.

    Raises
    ------
    GluonexpError
        A runtime disagrees; the message says which and by how much.
    """
    scale = max(float(np.abs(expected).max()), 1e-30)
    best_two = np.sort(expected, axis=1)[:, -2:]
    margins = best_two[:, -1] - best_two[:, 0]
    agreements = []
    for name, load in RUNTIMES.items():
        logits = load(folder)(inputs)
        same = logits.argmax(1) == expected.argmax(1)
        agreement = Agreement(
            runtime=name,
            max_difference=float(np.abs(logits - expected).max()) / scale,
            argmax_equal=int(same.sum()),
            ties=int((~same & (margins <= 2 * TOLERANCE * scale)).sum()),
            images=len(inputs),
        )
        if not agreement.holds:
            raise GluonexpError(
                f"the export in {folder} is not the trained network: {name} differs, "
                f"{agreement.sentence()} (allowed: {TOLERANCE:g}, all)"
            )
        agreements.append(agreement)
    return agreements


class _Silent:
    """A logger that Module may call; what it says of missing labels is no news."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


_SILENT = _Silent()


def _files(folder: Path) -> tuple[sym.Symbol, dict[str, nd.NDArray], dict[str, nd.NDArray]]:
    """Return the symbol, its arguments and its auxiliary states (running statistics)."""
    graph, params = folder / f"{PREFIX}-symbol.json", folder / f"{PREFIX}-0000.params"
    try:
        symbol, saved = sym.load(str(graph)), nd.load(str(params))
    except mx.MXNetError as error:
        raise GluonexpError(f"{folder}: the export cannot be loaded: {error}") from None
    arguments = {key[4:]: value for key, value in saved.items() if key.startswith("arg:")}
    statistics = {key[4:]: value for key, value in saved.items() if key.startswith("aux:")}
    return symbol, arguments, statistics
