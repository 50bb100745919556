"""Many image files to one array: decoded once and kept in a cache, or into memory each time."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from gluonexp.base.arrays import ArrayCache
from gluonexp.base.errors import GluonexpError
from gluonexp.base.progress import counting_bar
from gluonexp.base.workers import Workers, cores
from gluonexp.data.images import MAX_PIXELS, UnreadableImageError, decode

_FORMAT = 1  # to be raised whenever `decode` gives other values

_PART = 256  # files a task
# Mean file size, bytes, from which threads pay: below it the interpreter lock is most of the
# work, and two threads decode 32x32 images at 0.6 times the rate of one.
_THREADS_FROM = 12_000
_MAX_THREADS = 8
_PROCESSES_FROM = 4000  # small files for each: it takes a third of a second to start


@dataclass(frozen=True)
class Decoding:
    """How image files become an array.

    Attributes
    ----------
    height, width, channels, max_pixels
        As for `gluonexp.data.images.decode`.
    skip_broken
        Whether a file that cannot be decoded is left out, or raises.
    """

    height: int
    width: int
    channels: int
    skip_broken: bool = False
    max_pixels: int = MAX_PIXELS

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.height, self.width, self.channels

    def one(self, path: str | Path) -> NDArray[np.uint8]:
        """Decode a file."""
        return decode(path, *self.image, max_pixels=self.max_pixels)


def kept(
    paths: Sequence[str | Path],
    root: Path,
    how: Decoding,
    cache: ArrayCache,
    what: str,
    title: str,
) -> tuple[NDArray[np.uint8], list[int]]:
    """Decode files once: as long as they stay as they are, a map of what was decoded is returned.

    Parameters
    ----------
    paths
        N files in `root`. They are known by their names there, sizes and times of change.
    what
        Which images they are, such as ``train images``.
    title
        What they are of, for whoever lists what is kept.

    Returns
    -------
    images, broken
        As of `decode_all`; `images` cannot be written to.

    Raises
    ------
    UnreadableImageError
        For the first broken file, unless it is to be skipped.
    NoCache
        They cannot be kept there.
    """
    key = {
        "files": _listing(paths, root),
        "decoding": asdict(how),
        "decoder": [_FORMAT, f"Pillow {PIL.__version__}"],
    }

    def fill(images: NDArray[Any]) -> dict[str, Any]:
        return {"title": title, "broken": decode_all(paths, how, images, f"reading {what}")}

    shape = (len(paths), *how.image)
    entry = cache.get("images", key, shape, "uint8", fill, f"reads the {what}")
    return np.asarray(entry.array), entry.notes["broken"]


def _listing(paths: Iterable[str | Path], root: Path) -> str:
    """Return a digest of the files' names, sizes and times."""
    found = hashlib.sha256()
    skip = len(os.fsencode(root / "_")) - 1  # of "." the paths have nothing
    for path in paths:
        name = os.fsencode(path)
        try:
            status = os.stat(name)
        except OSError:  # whoever reads it says so
            continue
        found.update(b"%s\0%d %d\n" % (name[skip:], status.st_size, status.st_mtime_ns))
    return found.hexdigest()


def decode_all(
    paths: Sequence[str | Path], how: Decoding, images: NDArray[np.uint8], title: str
) -> list[int]:
    """Decode many files, in threads or processes where that is faster; a bar on a terminal.

    Parameters
    ----------
    paths
        N files.
    images
        (N, height, width, channels): what is written to. What belongs to a broken file stays.
    title
        In front of the bar.

    Returns
    -------
    Positions in `paths` that could not be decoded, ascending.

    Raises
    ------
    UnreadableImageError
        For the first broken file, unless it is to be skipped.
    """
    threads = _threads(paths)
    processes = min(cores(), len(paths) // _PROCESSES_FROM)
    parts: Callable[..., Iterable[tuple[int, list[int]]]]
    if threads == 1 and processes > 1 and isinstance(images, np.memmap):
        parts = partial(_by_processes, processes)
    else:
        parts = partial(_by_threads, threads)
    broken: list[int] = []
    with counting_bar() as bar:
        task = bar.add_task(title, total=len(paths))
        for start, found in parts(paths, how, images):
            broken += [start + position for position in found]
            bar.advance(task, len(paths[start : start + _PART]))
    return sorted(broken)


def _by_threads(
    threads: int, paths: Sequence[str | Path], how: Decoding, images: NDArray[np.uint8]
) -> Generator[tuple[int, list[int]], None, None]:
    """Decode part by part; yield where each begins, and which of it are broken."""

    def work(start: int) -> list[int]:
        end = start + _PART
        return _decode(paths[start:end], how, images[start:end])

    starts = range(0, len(paths), _PART)
    with ThreadPoolExecutor(threads) as pool:
        yield from zip(
            starts, pool.map(work, starts) if threads > 1 else map(work, starts), strict=True
        )


def _by_processes(
    processes: int, paths: Sequence[str | Path], how: Decoding, images: "np.memmap[Any, Any]"
) -> Generator[tuple[int, list[int]], None, None]:
    """Do the same in processes, which write into the file that `images` maps."""
    failed: dict[int, UnreadableImageError] = {}
    file, shape = str(images.filename), images.shape

    def tasks() -> Generator[tuple[int, Callable[..., Any], tuple[Any, ...]], None, None]:
        for start in range(0, len(paths), _PART):
            if failed:
                return
            part = [str(path) for path in paths[start : start + _PART]]
            yield start, _decode_into, (file, images.offset, shape, start, part, how)

    with Workers(processes) as workers:
        for start, found in workers.stream(tasks()):
            if isinstance(found, UnreadableImageError):
                failed[start] = found
            elif isinstance(found, Exception):
                raise GluonexpError(
                    f"{paths[start]} or one after it: {found}; if no image is at fault, memory "
                    "may have run out: free some, or lower dataset.resize"
                ) from found
            else:
                yield start, found
    if failed:
        raise failed[min(failed)]


def _decode_into(
    file: str, offset: int, shape: tuple[int, ...], start: int, paths: list[str], how: Decoding
) -> list[int]:
    images = np.memmap(file, np.uint8, "r+", offset, shape)
    return _decode(paths, how, images[start : start + len(paths)])


def _decode(paths: Sequence[str | Path], how: Decoding, images: NDArray[np.uint8]) -> list[int]:
    """Decode some files; return the positions of broken ones."""
    broken = []
    for index, path in enumerate(paths):
        try:
            images[index] = how.one(path)
        except UnreadableImageError:
            if not how.skip_broken:
                raise
            broken.append(index)
    return broken


def _threads(paths: Sequence[str | Path]) -> int:
    """Choose by the mean size of a sample of the files; 1 means a plain loop."""
    sample = paths[:: len(paths) // 64 + 1]
    sizes = [os.path.getsize(path) for path in sample if os.path.exists(path)]
    large = sum(sizes) >= _THREADS_FROM * len(sizes)
    return min(os.cpu_count() or 1, _MAX_THREADS) if large else 1
