"""Symbol JSON, params and signature, written."""

from __future__ import annotations

from pathlib import Path

from gluonexp.base.files import settle
from gluonexp.base.mx import nd, nn, sym
from gluonexp.graph import structure
from gluonexp.graph.symbols import plain, to_symbol
from gluonexp.model_folder.names import MODEL, paths
from gluonexp.model_folder.network import Network
from gluonexp.model_folder.signature import Signature


def write(network: Network, folder: Path) -> None:
    """Write a network's ``model-symbol.json`` and ``model-0000.params`` into `folder`."""
    symbol, values = paths(folder, MODEL)
    statistics = set(network.symbol.list_auxiliary_states())
    network.symbol.save(str(symbol))
    named = {
        f"{'aux' if name in statistics else 'arg'}:{name}": value
        for name, value in network.values.items()
    }
    nd.save(str(values), named)


def export(net: nn.HybridBlock, folder: Path, signature: Signature) -> Network:
    """Write ``model-symbol.json``, ``model-0000.params`` and ``signature.json`` into `folder`.

    Parameters
    ----------
    net
        Hybridized, and called at least once.

    Returns
    -------
    Network
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nd.waitall()  # device sync: what is read for saving must not be stale
    draft = f".{MODEL}"
    net.export(str(folder / draft), epoch=0)
    graph = paths(folder, draft)[0]
    symbol = sym.load(str(graph))
    found = {name: each.data(each.list_ctx()[0]) for name, each in net.collect_params().items()}
    values = {name: found[name] for name in symbol.list_inputs() if name in found}
    shapes = {name: value.shape for name, value in values.items()}
    read_right = plain(symbol, {**shapes, signature.input: signature.shape})
    symbol = to_symbol(structure.noted(read_right, net))
    symbol.save(str(graph))
    for path, target in zip(paths(folder, draft), paths(folder, MODEL), strict=True):
        settle(path, target)
    signature.write(folder)
    return Network(symbol, values)
