"""The pictures exist, are legible in size, and show what they were given."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from gluonexp.report import plots

GREEN, RED, STAR = (0, 158, 115), (213, 94, 0), (230, 159, 0)


@pytest.fixture(autouse=True)
def _full_size() -> Iterator[None]:
    with rc_context({"savefig.dpi": "figure"}):
        yield


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = load_digits()
    images = (data.images * 255 / 16).astype(np.uint8)[..., None]
    return images, data.target.astype(np.int64)


def pixels(path: Path) -> NDArray[np.uint8]:
    """Return the picture after checking that it is one, sharp and of a sane size."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.info["dpi"]) >= 120
        width, height = picture.size
        assert 200 <= width <= 3000
        assert 100 <= height <= 6000
        return np.asarray(picture.convert("RGB"))


def has(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (10, 3), (100, 3), (1000, 1)])
def test_sample_grid(tmp_path: Path, classes: int, channels: int) -> None:
    labels = np.arange(classes * 3, dtype=np.int64) % classes
    colour = np.array([200, 30, 90][:channels], np.uint8)
    images = np.broadcast_to(colour, (len(labels), 12, 16, channels))
    names = [f"class {index} " * (1 + 20 * (index % 2)) for index in range(classes)]
    plots.sample_grid(images, labels, names, tmp_path / "new" / "a.png", "A title")
    picture = pixels(tmp_path / "new" / "a.png")
    assert has(picture, (200, 30, 90) if channels == 3 else (200, 200, 200))


def test_sample_grid_without_some_class(
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    images, labels = digits
    names = [*"0123456789", "none of them"]
    plots.sample_grid(images, labels, names, tmp_path / "a.png", "Digits")
    assert has(pixels(tmp_path / "a.png"), (0, 0, 0))


def history(epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "train/loss": 1 / (epoch + 1),
            "train/acc": 1 - 0.5 / (epoch + 1),
            "val/loss": 1.2 / (epoch + 1),
            "val/acc": 0.9 - 0.5 / (epoch + 1),
            "optim/lr": 0.1 * 0.9**epoch,
        }
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_curves_mark_the_best_epoch(tmp_path: Path, epochs: int) -> None:
    plots.curves(history(epochs), tmp_path / "rows.png", "Curves")
    assert has(pixels(tmp_path / "rows.png"), STAR)
    # A table is drawn like its rows, and equal pictures are equal files.
    plots.curves(pd.DataFrame(history(epochs)), tmp_path / "table.png", "Curves")
    assert (tmp_path / "table.png").read_bytes() == (tmp_path / "rows.png").read_bytes()


def test_curves_of_a_run_that_diverged(tmp_path: Path) -> None:
    rows = history(6)
    for row in rows[2:]:
        row.update({"train/loss": math.nan, "val/loss": math.inf, "val/acc": math.nan})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.curves(rows, tmp_path / "some.png", "Diverged")
        nothing = [{"epoch": 0, "train/loss": math.nan, "train/acc": math.nan}]
        plots.curves(nothing, tmp_path / "none.png", "Diverged at once")
    assert has(pixels(tmp_path / "some.png"), STAR)
    assert not has(pixels(tmp_path / "none.png"), STAR)


def test_curves_without_validation(tmp_path: Path) -> None:
    rows = [{"epoch": row["epoch"], "train/loss": 1.0, "train/acc": 0.5} for row in history(3)]
    plots.curves(rows, tmp_path / "a.png", "Curves")
    assert not has(pixels(tmp_path / "a.png"), STAR)  # the best is marked in train's colour


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_confusion_matrix(tmp_path: Path, classes: int) -> None:
    labels = np.arange(classes * 2) % classes
    names = [f"a class with quite a long name, number {index}" for index in range(classes)]
    plots.confusion_matrix(labels, labels, names, tmp_path / "right.png")
    right = pixels(tmp_path / "right.png")
    wrong_labels = (labels + 1) % classes
    plots.confusion_matrix(labels, wrong_labels, names, tmp_path / "wrong.png")
    assert pixels(tmp_path / "wrong.png").shape == right.shape
    full = (8, 48, 107)  # the end of the scale: all of a row in one cell
    assert has(right, full)
    assert (pixels(tmp_path / "wrong.png") != right).any()


@pytest.mark.parametrize("classes", [101, 1000, 12_000])
def test_confusion_matrix_of_many_classes(tmp_path: Path, classes: int) -> None:
    """Without their names, but for those that were mistaken most often."""
    labels = np.arange(classes * 2) % classes
    names = [f"class {index}" for index in range(classes)]

    def drawn(predicted: NDArray[np.int64], names: list[str]) -> NDArray[np.uint8]:
        plots.confusion_matrix(labels, predicted, names, tmp_path / "a.png")
        return pixels(tmp_path / "a.png")

    right = drawn(labels, names)
    assert has(right, (8, 48, 107))  # the diagonal
    wrong = labels.copy()
    wrong[[3, 3 + classes]] = 7
    named = drawn(wrong, names)
    assert named.shape[0] > right.shape[0]
    others = [name if index in (3, 7) else "other" for index, name in enumerate(names)]
    assert np.array_equal(drawn(wrong, others), named)
    assert not np.array_equal(drawn(wrong, [*names[:7], "other", *names[8:]]), named)


def test_confusion_matrix_with_a_class_that_has_no_sample(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion_matrix([0, 0], [0, 1], ["a", "b", "c"], tmp_path / "a.png")
    assert has(pixels(tmp_path / "a.png"), (228, 228, 228))


def test_worst_mistakes_are_the_surest_ones(
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    images, labels = digits
    predicted = labels.copy()
    predicted[:40] = (labels[:40] + 1) % 10
    probability = np.linspace(0.9, 0.4, len(labels))
    plots.worst_mistakes(images, labels, predicted, probability, "0123456789", tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert has(picture, RED)
    assert not has(picture, GREEN)
    # Only the 24 surest are shown: what is less sure, or right, does not matter.
    changed = images.copy()
    changed[24:] = 0
    plots.worst_mistakes(changed, labels, predicted, probability, "0123456789", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    changed[23] = 0
    plots.worst_mistakes(changed, labels, predicted, probability, "0123456789", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "a.png").read_bytes()


def test_no_mistakes_is_a_picture_too(
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    images, labels = digits
    sure = np.ones(len(labels))
    plots.worst_mistakes(images, labels, labels, sure, "0123456789", tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert has(picture, GREEN)
    assert not has(picture, RED)


def test_predictions_say_right_wrong_or_unknown(tmp_path: Path) -> None:
    images = [np.full((size, size + 3, 3), 120, np.uint8) for size in (8, 300, 5)]
    for true, right, wrong in (("cat", True, False), ("dog", False, True), (None, False, False)):
        plots.prediction(images[:1], ["cat"], [0.98], [true], tmp_path / "one.png")
        picture = pixels(tmp_path / "one.png")
        assert (has(picture, GREEN), has(picture, RED)) == (right, wrong)
    plots.prediction(images, ["a", "b", "c"], [1, 0.5, 0.1], ["a", None, "x"], tmp_path / "3.png")
    picture = pixels(tmp_path / "3.png")
    assert has(picture, GREEN)
    assert has(picture, RED)


def test_a_file_is_named_where_its_class_is_not_known(tmp_path: Path) -> None:
    images = np.full((2, 8, 8, 3), 120, np.uint8)

    def drawn(true: list[str | None], files: list[str] | None) -> bytes:
        plots.prediction(images, ["cat"] * 2, [0.9] * 2, true, tmp_path / "a.png", files)
        pixels(tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    known: list[str | None] = ["cat", "dog"]
    assert drawn(known, ["1.png", "2.png"]) == drawn(known, None)
    unknown: list[str | None] = ["cat", None]
    assert drawn(unknown, ["1.png", "2.png"]) == drawn(unknown, ["x.png", "2.png"])
    assert drawn(unknown, ["1.png", "2.png"]) != drawn(unknown, ["1.png", "x.png"])
    # Of a long name the middle is left out: both ends count.
    name = f"first{'0' * 80}last.png"  # digits are equally wide
    short = drawn([None, None], [name, "b"])
    assert short == drawn([None, None], [f"{name[:40]}9{name[41:]}", "b"])
    assert short != drawn([None, None], [name.replace("first", "other"), "b"])
    assert short != drawn([None, None], [name.replace("last", "rest"), "b"])


def test_many_predictions_are_cut(tmp_path: Path) -> None:
    images = np.zeros((500, 4, 4, 1), np.uint8)
    names, sure = ["x"] * 500, [0.5] * 500
    plots.prediction(images, names, sure, names, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape[0] < 3500


@settings(max_examples=8)
@given(st.lists(st.text(max_size=60), min_size=2, max_size=4))
def test_any_name_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """Dollar signs (mathematics, for matplotlib), line breaks, letters the font has not."""
    path = tmp_path_factory.mktemp("names") / "a.png"
    images = np.zeros((len(names), 4, 4, 1), np.uint8)
    labels = np.arange(len(names), dtype=np.int64)
    sure = [0.5] * len(names)
    names[0] = f"${names[0]}^$ \\frac"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that are missing
        plots.sample_grid(images, labels, names, path, names[0])
        plots.confusion_matrix(labels, labels, names, path)
        plots.prediction(images, names, sure, names, path)
    pixels(path)
