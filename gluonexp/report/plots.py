"""The pictures of a run: every function takes arrays and writes one PNG file.

Right and wrong are marked by a sign as well as by a colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from gluonexp.data.types import Rows
from gluonexp.report.drawing import BLUE, GRAY, GREEN, INK, ORANGE, PALE, RED, Drawing, short

WIDTH = 10.0  # inches, of every grid of pictures
MOST_CLASSES = 100  # that are named in a picture: more are neither legible nor soon drawn


def sample_grid(
    images: Rows,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Draw the first few images of every class, side by side under the name of the class.

    Of more than `MOST_CLASSES` classes the first are drawn, and the title says so.

    Parameters
    ----------
    images
        (N, H, W, C) uint8, C 1 or 3.
    labels
        (N,) indices into `classes`.
    """
    columns, each = next(
        (columns, each)
        for most, columns, each in ((5, 1, 12), (24, 2, 8), (60, 3, 6), (np.inf, 4, 6))
        if len(classes) <= most
    )
    if len(classes) > MOST_CLASSES:
        title += f" (the first {MOST_CLASSES} of {len(classes):,} classes are shown)"
        classes = classes[:MOST_CLASSES]
    rows = -(-len(classes) // columns)
    gap, name_height = Drawing.MARGIN, 0.27
    width = (WIDTH - gap * (columns + 1)) / columns
    height = width / each * images.shape[1] / images.shape[2]
    drawing = Drawing(WIDTH, rows * (height + name_height + 0.08) + 0.15, title)
    axes = drawing.sheet()
    for index, name in enumerate(classes):
        row, column = divmod(index, columns)
        left = gap + column * (width + gap)
        bottom = drawing.top - (row + 1) * (height + name_height + 0.08) + 0.08
        chosen = images[np.flatnonzero(labels == index)[:each]]
        strip = _strip(chosen, each, images.shape[1:])
        _show(axes, strip, left, bottom, width, height)
        drawing.write(left, bottom + height + 0.06, name, width, 10, va="bottom")
    drawing.save(path)


def curves(history: pd.DataFrame | Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draw what `drawn_curves` does into a file."""
    drawn_curves(history, title).save(path)


def drawn_curves(history: pd.DataFrame | Sequence[Mapping[str, float]], title: str) -> Drawing:
    """Draw loss and accuracy by epoch, and the learning rate where it changes.

    Parameters
    ----------
    history
        One row an epoch: ``epoch``, ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc``,
        ``optim/lr``; what is missing is left out. The lowest loss and the highest accuracy are
        marked, of the validation split where there is one.
    """
    table = pd.DataFrame(history).apply(pd.to_numeric, errors="coerce")
    table = table.replace([np.inf, -np.inf], np.nan)
    panels = [("Loss", "loss", "min"), ("Accuracy", "acc", "max")]
    if "optim/lr" in table and table["optim/lr"].nunique() > 1:
        panels.append(("Learning rate", "lr", ""))
    drawing = Drawing(4.6 * len(panels) + 0.4, 3.9, title)
    for index, (name, key, best) in enumerate(panels):
        axes = drawing.panel(0.75 + 4.6 * index, 0.65, 3.75, drawing.top - 0.95)
        _draw_curves(axes, table, key, best)
        axes.set_title(name, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("epoch", color=GRAY)
        axes.margins(x=0.04, y=0.08)
        drawing.mark_epochs(axes, table["epoch"])
        drawing.mark_empty(axes)
    return drawing


def confusion_matrix(
    labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str], path: Path
) -> None:
    """Draw how often each class was taken for each other one.

    Colours are shares of the true class (a row), numbers are counts where they fit. Of more than
    `MOST_CLASSES` classes the pairs that were taken for each other most often are named below.

    Parameters
    ----------
    labels, predicted
        (N,) indices into `classes`.
    """
    truth, answer = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    accuracy = f"accuracy {np.mean(truth == answer):.4f} on {len(truth):,} images"
    draw = _confusion_of_few if len(classes) <= MOST_CLASSES else _confusion_of_many
    draw(truth, answer, classes, f"Confusion matrix: {accuracy}").save(path)


def _confusion_of_few(
    truth: NDArray[np.int64], answer: NDArray[np.int64], classes: Sequence[str], title: str
) -> Drawing:
    size = len(classes)
    counts = np.bincount(truth * size + answer, minlength=size * size).reshape(size, size)
    cell = float(np.clip(9.0 / size, 0.12, 0.75))
    font = float(np.clip(cell * 30, 5.5, 10))
    names = [short(name, 22) for name in classes]
    margin = 0.55 + max(map(len, names)) * font * 0.0085  # inches, for the names
    side = max(cell * size, 2.4)
    drawing = Drawing(margin + side + 1.3, margin + side, title)
    axes, shares = _shares(drawing, counts, margin, side)
    axes.set_xticks(range(size), names, rotation=90, fontsize=font)
    axes.set_yticks(range(size), names, fontsize=font)
    axes.set_xlabel("predicted", color=GRAY)
    axes.set_ylabel("true", color=GRAY)
    axes.tick_params(length=0, colors=INK)
    edges, ends = np.arange(size + 1) - 0.5, (-0.5, size - 0.5)
    axes.vlines(edges, *ends, colors="white", linewidth=0.6)
    axes.hlines(edges, *ends, colors="white", linewidth=0.6)
    digits = len(str(counts.max()))
    count_font = min(font, cell * 72 / (0.75 * digits + 0.8))
    if count_font >= 5 and np.count_nonzero(counts) <= 2500:  # which take 2 s
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.35 else INK
            text = str(counts[row, column])
            axes.text(
                column, row, text, ha="center", va="center", color=colour, fontsize=count_font
            )
    return drawing


def _confusion_of_many(
    truth: NDArray[np.int64], answer: NDArray[np.int64], classes: Sequence[str], title: str
) -> Drawing:
    size, margin, side, row = len(classes), 0.5, 8.2, 0.23
    pairs, times = np.unique(truth * size + answer, return_counts=True)
    true, taken = np.divmod(pairs, size)
    # Neighbours share a cell where there are more of them than pixels.
    cells = min(size, 1000)
    counts = np.zeros((cells, cells), np.int64)
    np.add.at(counts, (true * cells // size, taken * cells // size), times)
    wrong = np.flatnonzero(true != taken)
    worst = wrong[np.argsort(-times[wrong], kind="stable")][:20]
    drawing = Drawing(margin + side + 1.3, side + margin + row * (len(worst) + 1) + 0.4, title)
    axes, _ = _shares(drawing, counts, margin, side)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"predicted ({size:,} classes, in their order)", color=GRAY)
    axes.set_ylabel("true", color=GRAY)
    columns = ((margin, 3.6), (margin + 3.8, 3.6), (margin + 7.6, 1.6))
    totals = np.bincount(truth, minlength=size)
    rows = [("true", "most often taken for", "images")] if len(worst) else []
    rows += [
        (classes[true[at]], classes[taken[at]], f"{times[at]:,} of {totals[true[at]]:,}")
        for at in worst
    ]
    for index, texts in enumerate(rows):
        bottom = drawing.top - side - margin - 0.2 - row * index
        for text, (left, room) in zip(texts, columns, strict=True):
            drawing.write(left, bottom, text, room, 9, INK if index else GRAY, va="bottom")
    return drawing


def _shares(
    drawing: Drawing, counts: NDArray[np.int64], left: float, side: float
) -> tuple[Axes, NDArray[np.float64]]:
    """Draw counts as shares of their rows, and the scale; return where, and the shares."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    axes = drawing.place(left, drawing.top - side, side, side)
    axes.set_facecolor(PALE)  # a class without samples
    axes.spines[:].set_visible(False)
    mesh = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    right = drawing.place(left + side + 0.2, drawing.top - side, 0.16, side)
    bar = drawing.colorbar(mesh, cax=right)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "10 %", "25 %", "50 %", "75 %", "100 %"])
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=GRAY)
    bar.set_label("share of the true class", color=GRAY, fontsize=9)
    bar.outline.set_visible(False)
    return axes, shares


def worst_mistakes(
    images: Rows,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    probability: ArrayLike,
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw the wrong predictions the network was surest of; without any, its least sure ones.

    Parameters
    ----------
    images
        (N, H, W, C) uint8.
    labels, predicted
        (N,) indices into `classes`.
    probability
        (N,) of the predicted class.
    """
    sureness = np.asarray(probability, np.float64)
    wrong = np.flatnonzero(labels != predicted)
    if len(wrong):
        shown = wrong[np.argsort(-sureness[wrong], kind="stable")][:24]
        title = f"The {len(shown)} surest of {len(wrong):,} mistakes in {len(labels):,} images"
    else:
        shown = np.argsort(sureness, kind="stable")[:12]
        title = f"No mistakes in {len(labels):,} images; the least sure predictions"
    _captioned(
        list(images[shown]),
        [classes[answer] for answer in predicted[shown]],
        sureness[shown],
        [classes[label] for label in labels[shown]],
        path,
        title,
    )


def prediction(
    images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    predicted_names: Sequence[str],
    probabilities: Sequence[float],
    true_names: Sequence[str | None],
    path: Path,
    file_names: Sequence[str] | None = None,
) -> None:
    """Draw images with what they were taken for and, where it is known, what they are.

    Parameters
    ----------
    images
        N images (H, W, C) uint8, which need not be of one size; the first 60 are drawn.
    predicted_names, probabilities, true_names
        One entry an image; None for an image whose true class is not known.
    file_names
        One an image: stands where the true class would, if that is not known.
    """
    most = 60
    known = [
        guess == true
        for guess, true in zip(predicted_names, true_names, strict=True)
        if true is not None
    ]
    title = f"Predictions: {sum(known)} of {len(known)} right" if known else "Predictions"
    if len(images) > most:
        title += f" (the first {most} of {len(images):,} are shown)"
    shown = list(images[:most])
    _captioned(shown, predicted_names, probabilities, true_names, path, title, file_names)


def _draw_curves(axes: Axes, table: pd.DataFrame, key: str, best: str) -> None:
    """Draw what the table has of `key`, and mark the best epoch, a ``min`` or a ``max``."""
    epochs = table["epoch"].to_numpy(np.float64)
    marker = "o" if len(table) <= 30 else ""
    lines = [("train", f"train/{key}", BLUE), ("validation", f"val/{key}", ORANGE)]
    drawn = None
    for label, column, colour in lines if best else [("", f"optim/{key}", GRAY)]:
        if column in table and table[column].notna().any():
            values = table[column].to_numpy(np.float64)
            axes.plot(epochs, values, marker=marker, color=colour, label=label, markersize=4)
            drawn = values, colour
    if best and drawn:
        values, colour = drawn
        at = int(np.nanargmin(values) if best == "min" else np.nanargmax(values))
        axes.axvline(epochs[at], color=PALE, linewidth=1.5, zorder=0)
        axes.plot(epochs[at], values[at], "*", color=colour, ms=14, markeredgecolor="white")
        note = f"best {values[at]:#.4g} at epoch {epochs[at]:.0f}"
        axes.plot([], [], "*", color=colour, markersize=9, label=note)
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _captioned(
    images: Sequence[NDArray[np.uint8]],
    predicted: Sequence[str],
    probabilities: Iterable[float],
    true: Sequence[str | None],
    path: Path,
    title: str,
    file_names: Sequence[str] | None = None,
) -> None:
    """Draw images six in a row, each over its predicted and its true class (or its file)."""
    columns = min(6, max(1, len(images)))
    rows = -(-len(images) // columns)
    gap, text_height = Drawing.MARGIN, 0.52 if any(true) or file_names else 0.32
    side = min((WIDTH - gap * (columns + 1)) / columns, 2.4)
    width = columns * (side + gap) + gap
    drawing = Drawing(width, rows * (side + text_height) + 0.1, title)
    axes = drawing.sheet()
    below = {"ha": "center", "va": "top"}
    files = file_names or [""] * len(images)
    entries = zip(images, predicted, probabilities, true, files, strict=False)
    for index, (image, name, probability, truth, file) in enumerate(entries):
        row, column = divmod(index, columns)
        left, bottom = gap + column * (side + gap), drawing.top - row * (side + text_height) - side
        frame = _show(axes, image, left, bottom, side, side)
        right = None if truth is None else truth == name
        sign, colour = {None: ("", INK), True: ("✓ ", GREEN), False: ("✗ ", RED)}[right]
        width = 1.0 if right is None else 2.0
        axes.add_patch(Rectangle(*frame, fill=False, edgecolor=colour, linewidth=width))
        answer, middle = (f"{sign}{name}", f" {probability:.1%}"), left + side / 2
        drawing.write(middle, bottom - 0.07, answer, side, 9, colour, weight="bold", **below)
        second = file if truth is None else f"true: {truth}"
        if second:
            drawing.write(middle, bottom - 0.25, second, side, 9, GRAY, **below)
    drawing.save(path)


def _show(
    axes: Axes, image: NDArray[np.uint8], left: float, bottom: float, width: float, height: float
) -> tuple[tuple[float, float], float, float]:
    """Show one image (H, W, C), each pixel as it is, as large as it fits into the middle.

    Return where it is: its corner, its width and its height (inches).
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    across, up = image.shape[1] * scale, image.shape[0] * scale
    left, bottom = left + (width - across) / 2, bottom + (height - up) / 2
    axes.imshow(
        image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image,
        extent=(left, left + across, bottom, bottom + up),
        aspect="auto",
        cmap="gray",
        vmin=0,
        vmax=255,
        # It keeps pixels square when they are enlarged, and averages them otherwise.
        interpolation="antialiased",
    )
    return (left, bottom), across, up


def _strip(images: NDArray[np.uint8], each: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return up to `each` images (N, H, W, C) as one row, white between and after them."""
    height, width, channels = shape
    gap = max(1, round(width * 0.06))
    strip = np.full((height, each * (width + gap) - gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        left = index * (width + gap)
        strip[:, left : left + width] = image
    return strip
