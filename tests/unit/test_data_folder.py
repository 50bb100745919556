"""Class folders of images, in both layouts, with everything people leave in them."""

import os

import numpy as np
import pytest
from PIL import Image

from gluonexp.base.errors import GluonexpError
from gluonexp.data import decoded, folder, memory
from gluonexp.data.folder import ImageFolder


def add(folder, *values, suffix="png"):
    """Write 4x4 images of one grey value each, named by their position."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, value in enumerate(values):
        Image.new("RGB", (4, 4), (value,) * 3).save(folder / f"{index:03}.{suffix}")


@pytest.fixture
def published(tmp_path):
    """Lay out train and test folders."""
    root = tmp_path / "pets"
    add(root / "train" / "dog", 1, 2)
    add(root / "train" / "cat", 3, 4, 5)
    add(root / "test" / "cat", 6)
    add(root / "test" / "dog", 7)
    return root


@pytest.fixture
def flat(tmp_path):
    """Lay out one folder to be split."""
    add(tmp_path / "cat", *range(10))
    add(tmp_path / "dog", *range(100, 120))
    return tmp_path


def values(split):
    images = np.asarray(split.images)
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_train_and_test_folders(published):
    source = ImageFolder(str(published), 4)
    spec = source.spec()
    assert (spec.height, spec.width, spec.channels) == (4, 4, 3)
    assert spec.classes == ("cat", "dog")
    samples = source.load()
    assert samples.train.images.shape == (5, 4, 4, 3)
    assert samples.train.images.dtype == np.uint8
    assert samples.train.labels.dtype == np.int64
    assert (values(samples.train), samples.train.labels.tolist()) == (
        [3, 4, 5, 1, 2],
        [0, 0, 0, 1, 1],
    )
    assert (values(samples.test), samples.test.labels.tolist()) == ([6, 7], [0, 1])
    assert samples.title == published.name
    assert samples.notes == ()


def test_one_folder_is_split_by_class_and_always_alike(flat):
    samples = ImageFolder(str(flat), 4).load()
    assert np.bincount(samples.train.labels).tolist() == [8, 16]
    assert np.bincount(samples.test.labels).tolist() == [2, 4]
    assert sorted(values(samples.train) + values(samples.test)) == [*range(10), *range(100, 120)]
    assert values(samples.train) == sorted(values(samples.train))
    again = ImageFolder(str(flat), 4).load()
    assert values(again.test) == values(samples.test)


def test_no_test_fraction_means_no_test_split(flat):
    samples = ImageFolder(str(flat), 4, test_fraction=0).load()
    assert samples.test is None
    assert len(samples.train) == 30


def test_size_channels_title_and_note(published):
    note = "Lossy."
    source = ImageFolder(str(published), 8, channels=1, title="Pets", note=note)
    samples = source.load()
    assert samples.train.images.shape == (5, 8, 8, 1)
    assert (samples.title, samples.notes) == ("Pets", (note,))


def test_a_folder_under_the_root(published):
    source = ImageFolder(str(published.parent), 4, folder=published.name)
    assert len(source.load().train) == 5


def test_a_user_may_write_tilde(published, monkeypatch):
    monkeypatch.setenv("HOME", str(published.parent))
    assert ImageFolder(f"~/{published.name}", 4).spec().classes == ("cat", "dog")


def test_a_class_whose_name_is_not_utf8_is_refused(flat):
    (flat / os.fsdecode(b"caf\xe9")).mkdir()
    told = r"caf\\udce9: the name of this class is not UTF-8.* rename the folder$"
    with pytest.raises(GluonexpError, match=told):
        ImageFolder(str(flat), size=8).spec()


def test_a_class_whose_name_commands_a_terminal_is_refused(flat):
    (flat / "a\nb").mkdir()
    with pytest.raises(GluonexpError, match=r"class folder 'a\\nb' .* rename the folder$"):
        ImageFolder(str(flat), size=8).spec()


def test_a_broken_file_is_fatal_and_named(published):
    (published / "train" / "cat" / "001.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(GluonexpError, match=r"cat/001\.png.*on_error=skip"):
        ImageFolder(str(published), 4).load()


def test_broken_files_are_skipped_and_counted(published):
    (published / "train" / "cat" / "001.png").write_bytes(b"\x89PNG broken")
    (published / "test" / "cat" / "extra.jpg").write_bytes(b"")
    samples = ImageFolder(str(published), 4, on_error="skip").load()
    assert (values(samples.train), samples.train.labels.tolist()) == ([3, 5, 1, 2], [0, 0, 1, 1])
    assert values(samples.test) == [6, 7]
    train, test = samples.notes
    assert train.startswith("train: 1 of 5 images cannot be read and are left out (")
    assert "cat/001.png" in train
    assert test.startswith("test: 1 of 3 images")


def test_a_broken_file_does_not_move_others_between_the_splits(flat):
    before = ImageFolder(str(flat), 4).load()
    (flat / "cat" / f"{values(before.train)[0]:03}.png").write_bytes(b"")
    after = ImageFolder(str(flat), 4, on_error="skip").load()
    assert values(after.train) == values(before.train)[1:]
    assert values(after.test) == values(before.test)


def test_a_class_with_broken_files_only_is_refused(published):
    for path in (published / "train" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(GluonexpError, match="not one train image of class dog"):
        ImageFolder(str(published), 4, on_error="skip").load()


def test_hidden_files_are_silent_and_others_counted(published):
    cat = published / "train" / "cat"
    (cat / ".DS_Store").write_bytes(b"")
    (cat / "._000.png").write_bytes(b"")
    (published / "train" / ".ipynb_checkpoints").mkdir()
    (published / "train" / "labels.csv").write_text("a file beside the class folders")
    assert ImageFolder(str(published), 4).load().notes == ()
    (cat / "README.txt").write_text("")
    (cat / "scan.tif").write_bytes(b"")
    (cat / "more.png").mkdir()
    add(cat, 9, suffix="PNG")
    samples = ImageFolder(str(published), 4).load()
    assert values(samples.train) == [9, 3, 4, 5, 1, 2]  # "000.PNG" sorts before "000.png"
    assert samples.notes == (
        "train: 3 entries are not JPEG, PNG, WebP or BMP files and are left out "
        "(cat/README.txt, cat/more.png, cat/scan.tif).",
    )


def test_links_that_lead_nowhere_are_passed_over(published):
    cat = published / "train" / "cat"
    (cat / "loop.png").symlink_to(cat / "loop.png")
    (cat / "gone.png").symlink_to(published / "nowhere.png")
    for split in ("train", "test"):
        (published / split / "eel").symlink_to(published / split / "eel")
        (published / split / "fox").symlink_to(published / "nowhere")
    source = ImageFolder(str(published), 4)
    assert source.spec().classes == ("cat", "dog")
    assert source.load().notes == (
        "train: 2 entries are not JPEG, PNG, WebP or BMP files and are left out "
        "(cat/gone.png, cat/loop.png).",
    )


def test_images_that_do_not_fit_into_memory_are_refused_unread(published):
    (published / "train" / "cat" / "000.png").write_bytes(b"never decoded")
    (published / "train" / "cat" / "notes.txt").write_bytes(b"not counted")
    said = r"^7 images of 1000000x1000000x3 take 19,557\.8 GiB of memory, where .* dataset\.resize"
    with pytest.raises(GluonexpError, match=said):
        ImageFolder(str(published), 1_000_000).spec()


def test_a_file_of_too_many_pixels_names_the_setting(published):
    said = r"its 16 pixels are more than 15, .*dataset\.source\.max_pixels=N.*on_error=skip"
    with pytest.raises(GluonexpError, match=said):
        ImageFolder(str(published), 4, max_pixels=15).load()


def test_a_class_without_images_is_refused_before_anything_is_decoded(published):
    (published / "train" / "eel").mkdir()
    (published / "test" / "eel").mkdir()
    (published / "train" / "cat" / "001.png").write_bytes(b"broken too")
    source = ImageFolder(str(published), 4)
    assert source.spec().classes == ("cat", "dog", "eel")
    with pytest.raises(GluonexpError, match=r"train/eel holds no JPEG"):
        source.load()


def test_train_and_test_must_have_the_same_classes(published):
    add(published / "train" / "eel", 1)
    add(published / "test" / "fox", 1)
    with pytest.raises(GluonexpError, match=r"only in train: eel; only in test: fox"):
        ImageFolder(str(published), 4).spec()


def test_train_without_test_says_what_to_do(tmp_path):
    add(tmp_path / "train" / "cat", 1)
    add(tmp_path / "train" / "dog", 1)
    with pytest.raises(GluonexpError, match=r"train/ but no test/"):
        ImageFolder(str(tmp_path), 4).spec()
    assert ImageFolder(str(tmp_path / "train"), 4).spec().classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path):
    add(tmp_path / "train", 1, 2)
    add(tmp_path / "tram", 3, 4)
    assert ImageFolder(str(tmp_path), 4).spec().classes == ("train", "tram")


def test_one_level_too_high_says_so(published):
    with pytest.raises(GluonexpError, match=rf"too few class folders \({published.name}\)"):
        ImageFolder(str(published.parent), 4).spec()


def test_a_test_split_of_nothing_names_the_setting(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{index}.png")
    told = r"^dataset\.source\.test_fraction=0\.2 takes none .*: use 0\.25 or more, or 0"
    with pytest.raises(GluonexpError, match=told):
        ImageFolder(str(tmp_path), size=4, channels=3).load()


def test_a_missing_folder_names_the_setting(tmp_path):
    with pytest.raises(GluonexpError, match=r"no folder .*nowhere.*dataset\.root"):
        ImageFolder(str(tmp_path / "nowhere"), 4).spec()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": None}, r"dataset\.root is not set"),
        ({"root": ""}, r"dataset\.root is not set"),
        ({"size": None}, r"dataset\.resize .* got null"),
        ({"size": 0}, r"dataset\.resize .* got 0"),
        ({"channels": 2}, r"dataset\.channels must be 1 or 3"),
        ({"channels": None}, r"dataset\.channels must be 1 or 3.* got null"),
        ({"max_pixels": 0}, r"dataset\.source\.max_pixels must be at least 1"),
        ({"on_error": "ignore"}, r"on_error must be fail or skip"),
        ({"cache": False}, r"cache must be auto, on or off \(in quotes in a file\), got False"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(published, arguments, message):
    with pytest.raises(GluonexpError, match=message):
        ImageFolder(**{"root": str(published), "size": 4, **arguments}).spec()


def test_a_test_fraction_out_of_range_is_refused(flat):
    with pytest.raises(GluonexpError, match=r"\[0, 1\)"):
        ImageFolder(str(flat), 4, test_fraction=1).load()


def test_a_validation_folder_is_not_used_and_that_is_said(published):
    before = ImageFolder(str(published), size=8).load()
    add(published / "valid" / "cat", 10)
    after = ImageFolder(str(published), size=8).load()
    assert len(after.train) == len(before.train)
    assert before.notes == ()
    assert after.notes == ("valid/ is not used: dataset.val_fraction carves from train/",)


@pytest.fixture
def keeping(published, tmp_path, monkeypatch):
    """Return a source that keeps even a few images, and what asks whether it decoded any."""
    monkeypatch.setattr(folder, "KEPT_FROM", 1)
    opened = []
    one = decoded.Decoding.one
    monkeypatch.setattr(
        decoded.Decoding, "one", lambda how, path: [opened.append(path), one(how, path)][1]
    )

    def load(root=published, **arguments):
        opened.clear()
        given = {"size": 4, "cache_folder": str(tmp_path / "arrays"), **arguments}
        return ImageFolder(str(root), **given).load(), len(opened)

    return load


def test_images_are_decoded_once(keeping, published, tmp_path, monkeypatch):
    first, opened = keeping()
    again, opened_again = keeping()
    assert (opened, opened_again) == (7, 0)
    for samples in (first, again):
        assert values(samples.train) == [3, 4, 5, 1, 2] and values(samples.test) == [6, 7]
        assert not samples.train.images.flags.writeable  # a map of the file
    moved = published.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    assert keeping(moved)[1] == keeping(".")[1] == 0
    kept = sorted(path.name for path in (tmp_path / "arrays").iterdir() if path.name[0] != ".")
    assert len(kept) == 2 and kept[0].startswith("images-")


def touch(folder):
    os.utime(folder / "000.png", (1, 1))


def add_one(folder):
    add(folder, 3, 4, 5, 6)


def rename(folder):
    (folder / "000.png").rename(folder / "0.png")


def grow(folder):
    path = folder / "000.png"
    times = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(times, times))


@pytest.mark.parametrize("change", [touch, add_one, rename, grow], ids=lambda one: one.__name__)
def test_a_changed_file_is_decoded_anew_with_its_split(keeping, published, change):
    keeping()
    change(published / "train" / "cat")
    samples, opened = keeping()
    assert opened == len(samples.train) and len(samples.test) == 2


@pytest.mark.parametrize(
    "other", [{"size": 5}, {"channels": 1}, {"max_pixels": 10**6}, {"on_error": "skip"}], ids=str
)
def test_another_decoding_is_kept_apart(keeping, other):
    keeping()
    assert keeping(**other)[1] == 7
    assert keeping()[1] == keeping(**other)[1] == 0


def test_which_files_were_broken_is_kept_too(keeping, published):
    (published / "train" / "cat" / "001.png").write_bytes(b"\x89PNG broken")
    first, opened = keeping(on_error="skip")
    again, opened_again = keeping(on_error="skip")
    assert (opened, opened_again) == (7, 0)
    assert values(first.train) == values(again.train) == [3, 5, 1, 2]
    assert first.notes == again.notes and "1 of 5 images" in first.notes[0]
    assert first.train.images.array is not None  # chosen of the map, not copied
    with pytest.raises(GluonexpError, match=r"cat/001\.png.*on_error=skip"):
        keeping()


def test_without_a_cache_images_are_decoded_each_time(keeping, tmp_path):
    assert [keeping(cache="off")[1] for _ in range(2)] == [7, 7]
    assert not (tmp_path / "arrays").exists()


def test_where_nothing_can_be_kept_it_is_said_once_and_goes_on(keeping, tmp_path, capsys):
    (tmp_path / "arrays").touch()
    samples, opened = keeping()
    assert opened == 7 and values(samples.test) == [6, 7]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is no folder" in said and "into memory" in said
    assert keeping(cache_gb=1e-7, cache_folder=str(tmp_path / "small"))[1] == 7
    assert "features.budget_gb allows 100 bytes" in capsys.readouterr().err


def test_images_that_are_kept_may_be_more_than_memory(keeping, monkeypatch):
    monkeypatch.setattr(memory.memory, "available", lambda: 100)
    samples, _ = keeping()
    assert values(samples.train) == [3, 4, 5, 1, 2]
    with pytest.raises(GluonexpError, match="7 images of 4x4x3 take"):
        keeping(cache="off")
    with pytest.raises(GluonexpError, match="7 images of 4x4x3 take"):
        keeping(cache_gb=1e-7)
