"""From a graph back to MXNet: as a symbol, and as a Gluon block with its parameters."""

from __future__ import annotations

from collections.abc import Mapping

from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.graph.graph import Graph


def to_symbol(graph: Graph) -> sym.Symbol:
    """Return the graph as a symbol.

    Raises
    ------
    MXNetError
        An operator that MXNet does not have, or not with such attributes.
    """
    return sym.load_json(graph.to_json())


def block(
    network: Graph | sym.Symbol, parameters: Mapping[str, nd.NDArray], name: str = "data"
) -> gluon.SymbolBlock:
    """Return the network as a Gluon block of its own, on the CPU.

    Parameters
    ----------
    parameters
        By name, running statistics too, as `gluonexp.model_folder.network.read_network` has them;
        each keeps its type. What the network does not need is left out.
    name
        Of its input, float32.
    """
    symbol = to_symbol(network) if isinstance(network, Graph) else network
    made = gluon.SymbolBlock(symbol, sym.var(name, dtype="float32"))
    for key, parameter in made.collect_params().items():
        parameter._load_init(parameters[key], mx.cpu(), cast_dtype=True, dtype_source="saved")
    return made
