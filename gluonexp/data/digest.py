"""A fingerprint of a whole data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from gluonexp.data.types import Split


def digest(classes: Sequence[str], splits: Mapping[str, Split]) -> str:
    """Return the sha256 over class names and, split by split, shapes, every pixel and every label.

    A changed pixel, label, class name or order of samples changes the digest, and so does moving
    samples between splits. The order in which `splits` lists its keys does not matter.

    Parameters
    ----------
    classes
        Class names in label order.
    splits
        By name, such as ``train`` and ``test``; contiguous images are hashed without a copy.

    Returns
    -------
    64 hexadecimal digits.
    """
    # Names and shapes go in as one JSON line, so that no two data sets share a byte stream.
    header = {name: splits[name].images.shape for name in sorted(splits)}
    sha256 = hashlib.sha256(json.dumps([list(classes), header]).encode())
    for name in header:
        split = splits[name]
        sha256.update(np.ascontiguousarray(split.images).data)
        sha256.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return sha256.hexdigest()
