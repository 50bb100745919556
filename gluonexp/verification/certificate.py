"""``certificate.json``: what was proved of an export, and of which files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft, sha256
from gluonexp.model_folder import guard, names, samples, signature
from gluonexp.model_folder.names import CERTIFICATE, SAMPLES, SIGNATURE
from gluonexp.model_folder.samples import EXAMPLE, SPLITS, ProofSamples
from gluonexp.verification.agreement import LIMITS, QUANTIZED, Agreement, correct, may_lose

TRAINED: Final = "the trained network"
EXPORTED: Final = "the files themselves"  # where only the exported files are known

# A certificate that does not vouch for these vouches for nothing.
_NEEDED: Final = (SIGNATURE, SAMPLES, *names.FILES["module"])


@dataclass(frozen=True)
class Certificate:
    """What was proved of an export; ``certificate.json``.

    Attributes
    ----------
    gluonexp, date
        Version of gluonexp, and when (UTC, ISO 8601).
    images, accuracy
        How many images, and the trained network's accuracy on them.
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
        What the runtimes were compared with: `TRAINED`, or `EXPORTED`.
    split
        Where the images are from: ``test``, ``val`` or ``train``; ``example`` if they were handed
        over with the network, without labels; None if that was not recorded.
    notes, dropped
        Sentences for people, of what was not proved, and of files that were removed because no
        runtime could run them; they are not written.
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
    split: str | None = None
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    logits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def allows(self, found: Agreement) -> bool:
        """Whether a runtime is as near to the network as this certificate promises.

        Those without a limit for other classes promise only the accuracy of a quantized network.
        """
        if found.runtime in QUANTIZED and "int8_other_class" not in self.tolerance:
            return found.accurate
        return found.holds

    def sentence(self) -> str:
        """Say it for people, in one line."""
        floats = [each for each in self.agreements if each.runtime not in QUANTIZED]
        parts = []
        if floats:
            *others, last = [each.runtime for each in floats]
            listed = f"{', '.join(others)} and {last}" if others else last
            worst = max(each.max_difference for each in floats)
            equal = min(each.argmax_equal for each in floats)
            plural = "" if others else "s"
            verb = f"equal{plural}" if self.reference == TRAINED else f"agree{plural} with"
            if self.split == EXAMPLE:
                where = f"the {self.images} inputs of its example: outputs within {worst:.1e}"
            else:
                split = f" of the {self.split} split" if self.split else ""
                where = (
                    f"{self.images} images{split}: logits within {worst:.1e}, the same class on "
                    f"{equal} of {self.images}"
                )
            parts.append(f"{listed} {verb} {self.reference} on {where}")
        parts += [f"{e.runtime}: {e.sentence()}" for e in self.agreements if e not in floats]
        return "; ".join(parts)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table of the runtimes for people, its headings first."""
        head = ("runtime", "max difference", "same class", "accuracy", "images/s")
        rows = (
            (
                each.runtime,
                f"{each.max_difference:.1e}",
                f"{each.argmax_equal}/{each.images}",
                "-" if self.split == EXAMPLE else f"{each.accuracy:.4f}",
                f"{each.images_per_second:.0f}",
            )
            for each in self.agreements
        )
        return [head, *rows]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, for people too."""
        fields = asdict(self)
        del fields["notes"], fields["dropped"], fields["logits"], fields["agreements"]
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
            agreements = [
                _agreement({**row, "runtime": name}) for name, row in fields["runtimes"].items()
            ]
            given = _checked(cls, {"reference": TRAINED, "split": None, **fields})
            if given["reference"] not in (TRAINED, EXPORTED):
                raise ValueError(f"{given['reference']!r:.40} is no reference")
            return cls(**given, agreements=tuple(agreements))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise GluonexpError(f"not a certificate of gluonexp ({what})") from None


def read(folder: Path) -> Certificate:
    """Return the certificate in `folder`, unchecked.

    Raises
    ------
    GluonexpError
        There is none, or it is damaged.
    """
    path = folder / CERTIFICATE
    if not path.exists():
        raise GluonexpError(
            f"{folder}: not certified ({CERTIFICATE} is missing); `gluonexp export` writes an "
            "export with its certificate"
        )
    fields = guard.read_json(path)
    try:
        recorded = Certificate.from_json(fields)
    except GluonexpError as error:
        raise GluonexpError(f"{path}: {error}") from None
    for name in recorded.files:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise GluonexpError(f"{path} names {name!r}, which is no file of its folder: refused")
    proved = {each.runtime for each in recorded.agreements}
    needed = {*_NEEDED}.union(*(names.FILES.get(runtime, ()) for runtime in proved))
    if missing := sorted(needed - recorded.files.keys()):
        raise GluonexpError(f"{path} does not vouch for {', '.join(missing)}")
    if "module" not in proved:
        raise GluonexpError(f"{path} does not say what module made of the network")
    return recorded


def write(folder: Path, certificate: Certificate) -> None:
    """Write ``certificate.json`` into `folder`."""
    text = json.dumps(certificate.to_json(), indent=2, ensure_ascii=False)
    with draft(folder / CERTIFICATE) as written:
        written.write_text(text + "\n", encoding="utf-8")


def digest(folder: Path) -> str:
    """Return the SHA-256 of the certificate in `folder`, to be kept where the export is not."""
    return sha256(folder / CERTIFICATE)


def claims(recorded: Certificate, found: Sequence[Agreement], known: ProofSamples) -> str | None:
    """Say what a certificate records that is not so; None where all of it can be right.

    On another machine a tie may fall the other way, and eight bits be rounded otherwise; what was
    found there is its own.
    """
    right = correct(known.logits, known)
    if recorded.images != len(known):
        return f"it records {recorded.images} images, but {len(known)} are there"
    if recorded.accuracy != right / len(known):
        return f"it records accuracy {recorded.accuracy:g}, but it is {right / len(known):g}"
    if (recorded.reference == TRAINED) != known.trained:
        return f"it records {recorded.reference} as what was compared with"
    if recorded.split != known.split:
        return "it records that the images are of another split"
    allowed = {"int8_other_class": 0.0, **recorded.tolerance}
    if any(allowed.get(key, math.inf) > limit for key, limit in LIMITS.items()):
        return "it allows differences that gluonexp does not"
    for was in recorded.agreements:
        if (was.images, was.expected_correct) != (len(known), right):
            return (
                f"it records {was.expected_correct} of {was.images} images classified right by "
                f"the network, but {right} of {len(known)} are"
            )
        if not recorded.allows(was):
            return f"it records that {was.runtime} differs: {was.sentence()}"
    by_name = {each.runtime: each for each in recorded.agreements}
    for each in found:
        if (was_found := by_name.get(each.runtime)) is None:
            continue
        loose = max(was_found.ties, each.ties)
        if each.runtime in QUANTIZED:
            loose = may_lose(each.images)
        if abs(was_found.correct - each.correct) > loose:
            return (
                f"it records {was_found.correct} of {was_found.images} images classified right "
                f"by {each.runtime}, but {each.correct} of {each.images} are"
            )
    return None


def as_certified(folder: Path, recorded: Certificate) -> ProofSamples:
    """Return the samples, if the files of `folder` are those that were certified."""
    found = digests(folder)
    _check_digests(folder, recorded, found, recorded.files)
    if added := sorted((names.CERTIFIED & found.keys()) - recorded.files.keys()):
        raise GluonexpError(
            f"{folder}: {', '.join(added)} was not certified, or taken out of {CERTIFICATE}: "
            "remove it, or export again"
        )
    known = samples.read(folder)
    check_classes(folder, known)
    return known


def check_copies(folder: Path, copies: Path) -> None:
    """Refuse `copies` of files in `folder` that are not as its certificate says.

    Raises
    ------
    GluonexpError
        Naming the first that is not.
    """
    _check_digests(folder, read(folder), digests(copies), _NEEDED)


def _check_digests(
    folder: Path, recorded: Certificate, found: Mapping[str, str], needed: Iterable[str]
) -> None:
    """Refuse files whose digests are not those certified, and where a `needed` one is gone."""
    if gone := sorted({*needed} - found.keys()):
        raise GluonexpError(f"{folder}: {', '.join(gone)} was certified, and is gone")
    changed = [
        name for name in recorded.files.keys() & found if found[name] != recorded.files[name]
    ]
    if changed:
        name = min(changed)
        raise GluonexpError(
            f"{folder}: {', '.join(sorted(changed))} changed since {recorded.date}, when it was "
            f"certified: the sha256 of {name} was {recorded.files[name][:12]}, and is "
            f"{found[name][:12]}{_what_changed(folder, changed)}; take the export from its run "
            "again"
        )


def _what_changed(folder: Path, changed: Sequence[str]) -> str:
    """Say more of a changed signature, if the samples, which are as they were, tell more."""
    if SIGNATURE in changed and SAMPLES not in changed:
        try:
            check_classes(folder, samples.read(folder))
        except GluonexpError as error:
            return f" ({error})"
    return ""


def check_classes(folder: Path, known: ProofSamples) -> None:
    """Compare the signature's names with those that the samples were labelled by."""
    classes = signature.read(folder).classes
    if len(classes) != len(known.classes):
        raise GluonexpError(
            f"{folder / SIGNATURE}: {len(classes)} classes, but {len(known.classes)} in {SAMPLES}"
        )
    for index, (name, own) in enumerate(zip(classes, known.classes, strict=True)):
        if name != own:
            raise GluonexpError(
                f"{folder / SIGNATURE}: class {index} is {name!r}, but {own!r} in {SAMPLES}"
            )


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in `folder` but its certificate, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != CERTIFICATE and path.is_file():
            try:
                found[path.name] = sha256(path)
            except OSError as error:
                raise GluonexpError(f"{path} cannot be read: {error.strerror}") from None
    return found


def _agreement(row: Mapping[str, Any]) -> Agreement:
    found = Agreement(**_checked(Agreement, row))
    if _number(row["accuracy"]) != found.accuracy:  # it is there for people
        what = f"{found.correct} of {found.images}"
        raise ValueError(f"accuracy {row['accuracy']!r:.40} is not {what}")
    return found


def _checked(kind: type[Agreement | Certificate], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass that JSON holds, each if it is of its declared type."""
    readers = {each.name: _READERS.get(str(each.type)) for each in dataclasses.fields(kind)}
    return {name: reader(given[name]) for name, reader in readers.items() if reader}


def _split(value: Any) -> str | None:
    if value not in (None, *SPLITS, EXAMPLE):
        raise ValueError(f"{value!r:.40} is no split")
    return None if value is None else str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


# By the type that a field is declared with; those of other types are not written, or read apart.
_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "str": _text,
    "str | None": _split,
    "int": _count,
    "float": _number,
    "dict[str, str]": lambda value: {key: _text(text) for key, text in value.items()},
    "dict[str, float]": lambda value: {key: _number(number) for key, number in value.items()},
    "tuple[float, ...]": lambda value: tuple(map(_number, value)),
}
