"""What computes the frozen front: images (n, H, W, C) uint8 to features, batch by batch."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import temporary
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.config.schema import FeaturesConfig
from gluonexp.engines.torch import library
from gluonexp.export.onnx import convert
from gluonexp.features.front import INPUT
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph
from gluonexp.model_folder.network import Network
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.verification import runtimes

BATCH: Final = 64  # images at a time: what an image gives may depend on that, by rounding

Stream = Callable[[Iterable[NDArray[np.uint8]]], Iterator[NDArray[np.float32]]]
"""Batches of images to the features of each, in the same order."""

# What decides which kernels a processor runs, of the flags that Linux shows.
_SETS: Final = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "sve", "i8mm"),
)


def stream(
    front: Graph,
    net: nn.HybridBlock,
    preprocess: Preprocess,
    image: tuple[int, int, int],
    device: mx.Context,
    settings: FeaturesConfig,
    where: str = "cpu",
) -> Stream:
    """Return what computes `front`, whose parameters have the values that `net` has now.

    Parameters
    ----------
    front
        A graph from the preprocessed images to the features.
    image
        (H, W, C) of the images.
    where
        On which device PyTorch computes, as it calls that.

    Raises
    ------
    Unexportable
        ONNX, through which OpenVINO reads it, cannot express an operator.
    CannotRun
        OpenVINO or PyTorch cannot load it, or OpenVINO a batch of it.
    GluonexpError
        The processor has no bfloat16.
    """
    values = {name: p.data(device) for name, p in net.collect_params().items()}
    if settings.engine == "mxnet":
        return _by_mxnet(front, values, preprocess, device)
    network = _composed(front, values, preprocess, image)
    if settings.engine == "torch":
        return _by_torch(network, image, settings.precision, where)
    return _by_openvino(network, image, settings.precision)


def _composed(
    front: Graph,
    values: Mapping[str, nd.NDArray],
    preprocess: Preprocess,
    image: tuple[int, int, int],
) -> Network:
    """Return a front that takes uint8 images."""
    with mx.name.NameManager():
        inputs = preprocess(mx.sym.var(INPUT, dtype="uint8"))
        composed = symbols.to_symbol(front)(**{INPUT: inputs})
    mine = {*composed.list_inputs()}
    known = {name: value for name, value in values.items() if name in mine}
    shapes = {INPUT: (1, *image), **{name: value.shape for name, value in known.items()}}
    return Network(symbols.to_symbol(symbols.plain(composed, shapes)), known)


def _by_torch(network: Network, image: tuple[int, int, int], precision: str, where: str) -> Stream:
    library.load("features.engine=torch", "features.engine=mxnet")
    from gluonexp.engines.torch import features

    graph = Graph.from_symbol(network.symbol)
    values = {name: value.asnumpy() for name, value in network.values.items()}
    try:
        module = features.module(graph, values, INPUT, image)
    except GluonexpError as error:
        raise runtimes.CannotRun(library.why(error), "torch") from None
    return features.stream(module, precision, where)


def _by_openvino(network: Network, image: tuple[int, int, int], precision: str) -> Stream:
    with temporary() as folder:
        written = convert.write(network, folder, image, dtype="uint8")
        content = written.read_bytes()
    return runtimes.stream_by_openvino(content, precision)


def _by_mxnet(
    front: Graph, values: Mapping[str, nd.NDArray], preprocess: Preprocess, device: mx.Context
) -> Stream:
    block: gluon.SymbolBlock = symbols.block(front, values)
    block.collect_params().reset_ctx(device)
    block.hybridize(static_alloc=True, static_shape=True)

    def run(batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        for images in batches:
            yield block(preprocess(nd.array(images, ctx=device, dtype="uint8"))).asnumpy()

    return run


def arithmetic(settings: FeaturesConfig, device: str) -> dict[str, Any]:
    """Return what the values of features depend on, besides the network and the images."""
    runtime = "module" if settings.engine == "mxnet" else settings.engine
    return {
        "engine": settings.engine,
        "versions": runtimes.versions(runtime),
        "precision": settings.precision,
        "device": device,
        "batch": BATCH,
        "processor": [platform.machine(), *_instruction_sets()],
    }


def fingerprint(front: Graph, net: nn.HybridBlock) -> str:
    """Return the sha256 of a front with the values of its parameters, whatever they are called."""
    parameters = net.collect_params()
    nd.waitall()  # device sync: after a prediction values may still be moving
    nodes: list[Any] = []
    for node in front.nodes:
        if node.op != VARIABLE:
            inputs = [[source.node, source.index] for source in node.inputs]
            nodes.append([node.op, sorted(node.attrs.items()), inputs, repr(node.subgraphs)])
        elif node.name == INPUT:
            nodes.append(INPUT)
        else:
            value = parameters[node.name].data().asnumpy()
            nodes.append([value.dtype.str, value.shape, hashlib.sha256(value).hexdigest()])
    return hashlib.sha256(repr(nodes).encode()).hexdigest()


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return [platform.processor()]
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    flags = set(line.partition(":")[2].split())
    return [name for name in _SETS if name in flags]
