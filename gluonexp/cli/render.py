"""Predictions and evaluations, for people and for programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from gluonexp.base.console import LEAST
from gluonexp.base.text import digits, listed, plain_console, tell
from gluonexp.inference.evaluate import Evaluation
from gluonexp.inference.predict import Prediction, Predictions
from gluonexp.verification.certificate import Certificate


def predictions(answers: Sequence[Prediction], top: int) -> None:
    """Print one row an image; with more than one class of each, one row a class below its name."""
    console = plain_console()
    if top > 1:
        _ranked(console, answers, top)
        return
    known = any(answer.true_name is not None for answer in answers)
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("predicted", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    if known:
        table.add_column("true", overflow="fold")
    for answer in answers:
        cells = [_title(answer), answer.name, f"{answer.probability:.4f}"]
        table.add_row(*cells, *([answer.true_name or ""] if known else []))
    console.print(table)


def _ranked(console: Console, answers: Sequence[Prediction], top: int) -> None:
    """Print the name of each image, and its `top` likeliest classes below."""
    ranked = [answer.top(top) for answer in answers]
    # As wide as the longest name, so that all probabilities are below each other.
    width = max(cell_len(name) for rows in ranked for name, _ in rows)
    for answer, rows in zip(answers, ranked, strict=True):
        true = "" if answer.true_name is None else f"  (true: {answer.true_name})"
        tell(console, f"{_title(answer)}{true}")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(justify="right", no_wrap=True, min_width=len(str(len(rows))) + 3)
        table.add_column(overflow="fold", width=max(1, min(width, max(LEAST, console.width) - 16)))
        table.add_column(justify="right", no_wrap=True)
        for rank, (name, probability) in enumerate(rows, 1):
            table.add_row(f"{rank}.", name, f"{probability:.4f}")
        console.print(table)


def _title(answer: Prediction) -> str:
    return "/".join(answer.path.parts[-2:])


def predictions_csv(found: Predictions, top: int | None, out: TextIO) -> None:
    """Write one row an image: its `top` likeliest classes; None: the probability of every class.

    What is true is empty where it is not known.
    """
    head = ["image", "true", "predicted", "probability"]
    if top is None:
        head += [f"probability.{name}" for name in found.classes]
    for rank in range(2, min(top or 0, len(found.classes)) + 1):
        head += [f"predicted.{rank}", f"probability.{rank}"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for answer in found.answers:
        row = [str(answer.path), answer.true_name, answer.name, answer.probability]
        if top is None:
            row += map(float, answer.probabilities)
        for name, probability in answer.top(top or 0)[1:]:
            row += [name, probability]
        writer.writerow(row)


def predictions_document(found: Predictions, top: int | None) -> dict[str, Any]:
    """Return the answers, and the files that could not be read.

    Each has the probabilities of its `top` likeliest classes, None: of every class, the likeliest
    first. What is true is None where it is not known.
    """
    answers = [
        {
            "image": answer.path,
            "true": answer.true_name,
            "predicted": answer.name,
            "probability": answer.probability,
            "probabilities": dict(answer.top(top or len(found.classes))),
        }
        for answer in found.answers
    ]
    return {"classes": found.classes, "predictions": answers, "unreadable": found.unreadable}


def evaluation(result: Evaluation, *, others: bool) -> None:
    """Print loss and accuracy, and one row a class that has images.

    Parameters
    ----------
    others
        Whether these may be other data than the model was trained on.
    """
    console = plain_console()
    which, count = f"{result.split} split", f"{result.images:,} of {result.total:,}"
    if result.images == result.total:
        which, count = "all", f"{result.total:,}"
    images = "image" if result.total == 1 else "images"
    tell(
        console,
        f"{result.data}, {which}: {count} {images} ({result.digest[:12]}), "
        f"runtime {result.runtime}",
    )
    tell(console, f"accuracy {result.accuracy:.4f}, loss {result.loss:.4f}")
    if result.metrics:
        said = (f"{name} {digits(value)}" for name, value in result.metrics.items())
        tell(console, ", ".join(said))
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "f1", "images"):
        table.add_column(heading, justify="right")
    for row in (row for row in result.classes if row.support):
        shares = (f"{share:.4f}" for share in (row.precision, row.recall, row.f1))
        table.add_row(row.name, *shares, f"{row.support:,}")
    console.print(table)
    notes = list(result.notes)
    if missing := [row.name for row in result.classes if not row.support]:
        notes.append(f"not listed, for want of images: {listed(missing)}")
    if others and result.images < result.total:
        notes.append(f"{count} {images}: the {which}; --split all scores every one")
    for note in notes:
        tell(console, f"  note: {note}")


def evaluation_csv(result: Evaluation, out: TextIO) -> None:
    """Write one row a class."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["class", "precision", "recall", "f1", "support"])
    writer.writerows(astuple(row) for row in result.classes)


def certificate(proved: Certificate) -> None:
    """Print what was proved of each runtime."""
    console = plain_console()
    head, *rows = proved.rows()
    table = Table(box=None, pad_edge=False)
    for heading in head:
        table.add_column(heading, justify="left" if heading == head[0] else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in proved.notes:
        tell(console, f"  note: {note}")
    tell(console, proved.sentence())


def certificate_document(proved: Certificate) -> dict[str, Any]:
    """Return what was proved, as certificate.json has it, and what people are told of it."""
    return {**proved.to_json(), "notes": proved.notes, "sentence": proved.sentence()}
