"""Cut a split into batches."""

from collections.abc import Callable, Iterator

import numpy as np

from gluonexp.data.augment import Augment, Blend, bound, none
from gluonexp.data.types import Batch, Split

Reseed = Callable[[int], np.random.Generator]


def batches(
    split: Split,
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
    augment: Augment | None = None,
    reseed: Reseed | None = None,
    every: int = 0,
    done: int = 0,
    seed: int = 0,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Yield every sample of `split` exactly once, `batch_size` at a time.

    Parameters
    ----------
    split
        Where the samples come from.
    batch_size
        Samples a batch, at least 1; the last batch is short if the split does not divide.
    rng
        For training: one permutation is drawn from it first, then what `augment` draws, batch by
        batch. None keeps data-set order and augments nothing.
    augment
        Applied to each batch of images when there is an `rng`.
    reseed, every
        Every so many batches (0: never), `reseed` gives the generator that `augment` draws from
        after them: what follows depends on their number alone.
    done
        So many batches were yielded before, a multiple of `every`: they are left out.
    seed, epoch
        Of the run, and which epoch this is: what `augment` does to an image may follow from them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = range(0, len(split), batch_size)
    if rng is None:
        for start in starts:
            part = slice(start, start + batch_size)
            yield Batch(split.images[part], split.labels[part], split.labels[part])
        return
    order = rng.permutation(len(split))
    for number, start in enumerate(starts):
        if number < done:
            continue
        if reseed is not None and every and number and number % every == 0:
            rng = reseed(number)
        chosen = order[start : start + batch_size]
        images = split.images.take(chosen, axis=0)  # a little faster than images[chosen]
        labels = split.labels[chosen]
        changes = none() if augment is None else bound(augment, chosen, seed, epoch)
        changed = changes(images, rng)
        if isinstance(changed, Blend):
            yield Batch(changed.images, labels, labels[changed.partners], changed.share)
        else:
            yield Batch(changed, labels, labels)
