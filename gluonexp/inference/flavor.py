"""MLflow's flavor `gluonexp`: an export as a model that MLflow keeps, registers and serves.

MLflow dropped its own flavor for Gluon in 2.20. This one holds the folder of the export as it is,
under ``data/``, and no pickle: ``MLmodel`` names this module, which reads the export's files.
It uses no global state of MLflow's: neither an active run nor an active experiment. For networks
in memory, and MLflow's active run, there is `gluonexp.mlflow_gluon`.
"""

from __future__ import annotations

import base64
import binascii
import io
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

import gluonexp
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import link_or_copy
from gluonexp.data.images import MAX_PIXELS, TooLargeImageError, UnreadableImageError, decode
from gluonexp.graph.symbols import classic
from gluonexp.inference import environment
from gluonexp.inference.predict import Classifier
from gluonexp.inference.served import ServedArrays, refusal
from gluonexp.model_folder import samples
from gluonexp.model_folder.signature import ArraySignature, Signature, read
from gluonexp.tracking import internals, logged_models
from gluonexp.tracking.artifacts import Artifacts
from gluonexp.tracking.references import fetch_export, local_export
from gluonexp.verification import runtimes

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema

FLAVOR_NAME: Final = "gluonexp"
IMAGES: Final = "images"  # the name of the input
_DATA: Final = "data"


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
    with tempfile.TemporaryDirectory(dir=export_folder.parent, prefix=".new-") as temporary:
        folder = Path(temporary, "model")
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
    with tempfile.TemporaryDirectory(prefix="gluonexp-") as temporary:
        if "://" not in model_uri:
            export = fetch_export(mlflow.MlflowClient(), model_uri, Path(temporary))
        else:  # a folder elsewhere: s3://...
            source = Artifacts(model_uri, None, model_uri, None)
            export = local_export(str(source.fetch("", Path(temporary))))
        assert export is not None  # what was downloaded is a folder
        return Classifier(export, runtime)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> _Served | ServedArrays:
    """Return what `mlflow.pyfunc.load_model` and `mlflow models serve` ask for predictions."""
    runtime = (model_config or {}).get("runtime", "module")
    export = local_export(path)
    with classic():
        if export is not None and isinstance(signature := read(export), ArraySignature):
            return ServedArrays(runtimes.load(export, runtime), signature)
        return _Served(load_model(path, runtime))


class _Served:
    """A classifier as MLflow's pyfunc: images in, a table out.

    Requests come in several threads, and MXNet's executors serve one at a time.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._turn = threading.Lock()

    def get_raw_model(self) -> Classifier:
        """Return the classifier itself."""
        return self._classifier

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Return for each image its class, that class's probability, and those of all classes.

        Parameters
        ----------
        model_input
            Whole numbers from 0 to 255, of shape (N, H, W, C), or (N, H, W) where C is 1, as an
            array or as lists; or the contents of N image files in base64. Alone or as
            ``{"images": ...}``.

        Returns
        -------
        pandas.DataFrame
            A row for each image. Classes of one name (ImageNet has two cranes) get their numbers,
            ``crane #134``: each has a probability of its own.

        Raises
        ------
        MlflowException
            It is something else; a server answers 400 with the message.
        """
        import pandas as pd

        given = model_input
        if isinstance(given, dict | pd.DataFrame):
            given = given.get(IMAGES)
        try:
            images = self._images(given)
        except GluonexpError as error:
            raise refusal(str(error)) from None
        with self._turn, classic():
            table = self._classifier.probabilities(images)
        classes = _told_apart(self._classifier.classes)
        answer: pd.DataFrame = pd.DataFrame(
            {
                "class": [classes[index] for index in table.argmax(axis=1)],
                "probability": table.max(axis=1),
                "probabilities": [dict(zip(classes, row, strict=True)) for row in table.tolist()],
            }
        )
        return answer

    def _images(self, given: Any) -> NDArray[np.uint8]:
        """Return images (N, H, W, C) uint8, or say what is wrong with what was given."""
        height, width, channels = self._classifier.shape
        shapes = f"(N, {height}, {width}, {channels})"
        if channels == 1:
            shapes += f" or (N, {height}, {width})"
        wanted = f"wanted are images of shape {shapes} and type uint8, whole numbers 0 to 255"

        array = np.asarray(given, dtype=object) if isinstance(given, list) else np.asarray(given)
        if array.dtype == object:
            values = array.tolist()
            if array.ndim == 1 and len(array) and all(isinstance(v, str) for v in values):
                return np.stack([_decoded(v, self._classifier.shape) for v in values])
            try:
                array = np.asarray(values)
            except ValueError:  # lists of unequal lengths
                raise GluonexpError(f"{wanted}; these have no common shape") from None
        came = f"{wanted}; these are of shape {array.shape} and type {array.dtype}"
        one = [(height, width, channels), *([(height, width)] if channels == 1 else [])]
        if array.shape in one or (array.shape == () and array.dtype.kind == "U"):
            came += "; one image? wrap it in a list: [image]"
        if array.dtype.kind == "f" and array.size and 0 <= array.min() <= array.max() <= 1:
            came += "; values from 0 to 1? multiply them by 255 and round them to whole numbers"
        if array.ndim == 3 and channels == 1:
            array = array[..., np.newaxis]
        fits = array.shape[1:] == self._classifier.shape and len(array)
        if not fits or array.dtype.kind not in "iu":
            raise GluonexpError(came)
        if array.min() < 0 or array.max() > 255:
            raise GluonexpError(f"{came}, from {array.min()} to {array.max()}")
        return array.astype(np.uint8)


def _told_apart(classes: Sequence[str]) -> list[str]:
    """Return the names of classes; of those that share one, each with its number."""
    times = Counter(classes)
    return [
        name if times[name] == 1 else f"{name} #{number}" for number, name in enumerate(classes)
    ]


def _decoded(text: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        content = base64.b64decode(text, validate=True)
        return decode(io.BytesIO(content), *shape)
    except TooLargeImageError:
        raise GluonexpError(
            f"an image given in base64 has more than {MAX_PIXELS:,} pixels"
        ) from None
    except (binascii.Error, UnreadableImageError):
        raise GluonexpError(
            "an image given as text must be a JPEG, PNG, WebP or BMP file in base64"
        ) from None


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
    shutil.copytree(export_folder, path / _DATA, copy_function=copy)
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
        data=_DATA,
        classes=list(signature.classes),
        **said,
        **({} if code is None else {"code": code}),
    )
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="gluonexp.inference.flavor",
        data=_DATA,
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
