"""Every way in which an export can be run; each gives the same logits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import gluon, installed_wheels, mx, nd, usable_cores
from gluonexp.graph.symbols import block
from gluonexp.model_folder import extents, guard
from gluonexp.model_folder.names import (
    FILES,
    IMAGE_RUNTIMES,
    INT8,
    MODEL,
    ONNX,
    UINT8,
    UINT8_ONNX,
)
from gluonexp.model_folder.network import read_network
from gluonexp.model_folder.signature import Signature


class CannotRun(GluonexpError):
    """A runtime cannot load an export's files, or cannot run them.

    Attributes
    ----------
    runtime
        Its name.
    """

    def __init__(self, message: str, runtime: str = "") -> None:
        super().__init__(message)
        self.runtime = runtime


Runtime = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Input (N, C, H, W) float32 to logits (N, K); any N, other sizes in turn.

Those of `IMAGE_RUNTIMES` take images (N, H, W, C) uint8.
"""


@dataclass(frozen=True)
class Kind:
    """A runtime: what it needs, and how it loads an export.

    Attributes
    ----------
    library
        The distribution it needs; None is MXNet, under one of its names.
    load
        From the folder, with its signature and, if it was looked at already, the content of its
        ONNX file; may raise whatever its library raises on damaged files.
    """

    library: str | None
    load: Callable[[Path, Signature, bytes | None], Runtime]


def available(folder: Path) -> list[str]:
    """Name the runtimes whose files are in `folder` and whose library is installed."""
    return [
        name
        for name in RUNTIMES
        if versions(name) and all((folder / file).is_file() for file in FILES[name])
    ]


def load(folder: Path, name: str, onnx: bytes | None = None) -> Runtime:
    """Load the export in `folder`; nothing in it is executed or imported.

    Parameters
    ----------
    name
        One of `RUNTIMES`.
    onnx
        The content of its ONNX file, if `guard.check_onnx` has looked at it already.

    Raises
    ------
    GluonexpError
        No such runtime, its library is not installed, or its files are missing or damaged. The
        runtime itself raises it too, where the input does not suit the network.
    CannotRun
        The library says so.
    """
    if name not in RUNTIMES:
        raise GluonexpError(f"runtime {name}: choose one of {' '.join(RUNTIMES)}")
    kind = RUNTIMES[name]
    if not versions(name):
        raise GluonexpError(
            f"runtime {name} needs {kind.library}, which is not installed: "
            "pip install 'gluonexp[onnx]'"
        )
    if folder.is_dir():
        guard.check_files(folder)
    # Before the files, for it says more where there is no export at all.
    signature = Signature.read(folder)
    if name in IMAGE_RUNTIMES:
        shape, dtype = signature.image, "uint8"
    else:
        shape, dtype = signature.shape[1:], "float32"
    for file in FILES[name]:
        if not (folder / file).is_file():
            raise GluonexpError(f"{folder / file} is missing, which runtime {name} needs")
    try:
        run = kind.load(folder, signature, onnx)
    except GluonexpError:
        raise
    except Exception as error:  # each library has its own, and they share no base
        what = f"{folder / FILES[name][0]}: runtime {name} cannot load it"
        raise CannotRun(f"{what}: {reason(error)}", name) from None

    def guarded(inputs: NDArray[Any]) -> NDArray[np.float32]:
        if not len(inputs) or inputs.shape[1:] != shape:
            takes = ", ".join(map(str, ["N", *shape]))
            raise GluonexpError(f"{folder}: takes inputs ({takes}), not {inputs.shape}")
        parts = []
        try:
            # The network was looked at with so many images, and may not be safe with more.
            for start in range(0, len(inputs), extents.BATCH):
                part = inputs[start : start + extents.BATCH]
                parts.append(run(np.ascontiguousarray(part, dtype=dtype)))
            return np.concatenate(parts)
        except Exception as error:
            raise CannotRun(f"{folder}: runtime {name}: {reason(error)}", name) from None

    return guarded


def versions(name: str) -> dict[str, str]:
    """Return the version of each library behind a runtime; none where it is not installed."""
    library = RUNTIMES[name].library
    if library is None:
        return installed_wheels() or {"mxnet": mx.__version__}  # a build of one's own
    try:
        return {library: version(library)}
    except PackageNotFoundError:
        return {}


def threads() -> int:
    """Return how many threads to compute with: as many as MXNet takes."""
    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    except (KeyError, ValueError):
        return usable_cores() or 1


def _load_module(folder: Path, signature: Signature, _: bytes | None) -> Runtime:
    """Load the export the classic way: symbol, params, arg and aux, `mx.mod.Module`, bind."""
    return _bound(folder, MODEL, signature.input, signature.shape, "float32")


def _load_uint8(folder: Path, signature: Signature, _: bytes | None) -> Runtime:
    return _bound(folder, UINT8, signature.input, (1, *signature.image), "uint8")


def _bound(folder: Path, prefix: str, name: str, shape: tuple[int, ...], dtype: str) -> Runtime:
    """Return a network as a `Module`; name, shape and type are of its input for one image."""
    network = read_network(folder, prefix, name, shape)
    module = mx.mod.Module(
        network.symbol, data_names=[name], label_names=None, context=mx.cpu(), logger=_SILENT
    )
    module.bind(for_training=False, data_shapes=[mx.io.DataDesc(name, shape, dtype)])
    module.set_params(network.arguments, network.statistics)

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        batch = mx.io.DataBatch([nd.array(inputs, dtype=dtype)])
        module.forward(batch, is_train=False)  # binds anew where the batch size changed
        logits: NDArray[np.float32] = module.get_outputs()[0].asnumpy()
        return logits

    return run


def _load_symbolblock(folder: Path, signature: Signature, _: bytes | None) -> Runtime:
    """Load the export as a Gluon block."""
    return _run_block(_block(folder, MODEL, signature))


def _load_int8(folder: Path, signature: Signature, _: bytes | None) -> Runtime:
    """Load the quantized export as a Gluon block, compiled: that is where its speed is."""
    quantized = _block(folder, INT8, signature)
    quantized.hybridize(static_alloc=True, static_shape=True)
    return _run_block(quantized)


def _block(folder: Path, prefix: str, signature: Signature) -> gluon.SymbolBlock:
    network = read_network(folder, prefix, signature.input, signature.shape)
    return block(network.symbol, network.values, signature.input)


def _run_block(network: gluon.SymbolBlock) -> Runtime:
    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = network(nd.array(inputs, dtype="float32")).asnumpy()
        return logits

    return run


def _load_onnx(folder: Path, signature: Signature, content: bytes | None) -> Runtime:
    """Load ``model.onnx`` in ONNX Runtime, on the CPU."""
    return _session(content or guard.check_onnx(folder / ONNX))


def _load_uint8_onnx(folder: Path, signature: Signature, content: bytes | None) -> Runtime:
    return _session(content or guard.check_onnx(folder / UINT8_ONNX))


def _session(content: bytes) -> Runtime:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised as well
    loaded = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = loaded.get_inputs()[0].name

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = loaded.run(None, {name: inputs})[0]
        return logits

    return run


def _load_openvino(folder: Path, signature: Signature, content: bytes | None) -> Runtime:
    """Load ``model.onnx`` in OpenVINO, on the CPU."""
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16, where the CPU has that
    }
    model = core.read_model(content or guard.check_onnx(folder / ONNX))
    compiled = core.compile_model(model, "CPU", settings)

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.array(compiled([inputs])[0])  # its own memory is reused
        return logits

    return run


RUNTIMES: Final = {
    "module": Kind(None, _load_module),
    "symbolblock": Kind(None, _load_symbolblock),
    "onnx": Kind("onnxruntime", _load_onnx),
    "openvino": Kind("openvino", _load_openvino),
    "int8": Kind(None, _load_int8),
    UINT8: Kind(None, _load_uint8),
    UINT8_ONNX: Kind("onnxruntime", _load_uint8_onnx),
}


class _Silent:
    """A logger that Module may call; what it says of missing labels is no news."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


_SILENT = _Silent()
