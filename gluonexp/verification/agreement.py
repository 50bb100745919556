"""How far a runtime is from the trained network, how far it may be, and the record of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.model_folder.samples import Samples
from gluonexp.verification.score import Score

# Logits may differ by this share of their size: other kernels sum in another order.
TOLERANCE: Final = 1e-4

# Eight bits are meant to be inexact: so much of the accuracy may be lost, and one image anyway.
INT8_DROP: Final = 0.02

LIMITS: Final = {"logits": TOLERANCE, "int8_accuracy_drop": INT8_DROP}

QUANTIZED: Final = frozenset({"int8"})

TRAINED: Final = "the trained network"
FILES: Final = "the files themselves"  # of a network that came without anybody's word on it


@dataclass(frozen=True)
class Agreement:
    """How far one runtime is from the trained network on the same images.

    Attributes
    ----------
    runtime
        Its name.
    max_absolute, max_difference
        The largest difference of any two logits; the same, relative to their size (`compare`).
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
        if self.runtime in QUANTIZED:
            was = self.expected_correct / self.images
            return f"accuracy {self.accuracy:.4f} (float: {was:.4f}), {self._same()}"
        return f"logits within {self.max_difference:.1e}, {self._same()}"

    def allowed(self) -> str:
        """Say what `holds` asks for."""
        if self.runtime in QUANTIZED:
            return f"{_may_lose(self.images)} images fewer right"
        return f"{TOLERANCE:g}, all but ties"

    def _same(self) -> str:
        return f"the same class on {self.argmax_equal} of {self.images}"


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
        What was allowed; for logits, relative to their size.
    versions
        Of Python and of the libraries.
    reference
        What the runtimes were compared with: `TRAINED`, or `FILES`.
    notes
        Sentences for people, of what was not proved; they are not written.
    logits
        (N, K), what Module made of the samples; not written either.
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
    reference: str = TRAINED
    notes: tuple[str, ...] = ()
    logits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def sentence(self) -> str:
        """Say it for people, in one line."""
        floats = [each for each in self.agreements if each.runtime not in QUANTIZED]
        names = [each.runtime for each in floats]
        parts = []
        if floats:
            listed = ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
            worst = max(each.max_difference for each in floats)
            equal = min(each.argmax_equal for each in floats)
            plural = "" if names[1:] else "s"
            verb = f"equal{plural}" if self.reference == TRAINED else f"agree{plural} with"
            parts.append(
                f"{listed} {verb} {self.reference} on {self.images} images: logits within "
                f"{worst:.1e}, the same class on {equal} of {self.images}"
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
        del fields["notes"], fields["logits"], fields["agreements"]
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
                reference=_reference(fields.get("reference", TRAINED)),
            )
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise GluonexpError(f"not a certificate of gluonexp ({what})") from None


def compare(runtime: str, scored: Score, known: Samples) -> Agreement:
    """Return how far the logits of a runtime are from the trained network's."""
    expected, logits = known.logits, scored.logits
    if logits.shape != expected.shape:
        raise GluonexpError(
            f"{runtime} gives logits {logits.shape}, but the trained network {expected.shape}"
        )
    size = _size(expected)
    differences = np.abs(logits.astype(np.float64) - expected)  # NaN, where a logit is NaN
    best_two = np.sort(expected.astype(np.float64), axis=1)[:, -2:]
    margins = best_two[:, -1] - best_two[:, 0]
    close = margins <= 2 * TOLERANCE * _size(best_two).min(axis=1)
    same = logits.argmax(1) == expected.argmax(1)
    return Agreement(
        runtime=runtime,
        max_absolute=float(differences.max()),
        max_difference=float((differences / size).max()),
        argmax_equal=int(same.sum()),
        ties=int((~same & close).sum()),
        images=len(known),
        correct=_correct(logits, known),
        expected_correct=_correct(expected, known),
        images_per_second=scored.images_per_second,
        threads=scored.threads,
        versions=scored.versions,
    )


def _size(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return what a difference of each logit (N, K) is measured against.

    That is the logit itself or, where it is small, the two best of its image or of most images.
    Not the largest of all: a class that is masked by -1e9 would hide any difference of the others.
    """
    logits = logits.astype(np.float64)
    deciding = np.abs(np.sort(logits, axis=1)[:, -2:]).max(axis=1)
    usual = np.maximum(deciding, np.median(deciding))[:, None]
    smallest = np.finfo(np.float32).tiny  # what is all zero must be so exactly
    size: NDArray[np.float64] = np.maximum(np.maximum(np.abs(logits), usual), smallest)
    return size


def claims(recorded: Certificate, found: Sequence[Agreement], known: Samples) -> str | None:
    """Say what a certificate records that is not so; None where all of it can be right.

    On another machine a tie may fall the other way, and eight bits be rounded otherwise; what was
    found there is its own.
    """
    right = _correct(known.logits, known)
    if recorded.images != len(known):
        return f"it records {recorded.images} images, but {len(known)} are there"
    if recorded.accuracy != right / len(known):
        return f"it records accuracy {recorded.accuracy:g}, but it is {right / len(known):g}"
    if (recorded.reference == TRAINED) != known.trained:
        return f"it records {recorded.reference} as what was compared with"
    if any(recorded.tolerance.get(key, math.inf) > limit for key, limit in LIMITS.items()):
        return "it allows differences that gluonexp does not"
    for was in recorded.agreements:
        if (was.images, was.expected_correct) != (len(known), right):
            return (
                f"it records {was.expected_correct} of {was.images} images classified right by "
                f"the network, but {right} of {len(known)} are"
            )
        if not was.holds:
            return f"it records that {was.runtime} differs: {was.sentence()}"
    by_name = {each.runtime: each for each in recorded.agreements}
    for each in found:
        if (was_found := by_name.get(each.runtime)) is None:
            continue
        loose = max(was_found.ties, each.ties)
        if each.runtime in QUANTIZED:
            loose = _may_lose(each.images)
        if abs(was_found.correct - each.correct) > loose:
            return (
                f"it records {was_found.correct} of {was_found.images} images classified right "
                f"by {each.runtime}, but {each.correct} of {each.images} are"
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
        correct=_accurate(row),
        expected_correct=_count(row["expected_correct"]),
        images_per_second=_number(row["images_per_second"]),
        threads=_count(row["threads"]),
        versions=_texts(row["versions"]),
    )


def _accurate(row: Mapping[str, Any]) -> int:
    """Return how many are right; the accuracy beside it, for people, must say the same."""
    correct = _count(row["correct"])
    if _number(row["accuracy"]) != correct / _count(row["images"]):
        raise ValueError(f"accuracy {row['accuracy']!r:.40} is not {correct} of {row['images']}")
    return correct


def _reference(value: Any) -> str:
    if value not in (TRAINED, FILES):
        raise ValueError(f"{value!r:.40} is no reference")
    return str(value)


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
