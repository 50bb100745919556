"""Random numbers that depend on (seed, epoch) alone, so that a resumed run repeats them."""

from __future__ import annotations

import random

import numpy as np


def seed_host(seed: int, epoch: int | None = None, step: int = 0) -> np.random.Generator:
    """Seed Python and NumPy so that what follows depends on (seed, epoch, step) alone.

    Parameters
    ----------
    seed
        The run's seed, 0 or more.
    epoch
        The epoch about to start, from 0; None for what comes before (initial weights, splits).
    step
        Counted within the epoch; above 0 in the middle of one.

    Returns
    -------
    numpy.random.Generator
        A generator of these, independent of the global ones; for shuffling and augmentation.
    """
    sequence = _sequence(seed, epoch, step)
    for_python, for_numpy, _ = (int(word) for word in sequence.generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    return np.random.default_rng(sequence.spawn(1)[0])


def engine_seed(seed: int, epoch: int | None = None, step: int = 0) -> int:
    """Return what an engine seeds its own generators with, in [0, 2**31).

    `step` is counted within the epoch; above 0 where training resumes in the middle of one.
    """
    return int(_sequence(seed, epoch, step).generate_state(3)[2]) >> 1


def _sequence(seed: int, epoch: int | None, step: int = 0) -> np.random.SeedSequence:
    key = (0 if epoch is None else epoch + 1,) + ((step,) if step else ())
    return np.random.SeedSequence(seed, spawn_key=key)
