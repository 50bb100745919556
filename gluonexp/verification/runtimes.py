"""Every way in which an export can be run; each gives the same logits."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.imports import installed
from gluonexp.base.mx import installed_wheels, mx, nd, threads
from gluonexp.base.text import listed
from gluonexp.graph.symbols import block
from gluonexp.model_folder import extents, guard
from gluonexp.model_folder.names import (
    FILES,
    IMAGE_RUNTIMES,
    INT8,
    MODEL,
    UINT8,
    UINT8_ONNX,
    paths,
)
from gluonexp.model_folder.network import Network, checked, read_network, read_pair
from gluonexp.model_folder.signature import ArraySignature, read
from gluonexp.verification import torch

# Module logs that labels are missing, which prediction has none of.
_SILENT: Final = logging.Logger("gluonexp.silent", level=logging.CRITICAL + 1)

# The distributions of those that do not run in MXNet.
_LIBRARIES: Final = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    UINT8_ONNX: "onnxruntime",
    "torch": "torch",
}

# Those that run what takes no images.
_FOR_ARRAYS: Final = ("module", "symbolblock")


class CannotRun(GluonexpError):
    """A runtime cannot load an export's files, or cannot run them.

    Attributes
    ----------
    runtime
        Its name.
    """

    def __init__(self, message: str, runtime: str = "") -> None:  # pickle calls it with one
        super().__init__(message)
        self.runtime = runtime


Runtime = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Input (N, C, H, W) float32 to logits (N, K), for any N, which may change from call to call.

Those of `IMAGE_RUNTIMES` take images (N, H, W, C) uint8.
"""

Loaded = Callable[[NDArray[Any]], Sequence[NDArray[np.float32]]]
"""A network in a library: the same input to all of its outputs."""


def available(folder: Path) -> list[str]:
    """Name the runtimes whose files are in `folder` and whose library is installed."""
    return [
        name
        for name, files in FILES.items()
        if versions(name) and all((folder / file).is_file() for file in files)
    ]


def load(folder: Path, name: str, onnx: bytes | None = None) -> Runtime:
    """Load the export in `folder`; nothing in it is executed or imported.

    Parameters
    ----------
    name
        One of `FILES`.
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
    if name not in FILES:
        raise GluonexpError(f"runtime {name}: choose one of {' '.join(FILES)}")
    if not versions(name):
        raise GluonexpError(
            f"runtime {name} needs {_LIBRARIES[name]}, which is not installed: "
            f"pip install 'gluonexp[{'torch' if name == 'torch' else 'onnx'}]'"
        )
    if folder.is_dir():
        guard.check_files(folder)
    # Before the files, for it says more where there is no export at all.
    signature = read(folder)
    if isinstance(signature, ArraySignature):
        if name not in _FOR_ARRAYS:
            raise GluonexpError(
                f"{folder}: its network takes {signature.takes}, which runtime {name} cannot give "
                f"it; choose {' or '.join(_FOR_ARRAYS)}"
            )
        return of_arrays(*paths(folder, MODEL), signature, name)
    shape, dtype = signature.shape[1:], "float32"
    if name in IMAGE_RUNTIMES:
        shape, dtype = signature.image, "uint8"
    for file in FILES[name]:
        if not (folder / file).is_file():
            raise GluonexpError(f"{folder / file} is missing, which runtime {name} needs")
    path = folder / FILES[name][0]
    try:
        if path.suffix == ".onnx":
            content = onnx or guard.check_onnx(path)
            run = by_openvino(content) if name == "openvino" else by_onnxruntime(content)
        elif name == "torch":
            network = read_network(folder, MODEL, signature.input, (1, *shape))
            run = torch.load(network, folder, signature)
        else:
            prefix, entry = path.name.partition("-")[0], (1, *shape)
            network = read_network(folder, prefix, signature.input, entry)
            if name in ("module", UINT8):
                run = as_module(network, mx.io.DataDesc(signature.input, entry, dtype))
            else:
                run = as_block(network, signature.input, compiled=name == INT8)
    except GluonexpError:
        raise
    except Exception as error:  # each library has its own, and they share no base
        raise CannotRun(f"{path}: runtime {name} cannot load it: {reason(error)}", name) from None

    def guarded(inputs: NDArray[Any]) -> NDArray[np.float32]:
        if not len(inputs) or inputs.shape[1:] != shape:
            takes = ", ".join(map(str, ["N", *shape]))
            raise GluonexpError(f"{folder}: takes inputs ({takes}), not {inputs.shape}")
        try:
            return _in_parts(run, inputs, dtype)
        except Exception as error:
            raise CannotRun(f"{folder}: runtime {name}: {reason(error)}", name) from None

    return guarded


def of_arrays(graph: Path, file: Path, signature: ArraySignature, name: str = "module") -> Runtime:
    """Load a network that takes no images: (N, ...) float32 to whatever it makes of N inputs.

    Sides of any length are looked at when they come: what is known to be safe for one shape may
    not be for another.

    Parameters
    ----------
    graph, file
        Its symbol and its parameters.
    name
        ``module`` or ``symbolblock``.

    Raises
    ------
    GluonexpError
        As for `load`.
    """
    network = read_pair(graph, file)
    if len(found := network.symbol.list_outputs()) != 1:
        raise GluonexpError(f"{graph} has {len(found)} outputs, not one: {listed(found)}")
    loaded: dict[int, Loaded] = {}  # by the number of sides, on which a network's layers depend
    safe: set[tuple[int, ...]] = set()

    def guarded(inputs: NDArray[Any]) -> NDArray[np.float32]:
        if not signature.fits(inputs.shape):
            raise GluonexpError(f"{graph.parent}: takes {signature.takes}, not {inputs.shape}")
        one = (1, *inputs.shape[1:])
        try:
            if one not in safe:
                entry = extents.Input(signature.input, one, "float32")
                looked_at = checked(network, graph, file, entry)
                if len(one) not in loaded:
                    loaded[len(one)] = (
                        as_module(looked_at, mx.io.DataDesc(signature.input, one))
                        if name == "module"
                        else as_block(looked_at, signature.input)
                    )
                safe.add(one)
            answers = _in_parts(loaded[len(one)], inputs, "float32")
        except GluonexpError as error:
            raise GluonexpError(f"{graph.parent}: does not take {inputs.shape}: {error}") from None
        except Exception as error:
            raise CannotRun(f"{graph.parent}: runtime {name}: {reason(error)}", name) from None
        if len(answers) != len(inputs):
            raise GluonexpError(
                f"{graph.parent}: makes {answers.shape} of {len(inputs)} inputs; the first axis "
                "must be that of the inputs"
            )
        return answers

    return guarded


def _in_parts(run: Loaded, inputs: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Run a network on no more inputs at once than it was looked at with: more may not be safe."""
    parts = []
    for start in range(0, len(inputs), extents.BATCH):
        part = inputs[start : start + extents.BATCH]
        parts.append(run(np.ascontiguousarray(part, dtype=dtype))[0])
    return np.concatenate(parts)


def versions(name: str) -> dict[str, str]:
    """Return the version of each library behind a runtime; none where it is not installed."""
    if name not in _LIBRARIES:
        return installed_wheels() or {"mxnet": mx.__version__}  # a build of one's own
    return installed(_LIBRARIES[name])


def as_module(network: Network, image: mx.io.DataDesc) -> Loaded:
    """Run it the classic way: symbol, params, `mx.mod.Module`, bind."""
    module = mx.mod.Module(
        network.symbol, data_names=[image.name], label_names=None, context=mx.cpu(), logger=_SILENT
    )
    module.bind(for_training=False, data_shapes=[image])
    module.set_params(network.values, network.values)  # it takes of each what it needs

    def run(inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        batch = mx.io.DataBatch([nd.array(inputs, dtype=image.dtype)])
        module.forward(batch, is_train=False)  # binds anew where the batch size changed
        return [output.asnumpy() for output in module.get_outputs()]

    return run


def as_block(network: Network, name: str, *, compiled: bool = False) -> Loaded:
    """Run it as a Gluon block; compiled, which is where eight bits are fast."""
    net = block(network.symbol, network.values, name)
    if compiled:
        net.hybridize(static_alloc=True, static_shape=True)

    def run(inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        made = net(nd.array(inputs, dtype="float32"))
        outputs = [made] if isinstance(made, nd.NDArray) else made
        return [output.asnumpy() for output in outputs]

    return run


def by_onnxruntime(content: bytes) -> Loaded:
    """Run an ONNX model in ONNX Runtime, on the CPU."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised as well
    loaded = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = loaded.get_inputs()[0].name
    return lambda inputs: loaded.run(None, {name: inputs})


def by_openvino(content: bytes) -> Loaded:
    """Run an ONNX model in OpenVINO, on the CPU."""
    compiled = _compiled(content, "float32", "LATENCY")
    # Copies, for it uses the memory of its outputs again.
    return lambda inputs: [np.array(output) for output in compiled([inputs]).values()]


def _compiled(content: bytes, precision: str, hint: str) -> Any:
    """Return OpenVINO's compiled model.

    Raises
    ------
    GluonexpError
        The processor has no bfloat16.
    """
    import openvino

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and "BF16" not in able:
        raise GluonexpError(
            "features.precision=bfloat16: this processor has no bfloat16; take float32"
        )
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads(),
        # Its own choice is bfloat16, where the CPU has that.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": hint,
    }
    return core.compile_model(core.read_model(content), "CPU", settings)


def stream_by_openvino(
    content: bytes, precision: str
) -> Callable[[Iterable[NDArray[Any]]], Iterator[NDArray[np.float32]]]:
    """Run an ONNX model in OpenVINO on batch after batch, several at a time, in their order.

    What it yields is memory that is used again for a later batch.

    Parameters
    ----------
    precision
        Of the arithmetic: ``float32`` or ``bfloat16``.

    Raises
    ------
    GluonexpError
        The processor has no bfloat16.
    CannotRun
        OpenVINO cannot load the model; what it returns raises it where a batch cannot be run.
    """
    try:
        compiled = _compiled(content, precision, "THROUGHPUT")
        most = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    except GluonexpError:
        raise
    except Exception as error:  # whatever it raises
        raise CannotRun(f"OpenVINO cannot load it: {reason(error)}", "openvino") from None

    def run(batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        free = [compiled.create_infer_request() for _ in range(most)]
        running: deque[Any] = deque()

        def finished() -> Any:
            request = running.popleft()
            try:
                request.wait()
            except Exception as error:
                raise CannotRun(f"OpenVINO cannot run it: {reason(error)}", "openvino") from None
            free.append(request)
            return request.get_output_tensor(0).data

        for batch in batches:
            if not free:
                yield finished()
            running.append(free.pop())
            running[-1].start_async([batch])
        while running:
            yield finished()

    return run
