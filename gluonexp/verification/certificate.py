"""The proof that an export is the trained network: written after a run, checked at any time.

Each runtime loads the files in a clean process and scores the same held-out images. What it says
must be what the trained network said, within the tolerances of `gluonexp.verification.agreement`.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import SpinnerColumn, TimeElapsedColumn

from gluonexp import __version__
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import draft, sha256
from gluonexp.base.progress import transient_bar
from gluonexp.base.workers import TaskError, WorkerDied, Workers
from gluonexp.export import int8
from gluonexp.model_folder import files, guard, samples
from gluonexp.model_folder.samples import SAMPLES, Samples
from gluonexp.verification import agreement, divergence, score
from gluonexp.verification.agreement import (
    FILES,
    LIMITS,
    TOLERANCE,
    TRAINED,
    Agreement,
    Certificate,
)
from gluonexp.verification.runtimes import RUNTIMES
from gluonexp.verification.score import Prepare, Score

CERTIFICATE: Final = "certificate.json"

# A certificate that does not vouch for these vouches for nothing.
_NEEDED: Final = (files.SIGNATURE, SAMPLES, *RUNTIMES["module"].files)

_WORKING: Final = (SpinnerColumn(), "proving the export: {task.description}", TimeElapsedColumn())

Reference = Callable[[Path], object]
"""Write the trained network into a folder as the export's ``model-*`` files."""


def certify(
    folder: Path,
    prepare: Prepare,
    *,
    workers: Workers,
    reference: Reference | None = None,
) -> Certificate:
    """Prove the export in `folder` equal to the trained network; write ``certificate.json``.

    Parameters
    ----------
    folder
        It holds ``samples.safetensors``, with the trained network's logits.
    workers
        Clean processes; each runtime is loaded in one of them.
    reference
        Used after a disagreement, to say which layer's output is the first to differ.

    Raises
    ------
    GluonexpError
        A runtime disagrees, or cannot load the files. No certificate is written then.
    """
    guard.check_files(folder)
    known = samples.read(folder)
    _check_classes(folder, known)
    if not np.isfinite(known.logits).all():
        raise GluonexpError(
            f"{folder}: the trained network's own logits are not all finite numbers, so nothing "
            "can be proved equal to it; was the learning rate too high?"
        )
    possible = score.provable(folder)
    if "module" not in possible:
        raise GluonexpError(f"{folder}: no network here ({RUNTIMES['module'].files[0]})")
    scores, digests = _scored(folder, possible, prepare, workers)
    agreements = [agreement.compare(name, scores[name], known) for name in possible]
    if wrong := [each for each in agreements if not each.holds]:
        with _written(reference) as trained:
            where = _first_layer(folder, wrong[0], scores, known, prepare, workers, trained)
        raise GluonexpError(
            f"the export in {folder} is not {_reference(known)}: {_told(wrong)}; {where}"
            f"{_leave_out(wrong)}"
        )
    certificate = Certificate(
        gluonexp=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        images=len(known),
        accuracy=float((known.logits.argmax(1) == known.labels).mean()),
        agreements=tuple(agreements),
        files={name: digest for name, digest in digests.items() if name in score.NAMES},
        mean=scores["module"].mean,
        rms=scores["module"].rms,
        tolerance=dict(LIMITS),
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{key: text for each in agreements for key, text in each.versions.items()},
        },
        reference=_reference(known),
        notes=tuple(_untried(digests, possible)),
        logits=scores["module"].logits,
    )
    text = json.dumps(certificate.to_json(), indent=2, ensure_ascii=False)
    with draft(folder / CERTIFICATE) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
    return certificate


def digest(folder: Path) -> str:
    """Return the SHA-256 of the certificate in `folder`, to be kept where the export is not."""
    return sha256(folder / CERTIFICATE)


def check(
    folder: Path, prepare: Prepare, *, workers: Workers, recorded_digest: str | None = None
) -> Certificate:
    """Prove again that the export in `folder` is what its certificate says; nothing is written.

    First the files must be those that were certified. Then they are scored, whatever their
    digests say: who can change a file can change its digest in the certificate.

    Parameters
    ----------
    recorded_digest
        What `digest` was when the certificate was written, if that was kept elsewhere. Who can
        change all files together cannot change this.

    Returns
    -------
    Certificate
        The one in the folder, with the agreements found here and now, and with notes on what
        could not be proved: files it does not know, runtimes that are not installed.

    Raises
    ------
    GluonexpError
        There is no certificate, or something is not as it says; the reason.
    """
    guard.check_files(folder)
    recorded = read(folder)
    if recorded_digest is not None and (found := digest(folder)) != recorded_digest:
        raise GluonexpError(
            f"{folder / CERTIFICATE} is not the one its run recorded: its sha256 was "
            f"{recorded_digest[:12]}, and is {found[:12]}"
        )
    known = _as_certified(folder, recorded)
    possible = score.provable(folder)
    scores, _ = _scored(folder, possible, prepare, workers)
    _check_inputs(folder, recorded, scores["module"])
    agreements = [agreement.compare(name, scores[name], known) for name in possible]
    if wrong := [each for each in agreements if not each.holds]:
        where = _first_layer(folder, wrong[0], scores, known, prepare, workers, None)
        raise GluonexpError(
            f"{folder}: the network is not the one that was certified on {recorded.date}: on the "
            f"images in {SAMPLES} {_told(wrong)}; {where}"
        )
    if (wrong_claim := agreement.claims(recorded, agreements, known)) is not None:
        raise GluonexpError(f"{folder / CERTIFICATE} is not right: {wrong_claim}")
    missing = [each.runtime for each in recorded.agreements if each.runtime not in possible]
    notes = [f"{name} was certified, but cannot be tried: not installed here" for name in missing]
    notes += _untried(recorded.files, {**possible, **dict.fromkeys(missing)})
    unknown = sorted({path.name for path in folder.iterdir()} - {*recorded.files, CERTIFICATE})
    notes += [f"{name} is not in the certificate: nothing is said of it" for name in unknown]
    return replace(recorded, agreements=tuple(agreements), notes=tuple(notes))


def check_copies(folder: Path, copies: Path) -> None:
    """Refuse `copies` of files in `folder` that are not as its certificate says.

    Raises
    ------
    GluonexpError
        Naming the first that is not.
    """
    recorded = read(folder)
    _check_digests(folder, recorded, score.digests(copies, without=CERTIFICATE))
    if gone := sorted({*_NEEDED} - {path.name for path in copies.iterdir()}):
        raise GluonexpError(f"{folder}: {', '.join(gone)} was certified, and is gone")


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
    needed = {*_NEEDED}
    for each in recorded.agreements:
        needed.update(score.FILES.get(each.runtime, ()))
    if missing := sorted(needed - recorded.files.keys()):
        raise GluonexpError(f"{path} does not vouch for {', '.join(missing)}")
    if "module" not in {each.runtime for each in recorded.agreements}:
        raise GluonexpError(f"{path} does not say what module made of the network")
    return recorded


def _as_certified(folder: Path, recorded: Certificate) -> Samples:
    """Return the samples, if the files of `folder` are those that were certified."""
    found = score.digests(folder, without=CERTIFICATE)
    if gone := sorted(recorded.files.keys() - found.keys()):
        raise GluonexpError(f"{folder}: {', '.join(gone)} was certified, and is gone")
    _check_digests(folder, recorded, found)
    if added := sorted((score.NAMES & found.keys()) - recorded.files.keys()):
        raise GluonexpError(
            f"{folder}: {', '.join(added)} was not certified, or taken out of {CERTIFICATE}: "
            "remove it, or export again"
        )
    known = samples.read(folder)
    _check_classes(folder, known)
    return known


def _check_digests(folder: Path, recorded: Certificate, found: Mapping[str, str]) -> None:
    """Compare digests of files with those that were certified."""
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
    if files.SIGNATURE in changed and SAMPLES not in changed:
        try:
            _check_classes(folder, samples.read(folder))
        except GluonexpError as error:
            return f" ({error})"
    return ""


def _check_classes(folder: Path, known: Samples) -> None:
    """Compare the signature's names with those that the samples were labelled by."""
    names = files.read_signature(folder)["classes"]
    if len(names) != len(known.classes):
        raise GluonexpError(
            f"{folder / files.SIGNATURE}: {len(names)} classes, but {len(known.classes)} in "
            f"{SAMPLES}"
        )
    for index, (name, own) in enumerate(zip(names, known.classes, strict=True)):
        if name != own:
            raise GluonexpError(
                f"{folder / files.SIGNATURE}: class {index} is {name!r}, but {own!r} in {SAMPLES}"
            )


def _check_inputs(folder: Path, recorded: Certificate, found: Score) -> None:
    """Compare what the signature's steps make of the images with what they did make of them."""
    size = max((*recorded.rms, *found.rms), default=0.0)
    for what, was, now in (("mean", recorded.mean, found.mean), ("rms", recorded.rms, found.rms)):
        if len(was) != len(now) or not np.allclose(was, now, rtol=0, atol=TOLERANCE * size):
            raise GluonexpError(
                f"{folder / files.SIGNATURE}: its preprocessing is not the one that was "
                f"certified: the inputs' {what} by channel was "
                f"{', '.join(f'{value:.4g}' for value in was)}, and is "
                f"{', '.join(f'{value:.4g}' for value in now)}"
            )


def _scored(
    folder: Path, possible: Mapping[str, tuple[str, ...]], prepare: Prepare, workers: Workers
) -> tuple[dict[str, Score], dict[str, str]]:
    """Return what each runtime makes of the samples, and the digests of the files."""
    groups: dict[tuple[str, ...], list[str]] = {}  # what reads the same files shares a process
    for name, own in possible.items():
        groups.setdefault(own, []).append(name)
    tasks: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        (", ".join(group), score.score, (folder, group, prepare)) for group in groups.values()
    ]
    tasks.append(("", score.digests, (folder, CERTIFICATE)))
    results = {}
    waiting = list(possible)
    # The others are stopped if one fails.
    with closing(workers.stream(tasks)) as outcomes, transient_bar(*_WORKING) as bar:
        shown = bar.add_task(", ".join(waiting), total=None)
        for key, outcome in outcomes:
            results[key] = _unless_failed(outcome, f"{folder}: {key or 'reading its files'}")
            waiting = [name for name in waiting if name not in key.split(", ")]
            bar.update(shown, description=", ".join(waiting))
    digests = results.pop("")
    return {name: each for group in results.values() for name, each in group.items()}, digests


def _unless_failed(outcome: Any, what: str) -> Any:
    """Return a task's outcome; raise where it failed."""
    if isinstance(outcome, GluonexpError):
        raise outcome
    if isinstance(outcome, WorkerDied | TaskError):
        raise GluonexpError(f"{what} failed, the files may be damaged: {outcome}") from None
    if isinstance(outcome, Exception):
        raise GluonexpError(f"{what} failed: {files.reason(outcome)}") from outcome
    return outcome


def _untried(present: Iterable[str], tried: Iterable[str]) -> list[str]:
    """Say which of the files `present` no runtime has `tried`."""
    read = {name for runtime in tried for name in score.FILES.get(runtime, ())}
    read |= {files.SIGNATURE, SAMPLES, int8.RECORD}
    return [
        f"{name} cannot be tried: what reads it is not installed here"
        for name in sorted(score.NAMES & {*present} - read)
    ]


def _reference(known: Samples) -> str:
    return TRAINED if known.trained else FILES


def _leave_out(wrong: Sequence[Agreement]) -> str:
    """Say how to do without, where the network itself is right."""
    read = [name for each in wrong for name in score.FILES[each.runtime]]
    onnx = all(name.endswith(".onnx") for name in read)
    return "; export.onnx=false leaves ONNX out" if onnx else ""


def _told(wrong: Sequence[Agreement]) -> str:
    return "; ".join(
        f"{each.runtime} differs, {each.sentence()} (allowed: {each.allowed()})" for each in wrong
    )


def _first_layer(
    folder: Path,
    wrong: Agreement,
    scores: Mapping[str, Score],
    known: Samples,
    prepare: Prepare,
    workers: Workers,
    trained: Path | None,
) -> str:
    """Say in which layer a runtime begins to differ, as a sentence's end."""
    runtime = wrong.runtime
    worst = int(np.abs(scores[runtime].logits - known.logits).max(axis=1).argmax())
    task = (runtime, _differs, (folder, runtime, worst, prepare, trained))
    ((_, found),) = workers.stream([task])
    if isinstance(found, Exception):
        return f"its layers could not be looked at ({files.reason(found)})"
    if found is not None:
        return f"the first layer output that differs is {found}"
    if runtime not in divergence.COMPARED:
        return "its layers are not compared"
    if trained is None:
        return f"all layers are computed right by {runtime}: its files hold another network"
    return "no layer differs by itself"


def _differs(
    folder: Path, runtime: str, index: int, prepare: Prepare, trained: Path | None
) -> str | None:
    inputs = score.one_input(folder, index, prepare)
    return divergence.first_difference(folder, runtime, inputs, TOLERANCE, trained)


@contextmanager
def _written(reference: Reference | None) -> Iterator[Path | None]:
    """Provide a folder with the trained network's files, if there is a trained network."""
    if reference is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        reference(Path(name))
        yield Path(name)
