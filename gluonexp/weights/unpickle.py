"""A reader of the pickles inside PyTorch's weight files, which runs nothing that a file names.

A pickle is a program: `pickle.Unpickler` imports and calls whatever it says. Here the standard
library's `pickletools` only splits it into opcodes, and those are interpreted over plain values.
A name in the file stays a string, one of the few that tensors need; "calling" it makes a record.
No import, no attribute, no method of a foreign object is ever looked up, and extension codes,
INST and OBJ are not interpreted at all.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import IO, Any, Final, NamedTuple

# The element type of each storage class, as NumPy writes it. NumPy has no bfloat16.
STORAGES: Final = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "bool",
}

_ADMITTED: Final = frozenset(STORAGES) | {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",  # written until PyTorch 0.3, as in torchvision's vgg16
    "torch._utils._rebuild_tensor_v2",
    "torch.nn.parameter.Parameter",
}

# What is longer is hostile, and would cost time whenever a pickle refers to it.
_MAX_ARGUMENTS: Final = 8
_MAX_KEY: Final = 100  # characters

_INTEGER: Final = ("BININT", "BININT1", "BININT2", "LONG1")
_TEXT: Final = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING")
_ARGUMENT: Final = frozenset((*_INTEGER, *_TEXT, "BINFLOAT"))
_CONSTANT: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True)
class Storage:
    """A flat run of `size` elements somewhere in the file, under `key`."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `strides` count elements. It lies within the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickled(NamedTuple):
    """What a pickle says: its value, and every storage it speaks of, by key."""

    value: Any
    storages: dict[str, Storage]


@dataclass(frozen=True)
class _Name:
    """An admitted name; nothing stands behind it."""

    text: str


class _OrderedDict(dict[Any, Any]):
    """Apart from a plain dictionary it differs in one thing: BUILD may follow."""


def load(stream: IO[bytes]) -> Pickled:
    """Read one pickle and leave the stream behind it.

    Parameters
    ----------
    stream
        In memory: a damaged length must fail against its end, not against the computer's memory.

    Returns
    -------
    Pickled
        Dictionaries (keys are strings or integers), lists, tuples, strings, numbers, `Tensor`.

    Raises
    ------
    ValueError
        It holds anything else, or is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return Pickled(machine.result(), machine.storages)
    except (IndexError, KeyError) as error:  # the stack or the memo lacks what an opcode takes
        raise ValueError("its pickle is damaged") from error


class _Machine:
    """The pickle machine: a stack, the stacks below each mark, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def result(self) -> Any:
        """Return what the program leaves on the stack."""
        if self.below or len(self.stack) != 1:
            raise ValueError("its pickle is damaged")
        return self.stack[0]

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if opcode in _ARGUMENT:
                stack.append(argument)
            case _ if opcode in _CONSTANT:
                stack.append(_CONSTANT[opcode])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = self._to_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = self._to_mark()
                _extend(self.stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._to_mark()
                _update(self.stack[-1], items)
            case "GLOBAL":
                stack.append(_name(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if type(name) is not str or type(module) is not str:
                    raise ValueError("it names what is no text")
                stack.append(_name(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_call(called, arguments))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "BUILD":
                # The state of a dictionary is its _metadata, that of a parameter its hooks.
                stack.pop()
                if not isinstance(stack[-1], (_OrderedDict, Tensor)):
                    raise ValueError("it sets the state of what is no tensor")
            case _:
                raise ValueError(f"it has the pickle opcode {opcode}, which tensors do not need")

    def _to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def _storage(self, identity: Any) -> Storage:
        """Return the storage of a persistent id, which is how PyTorch refers to raw data."""
        match identity:
            # The location is a device. In the older format a last item makes it a view of
            # another storage; None says that it is not.
            case ("storage", _Name(text=kind), str(key), str(), int(size), *view) if (
                kind in STORAGES and len(key) <= _MAX_KEY and size >= 0 and view in ([], [None])
            ):
                storage = Storage(STORAGES[kind], key, size)
            case _:
                raise ValueError("it refers to data other than the storage of a tensor")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"it gives its storage {key[:80]!r} two sizes or types")
        return storage


def _name(text: str) -> _Name:
    if text not in _ADMITTED:
        raise ValueError(f"it names {text[:80]!r}, which tensors do not need")
    return _Name(text)


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("it appends to what is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise ValueError("it puts items into what is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing anything nested could take forever, or overflow the C stack.
        if type(key) not in (str, int):
            raise ValueError("it has a dictionary whose keys are neither strings nor integers")
        target[key] = value


def _call(name: Any, arguments: Any) -> Any:
    """Return what PyTorch's function `name` would make of its arguments."""
    if not isinstance(name, _Name) or type(arguments) is not tuple:
        raise ValueError("it calls what is no function of a tensor")
    if len(arguments) > _MAX_ARGUMENTS:
        raise ValueError(f"it calls {name.text} with {len(arguments)} arguments")
    match (name.text, *arguments):
        case ("collections.OrderedDict",):
            return _OrderedDict()
        case ("collections.OrderedDict", list(pairs)):  # Python 2
            made = _OrderedDict()
            for pair in pairs:
                if type(pair) is not list or len(pair) != 2:
                    raise ValueError("it has a dictionary of what are no pairs")
                _update(made, pair)
            pairs.clear()  # else a small pickle could make any number of dictionaries of it
            return made
        case ("torch.Size", tuple(sizes)):
            return sizes
        case ("torch._utils._rebuild_tensor", Storage() as storage, offset, shape, strides):
            return _tensor(storage, offset, shape, strides)
        case (  # whether it requires a gradient, and its hooks, are of no interest
            "torch._utils._rebuild_tensor_v2",
            Storage() as storage,
            offset,
            shape,
            strides,
            bool(),
            dict(),
        ):
            return _tensor(storage, offset, shape, strides)
        case ("torch._utils._rebuild_parameter", Tensor() as tensor, bool(), dict()):
            return tensor
        case ("torch.nn.parameter.Parameter", Tensor() as tensor, *_):
            return tensor
    raise ValueError(f"its call of {name.text} is not one that makes a tensor")


def _tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    tensor = Tensor(storage, _counts((offset,))[0], _counts(shape), _counts(strides))
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("it has a tensor with more or fewer strides than dimensions")
    count = math.prod(tensor.shape)
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # The first bound is on memory: a stride of 0 makes any number of elements of a single one.
    if count > storage.size or (count and last >= storage.size):
        raise ValueError("it has a tensor that reaches beyond its storage")
    return tensor


def _counts(values: Any) -> tuple[int, ...]:
    """Return a short tuple of sizes, or refuse; 32 dimensions are NumPy's limit."""
    if (
        type(values) is tuple
        and len(values) <= 32
        and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
    ):
        return values
    raise ValueError("it has a tensor whose shape, strides or offset are no counts")
