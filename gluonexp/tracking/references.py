"""What names a model: a run, a registered or a logged model, a folder; where its export lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import in_shell
from gluonexp.model_folder.names import NO_EXPORT, SIGNATURE
from gluonexp.tracking.artifacts import Artifacts, of_run
from gluonexp.tracking.logged_models import models_of
from gluonexp.tracking.places import here
from gluonexp.tracking.registry import FORMS, ModelRef, find_model
from gluonexp.tracking.store import KIND, find_run, reported
from gluonexp.tracking.sweeps import BEST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Where a run has its export, where a model of MLflow's has it, and where it is itself.
_INSIDE = ("export", "data", "")

# The files of `mlflow.gluon`, which MLflow removed in 2.20.
_FORMER: Final = ("data/net-symbol.json", "data/net-0000.params")


def artifacts(client: MlflowClient, ref: str) -> Artifacts:
    """Return the artifacts of what `ref` means.

    Parameters
    ----------
    ref
        A run (its id, the first 6 or more characters of it, ``last``, ``runs:/ID``) or a model
        (``models:/NAME/3``, ``models:/NAME@champion``, ``models:/m-ID``).
    """
    if ref.startswith("models:/"):
        model = find_model(client, ref)
        return Artifacts(model.location, client.tracking_uri, model.address, model.run_id)
    return of_run(client, find_run(client, ref.removeprefix("runs:/")).info.run_id)


def best_of_sweep(client: MlflowClient, ref: str) -> str:
    """Return the id of the best run if `ref` means a sweep, else `ref`."""
    if not re.fullmatch("(runs:/)?[0-9a-f]{6,32}", ref):
        return ref
    run = find_run(client, ref.removeprefix("runs:/"))
    if run.data.tags.get(KIND) != "sweep":
        return ref
    if BEST not in run.data.tags:
        raise no_best(run.info.run_id)
    return run.data.tags[BEST]


def no_best(sweep: str) -> GluonexpError:
    """Return the error that a sweep has no best run yet."""
    return GluonexpError(
        f"sweep {sweep} has no best run yet; name one of its runs: "
        f"`gluonexp runs --sweep {sweep[:8]}`"
    )


def local_export(ref: str) -> Path | None:
    """Return the export in folder `ref`; None if `ref` is no folder.

    Raises
    ------
    GluonexpError
        It is one, without an export.
    """
    folder = Path(ref).expanduser()
    return _local(folder) if folder.is_dir() else None


def _local(folder: Path) -> Path:
    for inside in _INSIDE:
        if (folder / inside / SIGNATURE).is_file():
            return folder / inside
    if former := former_flavor(folder):
        raise GluonexpError(_former(str(folder), *former))
    raise GluonexpError(_nothing(str(folder), (folder / "MLmodel").is_file()))


def fetch_export(client: MlflowClient, ref: str, dest: Path) -> Path:
    """Return the folder of the export that `ref` means.

    It is found by the names of its files, which are only read: what an ``MLmodel`` beside them
    asks to be imported is not.

    Parameters
    ----------
    ref
        A run's id, the first 6 or more characters of one, ``last``; ``runs:/ID``, perhaps with
        the path of a folder or the name of a logged model; ``models:/NAME@ALIAS``,
        ``models:/NAME/VERSION``, ``models:/m-ID``; or a folder.
    dest
        It is downloaded below this folder, unless it lies on this machine.

    Raises
    ------
    GluonexpError
        There is no such thing, or no export in it.
    """
    here = local_export(ref)
    if here is not None:
        return here
    roots = [Artifacts(root, client.tracking_uri, ref, None) for root in _roots(client, ref)]
    for root in roots:
        for inside in _INSIDE:
            if root.has(f"{inside}/{SIGNATURE}".strip("/")):
                return root.fetch(inside, dest)
    for root in roots:
        if root.has(_FORMER[0]):
            folder, first = root.local(""), ""
            if folder is None:
                folder = Path("DIR", root.uri.rpartition("/")[2])
                first = f"`mlflow artifacts download -u {in_shell(root.uri)} -d DIR`, then "
            raise GluonexpError(_former(ref, *(folder / name for name in _FORMER), first=first))
    if any(root.has("MLmodel") for root in roots):
        raise GluonexpError(_nothing(ref, foreign=True))
    if ref.startswith("models:/"):
        raise GluonexpError(_nothing(ref, foreign=False))
    name, path = _run_and_path(ref)
    info = find_run(client, name).info
    where = f" in {path}/" if path else ""
    why = "export=none?" if info.status == "FINISHED" else f"it is {info.status}"
    raise GluonexpError(
        f"run {info.run_id[:8]} has no export{where} ({why}); name another run, or the folder "
        "that holds model-symbol.json"
    )


def fetch_any(ref: str, dest: Path) -> Path:
    """Return the folder of an export, or of a model of MLflow's former Gluon flavor.

    Parameters
    ----------
    ref, dest
        As for `fetch_export`, in MLflow's present store; ``s3://...`` is a folder elsewhere.

    Raises
    ------
    GluonexpError
        There is no such thing, or neither in it.
    """
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return folder if former_flavor(folder) else _local(folder)
    import mlflow

    client = mlflow.MlflowClient()
    if "://" in ref:
        roots = [Artifacts(ref, None, ref, None)]
    else:
        roots = [Artifacts(root, client.tracking_uri, ref, None) for root in _roots(client, ref)]
    for root in roots:
        if root.has(_FORMER[0]):
            return root.fetch("", dest)
    if "://" in ref:
        return _local(roots[0].fetch("", dest))
    return fetch_export(client, ref, dest)


def former_flavor(folder: Path) -> tuple[Path, Path] | None:
    """Return symbol and parameters of a model of MLflow's former Gluon flavor, if it is one."""
    symbol, params = (folder / name for name in _FORMER)
    return (symbol, params) if symbol.is_file() and params.is_file() else None


def fetch_first(
    client: MlflowClient, model: ModelRef, paths: Sequence[str], dest: Path
) -> tuple[str, Path]:
    """Return which of `paths` is the first that a model has, and where it lies on this machine.

    A model that is the ``export`` folder of a run has the run's other folders, too: they are of
    the same network. A model may also be a single file, which it is then, whatever its name.

    Parameters
    ----------
    dest
        The file is copied under this folder, unless it lies here already.
    """
    folder, _, name = model.location.rpartition("/")
    for root, wanted in ((_run_folder(client, model), paths), (folder, [name])):
        source = Artifacts(root, client.tracking_uri, model.title, model.run_id)
        for path in wanted:
            if source.has(path):
                return path, source.fetch(path, dest)
    raise GluonexpError(
        f"{model.title} cannot be read: {model.location} has none of {', '.join(paths)}"
    )


def fetch_if_any(client: MlflowClient, run_id: str | None, path: str, dest: Path) -> Path | None:
    """Return where the file `path` of a run lies; None if there is none, or no such run."""
    with suppress(GluonexpError):
        return of_run(client, run_id).fetch(path, dest) if run_id else None
    return None


def run_of(client: MlflowClient, ref: str) -> Run | None:
    """Return the run that made what `ref` means; None if it is unknown or was deleted."""
    if Path(ref).expanduser().is_dir():
        return None
    if not ref.startswith("models:/"):
        return find_run(client, _run_and_path(ref)[0])
    run_id = find_model(client, ref).run_id
    try:
        return find_run(client, run_id) if run_id else None
    except GluonexpError:
        return None


def _run_folder(client: MlflowClient, model: ModelRef) -> str:
    """Return the folder of a run's artifacts if a model is the export in it, else the model's."""
    folder = model.location.removesuffix("/export")
    if folder == model.location or folder.startswith("runs:/"):
        return folder
    with suppress(GluonexpError), reported("its run is gone"):
        if model.run_id and folder == here(
            client.get_run(model.run_id).info.artifact_uri, client.tracking_uri
        ):
            return folder
    return model.location


def _roots(client: MlflowClient, ref: str) -> Iterator[str]:
    """Yield the addresses of the folders that `ref` may mean."""
    if ref.startswith("models:/"):
        location = find_model(client, ref).location
        if not location.startswith("runs:/"):
            yield location
            return
        ref = location  # what was registered is the address of a run's folder
    name, path = _run_and_path(ref)
    info = find_run(client, name).info
    yield f"{info.artifact_uri}/{path}".rstrip("/")
    for model in models_of(client, info.run_id):  # MLflow's own runs:/ID/NAME
        if path in ("", model.name):
            yield str(model.artifact_location)


def _run_and_path(ref: str) -> tuple[str, str]:
    run, _, path = ref.removeprefix("runs:/").partition("/")
    if path and not ref.startswith("runs:/"):
        raise GluonexpError(
            f"{ref}: no such folder; name a run (its id, or 'last'), runs:/ID, {FORMS}, or a "
            "folder"
        )
    return run, path.strip("/")


def _former(ref: str, symbol: Path, params: Path, *, first: str = "") -> str:
    """Say how a model of MLflow's former Gluon flavor, which knows of no images, is used."""
    files = in_shell("--symbol", str(symbol), "--params", str(params))
    return (
        f"{ref}: a model of MLflow's former Gluon flavor, which does not say what images it "
        f"takes; make an export of it: {first}`gluonexp export {files} --input CxHxW --to NEW`, "
        "with the --mean, --std and --classes of its training; or load it as it is: "
        "gluonexp.mlflow_gluon.load_model"
    )


def _nothing(ref: str, foreign: bool) -> str:
    if foreign:
        return (
            f"{ref}: an MLflow model of another flavor ({SIGNATURE} is missing); what it would "
            "import is not loaded, only what gluonexp exported is"
        )
    return f"{ref}: {NO_EXPORT}"
