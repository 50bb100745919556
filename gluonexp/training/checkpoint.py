"""Checkpoints: parameters, optimizer state and a readable ``meta.json`` in one folder.

No pickle: MXNet's own `Trainer.save_states` runs code when it is loaded. Both tensor files are
MXNet's NDArray format, which any MXNet program reads, and carry their sha256 in ``meta.json``
because the format itself loads flipped bits silently.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import replace, sha256
from gluonexp.base.mx import gluon, mx, nd, nn

PARAMETERS = "model.params"
OPTIMIZER = "optimizer.params"
META = "meta.json"


def save(folder: Path, net: nn.HybridBlock, trainer: gluon.Trainer, meta: dict[str, Any]) -> None:
    """Write a checkpoint; `folder` either holds all of it or is as it was.

    Parameters
    ----------
    folder
        Replaced if it exists.
    meta
        What a reader should know (epoch, metrics, history); JSON values.
    """
    nd.waitall()  # device sync: what is read for saving must not be stale
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-draft-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-draft-", dir=folder.parent))
    try:
        net.save_parameters(str(draft / PARAMETERS))
        tensors, counts = _optimizer_state(net, trainer)
        nd.save(str(draft / OPTIMIZER), tensors)
        digests = {name: sha256(draft / name) for name in (PARAMETERS, OPTIMIZER)}
        text = json.dumps({**meta, "updates": counts, "sha256": digests}, indent=2)
        (draft / META).write_text(text + "\n", encoding="utf-8")
        # A folder cannot be replaced in one step: the old one moves aside first, and `load`
        # looks there if the process died in between.
        aside = _aside(folder)
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            replace(folder, aside)
        replace(draft, folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the meta of the checkpoint `folder`, once its files are known to be whole.

    Raises
    ------
    GluonexpError
        No checkpoint there, or a damaged file.
    """
    folder = find(folder) or folder
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        for name, expected in meta["sha256"].items():
            if sha256(folder / name) != expected:
                raise GluonexpError(f"{folder / name}: damaged (its sha256 is not that of {META})")
    except (OSError, ValueError, KeyError) as error:
        raise GluonexpError(f"{folder}: not a complete checkpoint ({error})") from None
    return meta


def load(
    folder: Path, net: nn.HybridBlock, trainer: gluon.Trainer | None = None
) -> dict[str, Any]:
    """Put a checkpoint into `net` (and its optimizer state into `trainer`); return its meta.

    Raises
    ------
    GluonexpError
        No checkpoint there, a damaged file, or one of another network or optimizer.
    """
    meta = read_meta(folder)
    folder = find(folder) or folder
    try:
        devices = next(iter(net.collect_params().values())).list_ctx()
        net.load_parameters(str(folder / PARAMETERS), ctx=devices)
    except (AssertionError, ValueError, mx.MXNetError) as error:
        raise GluonexpError(f"{folder}: a checkpoint of another network: {error}") from None
    if trainer is not None:
        _restore_optimizer(folder, net, trainer, meta["updates"])
    return meta


def find(folder: Path) -> Path | None:
    """Return where checkpoint `folder` lies: there, aside (a save was cut off), or None."""
    return next((path for path in (folder, _aside(folder)) if (path / META).is_file()), None)


def _names(net: nn.HybridBlock, trainer: gluon.Trainer) -> dict[int, str]:
    """Map the trainer's parameter index to the structural name, which no counter can change."""
    structural = {id(p): name for name, p in net._collect_params_with_prefix().items()}
    return {index: structural[id(p)] for index, p in enumerate(trainer._params)}


def _optimizer_state(
    net: nn.HybridBlock, trainer: gluon.Trainer
) -> tuple[dict[str, nd.NDArray], dict[str, int]]:
    """Return the state tensors as ``name|position`` and the update counts by name."""
    names, tensors = _names(net, trainer), {}
    for index, state in trainer._updaters[0].states.items():
        parts = state if isinstance(state, (tuple, list)) else [state]
        for position, tensor in enumerate(parts):
            if tensor is not None:
                tensors[f"{names[index]}|{position}"] = tensor
    counts = trainer._optimizer._index_update_count
    return tensors, {names[index]: count for index, count in counts.items()}


def _restore_optimizer(
    folder: Path, net: nn.HybridBlock, trainer: gluon.Trainer, counts: dict[str, int]
) -> None:
    loaded = nd.load(str(folder / OPTIMIZER))
    saved: dict[str, nd.NDArray] = loaded if isinstance(loaded, dict) else {}  # [] when empty
    indices = {name: index for index, name in _names(net, trainer).items()}
    optimizer, updater = trainer._optimizer, trainer._updaters[0]
    for name in counts:
        index = indices[name]
        state = optimizer.create_state_multi_precision(index, trainer._params[index].data())
        parts = state if isinstance(state, (tuple, list)) else [state]
        for position, tensor in enumerate(parts):
            if tensor is not None:
                source = saved.pop(f"{name}|{position}", None)
                if source is None or source.shape != tensor.shape:
                    raise GluonexpError(f"{folder}: saved with another optimizer than this one")
                tensor[:] = source
        updater.states[index], updater.states_synced[index] = state, True
    if saved:
        raise GluonexpError(f"{folder}: saved with another optimizer than this one")
    optimizer._index_update_count.update({indices[name]: n for name, n in counts.items()})
    optimizer.num_update = max([optimizer.num_update, *counts.values()])


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-previous")
