"""What a typed field of the configuration may hold: declared beside it, checked here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any

from omegaconf import MISSING

from gluonexp.base.errors import GluonexpError


def ranged(
    default: Any = MISSING, *, low: float = -math.inf, below: float = math.inf, above: bool = False
) -> Any:
    """Declare a number that must lie in [low, below), or in (low, below) where `above`."""
    return field(default=default, metadata={"low": low, "below": below, "above": above})


def chosen(default: str, *choices: str) -> Any:
    """Declare a name that must be one of `choices`."""
    return field(default=default, metadata={"choices": choices})


def check(node: Any, prefix: str = "") -> None:
    """Check every value of a dataclass against what its field declares.

    Raises
    ------
    GluonexpError
        One is out of its range, or none of its choices; the message names its key.
    """
    for item in dataclasses.fields(node):
        value, key = getattr(node, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            check(value, f"{key}.")
        elif isinstance(value, list):
            for index, element in enumerate(value):
                if dataclasses.is_dataclass(element):
                    check(element, f"{key}[{index}].")
        elif "choices" in item.metadata and value not in item.metadata["choices"]:
            raise GluonexpError(
                f"{key}={value}: choose one of {', '.join(item.metadata['choices'])}"
            )
        elif "low" in item.metadata and value is not None:
            low, below, above = (item.metadata[name] for name in ("low", "below", "above"))
            # Written so that NaN fails too.
            if not ((value > low if above else value >= low) and value < below):
                floor = f"above {low:g}" if above else f"at least {low:g}"
                ceiling = f" and below {below:g}" if math.isfinite(below) else ", and finite"
                raise GluonexpError(f"{key}={value}: must be {floor}{ceiling}")
