"""What `mlflow.gluon` was until MLflow 2.20 removed it: a Gluon network as an MLflow model.

The functions have the names and the arguments that they had there, and some that MLflow's flavors
got since. What is kept is an export like any other of gluonexp's: a symbol, its parameters and no
pickle, with a certificate where an example of the input is given. ``gluonexp verify`` and
``mlflow models serve`` take it; so do ``gluonexp predict`` and ``evaluate`` if the network takes
images. Models that MLflow itself logged are read as well. Where gluonexp was imported before,
``import mlflow.gluon`` gives this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import settle, temporary
from gluonexp.base.mx import gluon, mx, nd
from gluonexp.base.provenance import command_line
from gluonexp.graph.symbols import block, classic
from gluonexp.inference import environment, flavor, live
from gluonexp.inference.served import ServedArrays
from gluonexp.mlflow_gluon.autologging import autolog
from gluonexp.model_folder import network
from gluonexp.model_folder import signature as signatures
from gluonexp.model_folder.names import CARD, MODEL, paths
from gluonexp.model_folder.signature import ArraySignature, Signature
from gluonexp.tracking import references
from gluonexp.verification import card, runtimes
from gluonexp.verification.card import Origin

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

__all__ = [
    "FLAVOR_NAME",
    "autolog",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "save_model",
]

FLAVOR_NAME: Final = flavor.FLAVOR_NAME


def save_model(
    gluon_model: gluon.HybridBlock | Path | str,
    path: Path | str,
    mlflow_model: Model | None = None,
    conda_env: str | Path | dict[str, Any] | None = None,
    code_paths: Sequence[str] | None = None,
    signature: ModelSignature | Literal[False] | None = None,
    input_example: Any = None,
    pip_requirements: str | Path | Sequence[str] | None = None,
    extra_pip_requirements: str | Path | Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    input_shape: Sequence[int | None] | None = None,
) -> None:
    """Save a network as an MLflow model, in a new folder.

    Parameters
    ----------
    gluon_model
        An initialized HybridBlock of one input and one output, whose first axis is the batch. It
        need not be hybridized, and stays as it is. Or the folder of an export.
    path
        The folder to make.
    mlflow_model
        What is known of the model already; it is added to.
    conda_env, pip_requirements, extra_pip_requirements
        The environment to serve it in, as MLflow's flavors take it; at most one of them.
    code_paths
        Files and folders of Python code to keep with it. The network itself needs none.
    signature
        MLflow's signature, if not the one that follows from `input_example`; False for none.
    input_example
        Some inputs, (N, ...): an NDArray, an array, lists or a table. What the network makes of
        them is kept with it and proves it: every runtime must say the same. Images (N, H, W, C)
        of uint8 are scaled to [0, 1] and given to the network as (N, C, H, W), as `ToTensor` does;
        then image files can be classified with the model.
    metadata
        Kept in ``MLmodel``.
    classes
        Names of the outputs.
    mean, std
        Of a network for images, what they are normalized with after they were scaled to [0, 1]: a
        number or one for each channel. With them `input_example` may also be what the network
        takes itself, (N, C, H, W) of float32.
    input_shape
        Of one input, if it is not always that of the `input_example`: ``(None, 64)`` for
        sequences of any length.

    Raises
    ------
    GluonexpError
        The network cannot be kept, or there is something at `path`. Nothing is left there then.
    """
    path = Path(path)
    if path.exists():
        raise GluonexpError(f"{path} exists: name a new folder")
    wanted = flavor.Wanted(
        signature=signature,
        environment=environment.Wanted(conda_env, pip_requirements, extra_pip_requirements),
        code_paths=code_paths,
    )
    if metadata is not None:
        from mlflow.models import Model

        mlflow_model = Model() if mlflow_model is None else mlflow_model
        mlflow_model.metadata = metadata
    with _drafts(path) as drafts:
        export = drafts / "export"
        if isinstance(gluon_model, str | Path):
            export = Path(gluon_model)
        else:
            given = _array(input_example)
            answers = live.export(
                gluon_model,
                export,
                given,
                classes=classes,
                mean=mean,
                std=std,
                sides=_sides(signature) if input_shape is None else input_shape,
                origin=_origin(None if mlflow_model is None else mlflow_model.run_id),
            )
            kept = given if isinstance(input_example, nd.NDArray) else input_example
            wanted = flavor.Wanted(signature, kept, answers, wanted.environment, wanted.code_paths)
        made = drafts / "model"
        # What was made here for it alone need not be copied.
        own = not isinstance(gluon_model, str | Path)
        flavor.write(export, made, mlflow_model, links=own, wanted=wanted)
        settle(made, path)


def log_model(
    gluon_model: gluon.HybridBlock | Path | str,
    artifact_path: str | None = None,
    conda_env: str | Path | dict[str, Any] | None = None,
    code_paths: Sequence[str] | None = None,
    registered_model_name: str | None = None,
    signature: ModelSignature | Literal[False] | None = None,
    input_example: Any = None,
    pip_requirements: str | Path | Sequence[str] | None = None,
    extra_pip_requirements: str | Path | Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    run_id: str | None = None,
    classes: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    input_shape: Sequence[int | None] | None = None,
    **kwargs: Any,
) -> ModelInfo:
    """Keep a network as a logged model of the active run, or of `run_id`.

    Parameters
    ----------
    artifact_path, name
        What the model is called: two words for the same, the second is MLflow's of today.
    registered_model_name
        It is registered as a new version of this model, if given, which its card describes.
    run_id
        The run, if not the active one. Without either the model is of no run.
    gluon_model, conda_env, code_paths, signature, input_example, pip_requirements
        As for `save_model`, and so are the others.
    **kwargs
        For `mlflow.models.Model.log`: ``step``, ``tags``, ``params``, ``model_type`` ...

    Returns
    -------
    mlflow.models.model.ModelInfo
        Among others `model_uri`, the address ``models:/m-ID``.

    Raises
    ------
    GluonexpError
        As for `save_model`.
    """
    import sys

    from mlflow.models import Model

    if name is not None and artifact_path is not None:
        raise GluonexpError("artifact_path and name are the same thing: give one of them")
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name or artifact_path or "model",
        flavor=sys.modules[__name__],
        gluon_model=gluon_model,
        conda_env=conda_env,
        code_paths=code_paths,
        registered_model_name=registered_model_name,
        signature=signature,
        input_example=input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        metadata=metadata,
        run_id=run_id,
        classes=classes,
        mean=mean,
        std=std,
        input_shape=input_shape,
        **kwargs,
    )
    if registered_model_name is not None and info.registered_model_version is not None:
        _describe(info, registered_model_name)
    return info


def _origin(run_id: str | None) -> Origin:
    """Return what the card says of the run that a network is kept in, and of this process."""
    if run_id is None:
        return Origin(command=command_line())
    import mlflow

    run = mlflow.get_run(run_id)
    used = [] if run.inputs is None else [each.dataset for each in run.inputs.dataset_inputs]
    return Origin(
        run_id=run_id,
        command=command_line(),
        commit=run.data.tags.get("mlflow.source.git.commit"),
        inputs={data.name: data.digest for data in used},
    )


def _describe(info: ModelInfo, name: str) -> None:
    """Let the card of a model be the description of its registered version."""
    import mlflow

    client = mlflow.MlflowClient()
    files = references.artifacts(client, info.model_uri)
    if files.has(path := f"{flavor.DATA}/{CARD}"):  # older exports have none
        said = card.description(files.text(path))
        client.update_model_version(name, str(info.registered_model_version), said)


def load_model(
    model_uri: str | Path, ctx: mx.Context | None = None, dst_path: str | Path | None = None
) -> gluon.SymbolBlock:
    """Return the network of a model, as a Gluon block that takes what the network took.

    The model may be one of this flavor, an export or a run of gluonexp's, or a model of MLflow's
    former Gluon flavor. Its files are read as `gluonexp.model_folder` reads them: nothing in them
    is executed, and code that was kept with the model is not imported.

    Parameters
    ----------
    model_uri
        A folder, or what MLflow understands: ``models:/NAME@champion``, ``runs:/ID/model`` ...
    ctx
        Where the network shall be; by default on the CPU.
    dst_path
        A folder that files from elsewhere are copied to, and stay in.

    Raises
    ------
    GluonexpError
        There is no such thing, or no network in it.
    """
    with temporary() as place:
        folder = references.fetch_any(str(model_uri), Path(dst_path or place))
        with classic():
            name, found = _network(folder)
    made = block(found.symbol, found.values, name)
    if ctx is not None:
        made.collect_params().reset_ctx(ctx)
    return made


def _network(folder: Path) -> tuple[str, network.Network]:
    """Return the name of the input, and the network of an export or of a former model."""
    if former := references.former_flavor(folder):
        return "data", network.read_pair(*former)
    told = signatures.read(folder)
    sides = told.shape[1:] if isinstance(told, Signature) else told.shape
    known = [side for side in sides or () if side is not None]
    if sides is None or len(known) < len(sides):  # there is nothing to look at it with
        return told.input, network.read_pair(*paths(folder, MODEL))
    return told.input, network.read_network(folder, MODEL, told.input, (1, *known))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Any:
    """Return what `mlflow.pyfunc.load_model` asks for predictions.

    Models of MLflow's former flavor name the module ``mlflow.gluon``, which is this one where
    gluonexp was imported before.
    """
    if former := references.former_flavor(Path(path)):
        takes = ArraySignature(None)
        return ServedArrays(runtimes.of_arrays(*former, takes), takes)
    return flavor._load_pyfunc(path, model_config)


def get_default_pip_requirements() -> list[str]:
    """Return the requirements that a model gets if none are given."""
    return environment.requirements()


def get_default_conda_env() -> dict[str, Any]:
    """Return the conda environment that a model gets if none is given."""
    return environment.conda(environment.requirements())


@contextmanager
def _drafts(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` in which it is made; say in a sentence where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path.parent) as place:
            yield place
    except OSError as error:
        raise GluonexpError(f"{path}: cannot be written: {error.strerror or error}") from error


def _array(example: Any) -> NDArray[Any] | None:
    """Return an example of the input as an array."""
    if example is None:
        return None
    if isinstance(example, nd.NDArray):
        return np.asarray(example.asnumpy())
    if isinstance(example, dict | tuple):
        raise GluonexpError(
            f"input_example is a {type(example).__name__}, but the network takes one array: "
            "(N, ...)"
        )
    try:
        return np.asarray(example.to_numpy() if hasattr(example, "to_numpy") else example)
    except ValueError:
        raise GluonexpError("the inputs in input_example are of unequal shapes") from None


def _sides(signature: ModelSignature | Literal[False] | None) -> tuple[int | None, ...] | None:
    """Return the shape of one input by MLflow's signature, if that tells it."""
    if not signature or signature.inputs is None or not signature.inputs.is_tensor_spec():
        return None
    if len(signature.inputs.inputs) != 1:
        return None
    (told,) = signature.inputs.inputs
    if told.type.kind not in "fiub":  # of objects it tells nothing
        return None
    shape = told.shape
    return tuple(None if side < 0 else int(side) for side in shape[1:])
