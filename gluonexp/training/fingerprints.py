"""What each epoch left, in a few bytes: where two trainings part, epoch and parameter are told.

A parameter's fingerprint is the sum of its bits, taken as whole numbers of 64 bits: it takes a
tenth of the time of a digest. It finds a difference and proves nothing: that the end is the same
is proved by digests of whole files.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import sync, write_text
from gluonexp.base.text import listed
from gluonexp.training.job_folder import ARTIFACTS, GROWING
from gluonexp.training.loop import Callback, Fit, StopFit

FILE: Final = f"{GROWING}/parameters.jsonl"
HISTORY: Final = f"{GROWING}/history.csv"
DIFFERENT: Final = "not as it was recorded: "
MEASURED: Final = "time/"
"""So begin the names of metrics that are not the same twice."""


def fingerprints(values: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the fingerprint of each array by its name."""
    return {name: _fingerprint(array) for name, array in values.items()}


def _fingerprint(array: NDArray[Any]) -> str:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(content) // 8 * 8
    total = int(content[:whole].view(np.uint64).sum(dtype=np.uint64))
    total += int.from_bytes(content[whole:].tobytes(), "little")
    return f"{total % 2**64:016x}"


class Fingerprints:
    """Writes a line after each epoch: the fingerprints that are not those of the line before."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def write(self, workdir: Path, epoch: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Add the line of an epoch to the file in the job's folder, for good."""
        now = fingerprints(values)
        changed = {name: each for name, each in now.items() if self._before.get(name) != each}
        path = workdir / ARTIFACTS / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._before and path.exists():  # of a run that was cut off, perhaps in a line
            write_text(path, "".join(_lines_before(path, epoch)))
        self._before = now
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, "parameters": changed}) + "\n")
        sync(path)


def _lines_before(path: Path, epoch: int) -> Iterator[str]:
    """Yield the lines of the epochs that a run which goes on does not train again."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError):
            if int(json.loads(line)["epoch"]) < epoch:
                yield line


def read(path: Path) -> dict[int, dict[str, str]]:
    """Return the fingerprints after each epoch; none where no such file was written.

    Raises
    ------
    GluonexpError
        It is damaged.
    """
    found: dict[int, dict[str, str]] = {}
    now: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            fields = json.loads(line)
            now = {**now, **fields["parameters"]}
            found[int(fields["epoch"])] = now
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise GluonexpError(f"{path}: no fingerprints of parameters ({error})") from None
    return found


def history(path: Path) -> dict[int, dict[str, float]]:
    """Return the metrics of each epoch that a run recorded, but those that are of time.

    Raises
    ------
    GluonexpError
        The file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {int(row["epoch"]): _metrics(row) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise GluonexpError(f"{path}: no history of a run ({error})") from None


def _metrics(row: Mapping[str, str]) -> dict[str, float]:
    return {
        name: float(text)
        for name, text in row.items()
        if name != "epoch" and not name.startswith(MEASURED) and text != ""
    }


class StopWhereDifferent(Callback):
    """End training after the first epoch that is not as a run recorded it, or after its last.

    Parameters
    ----------
    recorded
        The folder with `HISTORY` and `FILE` of that run.
    """

    def __init__(self, recorded: Path) -> None:
        self._history = history(recorded / HISTORY)
        self._parameters = read(recorded / FILE)

    def epoch_end(self, fit: Fit) -> None:
        """Compare what the epoch left with what is recorded of it."""
        then, now = self._parameters.get(fit.epoch, {}), fingerprints(fit.engine.state().values)
        parts = [name for name in now if then and then.get(name) != now[name]]
        metrics = [
            f"{name} was {value!r}, and is {fit.metrics.get(name)!r}"
            for name, value in self._history.get(fit.epoch, {}).items()
            if not _same(value, fit.metrics.get(name))
        ]
        if parts or metrics:
            said = [f"{listed(parts)} differ" if parts else "", *metrics[:2]]
            raise StopFit(f"{DIFFERENT}epoch {fit.epoch}: {'; '.join(filter(None, said))}")
        if fit.epoch + 1 < fit.epochs and fit.epoch >= max(self._history, default=fit.epochs):
            raise StopFit("the recorded run has ended here")  # as it was asked to, perhaps


def _same(then: float, now: float | None) -> bool:
    return now is not None and (then == float(now) or (then != then and now != now))
