"""Symbol JSON, params and signature, written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gluonexp.base.files import replace
from gluonexp.base.mx import nd, nn, sym
from gluonexp.model_folder import files


def export(
    net: nn.HybridBlock,
    folder: Path,
    *,
    image: tuple[int, int, int],
    input_shape: tuple[int, int, int],
    preprocess: dict[str, Any],
    classes: Sequence[str],
) -> files.Network:
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

    Returns
    -------
    Network
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nd.waitall()  # device sync: what is read for saving must not be stale
    draft = f".{files.MODEL}"
    net.export(str(folder / draft), epoch=0)
    for path, target in zip(
        files.paths(folder, draft), files.paths(folder, files.MODEL), strict=True
    ):
        replace(path, target)
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
            "steps": list(files.STEPS),
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
    (folder / files.SIGNATURE).write_text(text + "\n", encoding="utf-8")
    symbol = sym.load(str(files.paths(folder, files.MODEL)[0]))
    values = {name: each.data(each.list_ctx()[0]) for name, each in net.collect_params().items()}
    statistics = {name: values[name] for name in symbol.list_auxiliary_states()}
    arguments = {name: values[name] for name in symbol.list_arguments() if name in values}
    return files.Network(symbol, arguments, statistics)
