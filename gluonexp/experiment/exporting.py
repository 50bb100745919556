"""What is made of the trained network: exported, proved, recorded as a model, registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.measures import by_class, measured, softmax
from gluonexp.base.secrets import hidden_words
from gluonexp.base.text import in_shell, tell
from gluonexp.base.workers import Workers
from gluonexp.data.split import spread
from gluonexp.experiment import show
from gluonexp.experiment.opening import OpenRun
from gluonexp.export import formats, symbol
from gluonexp.inference import flavor
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.signature import Signature
from gluonexp.report import plots
from gluonexp.training.engine import score
from gluonexp.verification import card, certificate, verify
from gluonexp.verification.card import Origin
from gluonexp.verification.certificate import Certificate


def export(
    run: OpenRun,
    logits: NDArray[np.float32],
    pool: Workers,
    console: Console,
    overrides: Sequence[str],
) -> None:
    """Write the export, prove it equal to the network, and draw one of the images of the proof.

    Parameters
    ----------
    logits
        What the trained network says of `Data.held_out`: the proof is by some of these images.
    pool
        Clean processes, which load the export again.
    overrides
        What the user typed, for the export's card.

    Raises
    ------
    GluonexpError
        A runtime says something else than the network, or the export cannot be written. All but
        the export is recorded then.
    """
    try:
        proved = _proved(run, logits, pool, console, _origin(run, logits, overrides))
    except GluonexpError:
        for folder in run.artifacts.iterdir():
            if folder.is_dir() and folder.name != "export":
                run.tracker.log_artifacts(folder, folder.name)
        raise
    _draw_prediction(run.artifacts, proved, run.config.seed)


def _proved(
    run: OpenRun,
    logits: NDArray[np.float32],
    pool: Workers,
    console: Console,
    origin: Origin,
) -> Certificate:
    """Write the export, and its certificate: every runtime says what the network says."""
    folder, spec = run.artifacts / "export", run.spec
    image = spec.height, spec.width, spec.channels
    written = symbol.export(run.net, folder, Signature(image, run.steps, tuple(spec.classes)))
    _keep_samples(run, folder, logits)
    wanted = run.config.export
    if wanted.torch is None:
        wanted = replace(wanted, torch=run.config.engine.name == "torch")
    notes = formats.write(folder, wanted, run.data.train, written)

    def trained(place: Path) -> None:
        run.net.export(str(place / names.MODEL), epoch=0)

    proved = verify.certify(folder, pool=pool, reference=trained, drop_onnx=True, origin=origin)
    left_out = [*notes, *proved.dropped]
    for note in (*left_out, *proved.notes):
        show.note(console, note)
    tell(console, proved.sentence())
    if left_out:
        run.tracker.log_tags({"gluonexp.export.note": "; ".join(left_out)})
    run.tracker.log_tags(
        {f"gluonexp.export.{each.runtime}": each.sentence() for each in proved.agreements}
        | {tracking.CERTIFICATE_TAG: certificate.digest(folder)}
    )
    return proved


def _origin(run: OpenRun, logits: NDArray[np.float32], overrides: Sequence[str]) -> Origin:
    """Return what the export's card says of the run, given the logits of `Data.held_out`."""
    data, engine = run.data, run.config.engine
    split, held_out = data.held_out()
    return Origin(
        run_id=run.tracker.run_id,
        command=in_shell("python", "-m", "gluonexp.run", *hidden_words(overrides)),
        engine=f"{engine.name}, {engine.precision}",
        data=data.title,
        digest=data.digest,
        splits={name: len(part) for name, part in data.splits().items()},
        notes=data.notes,
        split=split,
        scores={
            **score(run.engine, logits, held_out.labels).scores(),
            **measured(run.settings.metrics, logits, held_out.labels),
        },
        classes=by_class(data.classes, held_out.labels, logits.argmax(axis=1)),
    )


def _keep_samples(run: OpenRun, folder: Path, logits: NDArray[np.float32]) -> None:
    """Write the images by which the export is proved into its folder, and the logits for them."""
    wanted, classes = run.config.export, tuple(run.spec.classes)
    split, held_out = run.data.held_out()
    available = min(len(held_out), wanted.images or len(held_out))
    # Eight bits change what a network answers: how much, only many images tell.
    macs = 0 if wanted.int8 or wanted.images else run.macs
    kept = samples.count(available, held_out.images.shape[1:], len(classes), macs)
    chosen = spread(held_out.labels, kept)
    images, labels = held_out.images[chosen], held_out.labels[chosen]
    found = samples.ProofSamples(images, labels, logits[chosen], classes, split=split)
    samples.write(folder, found)


def hand_over(run: OpenRun, best_epoch: int, objective: float | None) -> None:
    """Log the export as an MLflow model, and register it if that is wanted."""
    tracker, wanted = run.tracker, run.config.export
    if not (wanted.enabled and (wanted.mlflow_model or wanted.register)):
        return
    if tracker.run_id is None:  # nobody would take the model, and to make it imports MLflow
        return
    with flavor.model_folder(run.artifacts / "export") as folder:
        tracker.log_model(folder, step=best_epoch)
    if wanted.register is not None:
        said = card.description(card.read(run.artifacts / "export") or "")
        tracker.register(wanted.register, objective, run.config.objective, said)


def _draw_prediction(artifacts: Path, proved: Certificate, seed: int) -> None:
    """Draw one random image of the proof, with its label and with what the export says."""
    known = samples.read(artifacts / "export")
    assert proved.logits is not None
    chosen = np.random.default_rng(seed).integers(len(known), size=1)
    (row,) = softmax(proved.logits[chosen])
    plots.prediction(
        known.images[chosen],
        [known.classes[row.argmax()]],
        [float(row.max())],
        [known.classes[known.labels[chosen[0]]]],
        artifacts / "plots" / "prediction.png",
    )
