"""An export made again, in more formats and with a certificate."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gluonexp.assembly import Data
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft
from gluonexp.base.measures import by_class
from gluonexp.config import recorded
from gluonexp.config.schema import ExportConfig
from gluonexp.data.split import spread
from gluonexp.export import formats
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.signature import Signature
from gluonexp.verification import card, certificate, verify
from gluonexp.verification.card import Origin
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
                # What the card says of its run, no other file does.
                told, known = source / names.CARD, certificate.read(source).files
                if names.CARD in known and told.is_file():
                    shutil.copyfile(told, made / names.CARD)
                certificate.check_copies(source, made)
            try:
                yield made
            except GluonexpError as error:  # the draft is nothing that anybody knows
                raise GluonexpError(str(error).replace(str(made), str(source))) from error
    except OSError as error:
        raise GluonexpError(f"{to}: cannot be made: {error}") from error


def recorded_origin(beside: Callable[[str], Path | None], classes: Sequence[str]) -> Origin:
    """Return what a run recorded of where its export is from, for the card of an older export.

    Parameters
    ----------
    beside
        Gives the file that the run recorded under a path; None if it did not.
    """
    said: dict[str, Any] = {}
    if (path := beside("config/resolved.yaml")) is not None:
        whole = recorded.read(path)
        said["engine"] = str((whole.get("engine") or {}).get("name") or "") or None
        said["data"] = str((whole.get("dataset") or {}).get("name") or "") or None
    if (path := beside("predictions/test.csv")) is not None:
        with suppress(OSError, ValueError, KeyError), path.open(encoding="utf-8") as lines:
            rows = [(int(row["label"]), int(row["predicted"])) for row in csv.DictReader(lines)]
            table = np.array(rows, np.int64).reshape(-1, 2)
            if len(table) and table.min() >= 0 and table.max() < len(classes):
                labels, predicted = table.T
                said["split"] = "test"
                said["scores"] = {"acc": float((labels == predicted).mean())}
                said["classes"] = by_class(classes, labels, predicted)
    return Origin(**said)


def complete(
    folder: Path, wanted: ExportConfig, data: Data | None, origin: Origin | None = None
) -> Certificate | None:
    """Write the formats asked for beside the network in `folder`, its card and its certificate.

    Parameters
    ----------
    wanted
        As for `formats.write`.
    data
        What the network was trained on: images of its test split (else val, else train) become
        the samples, training images calibrate the quantized copy. Where there are no samples of
        the trained network, what the files themselves say is certified. Without samples there is
        no certificate.
    origin
        For the card, where there is none in `folder` whose words can be kept.

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
    if (folder / names.CARD).is_file():
        origin = None
    elif data is not None:
        origin = replace(
            origin or Origin(),
            data=data.title,
            digest=data.digest,
            splits={name: len(split) for name, split in data.splits().items()},
            notes=data.notes,
        )
    if not needs_data(folder, quantize=False):
        return verify.certify(folder, origin=origin)
    card.write(folder, None, origin)
    return None
