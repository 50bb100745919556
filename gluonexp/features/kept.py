"""The features of a data set, from the cache or computed into it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.arrays import ArrayCache
from gluonexp.base.progress import counting_bar
from gluonexp.config.schema import FeaturesConfig
from gluonexp.data.types import Rows, Selection, Split, whole
from gluonexp.features.compute import BATCH, Stream
from gluonexp.features.front import Front
from gluonexp.training.callbacks import LINE_SECONDS, TEST_CURVE

KIND: Final = "features"

# From this share of a published split on, all of it is computed: another validation split, or
# another seed, is then only another choice of its rows.
_WHOLE_FROM: Final = 0.5


@dataclass(frozen=True)
class Recipe:
    """What makes features, and all that their values depend on besides the images.

    Attributes
    ----------
    key
        All of that, as JSON.
    stream
        Makes what computes them; called only where they are not there yet.
    title
        What the features are of, for people.
    """

    front: Front
    settings: FeaturesConfig
    key: Mapping[str, Any]
    stream: Callable[[], Stream]
    title: str

    @property
    def cache(self) -> ArrayCache:
        """Where they are kept."""
        return ArrayCache.configured(self.settings.folder, self.settings.budget_gb)


def features(
    recipe: Recipe, splits: Mapping[str, Split], say: Callable[[str], None]
) -> dict[str, Split]:
    """Return each split with features in the place of its images, as views of memory maps.

    What is kept is in use, and not removed, as long as one of them lives.

    Parameters
    ----------
    splits
        By name. Those that are parts of one published split share its features.
    say
        Takes a line on what takes long.

    Raises
    ------
    NoCache
        They cannot be kept: there is no room, or no folder.
    """
    found = {}
    for base, parts in _published(splits):
        rows = _needed(base, parts.values())
        images: Rows = base if rows is None else Selection(base, rows)
        label = " and ".join("test" if name == TEST_CURVE else name for name in parts)
        if sum(len(splits[name]) for name in parts) < len(images):
            label += " among them"
        kept = _kept(recipe, images, label, say)
        for name, mine in parts.items():
            if rows is not None:
                assert mine is not None  # none of them is all of `base`
                mine = np.searchsorted(rows, mine)
            chosen: Rows = kept if mine is None else Selection(kept, mine)
            found[name] = Split(chosen, splits[name].labels)
    return found


Parts = dict[str, "NDArray[np.intp] | None"]


def _published(splits: Mapping[str, Split]) -> list[tuple[NDArray[Any], Parts]]:
    """Return the arrays that the images are in, and by split which rows are its; None: all."""
    arrays: dict[int, tuple[NDArray[Any], Parts]] = {}
    for name, split in splits.items():
        base, rows = whole(split.images)
        arrays.setdefault(id(base), (base, {}))[1][name] = rows
    return [*arrays.values()]


def _needed(
    base: NDArray[Any], parts: Collection[NDArray[np.intp] | None]
) -> NDArray[np.intp] | None:
    """Return the rows of `base` to compute, ascending; None: all."""
    chosen = [rows for rows in parts if rows is not None]
    if len(chosen) < len(parts):
        return None
    rows = np.unique(np.concatenate(chosen))
    return None if len(rows) >= _WHOLE_FROM * len(base) else rows


def _kept(recipe: Recipe, images: Rows, label: str, say: Callable[[str], None]) -> NDArray[Any]:
    """Return the features (N, ...) of `images`."""
    count, what = len(images), f"{len(images):,} images ({label})"

    def fill(target: NDArray[Any]) -> dict[str, Any]:
        settings = recipe.settings
        say(f"computing the features of {what} once ({settings.engine}, {settings.precision})")
        started = time.perf_counter()
        _compute(recipe.stream(), images, target, label, say)
        seconds = time.perf_counter() - started
        say(f"computed in {seconds:.1f} s, {count / seconds:,.0f} images/s")
        return {"title": f"{recipe.title}, {what}", "seconds": round(seconds, 3)}

    entry = recipe.cache.get(
        KIND,
        {**recipe.key, "images": _digest(images)},
        (count, *recipe.front.shape),
        recipe.settings.dtype,
        fill,
        f"computes the features of {what}",
    )
    if not entry.made:
        say(f"features of {what} are from the cache")
    features: NDArray[Any] = np.asarray(entry.array)
    return features


def _compute(
    stream: Stream,
    images: Rows,
    target: NDArray[Any],
    label: str,
    say: Callable[[str], None],
) -> None:
    """Write the features of `images` into `target`; a bar on a terminal, lines elsewhere."""

    def batches() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(images), BATCH):
            yield np.ascontiguousarray(images[start : start + BATCH])

    started = time.perf_counter()
    spoken, done = started, 0
    with counting_bar() as bar:
        task = bar.add_task(f"features of {label}", total=len(images))
        for computed in stream(batches()):
            target[done : done + len(computed)] = computed
            done += len(computed)
            now = time.perf_counter()
            rate = f"{done / (now - started):,.0f} images/s"
            bar.update(task, completed=done, description=f"features of {label}, {rate}")
            if bar.disable and now - spoken > LINE_SECONDS:
                spoken = now
                say(f"  {done:,} of {len(images):,}, {rate}")


def _digest(images: Rows) -> str:
    """Return the sha256 of images and their shape."""
    sha256 = hashlib.sha256(repr((images.shape, images.dtype.str)).encode())
    for start in range(0, len(images), 4096):
        sha256.update(np.ascontiguousarray(images[start : start + 4096]).data)
    return sha256.hexdigest()
