"""What is compared: each side in a process of its own, and what its work costs by the image."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

BATCH = 64  # of AlexNet, on all sides
LR = 0.01

Started = tuple[dict[str, "Side"], dict[str, str]]

_made: Any = None  # in a side's process: the side


class Missing(Exception):
    """A side cannot be measured here; the message says what it lacks."""


class Side:
    """An object in a process of its own, which sleeps while other sides are measured.

    Parameters
    ----------
    place
        ``module:class``; the module is imported in that process only.
    log
        Takes what the process prints.
    arguments
        Of the class.

    Raises
    ------
    Missing
        The module does not import here.
    """

    def __init__(self, place: str, log: Path, *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            self._pool.submit(_make, place, str(log), arguments).result()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the method returns."""
        return self._pool.submit(_call, method, arguments).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def start(places: Mapping[str, tuple[Any, ...]], folder: Path) -> Started:
    """Start sides by their names; return them, and by name why others cannot be had.

    Parameters
    ----------
    places
        A place and its arguments, as `Side` takes them.
    folder
        Takes their logs.
    """
    sides, missing = {}, {}
    for name, (place, *arguments) in places.items():
        try:
            sides[name] = Side(place, folder / f"{place.partition(':')[0]}.log", *arguments)
        except Missing as error:
            missing[name] = str(error)
    return sides, missing


def _make(place: str, log: str, arguments: tuple[Any, ...]) -> None:
    global _made
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    module, _, name = place.partition(":")
    try:
        imported = import_module(module)
    except Exception as error:  # not installed, or it does not load
        raise Missing(f"{type(error).__name__}: {error}") from None
    _made = getattr(imported, name)(*arguments)


def _end_with_parent() -> None:
    wait([parent_process().sentinel])
    os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_made, method)(*arguments)


def pace(batches: Iterable[int], warm_up: int = 2) -> float:
    """Return the seconds that an image takes, once the first `warm_up` batches are done.

    Parameters
    ----------
    batches
        Yields the number of images of each batch when it is done.
    """
    started, images = time.perf_counter(), 0
    for at, count in enumerate(batches, 1):
        if at > warm_up:
            images += count
        elif at == warm_up:
            started = time.perf_counter()
    return (time.perf_counter() - started) / images


@dataclass(frozen=True)
class Data:
    """How many images a whole data set has."""

    train: int = 50_000
    test: int = 10_000


WHOLE = Data()


@dataclass(frozen=True)
class Costs:
    """What a side's work takes, in seconds, measured on a part of the data.

    Attributes
    ----------
    train
        An image of the train split, in each epoch.
    test
        An image of the test split.
    read
        An image, in the first run only: decoding it, where that is not done while training.
    once
        An image, in the first run only: its features.
    start
        The first run, besides: building what computes features, proving them.
    epoch
        The end of an epoch, besides: checkpoints, tracking.
    again, again_image
        Each later run, and an image of it: what is computed is found and verified.
    """

    train: float
    test: float
    read: float = 0.0
    once: float = 0.0
    start: float = 0.0
    epoch: float = 0.0
    again: float = 0.0
    again_image: float = 0.0

    def seconds(self, epochs: int, runs: int = 1, data: Data = WHOLE) -> float:
        """Return the time of so many runs, from the first image read to the last one scored."""
        images = data.train + data.test
        first = self.start + images * (self.read + self.once)
        later = self.again + images * self.again_image
        run = epochs * (data.train * self.train + self.epoch) + data.test * self.test
        return first + (runs - 1) * later + runs * run
