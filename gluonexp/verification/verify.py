"""Prove an export equal to the network it was made of: at the end of a run, and again later.

`export.certificate` proves; here it gets the steps from images to inputs, as the signature says
them, and what its processes may import beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.mx import nd
from gluonexp.base.workers import Workers, cores
from gluonexp.model_folder.files import read_signature
from gluonexp.model_folder.preprocess import Preprocess, Preprocessing
from gluonexp.verification import certificate, score
from gluonexp.verification.agreement import Certificate

# Multiply-accumulates for one image, of a network that is scored faster than a process imports.
_LIGHT: Final = 10**8


def workers(macs: int | None = None) -> Workers:
    """Return the clean processes that `certify` needs, at most two; `start` warms them up.

    Each imports MXNet and the other runtimes, which takes seconds: start them while there is
    something else to wait for.

    Parameters
    ----------
    macs
        Multiply-accumulates of the network for one image, where the processes start beside other
        work: of a light network one does all, and takes less of the processor from that work.
    """
    light = macs is not None and macs < _LIGHT
    return Workers(1 if light else min(2, cores()), score.warm_up)


def certify(
    folder: Path,
    *,
    pool: Workers | None = None,
    reference: Callable[[Path], object] | None = None,
) -> Certificate:
    """Write ``certificate.json`` into `folder`, or raise: see `export.certificate.certify`."""
    with nullcontext(pool) if pool else workers() as using:
        return certificate.certify(folder, prepare, workers=using, reference=reference)


def check(
    folder: Path, *, pool: Workers | None = None, recorded_digest: str | None = None
) -> Certificate:
    """Prove the export in `folder` again, or raise: see `export.certificate.check`."""
    with nullcontext(pool) if pool else workers() as using:
        return certificate.check(folder, prepare, workers=using, recorded_digest=recorded_digest)


def prepare(folder: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the steps from images to inputs that the signature in `folder` asks for."""
    block = steps(folder)

    def inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        prepared: NDArray[np.float32] = block(nd.array(images, dtype="uint8")).asnumpy()
        return prepared

    return inputs


def steps(folder: Path) -> Preprocess:
    """Return the same steps as a block."""
    signature = read_signature(folder)
    image = signature["image"]
    return Preprocess(
        Preprocessing.from_json(signature["preprocess"]),
        height=image["height"],
        width=image["width"],
        channels=image["channels"],
    )
