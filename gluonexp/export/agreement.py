"""How far a runtime is from the trained network, how far it may be, and the record of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.errors import GluonexpError
from gluonexp.export.samples import Samples
from gluonexp.export.score import Score

# Logits may differ by this share of the largest: other kernels sum in another order.
TOLERANCE: Final = 1e-4

# Eight bits are meant to be inexact: so much of the accuracy may be lost, and one image anyway.
INT8_DROP: Final = 0.02

QUANTIZED: Final = frozenset({"int8"})


@dataclass(frozen=True)
class Agreement:
    """How far one runtime is from the trained network on the same images.

    Attributes
    ----------
    runtime
        Its name.
    max_absolute, max_difference
        The largest difference of any two logits; the same, relative to the largest logit.
    argmax_equal
        Images with the same class.
    ties
        Further images, whose two best logits are too close for the class to be certain.
    images, correct, expected_correct
        How many images; of how many the class is right, by this runtime and by the network.
    images_per_second, threads
        Its speed, and with how many threads.
    versions
        Of its libraries.
    """

    runtime: str
    max_absolute: float
    max_difference: float
    argmax_equal: int
    ties: int
    images: int
    correct: int
    expected_correct: int
    images_per_second: float
    threads: int
    versions: dict[str, str]

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is right."""
        return self.correct / self.images

    @property
    def holds(self) -> bool:
        """Whether it is the trained network, within the tolerance that its kind has."""
        if self.runtime in QUANTIZED:
            lost = self.expected_correct - self.correct
            return math.isfinite(self.max_absolute) and lost <= _may_lose(self.images)
        same = self.argmax_equal + self.ties >= self.images
        return same and self.max_difference <= TOLERANCE

    def sentence(self) -> str:
        """Say it for people."""
        equal = f"{self.argmax_equal} of {self.images} classes equal"
        if self.runtime in QUANTIZED:
            was = self.expected_correct / self.images
            return f"accuracy {self.accuracy:.4f} (float: {was:.4f}), {equal}"
        return f"logits within {self.max_difference:.1e} of the largest, {equal}"

    def allowed(self) -> str:
        """Say what `holds` asks for."""
        if self.runtime in QUANTIZED:
            return f"{_may_lose(self.images)} images fewer right"
        return f"{TOLERANCE:g}, all but ties"


@dataclass(frozen=True)
class Certificate:
    """What was proved of an export; ``certificate.json``.

    Attributes
    ----------
    gluonexp, date
        Version of gluonexp, and when (UTC, ISO 8601).
    images, accuracy
        How many held-out images, and the trained network's accuracy on them.
    agreements
        One for each runtime.
    files
        SHA-256 of each file of the export, by name.
    mean, rms
        Of the network's inputs by channel, as the signature's steps make them of the images.
    tolerance
        What was allowed.
    versions
        Of Python and of the libraries.
    notes
        Sentences for people, of what was not proved; they are not written.
    """

    gluonexp: str
    date: str
    images: int
    accuracy: float
    agreements: tuple[Agreement, ...]
    files: dict[str, str]
    mean: tuple[float, ...]
    rms: tuple[float, ...]
    tolerance: dict[str, float]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it for people, in one line."""
        floats = [each for each in self.agreements if each.runtime not in QUANTIZED]
        names = [each.runtime for each in floats]
        parts = []
        if floats:
            listed = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
            worst = max(each.max_difference for each in floats)
            equal = min(each.argmax_equal for each in floats)
            parts.append(
                f"{listed} equal{'' if names[1:] else 's'} the trained network on {self.images} "
                f"images: logits within {worst:.1e}, {equal} classes equal"
            )
        parts += [f"{e.runtime}: {e.sentence()}" for e in self.agreements if e not in floats]
        return "; ".join(parts)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table of the runtimes for people, its headings first."""
        table: list[tuple[str, ...]] = [
            ("runtime", "max difference", "same class", "accuracy", "images/s")
        ]
        for each in self.agreements:
            table.append(
                (
                    each.runtime,
                    f"{each.max_difference:.1e}",
                    f"{each.argmax_equal}/{each.images}",
                    f"{each.accuracy:.4f}",
                    f"{each.images_per_second:.0f}",
                )
            )
        return table

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, for people too."""
        fields = asdict(self)
        del fields["notes"], fields["agreements"]
        runtimes = {}
        for each in self.agreements:
            row = asdict(each)
            del row["runtime"]
            runtimes[each.runtime] = {**row, "accuracy": each.accuracy}
        return {"format": 1, **fields, "runtimes": runtimes}

    @classmethod
    def from_json(cls, fields: Any) -> Certificate:
        """Return what `to_json` was made of.

        Raises
        ------
        GluonexpError
            It is something else.
        """
        try:
            if fields["format"] != 1:
                raise GluonexpError(
                    f"format {fields['format']!r} is not known to this gluonexp: pip install -U "
                    "gluonexp"
                )
            return cls(
                gluonexp=_text(fields["gluonexp"]),
                date=_text(fields["date"]),
                images=_count(fields["images"]),
                accuracy=_number(fields["accuracy"]),
                agreements=tuple(
                    _agreement(_text(name), row) for name, row in fields["runtimes"].items()
                ),
                files=_texts(fields["files"]),
                mean=tuple(map(_number, fields["mean"])),
                rms=tuple(map(_number, fields["rms"])),
                tolerance={key: _number(value) for key, value in fields["tolerance"].items()},
                versions=_texts(fields["versions"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise GluonexpError(f"not a certificate of gluonexp ({what})") from None


def compare(runtime: str, scored: Score, known: Samples) -> Agreement:
    """Return how far the logits of a runtime are from the trained network's."""
    expected, logits = known.logits, scored.logits
    if logits.shape != expected.shape:
        raise GluonexpError(
            f"{runtime} gives logits {logits.shape}, but the trained network {expected.shape}"
        )
    largest = max(float(np.abs(expected).max()), 1e-30)
    difference = float(np.abs(logits - expected).max())  # NaN, where a logit is NaN
    best_two = np.sort(expected, axis=1)[:, -2:]
    margins = best_two[:, -1] - best_two[:, 0]
    same = logits.argmax(1) == expected.argmax(1)
    return Agreement(
        runtime=runtime,
        max_absolute=difference,
        max_difference=difference / largest,
        argmax_equal=int(same.sum()),
        ties=int((~same & (margins <= 2 * TOLERANCE * largest)).sum()),
        images=len(known),
        correct=_correct(logits, known),
        expected_correct=_correct(expected, known),
        images_per_second=scored.images_per_second,
        threads=scored.threads,
        versions=scored.versions,
    )


def claims(recorded: Certificate, found: Agreement) -> str | None:
    """Say what a certificate records of a runtime that is not so; None where it is right.

    On another machine a tie may fall the other way, and eight bits be rounded otherwise.
    """
    was = next((each for each in recorded.agreements if each.runtime == found.runtime), None)
    if was is None:
        return None
    loose = _may_lose(found.images) if found.runtime in QUANTIZED else max(was.ties, found.ties)
    if was.images != found.images or abs(was.correct - found.correct) > loose:
        return (
            f"it records {was.correct} of {was.images} images classified right by "
            f"{found.runtime}, but {found.correct} of {found.images} are"
        )
    return None


def _correct(logits: NDArray[np.float32], known: Samples) -> int:
    return int((logits.argmax(1) == known.labels).sum())


def _may_lose(images: int) -> int:
    return max(1, int(INT8_DROP * images))


def _agreement(runtime: str, row: Mapping[str, Any]) -> Agreement:
    return Agreement(
        runtime=runtime,
        max_absolute=_number(row["max_absolute"]),
        max_difference=_number(row["max_difference"]),
        argmax_equal=_count(row["argmax_equal"]),
        ties=_count(row["ties"]),
        images=_count(row["images"]),
        correct=_count(row["correct"]),
        expected_correct=_count(row["expected_correct"]),
        images_per_second=_number(row["images_per_second"]),
        threads=_count(row["threads"]),
        versions=_texts(row["versions"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(text) for key, text in value.items()}


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)
