"""The files of ImageNet weights that others published: where they lie, and how they are fetched.

MXNet's own come first; their host is most likely gone (it failed in 2024), so that they are found
where somebody has kept them. Next is what torchvision publishes.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import platformdirs

from gluonexp.download import fetch
from gluonexp.errors import GluonexpError
from gluonexp.mx import gluon
from gluonexp.weights import names, torchvision

_BLOCK = 1 << 20  # bytes
# What zipfile raises for an archive that is damaged, encrypted or packed in an unknown way.
_BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


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

    def faults(self) -> list[str]:
        """Say what is wrong with the file in its place; nothing if it is right, or not there."""
        try:
            if self.path.exists():
                self._check(self.path)
        except GluonexpError as error:
            return [f"{self.path}: {error}"]
        return []

    def cached(self) -> bool:
        """Whether the right file is in its place."""
        return self.path.exists() and not self.faults()

    def download(self) -> None:
        """Put the file in its place; if that fails, what was there stays.

        Raises
        ------
        GluonexpError
            It cannot be had, `NoMirror` if no server has it.
        """
        base, _, remote = self.url.rpartition("/")
        zipped = remote.endswith(".zip")
        fetch(
            self.path.name,
            [f"{base}/"],
            self.path.parent,
            check=self._check_zip if zipped else self._check,
            needed={self.path.name: self.identity},
            size=self.size,
            remote=remote,
            place=_unzip if zipped else os.replace,
            replace=self.path.exists(),
        )

    def _check(self, file: Path) -> None:
        self._compare(digest(file, self.algorithm))

    def _check_zip(self, archive: Path) -> None:
        # Room for every parameter, and their names.
        limit = sum(4 * prod(entry.shape) for entry in names.layout(self.backbone).values())
        try:
            with zipfile.ZipFile(archive) as held:
                if held.getinfo(self.path.name).file_size > limit + (1 << 20):
                    raise GluonexpError(f"the {self.path.name} in it is too large")
                with held.open(self.path.name) as member:
                    self._compare(_digest(member, self.algorithm))
        except KeyError:
            raise GluonexpError(f"there is no {self.path.name} in it") from None
        except _BAD_ZIP as error:
            raise GluonexpError(f"not a sound zip file ({error})") from None

    def _compare(self, found: str) -> None:
        if not found.startswith(self.digest):
            shown = found[: max(len(self.digest), 8)]
            raise GluonexpError(f"its {self.algorithm} is {shown}, not {self.digest}")


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
    home = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser()
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
    """Return the file that torchvision published for zoo network `backbone`, if it is the same."""
    file = torchvision.PUBLISHED.get(backbone)
    if file is None:
        return None
    return Published(
        backbone=backbone,
        path=platformdirs.user_cache_path("gluonexp", appauthor=False) / "weights" / file.name,
        url=f"{file.base}{file.name}",
        algorithm="sha256",
        digest=file.sha256,
        size=file.size,
        title="ImageNet, of torchvision",
    )


def digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file, hexadecimal."""
    try:
        with path.open("rb") as file:
            return _digest(file, algorithm)
    except OSError as error:
        raise GluonexpError(f"{path} cannot be read: {error.strerror}") from error


def _digest(file: IO[bytes], algorithm: str) -> str:
    found = hashlib.new(algorithm)
    while block := file.read(_BLOCK):
        found.update(block)
    return found.hexdigest()


def _unzip(archive: Path, target: Path) -> None:
    """Put the one member of `archive` that is called like `target` in its place."""
    draft = target.with_name(f".{target.name}.draft")
    try:
        with (
            zipfile.ZipFile(archive) as held,
            held.open(target.name) as member,
            draft.open("wb") as file,
        ):
            shutil.copyfileobj(member, file, _BLOCK)
        os.replace(draft, target)
        archive.unlink()
    finally:
        draft.unlink(missing_ok=True)
