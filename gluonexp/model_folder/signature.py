"""``signature.json``: what an export takes, what is done to it, what it answers.

Most take images (`Signature`). One whose network was handed over with another kind of input takes
that as it is (`ArraySignature`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import write_text
from gluonexp.base.text import COMMANDING
from gluonexp.model_folder import guard
from gluonexp.model_folder.names import NO_EXPORT, SIGNATURE

LARGEST_IMAGE: Final = 2**24
"""Values of an image or an input: 2048 x 2048 of three channels are less."""

_HALVES: Final = re.compile(r"[\ud800-\udfff]")  # of characters
_LARGEST_NUMBER: Final = 3e38  # float32 holds it
_EXACT: Final = 2**24  # float32 holds whole numbers up to it

_ARRAYS: Final = 2  # the format of a signature without images

# What is the same in every signature of images.
_IMAGE: Final = {"dtype": "uint8", "layout": "NHWC"}
_INPUT: Final = {"dtype": "float32", "layout": "NCHW"}
_OUTPUT: Final = {"meaning": "logits"}
_STEPS: Final = ["scale to [0, 1]", "channels", "normalize", "resize (bilinear)", "NCHW"]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to uint8 images, in this order.

    Attributes
    ----------
    height, width, channels
        The network's input; a single channel is repeated, three are averaged to luma.
    mean, std
        Per channel (or one for all), applied after scaling to [0, 1].
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Signature:
    """What an export takes and answers.

    Attributes
    ----------
    image
        (H, W, C) of the uint8 images that it is for.
    preprocess
        From these to the network's input.
    classes
        Their names, in the order of the logits.
    input
        The name of the network's input.
    adopted
        Of a network from elsewhere, the names of its files and what was changed, for people.
    """

    image: tuple[int, int, int]
    preprocess: Preprocessing
    classes: tuple[str, ...]
    input: str = "data"
    adopted: dict[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input for one image, (1, C, H, W)."""
        return 1, self.preprocess.channels, self.preprocess.height, self.preprocess.width

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds."""
        size = dict(zip(("height", "width", "channels"), self.image, strict=True))
        fields = {
            "format": 1,
            "image": size | _IMAGE,
            "preprocess": {"steps": _STEPS, **self.preprocess.to_json()},
            "input": {"name": self.input, "shape": [None, *self.shape[1:]], **_INPUT},
            "output": {"shape": [None, len(self.classes)], **_OUTPUT},
            "classes": list(self.classes),
        }
        return fields if self.adopted is None else {**fields, "adopted": self.adopted}

    def write(self, folder: Path) -> None:
        """Write ``signature.json`` into `folder`."""
        _write(folder, self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Signature:
        """Return the signature of the export in `folder`.

        Raises
        ------
        GluonexpError
            It is missing or damaged, or of a network that takes no images.
        """
        path, fields = folder / SIGNATURE, _fields(folder)
        if _is_of_arrays(fields):
            takes = ArraySignature.read(folder).takes
            raise GluonexpError(f"{folder}: its network takes {takes}, no images")
        if wrong := _wrong(fields):
            raise GluonexpError(f"{path}: damaged ({wrong})")
        image, steps = fields["image"], fields["preprocess"]
        moments = {key: tuple(map(float, steps[key])) for key in ("mean", "std")}
        preprocess = Preprocessing(steps["height"], steps["width"], steps["channels"], **moments)
        return cls(
            image=(image["height"], image["width"], image["channels"]),
            preprocess=preprocess,
            classes=tuple(fields["classes"]),
            input=fields["input"]["name"],
            adopted=fields.get("adopted"),
        )


@dataclass(frozen=True)
class ArraySignature:
    """What an export takes and answers whose input is no image: vectors, sequences.

    Attributes
    ----------
    shape
        Of one of the N inputs; None for a side of any length. None altogether where nothing is
        known of it: the network says what it takes.
    classes
        Names of the outputs of each input, if they have names.
    input
        The name of the network's input.
    whole
        Whether only whole numbers mean something, such as those of words. They are given to the
        network in float32 all the same.
    """

    shape: tuple[int | None, ...] | None
    classes: tuple[str, ...] = ()
    input: str = "data"
    whole: bool = False

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        kind = "whole numbers" if self.whole else "float32"
        if self.shape is None:
            return f"arrays (N, ...) of {kind}"
        sides = ["N", *("any" if side is None else side for side in self.shape)]
        return f"arrays ({', '.join(map(str, sides))}{',' * (len(sides) == 1)}) of {kind}"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape holds inputs, at least one."""
        if not shape or not all(shape) or math.prod(shape[1:]) > LARGEST_IMAGE:
            return False
        wanted = self.shape
        return wanted is None or (
            len(wanted) == len(shape) - 1
            and all(side in (None, given) for side, given in zip(wanted, shape[1:], strict=True))
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds."""
        shape = None if self.shape is None else [None, *self.shape]
        entry = {"name": self.input, "shape": shape, "dtype": "float32", "whole": self.whole}
        return {"format": _ARRAYS, "input": entry, "classes": list(self.classes)}

    def write(self, folder: Path) -> None:
        """Write ``signature.json`` into `folder`."""
        _write(folder, self.to_json())

    @classmethod
    def read(cls, folder: Path) -> ArraySignature:
        """Return the signature of the export in `folder`, which takes arrays.

        Raises
        ------
        GluonexpError
            It is missing or damaged.
        """
        fields = _fields(folder)
        if wrong := _wrong_array(fields):
            raise GluonexpError(f"{folder / SIGNATURE}: damaged ({wrong})")
        shape = fields["input"]["shape"]
        return cls(
            shape=None if shape is None else tuple(shape[1:]),
            classes=tuple(fields["classes"]),
            input=fields["input"]["name"],
            whole=fields["input"]["whole"],
        )


def as_float(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return numbers in float32, in which networks get them.

    Raises
    ------
    GluonexpError
        Whole numbers are too large for that.
    """
    if array.dtype.kind in "iu" and array.size and int(np.abs(array).max()) > _EXACT:
        raise GluonexpError(
            f"whole numbers above {_EXACT} are not exact in float32, in which the network gets "
            "them"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def read(folder: Path) -> Signature | ArraySignature:
    """Return the signature of the export in `folder`, whatever it takes.

    Raises
    ------
    GluonexpError
        It is missing or damaged.
    """
    kind = ArraySignature if _is_of_arrays(_fields(folder)) else Signature
    return kind.read(folder)


def _fields(folder: Path) -> Any:
    path = folder / SIGNATURE
    if not path.exists():
        raise GluonexpError(f"{folder}: {NO_EXPORT}")
    return guard.read_json(path)


def _is_of_arrays(fields: Any) -> bool:
    return isinstance(fields, dict) and fields.get("format") == _ARRAYS and "image" not in fields


def _write(folder: Path, fields: Mapping[str, Any]) -> None:
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    write_text(folder / SIGNATURE, text + "\n")


def _wrong_array(fields: Any) -> str | None:
    try:
        entry = fields["input"]
        shape, names = entry["shape"], [entry["name"], *fields["classes"]]
        if shape is not None:
            first, *sides = shape
            known = [side for side in sides if side is not None]
            if first is not None or not all(type(side) is int and side > 0 for side in known):
                return "a size is not a positive number"
            if math.prod(known) > LARGEST_IMAGE:
                return "its input is too large: refused"
        if type(entry["whole"]) is not bool:
            return "input.whole is neither true nor false"
        if entry["dtype"] != "float32":
            return f"input.dtype is {entry['dtype']!r}, not 'float32'"
        return wrong_names(names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"


def _wrong(fields: Any) -> str | None:
    try:
        image, steps, entry = fields["image"], fields["preprocess"], fields["input"]
        shape = [steps[side] for side in ("channels", "height", "width")]
        sizes = [image[side] for side in ("channels", "height", "width")]
        names = [entry["name"], *fields["classes"]]
        if type(fields["format"]) is not int or fields["format"] != 1:
            return f"format {fields['format']!r}, where only 1 is known"
        if entry["shape"] != [None, *shape]:
            return "its input is not what its preprocessing gives"
        if not all(type(size) is int and size > 0 for size in [*shape, *sizes]):
            return "a size is not a positive number"
        if sizes[0] != shape[0] and {sizes[0], shape[0]} != {1, 3}:
            return f"nothing makes {shape[0]} channels of {sizes[0]}"
        for what, extent in (("input", shape), ("image", sizes)):
            if math.prod(extent) > LARGEST_IMAGE:
                return f"its {what} is too large: refused"
        if wrong := _wrong_numbers(steps):
            return wrong
        if steps.get("steps", _STEPS) != _STEPS:
            return "other steps than are known"
        for part, constants in (("image", _IMAGE), ("input", _INPUT), ("output", _OUTPUT)):
            for field, constant in constants.items():
                if fields[part][field] != constant:
                    return f"{part}.{field} is {fields[part][field]!r}, not {constant!r}"
        if wrong := wrong_names(names):
            return wrong
        if fields["output"]["shape"] != [None, len(fields["classes"])]:
            return "not as many outputs as classes"
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def wrong_names(names: Sequence[Any]) -> str | None:
    """Say why these cannot be the names of classes; None if they can."""
    if not all(isinstance(name, str) for name in names):
        return "a name is not a text"
    if any(COMMANDING.search(name) or _HALVES.search(name) for name in names):
        return "a name holds characters that command a terminal"
    return None


def _wrong_numbers(steps: Mapping[str, Any]) -> str | None:
    for name in ("mean", "std"):
        numbers = steps[name]
        if not isinstance(numbers, list) or len(numbers) not in (1, steps["channels"]):
            return f"{name} must be 1 number, or one for each channel"
        if not all(type(number) in (int, float) for number in numbers):
            return f"{name} must be numbers"
        # A whole number of any length can be compared where it could not become a float.
        if not all(abs(number) <= _LARGEST_NUMBER for number in numbers):
            return f"{name} must be finite in float32"
    if not all(number > 0 for number in steps["std"]):
        return "std must be above 0"
    return None
