"""A fingerprint of a whole data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from gluonexp.data.types import Split

_AT_ONCE = 256  # images


def digest(classes: Sequence[str], splits: Mapping[str, Split]) -> str:
    """Return the sha256 over class names and, split by split, shapes, every pixel and every label.

    A changed pixel, label, class name or order of samples changes the digest, and so does moving
    samples between splits. The order in which `splits` lists its keys does not matter.

    Parameters
    ----------
    classes
        Class names in label order.
    splits
        By name, such as ``train`` and ``test``; at most a few images are copied at a time.

    Returns
    -------
    64 hexadecimal digits.
    """
    # Names and shapes go in as one JSON line, so that no two data sets share a byte stream.
    header = {name: splits[name].images.shape for name in sorted(splits)}
    sha256 = hashlib.sha256(json.dumps([list(classes), header]).encode())
    for name in header:
        split = splits[name]
        for start in range(0, len(split), _AT_ONCE):
            part = split.images[start : start + _AT_ONCE]
            sha256.update(np.ascontiguousarray(part).data)
        sha256.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return sha256.hexdigest()
