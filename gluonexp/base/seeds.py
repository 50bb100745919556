"""Random numbers that depend on (seed, epoch) alone."""

from __future__ import annotations

import random

import numpy as np


def seed_everything(seed: int, epoch: int | None = None) -> np.random.Generator:
    """Seed Python, NumPy and MXNet so that what follows depends on (seed, epoch) alone.

    MXNet cannot save the state of its generators, so a resumed run is exact only because each
    epoch starts from a seed of its own.

    Parameters
    ----------
    seed
        The run's seed, 0 or more.
    epoch
        The epoch about to start, from 0; None for what comes before (initial weights, splits).

    Returns
    -------
    numpy.random.Generator
        A generator of this pair, independent of the global ones; for shuffling and augmentation.
    """
    from gluonexp.base.mx import mx

    sequence = np.random.SeedSequence(seed, spawn_key=(0 if epoch is None else epoch + 1,))
    for_python, for_numpy, for_mxnet = (int(word) for word in sequence.generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    mx.random.seed(for_mxnet >> 1)  # MXNet takes a C int, and wraps what is larger
    return np.random.default_rng(sequence.spawn(1)[0])
