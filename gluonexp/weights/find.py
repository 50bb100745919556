"""Pretrained parameters: what a user may ask for, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from gluonexp import tracking
from gluonexp.base.download import NoMirror, obstacles
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import temporary
from gluonexp.model_folder import params
from gluonexp.model_folder.names import SIGNATURE
from gluonexp.models.finetune import Weights
from gluonexp.tracking import references, registry
from gluonexp.tracking.artifacts import of_run
from gluonexp.weights import names, origin, pth, torchvision, zoo
from gluonexp.weights.origin import Origin

# Trained by gluonexp itself; see experiments/. In names of the zoo.
BUNDLED: Final[Mapping[str, Path]] = {
    "alexnet": Path(__file__).with_name("alexnet-cifar10.safetensors")
}

# Files of parameters in a run or a registered model, the best first: a checkpoint has the
# structural name of every parameter.
CHECKPOINT: Final = "checkpoint/model.params"
_META: Final = "checkpoint/meta.json"
_HELD: Final = (
    *(CHECKPOINT, "model.params"),
    *(f"{folder}{origin.EXPORTED}" for folder in ("export/", "data/", "")),  # data: MLflow's
)
_SUFFIXES: Final = (".params", ".pth", ".pt", ".safetensors")
_CHOICES: Final = (
    f"it is imagenet, bundled, none, auto, a file ({' '.join(_SUFFIXES)}), runs:/RUN_ID or "
    "models:/NAME@ALIAS"
)

# How long a server may send nothing, seconds: for weights that were asked for by name, and for
# those of `auto`, which has others to take.
_PATIENT: Final = 60.0
_HASTY: Final = 10.0


_NONE: Final = Weights("none", "none: random initial values", None, {})


def find(
    choice: str,
    backbone: str,
    *,
    needed: Collection[str] | None = None,
    sha256: str | None = None,
    tracking_uri: str | None = None,
) -> Weights:
    """Return the pretrained parameters of zoo network `backbone` that `choice` means.

    Published files are downloaded from ``MXNET_GLUON_REPO`` (MXNet's; MXNet reads it, too) and
    ``GLUONEXP_TORCHVISION`` (torchvision's), where these environment variables are set.

    Parameters
    ----------
    choice
        ``imagenet``, ``bundled``, ``none``; ``auto``: imagenet if it is cached or can be
        downloaded, else bundled, else none; a file (``.params`` ``.pth`` ``.pt``
        ``.safetensors``); ``runs:/RUN_ID``, with the path of an artifact if it is not the
        checkpoint; ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``models:/m-ID``.
    needed
        The zoo's structural names of the parameters that will be used, apart from a head's.
        Bundled weights that lack one are not taken. None: unknown.
    sha256
        What the file must have.
    tracking_uri
        The store of runs and registered models.

    Raises
    ------
    GluonexpError
        It cannot be had, is damaged or another network's, or has another sha256.
    """
    if not isinstance(choice, str):
        raise GluonexpError(f"model.weights={choice}: not a text; {_CHOICES}")
    if not isinstance(sha256, str | None):
        raise GluonexpError(f"model.sha256={sha256}: not a text; quote the digits: '\"...\"'")
    sha256 = sha256.lower() if sha256 else None
    if choice == "auto":
        weights = _auto(backbone, sha256, needed)
    elif choice == "imagenet":
        weights = _imagenet(backbone, sha256)
    elif choice == "bundled":
        try:
            weights = _bundled(backbone, needed)
        except GluonexpError as error:
            raise GluonexpError(
                f"model.weights=bundled: {error}; {published(backbone)}"
            ) from error
    elif choice == "none":
        weights = _NONE
    elif choice.startswith("runs:/"):
        weights = _of_run(choice, backbone, tracking_uri)
    elif choice.startswith("models:/"):
        weights = _of_model(choice, backbone, tracking_uri)
    else:
        weights = _of_file(choice, backbone)
    if sha256 is not None and weights.sha256 != sha256:
        raise GluonexpError(
            f"model.weights={choice}: the sha256 of {weights.title} is {weights.sha256}, not the "
            f"{sha256} that model.sha256 asks for"
        )
    for name, array in weights.arrays.items():
        used = needed is None or name in needed or names.own([name])
        if used and not np.isfinite(array).all():
            raise GluonexpError(
                f"model.weights={choice}: {name} of {weights.title} holds values that are not "
                "finite numbers (inf or nan); choose other weights"
            )
    return weights


def published(backbone: str) -> str:
    """Say which files would give ``imagenet``, and where to put them by hand."""
    files = [
        f"{file.path.name} ({file.identity}) in {file.path.parent}" for file in _files(backbone)
    ]
    return f"ImageNet weights of {backbone} are {', or '.join(files)}."


def _files(backbone: str, sha256: str | None = None) -> list[zoo.Published]:
    """Return the published files, or those that may have the digest."""
    both = (zoo.mxnet_file(backbone), zoo.torchvision_file(backbone))
    files = [file for file in both if file is not None]
    if sha256 is not None:  # the files' values differ: who repeats a run wants those it had
        same = [f for f in files if f.algorithm == "sha256" and sha256.startswith(f.digest)]
        files = same or [f for f in files if f.algorithm != "sha256"]
    return files


def _imagenet(backbone: str, sha256: str | None) -> Weights:
    found = _published(backbone, sha256, hasty=False)
    if isinstance(found, Weights):
        return found
    raise GluonexpError(
        "\n".join(
            [
                f"model.weights=imagenet: those of {backbone} cannot be had:",
                *(f"  {reason}" for reason in found),
                published(backbone),
                "Put such a file there, or choose other weights: model.weights=auto, bundled, "
                "none or a file.",
            ]
        )
    )


def _auto(backbone: str, sha256: str | None, needed: Collection[str] | None) -> Weights:
    found = _published(backbone, sha256, hasty=True)
    if isinstance(found, Weights):
        return found
    why = "; ".join(dict.fromkeys(found))
    lack = f"no ImageNet weights of {backbone} are cached, and none can be downloaded ({why})"
    try:
        weights = _bundled(backbone, needed)
    except GluonexpError as error:
        return replace(
            _NONE,
            warning=f"{lack}, and {error}, so training starts from random weights, which with "
            "frozen features is rarely what one wants",
        )
    return replace(weights, warning=f"{lack}, so training starts from {weights.title}")


def _published(backbone: str, sha256: str | None, *, hasty: bool) -> Weights | list[str]:
    """Return published weights, cached ones rather than others, or why each cannot be had.

    Parameters
    ----------
    hasty
        Do not wait for a server that does not answer within seconds.
    """
    reasons: list[str] = []
    wanting: list[tuple[zoo.Published, str | None]] = []
    for file in _files(backbone, sha256):
        right, fault = file.inspect()
        if not right:
            wanting.append((file, fault))
            continue
        try:
            return _load(file)
        except GluonexpError as error:
            reasons.append(str(error))
    hindrances = obstacles([f.url for f, _ in wanting]) if hasty else [None for _ in wanting]
    for (file, fault), hindrance in zip(wanting, hindrances, strict=True):
        try:
            if hindrance is None:
                file.download(_HASTY if hasty else _PATIENT)
                warning = fault and f"{fault}, so it was downloaded again"
                return replace(_load(file), warning=warning)
            reasons.append(hindrance)
        except NoMirror as error:
            reasons += [failure.strip() for failure in error.failures]
        except GluonexpError as error:
            reasons.append(str(error))
        if fault:
            reasons.append(fault)
    return reasons


def _load(file: zoo.Published) -> Weights:
    return _read("imagenet", f"{file.title} ({file.path.name})", file.path, file.backbone)


def _bundled(backbone: str, needed: Collection[str] | None) -> Weights:
    if backbone not in BUNDLED:
        raise GluonexpError(f"none are bundled for {backbone}, only for {', '.join(BUNDLED)}")
    path = BUNDLED[backbone]
    if not zoo.there(path):
        raise GluonexpError(f"the bundled ones are not installed ({path})")
    weights = _read("bundled", pth.metadata(path).get("title", path.name), path, backbone)
    lacking = (
        n for n in names.layout(backbone) if n in (needed or ()) and n not in weights.arrays
    )
    if first := next(lacking, None):
        cut = first.split(".")[1]  # features.9.weight
        raise GluonexpError(
            f"the bundled ones hold the first {cut} feature layers only: model.cut={cut}"
        )
    return weights


def _of_run(choice: str, backbone: str, tracking_uri: str | None) -> Weights:
    ref, _, path = choice.removeprefix("runs:/").partition("/")
    client = tracking.open_store(tracking.existing(tracking_uri))
    run = tracking.find_run(client, ref)
    run_id, path = run.info.run_id, path or CHECKPOINT
    found = f"runs:/{run_id}/{path}"
    with temporary() as folder:
        copy = of_run(client, run_id).fetch(path, folder)
        meta = references.fetch_if_any(client, run_id, _META, folder)
        with _called(copy, found):
            title = f"{path} of run {run.info.run_name}"
            return _read(found, title, copy, backbone, origin.of_run(meta) if meta else None)


def _of_model(choice: str, backbone: str, tracking_uri: str | None) -> Weights:
    client = tracking.open_store(tracking.existing(tracking_uri))
    try:
        model = registry.find_model(client, choice)
    except GluonexpError as error:
        raise GluonexpError(f"model.weights: {error}") from error
    with temporary() as folder:
        path, copy = references.fetch_first(client, model, _HELD, folder)
        meta = references.fetch_if_any(client, model.run_id, _META, folder)
        if meta is None:  # there is no such run: copy what says the same beside the file
            beside = [path.replace(Path(path).name, n) for n in (origin.META, SIGNATURE)]
            with suppress(GluonexpError):
                references.fetch_first(client, model, beside, folder)
        with _called(copy, model.address):
            said = origin.of_run(meta) if meta else None
            return _read(model.address, f"{path} of {model.title}", copy, backbone, said)


def _of_file(choice: str, backbone: str) -> Weights:
    path = Path(os.path.expanduser(choice)).absolute()
    if not zoo.there(path):
        raise GluonexpError(f"model.weights={choice}: no such file; {_CHOICES}")
    return _read(str(path), path.name, path, backbone)


def _read(
    choice: str, title: str, path: Path, backbone: str, said: Origin | None = None
) -> Weights:
    """Read a file of any form and naming.

    Parameters
    ----------
    said
        What the run that wrote it recorded of it; None: the files beside it are read for that.
    """
    if path.suffix not in _SUFFIXES or not path.is_file():
        raise GluonexpError(f"{path}: not a file of weights ({' '.join(_SUFFIXES)})")
    sha256 = zoo.digest(path, "sha256")
    mxnet = path.suffix == ".params"
    arrays = params.load(path) if mxnet else pth.read(path)
    total, size = sum(4 * array.size for array in arrays.values()), path.stat().st_size
    if total > 4 * size:  # float16 becomes float32; tied tensors are no network's of the zoo
        raise GluonexpError(
            f"{path}: of {size} bytes, holds tensors of {total} bytes that are the same data over "
            "and over; save every parameter once"
        )
    if not mxnet and not names.of_zoo(arrays, backbone):
        converted = torchvision.convert(arrays, backbone, str(path))
        return Weights(choice, title, sha256, converted, backbone in torchvision.ADAPTED)
    found = names.to_structural(arrays, backbone, path)
    if not names.own([*arrays, *found]):
        return Weights(choice, title, sha256, found)
    said = said or origin.beside(path, sha256)
    if backbone in torchvision.ADAPTED and said.adapted is None:
        raise GluonexpError(
            f"{path}: {backbone} has other strides in torchvision than in Gluon, and nothing "
            "tells whose this fine-tuned one has: name its run, model.weights=runs:/RUN_ID, or "
            "keep the meta.json of its checkpoint beside the file"
        )
    return Weights(choice, title, sha256, found, bool(said.adapted), said.classes)


@contextmanager
def _called(copy: Path, name: str) -> Iterator[None]:
    """Let messages speak of `name`, not of the temporary copy of it."""
    try:
        yield
    except GluonexpError as error:
        raise GluonexpError(str(error).replace(str(copy), name)) from error
