"""The best point as a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from gluonexp.base.text import in_shell
from gluonexp.sweep.outcomes import Outcome, Summary

# Tells whether a key is a group of configuration files.
IsGroup = Callable[[str], bool]


def best_yaml(overrides: Sequence[str], best: Outcome, summary: Summary, is_group: IsGroup) -> str:
    """Return a primary configuration that composes what `overrides` do.

    What no file can say (a key taken away, a group put elsewhere) stays in the command of its
    first lines.
    """
    groups: list[str] = []
    values: DictConfig = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, package = override.key_or_group, override.package
        if override.is_delete() or package is not None:
            continue
        if is_group(key):
            mark = "" if override.is_add() else "override "
            groups.append(f"  - {mark}/{key}: {override.get_value_element_as_str()}")
        else:
            OmegaConf.update(values, key, override.value(), force_add=True)
    # A preset of sweeps among the groups would start the sweep again.
    OmegaConf.update(values, "hydra.mode", "RUN", force_add=True)
    value = "" if best.objective is None else f", {summary.metric} {best.objective:.4f}"
    return "\n".join(
        [
            f"# The best of {len(summary.outcomes)} points: {best.name}{value}",
            f"# It was run {best.run_id}.",
            "# Again: python -m gluonexp.run --config-dir FOLDER_OF_THIS_FILE --config-name best",
            f"#    or: python -m gluonexp.run {in_shell('hydra.mode=RUN', *overrides)}",
            "defaults:",
            "  - config",
            *groups,
            "  - _self_",
            "",
            OmegaConf.to_yaml(values),
        ]
    )
