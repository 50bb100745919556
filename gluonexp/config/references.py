"""Values that refer to others, as ``${dataset.root}`` does: a run records only what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.base.aliases import current


def references(config: DictConfig) -> dict[str, str]:
    """Return the values of `config` that refer to others, by key."""
    return _references(OmegaConf.to_container(config))


def refer(config: DictConfig, references: Mapping[str, str]) -> None:
    """Let values of `config` refer to others again, where both are the same.

    Thus ``dataset.root=FOLDER`` set afterwards also reaches ``dataset.source.root``.
    """
    for key, reference in references.items():
        parent_key, _, name = key.rpartition(".")
        parent = OmegaConf.select(config, parent_key)
        if not isinstance(parent, DictConfig) or name not in parent:
            continue
        value = parent[name]
        OmegaConf.update(config, key, reference)
        try:
            same = parent[name] == value
        except OmegaConfBaseException:
            same = False
        if not same:
            OmegaConf.update(config, key, value)


def of_files(recorded: DictConfig, folders: Iterable[Path]) -> dict[str, str]:
    """Return the references in the files that a recorded configuration was composed of.

    They are those of its data set's name, and those whose constructors are the recorded ones.

    Parameters
    ----------
    folders
        Of groups of configuration files, as ``conf/`` is.
    """
    paths = [path for folder in folders for path in sorted(folder.glob("*/*.yaml"))]
    trees = [_as_composed(path) for path in paths]
    names = [_inside(tree, "dataset").get("name") for tree in trees]
    wanted = recorded.dataset.name
    found: dict[str, str] = {}
    for tree, name in zip(trees, names, strict=True):
        other_data = wanted in names and name not in (None, wanted)
        targets = {key: value for key, value in _leaves(tree) if key.endswith("._target_")}
        if not other_data and all(
            current(str(OmegaConf.select(recorded, key))) == current(str(value))
            for key, value in targets.items()
        ):
            found |= _references(tree)
    return found


def _as_composed(path: Path) -> dict[str, Any]:
    """Return a file of a group as it is put into the whole."""
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
        package = "@package _global_" in path.read_text(encoding="utf-8")
    except (OSError, ValueError, OmegaConfBaseException):  # nothing was composed of it
        return {}
    return cast(dict[str, Any], node) if package else {path.parent.name: node}


def _inside(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    below = tree.get(name)
    return below if isinstance(below, Mapping) else {}


def _references(tree: object) -> dict[str, str]:
    return {key: str(value) for key, value in _leaves(tree) if "${" in str(value)}


def _leaves(node: object, above: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        for name, below in node.items():
            yield from _leaves(below, f"{above}{name}.")
    elif not isinstance(node, list):
        yield above.removesuffix("."), node
