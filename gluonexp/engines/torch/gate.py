"""Before the first step: what PyTorch computes of real images against MXNet, float64 as referee.

Two roundings of a deep network part: an input of a ReLU near zero has another sign, and a gradient
is some per cent off, in MXNet as in PyTorch. So both are measured by their distance from the same
module in float64. Where these distances are not alike, by chance or by a fault, each kind of layer
is looked at alone, on the very inputs that it has in MXNet: there nothing adds up.

Where the network has fitted the images, losses and gradients are all but zero, and so are what
float32 and float64 make of them: they are measured by what they would be for other labels then,
and the layers alone are looked at in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.mx import autograd, gluon, mx, nd, nn, sym
from gluonexp.engines.torch.distances import ALIKE, Tensors, alike, apart, distance, figures, norm
from gluonexp.engines.torch.lowering import Lowered, lower
from gluonexp.graph import symbols
from gluonexp.graph.graph import VARIABLE, Graph, Node, Output

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Found: TypeAlias = dict[str, Tensors]
"""By name, for each of ``logits``, ``loss``, ``gradients`` and ``statistics``."""

_TAG: Final = "gluonexp.engine.gate"
_PASSABLE: Final = 1e-3  # of all but gradients, where every layer alone is right
# Of what they would be for other labels: smaller ones, of a network that has fitted the images,
# are measured as if they were this large.
_FITTED: Final = {"loss": 0.1, "gradients": 0.01}
_COARSER: Final = 1 << 16  # by so much more than float32 does bfloat16 round
_FAULTS: Final = (RuntimeError, ValueError, IndexError, TypeError)


def images(shape: Sequence[int]) -> int:
    """Return how many inputs of shape (C, ...) the gate takes: more make rounding no clearer."""
    return max(2, min(16, (1 << 17) // math.prod(shape[1:])))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round products to TensorFloat-32, or not."""
    settings: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in settings]
    try:
        for each in settings:
            each.allow_tf32 = allowed
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.allow_tf32 = value


@tf32(False)
def prove(
    net: nn.HybridBlock,
    preprocess: nn.HybridBlock,
    loss: gluon.loss.Loss,
    lowered: Lowered,
    losses: Lowered,
    given: NDArray[np.uint8],
    prepared: Tensor,
    labels: NDArray[np.int64],
    coarse: Callable[[], AbstractContextManager[Any]] | None = None,
) -> dict[str, str]:
    """Compare a step, up to the update, in both engines at the values that `lowered` has.

    Nothing is changed: no value, gradient or statistic, and nothing is drawn at random.

    Parameters
    ----------
    lowered, losses
        `net`, its values by structural name; and `loss`, of (logits, labels).
    given, prepared
        Images (N, H, W, C), as many as `images` says; what PyTorch's preprocessing makes of them.
    labels
        (N,).
    coarse
        Makes the context of a forward pass that computes in less than float32.

    Returns
    -------
    tags
        The distances from float64, of PyTorch and of MXNet.

    Raises
    ------
    GluonexpError
        PyTorch does not compute what MXNet does; the first layer that differs is named.
    """
    names = {p.name: name for name, p in net._collect_params_with_prefix().items()}
    held = {**dict(lowered.named_parameters()), **dict(lowered.named_buffers())}
    values = {name: held[key] for name, key in names.items() if key in held}
    inputs = {"data": preprocess(nd.array(given, dtype="uint8")).asnumpy()}
    wanted = torch.from_numpy(inputs["data"])
    if not distance(prepared.cpu(), wanted, float(wanted.norm())) <= ALIKE:
        raise _refusal("the images are not prepared as in MXNet")
    graph = _without_dropout(Graph.from_symbol(symbols.traced(net)))
    theirs = _by_mxnet(graph, values, inputs, lambda made: loss(made, nd.array(labels)))
    if not all(bool(theirs[kind][""].isfinite().all()) for kind in ("logits", "loss")):
        raise GluonexpError(
            "what the network makes of the first images, or the loss of that, is not finite: look "
            "at initial values, at the loss, and at dataset.mean and dataset.std"
        )
    layers = _differing(graph, values, inputs, prepared)
    other = (labels + 1) % theirs["logits"][""].shape[1]

    def ends(made: Tensor, dtype: torch.dtype, of: NDArray[np.int64]) -> Tensor:
        taken = (made.to(prepared.device, dtype), torch.from_numpy(of).to(prepared.device))
        found: Tensor = torch.func.functional_call(losses, _state(losses, dtype), taken)
        return found

    def run(
        dtype: torch.dtype, context: AbstractContextManager[Any], of: NDArray[np.int64] = labels
    ) -> Found:
        with context:
            end = partial(ends, dtype=dtype, of=of)
            return _by_torch(lowered, dtype, names, [prepared.to(dtype)], end, theirs)

    least: dict[str, float] = {}
    try:
        referee, ours = (run(dtype, nullcontext()) for dtype in (torch.float64, torch.float32))
        unfitted = {"loss": {"": ends(referee["logits"][""], torch.float64, other).detach()}}
        if norm(referee["loss"]) < _FITTED["loss"] * norm(unfitted["loss"]):
            unfitted = run(torch.float64, nullcontext(), other)
            least = {kind: part * norm(unfitted[kind]) for kind, part in _FITTED.items()}
    except _FAULTS as error:
        raise _refusal(next(layers, reason(error))) from error
    far = {
        kind: apart(ours[kind], theirs[kind], of, least.get(kind, 0.0))
        for kind, of in referee.items()
        if of
    }
    tags = {f"{_TAG}.{kind}": figures(pairs) for kind, pairs in far.items()}
    if least or not all(alike(*pair) for each in far.values() for pair in each.values()):
        for differs in layers:
            raise _refusal(differs)
        tags[f"{_TAG}.layers"] = "each alone as in MXNet"
    for of in (labels, other):
        wrong = _loss_differs(loss, ends, theirs["logits"][""], of, least.get("loss", 0.0))
        if wrong:
            raise _refusal(wrong)
    for kind, pairs in far.items():
        passable = all(alike(*pair) or max(pair) <= _PASSABLE for pair in pairs.values())
        if kind != "gradients" and not passable:
            raise _refusal(f"{kind} differ, though no layer alone does: {figures(pairs)}")
    if coarse is not None:
        rough = run(torch.float32, coarse())
        for kind in ("logits", "loss"):
            floor = least.get(kind, 0.0)
            ((off, near),) = apart(rough[kind], ours[kind], referee[kind], floor).values()
            tags[f"{_TAG}.{kind}.coarse"] = f"{off:.0e}"
            if not off <= _COARSER * max(near, ALIKE / 10):
                raise GluonexpError(
                    f"engine.precision: {kind} are {off:.0%} off, which is more than rounding; "
                    "take engine.precision=float32 and engine.tf32=false"
                )
    return tags | {f"{_TAG}.images": str(len(given))}


def _loss_differs(
    loss: gluon.loss.Loss,
    ends: Callable[[Tensor, torch.dtype, NDArray[np.int64]], Tensor],
    logits: Tensor,
    labels: NDArray[np.int64],
    least: float,
) -> str | None:
    """Say by how much PyTorch finds another loss than MXNet of the same logits, if it does.

    This sees what a small loss does not: other labels have a large one.
    """
    with symbols.classic(), autograd.train_mode():
        made = loss(nd.array(logits.numpy()), nd.array(labels)).asnumpy()
    theirs = torch.from_numpy(made).float()
    of, ours = (
        ends(logits, dtype, labels).detach().float().cpu()
        for dtype in (torch.float64, torch.float32)
    )
    if theirs.shape == of.shape == ours.shape:  # of other labels a loss may be infinite
        finite = theirs.isfinite() & of.isfinite()
        theirs, of, ours = theirs[finite], of[finite], ours[finite]
    by, own = (apart({"": ours}, {"": theirs}, {"": of}, floor)[""] for floor in (least, 0.0))
    if alike(*by) or max(own) <= _PASSABLE:
        return None
    return (
        f"the loss is not computed as in MXNet: of the same logits it is {figures({'': own})} off"
    )


def _refusal(what: str) -> GluonexpError:
    return GluonexpError(f"engine=torch: {what}; take engine=mxnet")


def _without_dropout(graph: Graph) -> Graph:
    def dry(node: Node) -> Node:
        drops = node.op in ("Dropout", "RNN")
        return replace(node, attrs={**node.attrs, "p": "0"}) if drops else node

    return replace(graph, nodes=tuple(map(dry, graph.nodes)))


def _by_mxnet(
    graph: Graph, values: Mapping[str, Tensor], inputs: Arrays, end: Any, alone: bool = False
) -> Found:
    """Return what MXNet finds; `alone`: gradients of the inputs too."""
    with symbols.classic():
        symbol = symbols.to_symbol(graph)
        block = gluon.SymbolBlock(symbol, [sym.var(name, dtype="float32") for name in inputs])
        parameters = block.collect_params()
        for name, parameter in parameters.items():
            parameter.grad_req = "write" if values[name].requires_grad else "null"
            value = nd.array(values[name].detach().cpu().numpy())
            parameter._load_init(value, mx.cpu(), cast_dtype=True, dtype_source="saved")
        arrays = {name: nd.array(value, dtype=value.dtype) for name, value in inputs.items()}
        for array in arrays.values() if alone else ():
            array.attach_grad()
        with autograd.record():
            made = block(*arrays.values())
            losses = end(made)
        losses.backward()
        gradients = {n: p.grad() for n, p in parameters.items() if p.grad_req == "write"}
        found = {
            "logits": {"": made},
            "loss": {"": losses},
            "gradients": gradients | {n: array.grad for n, array in arrays.items() if alone},
            "statistics": {n: parameters[n].data() for n in symbol.list_auxiliary_states()},
        }
        return {
            kind: {name: torch.from_numpy(array.asnumpy()).float() for name, array in each.items()}
            for kind, each in found.items()
        }


def _state(module: Lowered, dtype: torch.dtype) -> Tensors:
    """Return what a module holds: copies of statistics, parameters with gradients of their own."""
    state = {key: each.detach().clone().to(dtype) for key, each in module.named_buffers()}
    for key, each in module.named_parameters():
        state[key] = each.detach().to(dtype).requires_grad_(each.requires_grad)
    return state


def _by_torch(
    module: Lowered,
    dtype: torch.dtype,
    names: Mapping[str, str],
    inputs: Sequence[Tensor],
    end: Callable[[Tensor], Tensor],
    like: Found,
) -> Found:
    """Return, as float32, what PyTorch finds of all that MXNet has found."""
    held, training, drop = _state(module, dtype), module.training, module.drop
    try:
        module.train()
        module.drop = False
        made = torch.func.functional_call(module, held, tuple(inputs))
        losses = end(made)
        if losses.requires_grad:
            losses.sum().backward()  # type: ignore[no-untyped-call]
        module.settle()
    finally:
        module.train(training)
        module.drop = drop
        module.moves.clear()
    held |= {f"input{number}": tensor for number, tensor in enumerate(inputs)}

    def of(kind: str, name: str) -> Tensor:
        if kind in ("logits", "loss"):
            return made if kind == "logits" else losses
        tensor = held[names.get(name, name)]
        if kind == "gradients":
            return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        return tensor

    return {
        kind: {name: of(kind, name).detach().float().cpu() for name in each}
        for kind, each in like.items()
    }


def _differing(
    graph: Graph, values: Mapping[str, Tensor], inputs: Arrays, like: Tensor
) -> Iterator[str]:
    """Yield what PyTorch computes otherwise of layers alone, in the graph's order.

    A layer like one before, on inputs of the same shapes, is not looked at again; one that takes
    parameters alone, or nothing, is not looked at.
    """
    layers = [node for node in graph.nodes if node.op != VARIABLE]
    taken = dict.fromkeys(source for node in layers for source in node.inputs)
    made = {s: inputs[n.name] for s in taken if (n := graph.nodes[s.node]).name in inputs}
    between = [source for source in taken if graph.nodes[source.node].op != VARIABLE]
    with symbols.classic(), autograd.train_mode():
        whole = replace(graph, heads=(*between, *graph.heads))
        numpy = {name: nd.array(value.detach().cpu().numpy()) for name, value in values.items()}
        found = symbols.block(whole, numpy, *inputs)(*map(nd.array, inputs.values()))
        made |= {source: found[at].asnumpy() for at, source in enumerate(between)}
    seen = set()
    for node in layers:
        entries: dict[str, NDArray[Any]] = {}
        places: dict[str, int] = {}
        order = []
        for source in node.inputs:
            name = graph.nodes[source.node].name
            if source in made:
                name = f"input{len(entries)}"
                entries[name] = made[source]
            order.append(Output(places.setdefault(name, len(places))))
        own = {name: values[name].detach() for name in places if name not in entries}
        own = {
            n: value.clone().requires_grad_(values[n].requires_grad) for n, value in own.items()
        }
        shapes = tuple(value.shape for value in entries.values())
        learning = tuple(value.requires_grad for value in own.values())
        kind = node.op, str(node.attrs), shapes, learning
        if kind in seen or not entries:
            continue
        seen.add(kind)
        nodes = (*(Node(VARIABLE, name) for name in places), replace(node, inputs=tuple(order)))
        differs = _differs(Graph(nodes, (Output(len(places)),)), own, entries, like)
        if differs:
            yield f"layer {node.name} ({node.op}) is not computed as in MXNet: {differs}"


def _differs(
    layer: Graph, values: Mapping[str, Tensor], entries: Arrays, like: Tensor
) -> str | None:
    """Say what PyTorch finds otherwise than MXNet in a layer; None: nothing."""
    signs: list[NDArray[Any]] = []  # what the outputs' gradients are

    def theirs(made: nd.NDArray) -> nd.NDArray:
        signs.append(np.random.default_rng(0).random(made.shape, np.float32) - 0.5)
        return made * nd.array(signs[0])

    def ours(made: Tensor) -> Tensor:
        if made.shape != signs[0].shape:
            raise ValueError(f"it gives {tuple(made.shape)} instead of {signs[0].shape}")
        return made * torch.from_numpy(signs[0]).to(made)

    try:
        of = _by_mxnet(layer, values, entries, theirs, alone=True)
        shapes = {name: value.shape for name, value in entries.items()}
        module = lower(layer, values, shapes).to(like.device)
    except (mx.MXNetError, GluonexpError):
        return None  # it is not made to be alone
    inputs = [torch.from_numpy(value).to(like.device) for value in entries.values()]
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        last = torch.channels_last
        inputs = [
            each.contiguous(memory_format=last) if each.dim() == 4 else each for each in inputs
        ]
    inputs = [each.requires_grad_(each.is_floating_point()) for each in inputs]
    try:
        found = _by_torch(module, torch.float32, {}, inputs, ours, of)
    except _FAULTS as error:
        return reason(error)
    taken = math.hypot(*(float(np.linalg.norm(value)) for value in entries.values()))
    for kind in ("logits", "gradients", "statistics"):
        least = (
            0.01 * taken if kind == "logits" else 0.0
        )  # a mean of what has been centred is zero
        for name, (far, _) in apart(found[kind], found[kind], of[kind], least).items():
            if not far <= 2 * ALIKE:
                what = {"logits": "its output", "gradients": f"the gradient of {name}"}
                return f"{what.get(kind, name)} differs by {far:.0e}"
    return None
