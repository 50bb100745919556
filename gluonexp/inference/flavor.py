"""MLflow's flavor `gluonexp`: an export as a model that MLflow keeps, registers and serves.

MLflow dropped its own flavor for Gluon in 2.20. This one holds the folder of the export as it is,
under ``data/``, and no pickle: ``MLmodel`` names this module, which reads the export's files.
It uses no global state of MLflow's: neither an active run nor an active experiment. For networks
in memory, and MLflow's active run, there is `gluonexp.mlflow_gluon`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

import gluonexp
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import link_or_copy, temporary
from gluonexp.graph.symbols import classic
from gluonexp.inference import environment
from gluonexp.inference.predict import Classifier
from gluonexp.inference.served import IMAGES, ServedArrays, ServedImages
from gluonexp.model_folder import samples
from gluonexp.model_folder.signature import ArraySignature, Signature, read
from gluonexp.tracking import internals, logged_models
from gluonexp.tracking.artifacts import Artifacts
from gluonexp.tracking.references import fetch_export, local_export
from gluonexp.verification import runtimes

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema

FLAVOR_NAME: Final = "gluonexp"
DATA: Final = "data"


def save_model(
    export_folder: Path | str, path: Path | str, mlflow_model: Model | None = None
) -> None:
    """Write an MLflow model with a copy of an export to `path`, a new folder.

    Parameters
    ----------
    mlflow_model
        What is known of the model already; it is added to.

    Raises
    ------
    GluonexpError
        There is no export, or something at `path`.
    """
    _check_is_folder(export_folder)
    path = Path(path)
    if path.exists():
        raise GluonexpError(f"{path} exists: name a new folder")
    write(Path(export_folder), path, mlflow_model)


def log_model(
    export_folder: Path | str,
    client: MlflowClient,
    run_id: str | None = None,
    *,
    name: str = "model",
    step: int = 0,
) -> LoggedModel:
    """Keep an export as a logged model of a run; return it, ``models:/<model_id>``.

    For `name`, `step` and where its files lie see `gluonexp.tracking.logged_models.log_model`.

    Raises
    ------
    GluonexpError
        There is no export, or the store refuses. The model is marked FAILED then.
    """
    _check_is_folder(export_folder)
    if run_id is None:
        raise GluonexpError("log_model keeps an export as a model of a run: name it, run_id=...")
    with model_folder(Path(export_folder)) as folder:
        return logged_models.log_model(client, run_id, folder, name=name, step=step)


def _check_is_folder(export_folder: object) -> None:
    """Refuse a network, which users of MLflow's former flavor hand over here."""
    if not isinstance(export_folder, str | Path):
        raise GluonexpError(
            f"{type(export_folder).__name__} is not the folder of an export; a network in memory "
            "is taken by save_model and log_model of gluonexp.mlflow_gluon"
        )


@contextmanager
def model_folder(export_folder: Path) -> Iterator[Path]:
    """Yield the folder of an MLflow model of an export, for as long as the block lasts.

    Its files are links to those of `export_folder` where the disk allows it.
    """
    with temporary(export_folder.parent) as place:
        folder = place / "model"
        write(export_folder, folder, None, links=True)
        yield folder


def load_model(model_uri: str, runtime: str = "module") -> Classifier:
    """Return the network of a model, ready to classify.

    Parameters
    ----------
    model_uri
        A folder, or what MLflow understands: ``models:/NAME@champion``, ``runs:/ID/model``...
    runtime
        One of `gluonexp.model_folder.names.RUNTIMES`.

    Raises
    ------
    GluonexpError
        There is no such thing, or no export of gluonexp's in it.
    """
    export = local_export(model_uri)
    if export is not None:
        return Classifier(export, runtime)
    import mlflow

    # A copy that had to be made is not needed once its network is in memory.
    with temporary() as place:
        if "://" not in model_uri:
            export = fetch_export(mlflow.MlflowClient(), model_uri, place)
        else:  # a folder elsewhere: s3://...
            source = Artifacts(model_uri, None, model_uri, None)
            export = local_export(str(source.fetch("", place)))
        assert export is not None  # what was downloaded is a folder
        return Classifier(export, runtime)


def _load_pyfunc(
    path: str, model_config: dict[str, Any] | None = None
) -> ServedImages | ServedArrays:
    """Return what `mlflow.pyfunc.load_model` and `mlflow models serve` ask for predictions."""
    runtime = (model_config or {}).get("runtime", "module")
    export = local_export(path)
    with classic():
        if export is not None and isinstance(signature := read(export), ArraySignature):
            return ServedArrays(runtimes.load(export, runtime), signature)
        return ServedImages(load_model(path, runtime))


@dataclass(frozen=True)
class Wanted:
    """What a user says of a model besides its network.

    Attributes
    ----------
    signature
        MLflow's; False for none, None for one that is made here: of images, or from the example.
    example
        Of the input, as the user gave it; None for one of the export's own images.
    answers
        What the network makes of the `example`.
    environment
        See `gluonexp.inference.environment.Wanted`.
    code_paths
        Files and folders to copy; MLflow's pyfunc puts them on Python's path.
    """

    signature: ModelSignature | Literal[False] | None = None
    example: Any = None
    answers: NDArray[np.float32] | None = None
    environment: environment.Wanted | None = None
    code_paths: Sequence[str] | None = None


def write(
    export_folder: Path,
    path: Path,
    meta: Model | None,
    *,
    links: bool = False,
    wanted: Wanted | None = None,
) -> None:
    """Make the folder of a model; `links` where that is possible, instead of copies."""
    import mlflow.pyfunc
    from mlflow.models import Model, infer_signature

    wanted = wanted or Wanted()
    signature = read(export_folder)
    copy = link_or_copy if links else shutil.copyfile
    shutil.copytree(export_folder, path / DATA, copy_function=copy)
    code = internals.copy_code(wanted.code_paths, path)
    model = Model() if meta is None else meta
    example, made = wanted.example, None
    if isinstance(signature, Signature):
        made, said = _signature(), {"image": signature.to_json()["image"]}
        example = _example(export_folder, signature.image)
    else:
        if example is not None:
            made = infer_signature(example, wanted.answers)
            _widen(made, signature)
        said = {"input": signature.to_json()["input"]}
    if wanted.signature is not False:
        model.signature = made if wanted.signature is None else wanted.signature
    if example is not None:
        internals.save_example(model, example, path)
    # What MLflow's signature does not say; see `_signature`.
    model.add_flavor(
        FLAVOR_NAME,
        gluonexp_version=gluonexp.__version__,
        data=DATA,
        classes=list(signature.classes),
        **said,
        **({} if code is None else {"code": code}),
    )
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="gluonexp.inference.flavor",
        data=DATA,
        code=code,
        conda_env=environment.CONDA,
        python_env=environment.VIRTUALENV,
        model_config={"runtime": "module"},  # what may be changed when it is loaded
    )
    environment.write(path, wanted.environment)
    model.save(str(path / "MLmodel"))


def _widen(made: ModelSignature, signature: ArraySignature) -> None:
    """Let MLflow's signature, which is of an example, take whatever the network takes."""
    from mlflow.types import Schema, TensorSpec

    if not made.inputs.is_tensor_spec():  # a table
        return
    if signature.whole:
        made.inputs = _anything()
    elif signature.shape is not None and None in signature.shape:
        (told,), (answer,) = made.inputs.inputs, made.outputs.inputs
        shape = (-1, *(-1 if side is None else side for side in signature.shape))
        made.inputs = Schema([TensorSpec(told.type, shape)])
        made.outputs = Schema([TensorSpec(answer.type, (-1,) * len(answer.shape))])


def _anything(name: str | None = None) -> Schema:
    """Return MLflow's schema of an input which its server does not cast."""
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(object), (-1,), name)])


def _signature() -> ModelSignature:
    """Return MLflow's signature: anything in, checked here; the table out.

    A tensor of uint8 would be the obvious input, but MLflow's server casts what comes to the type
    of the signature: 0.5 to 0, 300 to 44, in silence. Objects it leaves alone.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map

    inputs = _anything(IMAGES)
    outputs = Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    )
    return ModelSignature(inputs, outputs)


def _example(export_folder: Path, image: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a real image of those that travel with the export, else a black one: (1, H, W, C)."""
    try:
        return samples.read(export_folder).images[:1]
    except GluonexpError:
        return np.zeros((1, *image), dtype=np.uint8)
