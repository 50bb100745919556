"""Published files of ImageNet weights: where they are looked for, and how they are downloaded.

MXNet's own come first. Their host is most likely gone (it failed in 2024), so they are found only
where somebody has kept a copy. torchvision's come next.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

from gluonexp.base import files
from gluonexp.base.download import fetch
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon
from gluonexp.weights import names, pth, torchvision


@dataclass(frozen=True)
class Published:
    """A published file of weights.

    Attributes
    ----------
    backbone
        The zoo's name of the network.
    path
        Where it is looked for, and where a download puts it.
    url
        Where it is downloaded from; a ``.zip`` holds it under its own name.
    algorithm, digest
        The digest of the file, hexadecimal; of a sha256 perhaps only the beginning is known.
    size
        Bytes behind `url`, where known.
    title
        For people.
    """

    backbone: str
    path: Path
    url: str
    algorithm: str
    digest: str
    size: int | None
    title: str

    @property
    def identity(self) -> str:
        """The digest, for people."""
        begins = len(self.digest) < 2 * hashlib.new(self.algorithm).digest_size
        return f"{self.algorithm} {self.digest}{'...' if begins else ''}"

    def inspect(self) -> tuple[bool, str | None]:
        """Return whether the right file is in its place, and what is wrong with a wrong one.

        The whole file is read once.
        """
        try:
            if not there(self.path):
                return False, None
            found = digest(self.path, self.algorithm)
        except GluonexpError as error:
            return False, str(error)
        wrong = self._difference(found)
        return wrong is None, wrong and f"{self.path}: {wrong}"

    def download(self, patience: float) -> None:
        """Put the file in its place; if that fails, the file that was there stays.

        Parameters
        ----------
        patience
            How long the server may send nothing, seconds.

        Raises
        ------
        GluonexpError
            It cannot be had, `NoMirror` if no server has it.
        """
        zipped = self.url.endswith(".zip")
        fetch(
            self.path,
            [self.url],
            check=self._check_zip if zipped else self._check,
            needed={self.path.name: self.identity},
            size=self.size,
            limit=self._room() * 3 // 2,
            place=_unzip if zipped else files.settle,
            ready=lambda: self.inspect()[0],
            patience=patience,
            remedy="or choose other weights: model.weights=auto, bundled, none or a file.",
        )

    def _room(self) -> int:
        """Return how many bytes every parameter of the network takes, and their names."""
        shapes = [entry.shape for entry in names.layout(self.backbone).values()]
        return sum(4 * prod(shape) for shape in shapes) + (1 << 20)

    def _check(self, file: Path) -> None:
        self._compare(digest(file, self.algorithm))

    def _check_zip(self, archive: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as held:
                if self.path.name not in held.namelist():
                    raise GluonexpError(f"there is no {self.path.name} in it")
                if held.getinfo(self.path.name).file_size > self._room():
                    raise GluonexpError(f"the {self.path.name} in it is too large")
                with held.open(self.path.name) as member:
                    self._compare(files.digest(member, self.algorithm))
        except (*pth.BAD_ZIP, ValueError) as error:
            raise GluonexpError(f"not a sound zip file ({error})") from None

    def _compare(self, found: str) -> None:
        wrong = self._difference(found)
        if wrong:
            raise GluonexpError(wrong)

    def _difference(self, found: str) -> str | None:
        if found.startswith(self.digest):
            return None
        shown = found[: max(len(self.digest), 8)]
        return f"its {self.algorithm} is {shown}, not {self.digest}"


def mxnet_file(backbone: str) -> Published | None:
    """Return the file that MXNet published for zoo network `backbone`, if it did.

    The cache is ``$MXNET_HOME/models`` (``~/.mxnet/models``), the server ``MXNET_GLUON_REPO``:
    as MXNet itself has it, but both are read now, not when MXNet is imported.
    """
    store = gluon.model_zoo.model_store
    sha1 = store._model_sha1.get(backbone)
    if sha1 is None:
        return None
    stem = f"{backbone}-{sha1[:8]}"
    home = Path(os.path.expanduser(os.environ.get("MXNET_HOME") or "~/.mxnet"))
    server = (os.environ.get("MXNET_GLUON_REPO") or store.apache_repo_url).rstrip("/")
    return Published(
        backbone=backbone,
        path=home / "models" / f"{stem}.params",
        url=f"{server}/gluon/models/{stem}.zip",
        algorithm="sha1",
        digest=sha1,
        size=None,
        title="ImageNet, of MXNet's model zoo",
    )


def torchvision_file(backbone: str) -> Published | None:
    """Return the file that torchvision published for zoo network `backbone`, if it is the same.

    The server is ``GLUONEXP_TORCHVISION``, where that is set.
    """
    sha256 = torchvision.PUBLISHED.get(backbone)
    if sha256 is None:
        return None
    name = torchvision.file_name(backbone)
    server = (os.environ.get("GLUONEXP_TORCHVISION") or torchvision.SERVER).rstrip("/")
    return Published(
        backbone=backbone,
        path=files.user_cache() / "weights" / name,
        url=f"{server}/{name}",
        algorithm="sha256",
        digest=sha256,
        size=torchvision.SIZES.get(backbone),
        title="ImageNet, of torchvision",
    )


def there(path: Path) -> bool:
    """Whether a file exists; refuse a place where that cannot be known."""
    try:
        return path.exists()
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from error


def digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file, hexadecimal."""
    try:
        with path.open("rb") as file:
            return files.digest(file, algorithm)
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from error


def _unzip(archive: Path, target: Path) -> None:
    """Put the one member of `archive` that is called like `target` in its place."""
    with files.draft(target) as draft, zipfile.ZipFile(archive) as held:
        held.extract(target.name, draft.parent)
    archive.unlink()
