"""`gluonexp cache`: what is kept is listed, verified, removed."""

import os
import time

import pytest
from click.testing import CliRunner

from gluonexp.base.arrays import ArrayCache
from gluonexp.cli import main


@pytest.fixture
def store(tmp_path):
    return ArrayCache(tmp_path / "arrays", 1e9)


def kept(store, kind, title):
    def fill(array):
        array[:] = 1
        return {"title": title}

    return store.get(kind, {"of": title}, (1000,), "uint8", fill, "makes it")


@pytest.fixture
def invoke(store):
    def invoke(*arguments, typed=""):
        words = ["cache", *arguments, "--folder", str(store.folder)]
        return CliRunner().invoke(main, words, input=typed)

    return invoke


def test_what_is_kept_is_listed(store, invoke):
    held = kept(store, "features", "CIFAR-10 train by alexnet[0:13]")
    kept(store, "images", "photos [new] train")
    (kept(store, "images", "other").folder / "meta.json").unlink()
    result = invoke("list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    features = next(line for line in result.output.splitlines() if "alexnet[0:13]" in line)
    assert "1.1 kB" in features and features.split()[-1] == "now"
    assert "photos [new] train" in result.output and "damaged:" in result.output
    assert lines[f"{store.folder}:"].endswith("3 arrays, 3.4 kB of 20 GB (features.budget_gb=20)")
    assert held.made


def test_where_nothing_is_kept_nothing_is_made(store, invoke):
    assert "0 arrays" in invoke("list").output
    assert invoke("verify").exit_code == 0
    assert "nothing to remove" in invoke("clear").output
    assert not store.folder.exists()


def test_verify_finds_what_is_damaged(store, invoke):
    whole, damaged = kept(store, "features", "a").folder, kept(store, "features", "b").folder
    assert invoke("verify").output.endswith("2 arrays, 2.3 kB; none damaged\n")
    with (damaged / "array.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\0")
    result = invoke("verify")
    assert result.exit_code == 1
    assert f"{damaged} is damaged: array.npy is not what was written\n" in result.output
    assert invoke("verify", "--remove").exit_code == 1
    assert invoke("verify").exit_code == 0
    assert whole.exists() and not damaged.exists()


def test_clear_asks_and_removes_what_is_idle(store, invoke):
    held, folder = kept(store, "features", "a"), kept(store, "images", "b").folder
    asked = invoke("clear", typed="n\n")
    assert asked.exit_code == 1 and "remove 2 arrays from" in asked.output and folder.exists()
    done = invoke("clear", "--yes")
    assert done.output.endswith("1 array removed, 1.1 kB; in use, and left: 1\n")
    assert held.folder.exists() and not folder.exists()


def test_clear_by_kind_and_by_age(store, invoke):
    features, images = kept(store, "features", "a").folder, kept(store, "images", "b").folder
    old = kept(store, "images", "c").folder
    os.utime(old / "array.npy", (time.time() - 8 * 24 * 3600,) * 2)
    assert invoke("clear", "--unused", "7", "--yes").exit_code == 0
    assert (features.exists(), images.exists(), old.exists()) == (True, True, False)
    invoke("clear", "--kind", "images", typed="y\n")
    assert (features.exists(), images.exists()) == (True, False)
    assert "'feature' is not one of" in invoke("clear", "--kind", "feature").output


def test_what_a_killed_process_left_goes(store, invoke):
    name = kept(store, "features", "a").folder.name
    draft = store.folder / f".new-{name}-x"
    draft.mkdir()
    (draft / "array.npy").write_bytes(b"half")
    invoke("list")
    assert not draft.exists()
