"""Recorded calls as a Python file that people read: PyTorch's own layers, under Gluon's names."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import torch
from torch.nn import functional

from gluonexp.export.torch.calls import (
    BATCH_NORM,
    DEVICE,
    FUNCTIONAL,
    Argument,
    Call,
    Calls,
    Constant,
    Images,
    Untold,
    Value,
    Variable,
    Word,
)
from gluonexp.export.torch.convert import CLASS
from gluonexp.export.torch.layers import Place, Places, compact
from gluonexp.model_folder.signature import Signature

_WIDTH: Final = 96
_INDENT: Final = "    "

# Methods that Python writes as operators, and those that it calls with the operands exchanged.
_OPERATORS: Final = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "matmul": "@"},
    **{"__add__": "+", "__sub__": "-", "__mul__": "*", "__truediv__": "/", "__pow__": "**"},
    **{"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="},
}
_EXCHANGED: Final = {
    **{"__radd__": "+", "__rsub__": "-", "__rmul__": "*", "__rdiv__": "/"},
    **{"__rtruediv__": "/", "__rpow__": "**"},
}


def written(
    calls: Calls,
    places: Places,
    shapes: Mapping[str, tuple[int, ...]],
    statistics: Iterable[str],
    signature: Signature,
) -> str:
    """Return the file of a network, without its first line.

    Parameters
    ----------
    places
        Of the variables of `calls`.
    shapes
        By variable.
    statistics
        The variables that are no parameters.
    """
    forward = "\n".join(f"{_INDENT * 2}{line}" for line in _Forward(calls, places).lines())
    base = "nn.Module" if _by_attribute(places) else "nn.ModuleDict"
    made = "\n".join(_constructor(places, shapes, {*statistics}))
    return f'''"""{_docstring(signature, calls.notes)}"""

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = (
{_lines(f"{_quoted(name)}," for name in signature.classes)}
)


def prepare(images):
    """Images {_shape(signature.image)} uint8 to the network's input."""
{_prepare(signature)}


class {CLASS}({base}):
    """Input {_shape(signature.shape[1:])} to logits {_shape([len(signature.classes)])}."""

    def __init__(self):
        super().__init__()
{made}

    def forward(self, x):
{forward}
'''


def _shape(sizes: Iterable[int]) -> str:
    return f"(N, {', '.join(map(str, sizes))})"


def _docstring(signature: Signature, notes: Iterable[str]) -> str:
    said = "".join(f"\n{note}" for note in notes)
    return f"""A network that was trained with MXNet Gluon, for PyTorch alone.

    import torch
    from safetensors.torch import load_file
    from model import CLASSES, {CLASS}, prepare

    network = {CLASS}()
    network.load_state_dict(load_file("model.safetensors"))
    network.eval()
    logits = network(prepare(images))

The images are a tensor {_shape(signature.image)} of uint8, and the network takes float32
{_shape(signature.shape[1:])}: values from 0 to 1, normalized, resized. The logits are in the order
of CLASSES. Layers have Gluon's structural names, where these were known; what Gluon calls gamma
and beta is weight and bias. train() and eval() do what they do to any network of PyTorch's, and
all parameters learn, whatever was frozen before.{said}
"""


def _prepare(signature: Signature) -> str:
    """Return the lines that do what `gluonexp.model_folder.preprocess.Preprocess` does."""
    steps, (height, width, channels) = signature.preprocess, signature.image
    lines = ["x = images.permute(0, 3, 1, 2).float() / 255"]
    if (channels, steps.channels) == (1, 3):
        lines.append("x = x.expand(-1, 3, -1, -1)")
    elif (channels, steps.channels) == (3, 1):
        lines.append("x = 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]")
    for name, values, sign in (("mean", steps.mean, "-"), ("std", steps.std, "/")):
        if any(value != (sign == "/") for value in values):
            lines.append(f"{name} = torch.tensor({values!r}, device=x.device).view(-1, 1, 1)")
            lines.append(f"x = x {sign} {name}")
    if (height, width) != (steps.height, steps.width):
        size = f"({steps.height}, {steps.width})"
        lines.append(f'x = F.interpolate(x, {size}, mode="bilinear", align_corners=False)')
    return "\n".join(f"{_INDENT}{line}" for line in [*lines, "return x"])


def _constructor(
    places: Places, shapes: Mapping[str, tuple[int, ...]], statistics: set[str]
) -> Iterator[str]:
    """Yield the lines that make the layers, and what no layer has."""
    indent = _INDENT * 2
    for name, part in places.root.parts.items():
        first, *lines = _made(part, 2)
        yield (
            f"{indent}self.{name} = {first}"
            if _by_attribute(places)
            else (f"{indent}self[{_quoted(name)}] = {first}")
        )
        yield from lines
    for variable, (place, word) in places.others.items():
        where, tensor = _told(places, place), f"torch.empty({shapes[variable]!r})"
        if variable in statistics:
            yield f"{indent}{where}.register_buffer({_quoted(word)}, {tensor})"
        else:
            yield f"{indent}{where}.{word} = nn.Parameter({tensor})"
    for place in {place.path: place for place in places.layers.values()}.values():
        if place.layer and place.layer.ones:
            yield f"{indent}{_told(places, place)}.weight.requires_grad_(False)  # it stays 1"


def _made(place: Place, depth: int) -> list[str]:
    """Return the lines that construct a part; the first without what stands before it."""
    if place.layer is not None:
        return [place.layer.made]
    if not place.parts:
        return ["nn.ModuleDict()"]
    lines = ["nn.ModuleDict({"]
    for name, part in place.parts.items():
        first, *others = _made(part, depth + 1)
        entry = [f"{_INDENT * (depth + 1)}{_quoted(name)}: {first}", *others]
        lines += [*entry[:-1], f"{entry[-1]},"]
    return [*lines, f"{_INDENT * depth}}})"]


def _by_attribute(places: Places) -> bool:
    return all(map(str.isidentifier, places.root.parts))


def _told(places: Places, place: Place) -> str:
    """Return how a part is named in the class."""
    if not place.path:
        return "self"
    first, *others = place.path
    begin = f"self.{first}" if _by_attribute(places) else f"self[{_quoted(first)}]"
    return begin + "".join(f"[{_quoted(name)}]" for name in others)


class _Forward:
    """The lines of `forward`."""

    def __init__(self, calls: Calls, places: Places) -> None:
        self._calls, self._places = calls, places
        self._last = {calls.output.number: len(calls.calls)}  # the last call that needs a value
        for at, call in reversed([*enumerate(calls.calls)]):
            for each in call.arguments:
                if isinstance(each, Value):
                    self._last.setdefault(each.number, at)
        self._names = {0: "x"}

    def lines(self) -> Iterator[str]:
        arguments = [each for call in self._calls.calls for each in call.arguments]
        if any(isinstance(each, Images) for each in arguments):
            yield "images = len(x)"
        if any(each == DEVICE or isinstance(each, Constant) for each in arguments):
            yield "device = x.device"
        for at, call in enumerate(self._calls.calls):
            text = self._text(call)
            dead = [n for n in self._names if self._last.get(n, -1) <= at]
            free = [self._names.pop(number) for number in dead]
            name = next(iter(free), None) or self._fresh()
            self._names[call.made] = name
            yield f"{name} = {text}"
        yield f"return {self._argument(self._calls.output)}"

    def _fresh(self) -> str:
        number, used = 1, {*self._names.values()}
        while f"x{number}" in used:
            number += 1
        return f"x{number}" if "x" in used else "x"

    def _text(self, call: Call) -> str:
        """Return the expression of a call."""
        if (place := self._places.layers.get(call.made)) is not None:
            return f"{_told(self._places, place)}({self._argument(call.args[0])})"
        if call.function == BATCH_NORM:
            text = ", ".join(map(self._argument, call.args))
            options = call.kwargs
            settings = f"{options['momentum']:.6g}, {options['eps']!r}"
            return f"F.batch_norm({text}, self.training, {settings})"
        shorter = compact if "pool" in call.function else lambda value: value
        kwargs = [
            f"{key}={self._argument(shorter(value))}"
            for key, value in call.kwargs.items()
            if not _is_default(call, key, shorter(value))
        ]
        name = call.function.removeprefix("torch.Tensor.")
        if name != call.function:
            return self._method(call, name, kwargs)
        if (
            len(call.args) == 2
            and not kwargs
            and (short := name.removeprefix("torch.")) in _OPERATORS
        ):
            return f" {_OPERATORS[short]} ".join(map(self._argument, call.args))
        arguments = (self._argument(shorter(value)) for value in call.args)
        text = ", ".join([*arguments, *kwargs])
        if call.function.startswith(FUNCTIONAL):
            return f"F.{call.function.removeprefix(FUNCTIONAL)}({text})"
        return f"{call.function.replace('torch.functional.', 'torch.')}({text})"

    def _method(self, call: Call, name: str, kwargs: list[str]) -> str:
        if name == "__getitem__":
            return f"{self._argument(call.args[0])}[{self._index(call.args[1])}]"
        own, *others = map(self._argument, call.args)
        if name.endswith(".__get__"):
            return f"{own}.{name.removesuffix('.__get__')}"
        if len(others) == 1 and not kwargs:
            (other,) = others
            if name in _OPERATORS:
                return f"{own} {_OPERATORS[name]} {other}"
            if name in _EXCHANGED:
                return f"{other} {_EXCHANGED[name]} {own}"
        if name in ("neg", "__neg__"):
            return f"-{own}"
        if name.startswith("__"):
            raise Untold(f"{call.function} has no form in Python")
        return f"{own}.{name}({', '.join([*others, *kwargs])})"

    def _index(self, index: Argument) -> str:
        if isinstance(index, tuple):
            return ", ".join(map(self._index, index)) + "," * (len(index) == 1)
        if index is Ellipsis:
            return "..."
        if isinstance(index, slice):
            parts = [index.start, index.stop] + [index.step] * (index.step is not None)
            return ":".join("" if part is None else self._argument(part) for part in parts)
        return self._argument(index)

    def _argument(self, value: Argument) -> str:
        """Return an argument as Python reads it: a name, or a constant."""
        match value:
            case Value(number, item):
                return self._names[number] + ("" if item is None else f"[{item}]")
            case Variable(name):
                place, word = self._places.others[name]
                return f"{_told(self._places, place)}.{word}"
            case Images(times):
                return "images" if times == 1 else f"{times} * images"
            case Word("training"):
                return "self.training"
            case Word(name):
                return name
            case Constant(values):
                return f"torch.tensor({values!r}, device=device)"
            case tuple():
                inner = ", ".join(map(self._argument, value))
                return f"({inner}{',' * (len(value) == 1)})"
            case float() if not math.isfinite(value):
                return f'float("{value}")'
            case str():
                return _quoted(value)
            case bool() | int() | float() | None:
                return repr(value)
            case torch.dtype() | torch.memory_format():
                return str(value)
        raise Untold(f"{type(value).__name__} is an argument of an operator")


def _is_default(call: Call, key: str, value: Argument) -> bool:
    """Whether a function does the same without this argument, and readers need not see it."""
    if value is None or key == "p":
        return value is None
    name = call.function.removeprefix(FUNCTIONAL)
    function = getattr(functional, name, None) if name != call.function else None
    if "pool" in name and f"_{name}" in vars(functional):  # one of two functions behind it
        function = getattr(functional, f"_{name}")
    try:
        default = inspect.signature(function).parameters[key].default  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):  # written in C
        return False
    return type(default) is type(value) and bool(default == value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Python reads it as it is


def _lines(items: Iterable[str]) -> str:
    """Return indented lines of items, each with as many as fit."""
    lines = [""]
    for item in items:
        if lines[-1] and len(_INDENT) + len(lines[-1]) + 1 + len(item) > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {item}".lstrip()
    return "\n".join(f"{_INDENT}{line}" for line in lines)
