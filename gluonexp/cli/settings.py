"""On which data a model is scored: those that it was trained on, unless others are named.

A run's record may come from anybody, as the model does. It names data, and no code: what it asks
to be imported is refused, unless that is gluonexp's own or allowed on the command line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp import run
from gluonexp.base.aliases import current
from gluonexp.base.errors import GluonexpError
from gluonexp.config import recorded, schema
from gluonexp.config.overrides import as_typed
from gluonexp.config.overrides import typed as written
from gluonexp.config.references import refer, references

# What decides on which images a model is scored, and how.
_KNOWN = ("dataset", "loss", "seed", "build", "experiment")
# Those of them that a run records, and where in each a constructor is named.
_CONSTRUCTORS = {"dataset": "dataset.source", "loss": "loss"}
_INSIDE = ("dataset.", "loss.")


def settings(
    recorded: Path | None,
    overrides: Sequence[str],
    shape: tuple[int, int, int] | None = None,
) -> schema.Config:
    """Return the configuration to evaluate with.

    Parameters
    ----------
    recorded
        ``config/resolved.yaml`` of the run that made the model; None if it is not known.
    overrides
        As for a run; only what concerns the data, the loss and the seed.
    shape
        (H, W, C) of the images that the model takes. Images that may have any size get this one,
        unless ``dataset.resize`` or ``dataset.channels`` are among the `overrides`.

    Raises
    ------
    GluonexpError
        An override is not right, or the file is damaged, or names code that nobody allowed.
    """
    try:
        typed = OverridesParser.create().parse_overrides(as_typed(overrides))
        _check(typed)
        config = _composed(recorded, typed, shape)
    except (HydraException, OmegaConfBaseException) as error:
        raise GluonexpError(str(error)) from None
    if config.build.allow:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own package lies
    return config


def trained_on(recorded: Path | None) -> str | None:
    """Return the data set that a run recorded, as one would type it; None if it is not known."""
    dataset = {} if recorded is None else _recorded(recorded)["dataset"]
    name, root = dataset.get("name"), dataset.get("root")
    if not re.fullmatch(r"[\w-]+", str(name)) or name is None:
        return None
    return f"dataset={name}" + (
        f" {written('dataset.root', root)}" if isinstance(root, str) else ""
    )


def names_data(overrides: Sequence[str]) -> bool:
    """Tell whether data are named by `overrides`, which need not be those of the model's run."""
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    return any(
        key in ("dataset", "experiment", "dataset.root") or key.startswith("dataset.source.")
        for key in keys
    )


def _check(typed: Sequence[Override]) -> None:
    for override in typed:
        key = override.key_or_group
        if key.partition(".")[0] not in _KNOWN or override.is_sweep_override():
            raise GluonexpError(
                f"{override.input_line}: only dataset, loss and seed can be "
                "changed here, as in dataset=digits or dataset.root=FOLDER"
            )
        if override.is_delete():
            raise GluonexpError(f"{override.input_line}: keys cannot be deleted here")


def _composed(
    recorded: Path | None, typed: Sequence[Override], shape: tuple[int, int, int] | None
) -> schema.Config:
    groups = {override.key_or_group for override in typed if "." not in override.key_or_group}
    inside = [override for override in typed if override.key_or_group.startswith(_INSIDE)]
    words = [str(override.input_line) for override in typed if override not in inside]
    values = {} if recorded is None else _recorded(recorded)
    if "experiment" in groups:
        values = {}
    elif "dataset" in groups:
        values.pop("dataset", None)
    elif "dataset" not in values:
        raise GluonexpError(
            "what this model was trained on is not recorded beside it: name the data, as in "
            "dataset=fashion_mnist"
        )
    if "loss" in groups:
        values.pop("loss", None)
    if "seed" in values and "seed" not in groups:
        words.append(f"seed={int(values['seed'])}")
    name = values.get("dataset", {}).get("name")
    if f"{name}.yaml" in {path.name for path in Path(run.conf_dir(), "dataset").glob("*.yaml")}:
        words.append(f"dataset={name}")
    composed = run.composition(words)
    for section in [section for section in _CONSTRUCTORS if section in values]:
        leaves = dict(_leaves(values[section], section, recorded))
        _check_target(composed, _CONSTRUCTORS[section], leaves, str(recorded))
        referring = references(composed)
        for key, value in leaves.items():
            if referring.get(key, "").startswith("${features."):
                continue  # where this machine keeps what it computes is no matter of the record
            OmegaConf.update(composed, key, value, force_add=True)
        refer(composed, referring)
    if shape is not None:
        _fit(composed, shape)
    for override in inside:
        OmegaConf.update(
            composed, override.key_or_group, override.value(), force_add=override.is_add()
        )
    return schema.to_config(composed)


def _fit(composed: DictConfig, shape: tuple[int, int, int]) -> None:
    """Let images that have the size which the configuration says have `shape` (H, W, C)."""
    source = OmegaConf.to_container(composed.dataset.source, resolve=False)
    assert isinstance(source, dict)
    for key, size in (("dataset.resize", shape[0]), ("dataset.channels", shape[2])):
        if f"${{{key}}}" in source.values():
            OmegaConf.update(composed, key, size)


def _recorded(path: Path) -> dict[str, Any]:
    """Return what a run's ``config/resolved.yaml`` says of the data, the loss and the seed."""
    whole = recorded.read(path)
    kinds = {"dataset": dict, "loss": dict, "seed": int}
    if not all(type(whole.get(key)) is kind for key, kind in kinds.items()):
        raise GluonexpError(
            f"{path}: not the configuration of a run: dataset and loss are mappings there, and "
            "seed is a number"
        )
    return {key: whole[key] for key in kinds}


def _check_target(
    composed: DictConfig, node: str, recorded: Mapping[str, Any], where: str
) -> None:
    """Refuse a constructor of gluonexp's that its own configuration does not have there.

    One of another package is refused where it is resolved, unless it is allowed; its arguments are
    the recorded ones only.
    """
    target = current(str(recorded.get(f"{node}._target_")))
    if target == OmegaConf.select(composed, f"{node}._target_"):
        return
    if target.partition(".")[0] == "gluonexp":
        raise GluonexpError(
            f"{where}: {node}._target_={target} is not what gluonexp itself has there: refused; "
            "name the data on the command line, as in dataset=image_folder dataset.root=FOLDER"
        )
    OmegaConf.update(composed, node, {}, merge=False)


def _leaves(node: Any, key: str, where: Path | None) -> Iterator[tuple[str, Any]]:
    """Yield the values in a recorded node; refuse a key that is read as several."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not re.fullmatch(r"\w+", str(name)):
                raise GluonexpError(f"{where}: {key} has the key {str(name)[:40]!r}: refused")
            yield from _leaves(value, f"{key}.{name}", where)
    elif isinstance(node, list) and any(isinstance(value, list | dict) for value in node):
        raise GluonexpError(f"{where}: {key} is a list of more than values: refused")
    else:
        yield key, node
