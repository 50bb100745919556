"""``signature.json``: which images an export takes, what is done to them, what it answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.model_folder import guard
from gluonexp.model_folder.names import NO_EXPORT, SIGNATURE

LARGEST_IMAGE: Final = 2**24
"""Values of an image or an input: 2048 x 2048 of three channels are less."""

# Control characters, ends of lines, what turns the direction of writing, halves of characters.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LARGEST_NUMBER: Final = 3e38  # float32 holds it

# What is the same in every signature.
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
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        (folder / SIGNATURE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Signature:
        """Return the signature of the export in `folder`.

        Raises
        ------
        GluonexpError
            It is missing or damaged.
        """
        path = folder / SIGNATURE
        if not path.exists():
            raise GluonexpError(f"{folder}: {NO_EXPORT}")
        fields = guard.read_json(path)
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
        if not all(isinstance(name, str) for name in names):
            return "a name is not a text"
        if any(_UNPRINTABLE.search(name) for name in names):
            return "a name holds characters that command a terminal"
        if fields["output"]["shape"] != [None, len(fields["classes"])]:
            return "not as many outputs as classes"
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
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
