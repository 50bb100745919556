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

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, installed_wheels, mx, nd, sym, usable_cores
from gluonexp.model_folder import extents, files, guard


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


Runtime = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Input (N, C, H, W) float32 to logits (N, K); any N, other sizes in turn."""


@dataclass(frozen=True)
class Kind:
    """A runtime: what it needs, and how it loads an export.

    Attributes
    ----------
    files
        Those of the export's folder that it reads, besides the signature.
    library
        The distribution it needs; None is MXNet, under one of its names.
    load
        From the folder; may raise whatever its library raises on damaged files.
    """

    files: tuple[str, ...]
    library: str | None
    load: Callable[..., Runtime]


def available(folder: Path) -> list[str]:
    """Name the runtimes whose files are in `folder` and whose library is installed."""
    return [
        name
        for name, kind in RUNTIMES.items()
        if versions(name) and all((folder / file).is_file() for file in kind.files)
    ]


def load(folder: Path, name: str, onnx: bytes | None = None) -> Runtime:
    """Load the export in `folder`; nothing in it is executed or imported.

    Parameters
    ----------
    name
        One of `RUNTIMES`.
    onnx
        The content of ``model.onnx``, if `guard.check_onnx` has looked at it already.

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
    _, (_, *shape) = _input(folder)
    for file in kind.files:
        if not (folder / file).is_file():
            raise GluonexpError(f"{folder / file} is missing, which runtime {name} needs")
    try:
        run = kind.load(folder) if onnx is None else kind.load(folder, onnx)
    except GluonexpError:
        raise
    except Exception as error:  # each library has its own, and they share no base
        what = f"{folder / kind.files[0]}: runtime {name} cannot load it"
        raise CannotRun(f"{what}: {files.reason(error)}", name) from None

    def guarded(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        if not len(inputs) or list(inputs.shape[1:]) != shape:
            takes = ", ".join(map(str, ["N", *shape]))
            raise GluonexpError(f"{folder}: takes inputs ({takes}), not {inputs.shape}")
        parts = []
        try:
            # The network was looked at with so many images, and may not be safe with more.
            for start in range(0, len(inputs), extents.BATCH):
                part = inputs[start : start + extents.BATCH]
                parts.append(run(np.ascontiguousarray(part, dtype=np.float32)))
            return np.concatenate(parts)
        except Exception as error:
            raise CannotRun(f"{folder}: runtime {name}: {files.reason(error)}", name) from None

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


def load_module(folder: Path) -> Runtime:
    """Load the export the classic way: symbol, params, arg and aux, `mx.mod.Module`, bind."""
    name, shape = _input(folder)
    network = files.read(folder, files.MODEL, name, shape)
    return bound(network, mx.io.DataDesc(name, shape))


def bound(
    network: files.Network, image: mx.io.DataDesc
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return the network as a `Module`; `image` describes an input of one image."""
    module = mx.mod.Module(
        network.symbol, data_names=[image.name], label_names=None, context=mx.cpu(), logger=_SILENT
    )
    module.bind(for_training=False, data_shapes=[image])
    module.set_params(network.arguments, network.statistics)

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        batch = mx.io.DataBatch([nd.array(inputs, dtype=image.dtype)])
        module.forward(batch, is_train=False)  # binds anew where the batch size changed
        logits: NDArray[np.float32] = module.get_outputs()[0].asnumpy()
        return logits

    return run


def load_symbolblock(folder: Path) -> Runtime:
    """Load the export as a Gluon block."""
    return _block(folder, files.MODEL)


def load_int8(folder: Path) -> Runtime:
    """Load the quantized export as a Gluon block, compiled: that is where its speed is."""
    return _block(folder, files.INT8, static_alloc=True, static_shape=True)


def load_onnx(folder: Path, content: bytes | None = None) -> Runtime:
    """Load ``model.onnx`` in ONNX Runtime, on the CPU."""
    return session(folder / files.ONNX, content)


def session(
    path: Path, content: bytes | None = None
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return an ONNX file's network of one input in ONNX Runtime, on the CPU."""
    import onnxruntime

    content = content or guard.check_onnx(path)
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


def load_openvino(folder: Path, content: bytes | None = None) -> Runtime:
    """Load ``model.onnx`` in OpenVINO, on the CPU."""
    import openvino

    content = content or guard.check_onnx(folder / files.ONNX)
    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16, where the CPU has that
    }
    compiled = core.compile_model(core.read_model(content), "CPU", settings)

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.array(compiled([inputs])[0])  # its own memory is reused
        return logits

    return run


RUNTIMES: Final[dict[str, Kind]] = {
    "module": Kind(("model-symbol.json", "model-0000.params"), None, load_module),
    "symbolblock": Kind(("model-symbol.json", "model-0000.params"), None, load_symbolblock),
    "onnx": Kind((files.ONNX,), "onnxruntime", load_onnx),
    "openvino": Kind((files.ONNX,), "openvino", load_openvino),
    "int8": Kind(("int8-symbol.json", "int8-0000.params"), None, load_int8),
}


class _Silent:
    """A logger that Module may call; what it says of missing labels is no news."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


_SILENT = _Silent()


def _input(folder: Path) -> tuple[str, tuple[int, ...]]:
    """Return the input's name, and its shape for one image."""
    entry = files.read_signature(folder)["input"]
    return entry["name"], (1, *entry["shape"][1:])


def _block(folder: Path, prefix: str, **compiled: bool) -> Runtime:
    name, shape = _input(folder)
    network = files.read(folder, prefix, name, shape)
    block = gluon.SymbolBlock(network.symbol, sym.var(name, dtype="float32"))
    values = {**network.arguments, **network.statistics}
    for key, parameter in block.collect_params().items():
        parameter._load_init(values[key], mx.cpu(), cast_dtype=True, dtype_source="saved")
    if compiled:
        block.hybridize(**compiled)

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = block(nd.array(inputs, dtype="float32")).asnumpy()
        return logits

    return run
