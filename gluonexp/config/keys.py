"""The keys of a composed configuration: a key that nobody reads is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gluonexp.base.errors import GluonexpError

# Hydra's own defaults put it there.
_OF_HYDRA: Final = "hydra.env"


def check(node: DictConfig, above: str = "") -> None:
    """Refuse what was added to a typed node, unless another key refers to it.

    Parameters
    ----------
    above
        The keys above `node`, as in ``hydra.``.

    Raises
    ------
    GluonexpError
        There is such a key; the message names it and the nearest one.
    """
    for key, known in _added(node, above):
        if not _referred_to(key, node):
            raise GluonexpError(f"{key} is read by nobody: {instead(key, known)}")


def instead(key: str, known: Iterable[str]) -> str:
    """Return which of the keys `known` was meant by the last part of `key`, and what they are."""
    above, _, last = key.rpartition(".")
    names = list(known)
    near = difflib.get_close_matches(last, names, n=1)
    guess = f"did you mean {f'{above}.' if above else ''}{near[0]}? " if near else ""
    return f"{guess}{above or 'the configuration'} has {', '.join(names)}"


def _added(node: DictConfig, above: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each key that the node's type does not have, and those that it has."""
    kind = OmegaConf.get_type(node)
    assert kind is not None
    known = [field.name for field in fields(kind)]
    for name in map(str, node):
        if name not in known and f"{above}{name}" != _OF_HYDRA:
            yield f"{above}{name}", known
        elif isinstance(below := node._get_node(name), DictConfig):
            absent = below._is_none() or below._is_missing() or below._is_interpolation()
            if not absent and is_dataclass(OmegaConf.get_type(below)):
                yield from _added(below, f"{above}{name}.")


def _referred_to(key: str, node: DictConfig) -> bool:
    """Tell whether a value contains ``${key}``, here or in what is for Hydra itself."""
    hydra = HydraConfig.instance().cfg
    texts = [OmegaConf.to_yaml(root) for root in (node, hydra) if root is not None]
    name = re.escape(key.rpartition(".")[2])
    return any(re.search(rf"\$\{{[^}}]*\b{name}\b", text) for text in texts)
