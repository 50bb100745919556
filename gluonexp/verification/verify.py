"""Prove an export equal to the network it was made of: at the end of a run, and again later.

Each runtime loads the files in a clean process and scores the same images. What it says must be
what the trained network said, within the tolerances of `gluonexp.verification.agreement`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import SpinnerColumn, TimeElapsedColumn

from gluonexp import __version__
from gluonexp.base.errors import GluonexpError, reason
from gluonexp.base.files import sha256, temporary
from gluonexp.base.progress import transient_bar
from gluonexp.base.workers import TaskError, WorkerDied, Workers, cores
from gluonexp.model_folder import guard, names, samples
from gluonexp.model_folder.names import CERTIFICATE, FILES, ONNX, SAMPLES, SIGNATURE, UINT8_ONNX
from gluonexp.model_folder.samples import ProofSamples
from gluonexp.verification import agreement, card, certificate, divergence, runtimes, score
from gluonexp.verification.agreement import LIMITS, QUANTIZED, TOLERANCE, Agreement
from gluonexp.verification.card import Origin
from gluonexp.verification.certificate import Certificate
from gluonexp.verification.runtimes import CannotRun
from gluonexp.verification.score import Score

# Multiply-accumulates for one image, of a network that is scored faster than a process imports.
_LIGHT: Final = 10**8

_WORKING: Final = (SpinnerColumn(), "proving the export: {task.description}", TimeElapsedColumn())

Reference = Callable[[Path], object]
"""Write the trained network into a folder as the export's ``model-*`` files."""


def workers(macs: int | None = None) -> Workers:
    """Return the clean processes that `certify` needs, at most two; `start` warms them up.

    Each imports MXNet and the other runtimes, which takes seconds: start them while there is
    something else to wait for.

    Parameters
    ----------
    macs
        Multiply-accumulates of the network for one image, where the processes start beside other
        work: of a light network one does all, and takes less of the processor from that work.
    """
    light = macs is not None and macs < _LIGHT
    return Workers(1 if light else min(2, cores()), score.warm_up)


def certify(
    folder: Path,
    *,
    pool: Workers | None = None,
    reference: Reference | None = None,
    drop_onnx: bool = False,
    origin: Origin | None = None,
) -> Certificate:
    """Prove the export in `folder` equal to the trained network; write ``certificate.json``.

    Its card, ``README.md``, is written as well.

    Parameters
    ----------
    folder
        It holds ``samples.safetensors``, with the trained network's logits.
    pool
        Clean processes, if `workers` were started before.
    reference
        Used after a disagreement, to say which layer's output is the first to differ.
    drop_onnx
        Whether ONNX files that cannot be run are removed, with the reason in `dropped`. MXNet's
        translation is wrong for some layers, so wrong that nothing loads the file. Like a layer
        without a translation, that is no reason to lose a run.
    origin
        For the card; see `gluonexp.verification.card.write`.

    Raises
    ------
    GluonexpError
        A runtime disagrees, or cannot load the files. No certificate is written then.
    """
    dropped: list[str] = []
    with nullcontext(pool) if pool else workers() as using:
        while True:
            try:
                proved = _proved(folder, using, reference)
                card.write(folder, proved, origin)
                files = {**proved.files, names.CARD: sha256(folder / names.CARD)}
                certificate.write(folder, proved := replace(proved, files=files))
                return replace(proved, dropped=tuple(dropped))
            except CannotRun as error:
                broken = FILES[error.runtime][0]
                if not (drop_onnx and broken.endswith(".onnx")):
                    raise
                useless = [broken]
                if broken == ONNX and (folder / UINT8_ONNX).exists():  # the same layers
                    useless.append(UINT8_ONNX)
                for name in useless:
                    (folder / name).unlink()
                dropped.append(f"no {' and '.join(useless)}: {error}")


def _proved(folder: Path, pool: Workers, reference: Reference | None) -> Certificate:
    guard.check_files(folder)
    known = samples.read(folder)
    certificate.check_classes(folder, known)
    if not np.isfinite(known.logits).all():
        raise GluonexpError(
            f"{folder}: the trained network's own logits are not all finite numbers, so nothing "
            "can be proved equal to it; was the learning rate too high?"
        )
    possible = runtimes.available(folder)
    if "module" not in possible:
        raise GluonexpError(f"{folder}: no network here ({FILES['module'][0]})")
    scores, digests = _scored(folder, possible, pool), certificate.digests(folder)
    agreements = [agreement.compare(name, scores[name], known) for name in possible]
    compared = certificate.TRAINED if known.trained else certificate.EXPORTED
    if wrong := [each for each in agreements if not each.holds]:
        where = _first_layer(folder, wrong[0], scores, known, pool, reference)
        raise GluonexpError(
            f"the export in {folder} is not {compared}: {_told(wrong)}; {where}{_leave_out(wrong)}"
        )
    return Certificate(
        gluonexp=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        images=len(known),
        accuracy=agreement.correct(known.logits, known) / len(known),
        agreements=tuple(agreements),
        files={name: digest for name, digest in digests.items() if name in names.CERTIFIED},
        mean=scores["module"].mean,
        rms=scores["module"].rms,
        tolerance=dict(LIMITS),
        versions={
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{key: text for each in agreements for key, text in each.versions.items()},
        },
        reference=compared,
        split=known.split,
        notes=tuple(_untried(digests, possible)),
        logits=scores["module"].logits,
    )


def check(
    folder: Path, *, pool: Workers | None = None, recorded_digest: str | None = None
) -> Certificate:
    """Prove again that the export in `folder` is what its certificate says; nothing is written.

    First the files must be those that were certified. Then they are scored, whatever their
    digests say: who can change a file can change its digest in the certificate.

    Parameters
    ----------
    pool
        As for `certify`.
    recorded_digest
        What `certificate.digest` was when the certificate was written, if that was kept
        elsewhere. Who can change all files together cannot change this.

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
    recorded = certificate.read(folder)
    if recorded_digest is not None and (found := certificate.digest(folder)) != recorded_digest:
        raise GluonexpError(
            f"{folder / CERTIFICATE} is not the one its run recorded: its sha256 was "
            f"{recorded_digest[:12]}, and is {found[:12]}"
        )
    known = certificate.as_certified(folder, recorded)
    possible = runtimes.available(folder)
    with nullcontext(pool) if pool else workers() as using:
        scores = _scored(folder, possible, using)
        _check_inputs(folder, recorded, scores["module"])
        agreements = [agreement.compare(name, scores[name], known) for name in possible]
        if wrong := [each for each in agreements if not recorded.allows(each)]:
            where = _first_layer(folder, wrong[0], scores, known, using, None)
            raise GluonexpError(
                f"{folder}: the network is not the one that was certified on {recorded.date}: on "
                f"the images in {SAMPLES} {_told(wrong)}; {where}"
            )
    if (wrong_claim := certificate.claims(recorded, agreements, known)) is not None:
        raise GluonexpError(f"{folder / CERTIFICATE} is not right: {wrong_claim}")
    missing = [each.runtime for each in recorded.agreements if each.runtime not in possible]
    notes = [f"{name} was certified, but cannot be tried: not installed here" for name in missing]
    notes += _untried(recorded.files, [*possible, *missing])
    notes += [
        f"{each.runtime}: {each.sentence()}; a new certificate would allow {each.allowed()}"
        for each in agreements
        if not each.holds
    ]
    unknown = sorted({path.name for path in folder.iterdir()} - {*recorded.files, CERTIFICATE})
    notes += [f"{name} is not in the certificate: nothing is said of it" for name in unknown]
    return replace(recorded, agreements=tuple(agreements), notes=tuple(notes))


def _check_inputs(folder: Path, recorded: Certificate, found: Score) -> None:
    """Compare what the signature's steps make of the images with what they did make of them."""
    size = max((*recorded.rms, *found.rms), default=0.0)
    for what, was, now in (("mean", recorded.mean, found.mean), ("rms", recorded.rms, found.rms)):
        if len(was) != len(now) or not np.allclose(was, now, rtol=0, atol=TOLERANCE * size):
            raise GluonexpError(
                f"{folder / SIGNATURE}: its preprocessing is not the one that was "
                f"certified: the inputs' {what} by channel was "
                f"{', '.join(f'{value:.4g}' for value in was)}, and is "
                f"{', '.join(f'{value:.4g}' for value in now)}"
            )


def _scored(folder: Path, possible: Sequence[str], pool: Workers) -> dict[str, Score]:
    """Return what each runtime makes of the samples."""
    groups: dict[tuple[str, ...], list[str]] = {}  # what reads the same files shares a process
    for name in possible:
        groups.setdefault(FILES[name], []).append(name)
    place = folder.absolute()  # a process may have started in another folder
    tasks = [(", ".join(group), score.score, (place, group)) for group in groups.values()]
    scores: dict[str, Score] = {}
    # The others are stopped if one fails.
    with closing(pool.stream(tasks)) as outcomes, transient_bar(*_WORKING) as bar:
        shown = bar.add_task(", ".join(possible), total=None)
        for key, outcome in outcomes:
            scores |= _unless_failed(outcome, f"{folder}: {key}")
            waiting = [name for name in possible if name not in scores]
            bar.update(shown, description=", ".join(waiting))
    return scores


def _unless_failed(outcome: Any, what: str) -> Any:
    """Return a task's outcome; raise where it failed."""
    if isinstance(outcome, GluonexpError):
        raise outcome
    if isinstance(outcome, WorkerDied):
        # A fault of what reads them is a sign of that; SIGKILL (no memory) and an exit are none.
        damaged = ", the files may be damaged" if outcome.crashed else ""
        raise GluonexpError(f"{what} failed{damaged}: {outcome}") from None
    if isinstance(outcome, TaskError):
        raise GluonexpError(f"{what} failed: {outcome}") from None
    if isinstance(outcome, Exception):
        raise GluonexpError(f"{what} failed: {reason(outcome)}") from outcome
    return outcome


def _untried(present: Iterable[str], tried: Iterable[str]) -> list[str]:
    """Say which of the files `present` no runtime has `tried`."""
    read = {name for runtime in tried for name in FILES.get(runtime, ())}
    read |= {SIGNATURE, SAMPLES, names.INT8_RECORD}
    return [
        f"{name} cannot be tried: what reads it is not installed here"
        for name in sorted(names.CERTIFIED & {*present} - read)
    ]


def _leave_out(wrong: Sequence[Agreement]) -> str:
    """Say how to do without, where the network itself is right."""
    read = [name for each in wrong for name in FILES[each.runtime]]
    if all(name.endswith(".onnx") for name in read):
        return "; export.onnx=false leaves ONNX out"
    if all(each.runtime == "torch" for each in wrong):
        return "; export.torch=false leaves PyTorch out"
    int8 = all(each.runtime in QUANTIZED for each in wrong)
    return "; export.int8=false leaves the 8-bit copy out" if int8 else ""


def _told(wrong: Sequence[Agreement]) -> str:
    return "; ".join(
        f"{each.runtime} differs, {each.sentence()} (allowed: {each.allowed()})" for each in wrong
    )


def _first_layer(
    folder: Path,
    wrong: Agreement,
    scores: Mapping[str, Score],
    known: ProofSamples,
    pool: Workers,
    reference: Reference | None,
) -> str:
    """Say in which layer a runtime begins to differ, as a sentence's end."""
    runtime = wrong.runtime
    worst = int(np.abs(scores[runtime].logits - known.logits).max(axis=1).argmax())
    with temporary() as place:
        trained = None
        if reference is not None:
            reference(trained := place)
        task = _differs, (folder.absolute(), runtime, worst, trained)
        ((_, found),) = pool.stream([(runtime, *task)])
    if isinstance(found, Exception):
        return f"its layers could not be looked at ({reason(found)})"
    if found is not None:
        return f"the first layer output that differs is {found}"
    if runtime not in divergence.COMPARED:
        return "its layers are not compared"
    if trained is None:
        return f"all layers are computed right by {runtime}: its files hold another network"
    return "no layer differs by itself"


def _differs(folder: Path, runtime: str, index: int, trained: Path | None) -> str | None:
    inputs = score.one_input(folder, index)
    return divergence.first_difference(folder, runtime, inputs, TOLERANCE, trained)
