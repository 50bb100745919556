"""From a graph back to MXNet: as a symbol, and as a Gluon block with its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gluonexp.base.mx import gluon, mx, nd, sym
from gluonexp.graph.graph import Graph, Output
from gluonexp.graph.rewrite import flattened, uniquely_named


def traced(net: gluon.HybridBlock) -> sym.Symbol:
    """Return what `net` makes of its input ``data`` as a symbol, the same for each call.

    It does not change the names of networks that are made later.
    """
    with mx.name.NameManager():
        return net(sym.var("data"))


def rest(net: gluon.HybridBlock, output: Output) -> tuple[Graph, str]:
    """Return what `net` computes from an output of its graph on, and the name of its input.

    Parameters
    ----------
    output
        Of the graph of `traced`; no other output of its node may be needed.
    """
    graph = Graph.from_symbol(traced(net))
    name = "features"
    while name in {node.name for node in graph.nodes}:
        name += "_"
    return graph.behind(output, name), name


def behind(net: gluon.HybridBlock, output: Output) -> gluon.SymbolBlock:
    """Return the same as a compiled block, of the network's own parameters, not copies.

    What is changed in the layers afterwards, such as by which statistics one normalizes, is not
    changed in the block.
    """
    graph, name = rest(net, output)
    entry = sym.var(name, dtype="float32")
    block = gluon.SymbolBlock(to_symbol(graph), entry, params=net.collect_params())
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def to_symbol(graph: Graph) -> sym.Symbol:
    """Return the graph as a symbol.

    Raises
    ------
    MXNetError
        An operator that MXNet does not have, or not with such attributes.
    """
    return sym.load_json(graph.to_json())


def shapes(symbol: sym.Symbol, known: Mapping[str, Sequence[int]]) -> list[list[tuple[int, ...]]]:
    """Return the shape of each output of each node, in the order of the symbol's graph.

    Parameters
    ----------
    known
        Shapes of the input and of parameters, by name; the others are inferred.

    Raises
    ------
    MXNetError
        The shapes do not fit one another.
    """
    inner = symbol.get_internals()  # the same nodes, in the same order
    graph, names = Graph.from_symbol(inner), {*inner.list_inputs()}
    given = {name: shape for name, shape in known.items() if name in names}
    found: list[list[tuple[int, ...]]] = [[] for _ in graph.nodes]
    for head, shape in zip(graph.heads, inner.infer_shape_partial(**given)[1], strict=True):
        found[head.node].append(shape)
    return found


def plain(symbol: sym.Symbol, known: Mapping[str, Sequence[int]]) -> Graph:
    """Return the graph of a network as every runtime reads it right; see `rewrite`.

    Parameters
    ----------
    known
        As for `shapes`.
    """
    dimensions = [[len(shape or ()) for shape in made] for made in shapes(symbol, known)]
    return uniquely_named(flattened(Graph.from_symbol(symbol), dimensions))


@contextmanager
def classic() -> Iterator[None]:
    """Compute with MXNet's first kind of arrays and shapes, also after `mx.npx.set_np`."""
    with mx.util.np_array(False), mx.util.np_shape(False):
        yield


def block(
    network: Graph | sym.Symbol, parameters: Mapping[str, nd.NDArray], name: str = "data"
) -> gluon.SymbolBlock:
    """Return the network as a Gluon block of its own, on the CPU.

    After `mx.npx.set_np` it takes and gives NumPy's arrays.

    Parameters
    ----------
    parameters
        By name, running statistics too, as `gluonexp.model_folder.network.read_network` has them;
        each keeps its type. What the network does not need is left out.
    name
        Of its input, float32.
    """
    symbol = to_symbol(network) if isinstance(network, Graph) else network
    entry = sym.var(name, dtype="float32")
    if numpy := mx.util.is_np_array():
        symbol, entry = symbol.as_np_ndarray(), entry.as_np_ndarray()
    made = gluon.SymbolBlock(symbol, entry)
    for key, parameter in made.collect_params().items():
        value = parameters[key].as_np_ndarray() if numpy else parameters[key]
        parameter._load_init(value, mx.cpu(), cast_dtype=True, dtype_source="saved")
    return made
