"""What Hydra's messages leave out, and they themselves as one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gluonexp.config import hydra_private, keys
from gluonexp.config.overrides import as_typed


def hint(overrides: Sequence[str], conf_dir: str) -> str:
    """Return what Hydra's message on a key that does not exist leaves out: the choices."""
    plain = [override for override in overrides if override[0] not in "~+"]
    groups = {path.parent.name for path in Path(conf_dir).glob("*/*.yaml")}
    chosen = [override for override in plain if re.split("[=@]", override)[0] in groups]
    try:
        with hydra_private.application(conf_dir):
            composed = hydra.compose("config", overrides=as_typed(chosen))
        typed = [word.partition("=")[0] for word in plain if word not in chosen]
        for key in (key for key in typed if not key.startswith("hydra/")):
            node, where = composed, ""
            for part in key.split("."):
                if not OmegaConf.is_dict(node) or key.startswith("hydra."):
                    break
                if part not in node:
                    return f"{key}: {keys.instead(f'{where}{part}', map(str, node))}"
                node, where = node[part], f"{where}{part}."
    except (HydraException, OmegaConfBaseException):
        pass  # the choice of a group is wrong, and Hydra has listed the right ones
    return ""


def sentence(error: Exception, overrides: Sequence[str], conf_dir: str) -> str | None:
    """Say in one sentence what Hydra or OmegaConf refused; None if neither raised the error."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    shown = str(error).partition("Config search path:")[0].splitlines()
    first, *rest = [" ".join(line.split()) for line in shown if line.strip()] or [""]
    if first.startswith("Could not override"):  # the rest is how to add a key
        return hint(overrides, conf_dir) or first
    if first.startswith("Ambiguous value"):
        return f"{first}: a list is key=[1,2], and several values are for a sweep"
    if (cause := error.__cause__) is not None:
        rest += str(cause).splitlines()[:1]
    return "; ".join(filter(None, (first, ", ".join(rest)))).replace(":,", ":")
