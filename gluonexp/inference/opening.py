"""The export that a name means, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gluonexp.tracking.artifacts import Artifacts


@dataclass(frozen=True)
class LocalExport:
    """An export that lies on this machine, at least for now.

    Attributes
    ----------
    folder
        Its files.
    certificate
        The SHA-256 of its certificate, as its run recorded it; None if that is not known.
    """

    folder: Path
    certificate: str | None
    _run: Artifacts | None  # of the run that made it; None for a folder, or where it is gone
    _temporary: Path

    def beside(self, path: str) -> Path | None:
        """Return the file or folder that its run recorded under `path`; None if it did not."""
        if self._run is None:
            folder = self.folder.resolve()
            beside = folder.parent / path
            return beside if folder.name == "export" and beside.exists() else None
        if not self._run.has(path):
            return None
        return self._run.fetch(path, self._temporary / "run")


@contextmanager
def opened(ref: str, tracking_uri: str | None) -> Iterator[LocalExport]:
    """Give the export that `ref` means; what had to be downloaded for it is removed afterwards.

    Parameters
    ----------
    ref
        A folder, a run, ``models:/...``; see `gluonexp.tracking.references.fetch_export`. A sweep
        means its best run.

    Raises
    ------
    GluonexpError
        There is no such thing, or no export in it.
    """
    from gluonexp.base.files import temporary
    from gluonexp.tracking import references

    with temporary() as place:
        if (here := references.local_export(ref)) is not None:
            yield LocalExport(here, None, None, place)
            return
        from gluonexp import tracking
        from gluonexp.base.errors import GluonexpError
        from gluonexp.tracking.logs import offline_run
        from gluonexp.tracking.read.logged import as_recorded

        if (log := offline_run(ref.removeprefix("runs:/"), tracking_uri)) is not None:
            if (here := references.local_export(str(log.files()))) is None:
                raise GluonexpError(f"run {log.run_id[:8]}: its files are gone: {log.files()}")
            recorded = as_recorded(log).tags.get(tracking.CERTIFICATE_TAG)
            yield LocalExport(here, recorded, None, place)
            return
        client = tracking.open_store(tracking.existing(tracking_uri))
        ref = references.best_of_sweep(client, ref)
        folder = references.fetch_export(client, ref, place)
        run = references.run_of(client, ref)
        own = "/" not in ref.removeprefix("runs:/")  # not another export that lies beside it
        recorded = run.data.tags.get(tracking.CERTIFICATE_TAG) if run and own else None
        files = references.artifacts(client, run.info.run_id) if run else None
        yield LocalExport(folder, recorded, files, place)
