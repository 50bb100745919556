"""Pretrained parameters: what a user may ask for, and where each comes from."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp import tracking
from gluonexp.download import NoMirror, obstacle
from gluonexp.errors import GluonexpError
from gluonexp.tracking import registry
from gluonexp.weights import names, params, pth, torchvision, zoo

Arrays = dict[str, NDArray[np.float32]]

# Trained by gluonexp itself; see experiments/. In names of the zoo.
BUNDLED: Final[Mapping[str, Path]] = {
    "alexnet": Path(__file__).with_name("alexnet-cifar10.safetensors")
}
# MLflow's parameter that is ``true`` of a run whose backbone is `torchvision.adapt`ed; the arrays
# do not tell.
ADAPTED: Final = "weights.adapted"

# What a run, or a registered model, may hold; the first has the structural names of all of it.
CHECKPOINT: Final = "checkpoint/model.params"
_HELD: Final = (CHECKPOINT, "model.params", "export/model-0000.params", "model-0000.params")
_SUFFIXES: Final = (".params", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """Pretrained parameters of a zoo network.

    Attributes
    ----------
    choice
        What was found, in a form that finds it again.
    title
        What it is, for people.
    sha256
        Of the file, hexadecimal; None where there is none.
    arrays
        By the zoo's structural names (``features.0.weight``); of a run that fine-tuned the
        network also ``head.1.bias``. Empty for none.
    adapted
        Whether they are for torchvision's form of the network; see `torchvision.adapt`.
    warning
        A sentence that the user should read.
    """

    choice: str
    title: str
    sha256: str | None
    arrays: Arrays
    adapted: bool = False
    warning: str | None = None


_NONE: Final = Weights("none", "none: random initial values", None, {})


def find(
    choice: str, backbone: str, *, sha256: str | None = None, tracking_uri: str | None = None
) -> Weights:
    """Return the pretrained parameters of zoo network `backbone` that `choice` means.

    Parameters
    ----------
    choice
        ``imagenet``, ``bundled``, ``none``; ``auto``: imagenet if it is cached or can be
        downloaded, else bundled, else none; a file (``.params`` ``.pth`` ``.pt``
        ``.safetensors``); ``runs:/RUN_ID``, with the path of an artifact if it is not the
        checkpoint; ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
    sha256
        What the file must have.
    tracking_uri
        The store of runs and registered models.

    Raises
    ------
    GluonexpError
        It cannot be had, is damaged or another network's, or has another sha256.
    """
    sha256 = sha256.lower() if sha256 else None
    if choice == "auto":
        weights = _auto(backbone, sha256)
    elif choice == "imagenet":
        weights = _imagenet(backbone, sha256)
    elif choice == "bundled":
        weights = _bundled(backbone)
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
    return weights


def published(backbone: str) -> str:
    """Say which files would give ``imagenet``, and where to put them by hand."""
    files = [
        f"{file.path.name} ({file.identity}) in {file.path.parent}" for file in _files(backbone)
    ]
    return f"ImageNet weights of {backbone} are {', or '.join(files)}."


def _files(backbone: str) -> list[zoo.Published]:
    files = [zoo.mxnet_file(backbone), zoo.torchvision_file(backbone)]
    return [file for file in files if file is not None]


def _candidates(backbone: str, sha256: str | None) -> list[zoo.Published]:
    """Return the published files, or those that may have the digest, cached ones first."""
    files = _files(backbone)
    if sha256 is not None:  # the files' values differ: who repeats a run wants those it had
        same = [f for f in files if f.algorithm == "sha256" and sha256.startswith(f.digest)]
        files = same or [f for f in files if f.algorithm != "sha256"]
    return sorted(files, key=lambda file: not file.cached())


def _imagenet(backbone: str, sha256: str | None) -> Weights:
    failures: list[str] = []
    for file in _candidates(backbone, sha256):
        try:
            return _load(file)
        except NoMirror as error:
            failures += error.failures
        except GluonexpError as error:
            failures.append(f"  {error}")
        failures += [f"  {fault}" for fault in file.faults()]
    raise GluonexpError(
        "\n".join(
            [
                f"model.weights=imagenet: those of {backbone} cannot be had:",
                *failures,
                published(backbone),
                "Put such a file there, or choose other weights: model.weights=auto, bundled, "
                "none or a file.",
            ]
        )
    )


def _auto(backbone: str, sha256: str | None) -> Weights:
    reasons: list[str] = []
    for file in _candidates(backbone, sha256):
        try:
            hindrance = None if file.cached() else obstacle(file.url)
            if hindrance is None:
                return _load(file)
            reasons.append(hindrance)
        except NoMirror as error:
            reasons += error.failures
        except GluonexpError as error:
            reasons.append(str(error))
        reasons += file.faults()
    why = "; ".join(dict.fromkeys(reason.strip() for reason in reasons))
    lack = f"no ImageNet weights of {backbone} are cached, and none can be downloaded ({why})"
    if backbone in BUNDLED:
        weights = _bundled(backbone)
        return replace(weights, warning=f"{lack}, so training starts from {weights.title}")
    return replace(
        _NONE,
        warning=f"{lack}, nor are any bundled, so training starts from random weights, which with "
        "frozen features is rarely what one wants",
    )


def _load(file: zoo.Published) -> Weights:
    """Return the weights of a published file, downloaded if it is not in its place."""
    faults = file.faults()
    if faults or not file.path.exists():
        file.download()
    weights = _read("imagenet", f"{file.title} ({file.path.name})", file.path, file.backbone)
    warning = f"{faults[0]}, so it was downloaded again" if faults else None
    return replace(weights, warning=warning)


def _bundled(backbone: str) -> Weights:
    if backbone not in BUNDLED:
        raise GluonexpError(
            f"model.weights=bundled: none are bundled for {backbone}, only for "
            f"{', '.join(BUNDLED)}; {published(backbone)}"
        )
    path = BUNDLED[backbone]
    return _read("bundled", pth.metadata(path)["title"], path, backbone)


def _of_run(choice: str, backbone: str, tracking_uri: str | None) -> Weights:
    ref, _, path = choice.removeprefix("runs:/").partition("/")
    client = tracking.open_store(tracking.existing(tracking_uri))
    run = tracking.find_run(client, ref)
    run_id, path = run.info.run_id, path or CHECKPOINT
    found = f"runs:/{run_id}/{path}"
    with tempfile.TemporaryDirectory() as folder:
        copy = tracking.download(client, run_id, path, Path(folder))
        with _called(copy, found):
            weights = _read(found, f"{path} of run {run.info.run_name}", copy, backbone)
    return replace(weights, adapted=weights.adapted or _adapted(run.data.params))


def _of_model(choice: str, backbone: str, tracking_uri: str | None) -> Weights:
    parts = re.fullmatch(r"models:/([^/@]+)(?:/([0-9]+)|(@[^/@]+))", choice)
    if not parts:
        raise GluonexpError(f"model.weights={choice}: write models:/NAME@ALIAS or models:/NAME/3")
    client = tracking.open_store(tracking.existing(tracking_uri))
    version = registry.find_version(client, parts[1], parts[2] or parts[3])
    found = f"models:/{version.name}/{version.version}"  # an alias may move on
    with tempfile.TemporaryDirectory() as folder:
        path, copy = registry.download_first(client, version, _HELD, Path(folder))
        title = f"{path} of model {version.name}, version {version.version}"
        with _called(copy, found):
            weights = _read(found, title, copy, backbone)
    settings = client.get_run(version.run_id).data.params if version.run_id else {}
    return replace(weights, adapted=weights.adapted or _adapted(settings))


def _adapted(settings: Mapping[str, str]) -> bool:
    return settings.get(ADAPTED) == "true"


def _of_file(choice: str, backbone: str) -> Weights:
    path = Path(choice).expanduser().absolute()
    if not path.exists():
        raise GluonexpError(
            f"model.weights={choice}: no such file; it is imagenet, bundled, none, auto, a file "
            f"({' '.join(_SUFFIXES)}), runs:/RUN_ID or models:/NAME@ALIAS"
        )
    return _read(str(path), path.name, path, backbone)


def _read(choice: str, title: str, path: Path, backbone: str) -> Weights:
    """Read a file of any form and naming."""
    if path.suffix not in _SUFFIXES or not path.is_file():
        raise GluonexpError(f"{path}: not a file of weights ({' '.join(_SUFFIXES)})")
    digest = zoo.digest(path, "sha256")
    if path.suffix == ".params":
        return Weights(choice, title, digest, params.read(path, backbone))
    arrays = pth.read(path)
    if names.of_zoo(arrays, backbone):
        return Weights(choice, title, digest, names.to_structural(arrays, backbone, path))
    converted = torchvision.convert(arrays, backbone, str(path))
    return Weights(choice, title, digest, converted, adapted=backbone in torchvision.ADAPTED)


@contextmanager
def _called(copy: Path, name: str) -> Iterator[None]:
    """Let messages speak of `name`, not of the temporary copy of it."""
    try:
        yield
    except GluonexpError as error:
        raise GluonexpError(str(error).replace(str(copy), name)) from error
