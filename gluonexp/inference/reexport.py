"""An export made again, in more formats and with a certificate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gluonexp.assembly import Data
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft
from gluonexp.config.schema import ExportConfig
from gluonexp.data.split import spread
from gluonexp.export import formats
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.signature import Signature
from gluonexp.verification import certificate, verify
from gluonexp.verification.certificate import Certificate


def needs_data(folder: Path, quantize: bool) -> bool:
    """Tell whether `complete` needs data for the export in `folder`."""
    return quantize or not (folder / names.SAMPLES).is_file()


@contextmanager
def made(source: Path, to: Path) -> Iterator[Path]:
    """Give a folder with the network, signature and samples of `source`; it becomes `to`.

    Raises
    ------
    GluonexpError
        `to` holds something already, or `source` lacks a file, or one of them is not what its
        certificate says: damaged files get no new one. Nothing is left of what failed.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise GluonexpError(f"{to} exists: name a new folder for the export")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with draft(to) as made:
            made.mkdir()
            Signature.read(source)
            needed = (*names.paths(source, names.MODEL), source / names.SIGNATURE)
            for path in (*needed, source / names.SAMPLES):
                if path.is_file() or path in needed:
                    shutil.copyfile(path, made / path.name)
            if (source / names.CERTIFICATE).is_file():
                certificate.check_copies(source, made)
            try:
                yield made
            except GluonexpError as error:  # the draft is nothing that anybody knows
                raise GluonexpError(str(error).replace(str(made), str(source))) from error
    except OSError as error:
        raise GluonexpError(f"{to}: cannot be made: {error}") from error


def complete(folder: Path, wanted: ExportConfig, data: Data | None) -> Certificate | None:
    """Write the formats asked for beside the network in `folder`, and its certificate.

    Parameters
    ----------
    wanted
        As for `formats.write`.
    data
        What the network was trained on: images of its test split (else val, else train) become
        the samples, training images calibrate the quantized copy. Where there are no samples of
        the trained network, what the files themselves say is certified. Without samples there is
        no certificate.

    Raises
    ------
    GluonexpError
        A format is not possible here or for this network, or a runtime disagrees.
    """
    classes = Signature.read(folder).classes
    if data is not None and needs_data(folder, quantize=False):
        split, held_out = data.held_out()
        size = held_out.images.shape[1:]
        kept = samples.count(len(held_out), size, len(classes))
        chosen = spread(held_out.labels, kept)
        images, labels = held_out.images[chosen], held_out.labels[chosen]
        logits = Classifier(folder).logits(images)
        found = samples.ProofSamples(images, labels, logits, classes, trained=False, split=split)
        samples.write(folder, found)
    missing = formats.write(folder, wanted, data.train if data else None)
    if missing:  # it was asked for by name
        raise GluonexpError("; ".join(missing))
    return None if needs_data(folder, quantize=False) else verify.certify(folder)
