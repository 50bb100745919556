"""Registered models: which one a name means, the files it has, and which is the champion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from filelock import FileLock

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import lock
from gluonexp.tracking import compatibility
from gluonexp.tracking.places import here
from gluonexp.tracking.store import reported
from gluonexp.tracking.uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from gluonexp.config.schema import ObjectiveConfig

CHAMPION: Final = "champion"
# Tags of a version.
METRIC, MODE, VALUE = "gluonexp.metric", "gluonexp.mode", "gluonexp.value"
RUN_ID: Final = "gluonexp.run_id"

FORMS: Final = "models:/NAME@ALIAS, models:/NAME/3 or models:/m-ID"
_ADDRESS: Final = re.compile(
    r"models:/(?:(m-[0-9a-f]{32})|([^/@]+)(?:/([0-9]+|latest)|(@[^/@]+)))/?"
)

# How long another process may take to register, seconds.
_PATIENCE: Final = 120.0


@dataclass(frozen=True)
class ModelRef:
    """What an address of MLflow's, ``models:/...``, means.

    Attributes
    ----------
    address
        ``models:/NAME/VERSION`` or ``models:/m-ID``: an alias may move on, this stays.
    title
        What it is, for people.
    location
        The address of its folder (or of its single file).
    run_id
        The run that made it; None if it is unknown.
    """

    address: str
    title: str
    location: str
    run_id: str | None


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and how it compares.

    Attributes
    ----------
    name, version
        ``models:/NAME/VERSION``.
    champion
        Whether the alias ``champion`` is (now) its.
    sentence
        What was decided and why, for people.
    """

    name: str
    version: str
    champion: bool
    sentence: str

    @property
    def address(self) -> str:
        """Where it is found again."""
        return f"models:/{self.name}/{self.version}"


def register(
    client: MlflowClient,
    run_id: str,
    name: str,
    source: str,
    value: float | None,
    goal: ObjectiveConfig,
    description: str | None = None,
) -> Registered:
    """Register a model as a new version, and as the champion if it beats the present one.

    The first version with a value is the champion; then only a better value takes the alias, a
    tie does not. Whoever asks for the champion asks it as before: a version with other
    classes or images of another shape is registered, but never takes the alias.
    A champion that was appointed by hand is measured by the history of the metric in its run, and
    stays where it has none; what it takes and answers is read from its export.

    Processes of one machine take turns; on a server that several machines register to, two of
    them at the same moment do not see each other. What a run has registered already is not
    registered again.

    Parameters
    ----------
    name
        Of the registered model, made if there is none.
    source
        ``models:/m-ID`` for a logged model, or the address of a folder.
    value
        Of the metric of `goal`; None (or not finite) was not measured, and is never a champion.
    goal
        What "better" means.

    Raises
    ------
    GluonexpError
        The store refuses.
    """
    with reported(f"run {run_id} cannot be registered as {name}"), _turn(client, name):
        # Not models:/m-ID itself: without a server, MLflow would look that up in another store,
        # the process's global one.
        logged = _ADDRESS.fullmatch(source)
        model_id = logged[1] if logged else None
        location = find_model(client, source).location if logged else source
        version = _existing(client, run_id, name, location)
        takes = compatibility.read(client, location, run_id)
        if version is None:
            tags = {METRIC: goal.metric, MODE: goal.mode, RUN_ID: run_id, **takes}
            if value is not None:
                tags[VALUE] = repr(float(value))
            _ensure_name(client, name)
            made = client.create_model_version(
                name,
                location,
                run_id,
                tags=tags,
                description=description,
                await_creation_for=0,
                model_id=model_id,
            )
            version = str(made.version)
        holder = _champion(client, name)
        wins, why = _judge(client, version, value, takes, holder, goal)
        if wins:
            client.set_registered_model_alias(name, CHAMPION, version)
    champion = wins or (holder is not None and str(holder.version) == version)
    return Registered(name, version, champion, f"version {version} of {name} {why}")


def find_model(client: MlflowClient, address: str) -> ModelRef:
    """Return what an address of MLflow's means.

    ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/NAME/latest`` or ``models:/m-ID``.
    """
    parts = _ADDRESS.fullmatch(address)
    if not parts:
        raise GluonexpError(f"{address}: write {FORMS}")
    model_id, name, number, alias = parts.groups()
    if model_id:
        with reported(f"model {model_id} cannot be found"):
            logged = client.get_logged_model(model_id)
        location = here(str(logged.artifact_location).rstrip("/"), client.tracking_uri)
        return ModelRef(f"models:/{model_id}", f"model {model_id}", location, logged.source_run_id)
    version = find_version(client, name, number or alias)
    title = f"version {version.version} of model {name}"
    with reported(f"{title} cannot be read"):
        recorded = client.get_model_version_download_uri(name, version.version).rstrip("/")
    location = here(recorded, client.tracking_uri)
    if location.startswith("models:/m-"):  # as MLflow itself registers a logged model
        location = find_model(client, location).location
    return ModelRef(f"models:/{name}/{version.version}", title, location, version.run_id or None)


def find_version(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """Return a version of registered model `name`.

    Parameters
    ----------
    which
        Its number, an alias with its ``@``, or ``latest``: the highest number there is.
    """
    doing = f"version {which} of model {name} cannot be found"
    with reported(doing):
        if which.startswith("@"):
            return client.get_model_version_by_alias(name, which[1:])
        if which != "latest":
            return client.get_model_version(name, which)
        mark = '"' if "'" in name else "'"
        newest = client.search_model_versions(
            f"name = {mark}{name}{mark}", max_results=1, order_by=["version_number DESC"]
        )
    if not newest:
        raise GluonexpError(f"{doing}: no version of it is registered")
    return newest[0]


def _turn(client: MlflowClient, name: str) -> FileLock:
    """Return the lock under which processes of this machine register models called `name`."""
    uri = client.tracking_uri
    return lock(sqlite_path(uri) or f"{uri} {name}", timeout=_PATIENCE)


def _existing(client: MlflowClient, run_id: str, name: str, location: str) -> str | None:
    """Return the version that a run has registered already, if it has."""
    found = client.search_model_versions(f"run_id = '{run_id}'")
    return next(
        (
            str(one.version)
            for one in found
            if one.name == name and here(one.source or "", client.tracking_uri) == location
        ),
        None,
    )


def _ensure_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if number is None else client.get_model_version(name, str(number))


def _judge(
    client: MlflowClient,
    version: str,
    value: float | None,
    takes: Mapping[str, str],
    holder: ModelVersion | None,
    goal: ObjectiveConfig,
) -> tuple[bool, str]:
    """Say whether a version takes the alias, and why."""
    metric = goal.metric
    if holder is not None and str(holder.version) == version:
        return False, "is the champion already"
    if value is None or not math.isfinite(value):
        return False, f"has no value of {metric}, so it is not the {CHAMPION}"
    if holder is None:
        return True, f"is the {CHAMPION}, the first one: {metric} {value:.6g}"
    theirs, other = _takes(client, holder), f"version {holder.version}"
    if differs := compatibility.difference(takes, theirs, other):
        return False, (
            f"is not the {CHAMPION}: {differs}; move the alias by hand if that is meant"
        )
    held = _value(client, holder, goal)
    if held is None:
        return False, f"is not the {CHAMPION}: that is {other}, of which {metric} is not known"
    better = value > held if goal.mode == "max" else value < held
    told = f"{metric} {value:.6g} against {held:.6g} of {other}"
    told += compatibility.caveat(takes, theirs)
    if better:
        return True, f"is the {CHAMPION} now: {told}"
    return False, f"is not the {CHAMPION}: {told}"


def _takes(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """Return what a version takes and answers, as far as it can be found out."""
    told = compatibility.tagged(version.tags)
    if told is None:
        try:
            with reported("what it takes cannot be read"):
                model = find_model(client, f"models:/{version.name}/{version.version}")
                told = compatibility.read(client, model.location, model.run_id)
        except GluonexpError:  # its files or its run are gone
            told = {}
    return told


def _value(client: MlflowClient, version: ModelVersion, goal: ObjectiveConfig) -> float | None:
    """Return the value by which a version is measured; None if it is unknown."""
    from mlflow.exceptions import MlflowException

    best = max if goal.mode == "max" else min
    if (version.tags.get(METRIC), version.tags.get(MODE)) == (goal.metric, goal.mode):
        with suppress(KeyError, ValueError):
            told = float(version.tags[VALUE])
            return told if math.isfinite(told) else None
    try:
        history = client.get_metric_history(version.run_id, goal.metric) if version.run_id else []
    except MlflowException:  # its run is gone
        history = []
    return best((m.value for m in history if math.isfinite(m.value)), default=None)
