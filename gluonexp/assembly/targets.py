"""Constructors named in the configuration: resolved, checked, and not called before all are."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from gluonexp.base.aliases import current
from gluonexp.base.errors import GluonexpError

Constructor = Callable[..., Any]

# The parts of gluonexp that hold what a configuration may choose.
OWN = ("data", "models", "training.average", "training.callbacks", "training.schedules")


def constructor(
    node: Mapping[str, Any], key: str, allow: Sequence[str], provided: Collection[str] = ()
) -> Constructor:
    """Return what ``node._target_`` names, with the node's other keys as its arguments.

    Parameters
    ----------
    node
        May hold further nodes with a ``_target_``; they are resolved too, and called with it.
    key
        Where the node stands in the configuration, for messages.
    provided
        Names of the arguments that the caller of the returned function adds.
    """
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    name = node.get("_target_")
    if not isinstance(name, str):
        raise GluonexpError(f"{key} names no _target_: choose a configuration with {key}=NAME")
    target = resolve(name, key, allow)
    takes = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for argument in [*arguments, *provided]:
            if argument not in takes:
                near = difflib.get_close_matches(argument, takes, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(takes)}"
                raise GluonexpError(f"{key}.{argument}: {name} takes no such argument; {hint}")
    given = {*arguments, *provided}
    for parameter in takes.values():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and parameter.name not in given:
            raise GluonexpError(f"{key}.{parameter.name}: {name} needs a value for it")

    def construct(**runtime: Any) -> Any:
        nested = {
            argument: constructor(value, f"{key}.{argument}", allow)()
            if isinstance(value, Mapping) and "_target_" in value
            else value
            for argument, value in arguments.items()
        }
        try:
            return target(**nested, **runtime)
        except (TypeError, ValueError) as error:
            raise GluonexpError(f"{key}: {name} refused its arguments: {error}") from error

    return construct


def resolve(name: str, key: str, allow: Sequence[str]) -> Any:
    """Import what a dotted name says, if it is defined in an allowed package."""
    if name.partition(".")[0] not in allow:
        raise GluonexpError(
            f"{key}._target_={name}: only {', '.join(allow)} may be named; "
            f"to trust your own package: build.allow=[{name.partition('.')[0]}]"
        )
    module_name, _, attribute = name.rpartition(".")
    parts = name.split(".")
    if len(parts) < 2 or any(part.startswith("_") or not part.isidentifier() for part in parts):
        raise GluonexpError(f"{key}._target_={name}: not the name of a public class or function")
    if parts[0] == "gluonexp" and not current(name).startswith(
        tuple(f"gluonexp.{own}." for own in OWN)
    ):
        raise GluonexpError(
            f"{key}._target_={name}: of gluonexp itself, only {', '.join(OWN)} may be named"
        )
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise GluonexpError(f"{key}._target_={name}: {error}") from None
    except AttributeError:
        raise GluonexpError(f"{key}._target_={name}: {module_name} has no {attribute}") from None
    # A module's namespace also holds what it imported: `gluonexp.x.os` is not gluonexp's.
    if str(getattr(target, "__module__", "")).partition(".")[0] not in allow:
        raise GluonexpError(f"{key}._target_={name}: not defined in {', '.join(allow)}")
    if not callable(target):
        raise GluonexpError(f"{key}._target_={name}: cannot be called")
    return target
