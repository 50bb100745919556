"""Files that appear whole or not at all; locks between processes; names listed in messages."""

import hashlib
import io
import os
from pathlib import Path

import filelock
import pytest

from gluonexp.base import files
from gluonexp.base.text import listed


def test_a_digest_is_that_of_the_whole_file(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert files.digest(io.BytesIO(content), "sha1") == hashlib.sha1(content).hexdigest()


def test_a_draft_becomes_the_file_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with files.draft(target) as draft:
        draft.write_text("after")
        assert (draft.name, target.read_text()) == ("a.txt", "before")
    assert target.read_text() == "after"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_draft_of_a_folder(tmp_path):
    with files.draft(tmp_path / "export") as draft:
        draft.mkdir()
        (draft / "a").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "a"]


def test_what_is_written_is_on_the_disk_before_its_name_and_its_name_too(
    tmp_path, monkeypatch, really_sync
):
    monkeypatch.setattr(files, "_sync", really_sync)
    (tmp_path / "export").mkdir()
    seen, sync, replace = [], os.fsync, Path.replace

    def synced(descriptor):
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def renamed(source, target):
        seen.append("renamed")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    files.write_text(tmp_path / "a.txt", "text")
    assert seen == ["a.txt", "renamed", tmp_path.name]
    seen.clear()
    with files.draft(tmp_path / "export") as draft:
        (draft / "inside").mkdir(parents=True)
        (draft / "inside" / "b").touch()
    assert sorted(seen[:3]) == ["b", "export", "inside"]
    assert seen[3:] == ["renamed", tmp_path.name]


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError), files.draft(target) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("target", [Path("store.db"), "http://server a model"])
def test_a_lock_is_had_by_one_at_a_time(tmp_path, monkeypatch, target):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with files.lock(target), pytest.raises(filelock.Timeout), files.lock(target, timeout=0):
        pass
    with files.lock(target, timeout=0):
        assert len(os.listdir(tmp_path)) <= 1


def test_who_waits_for_a_lock_says_so_only_if_it_is_taken(tmp_path, capsys):
    with files.held(files.lock(tmp_path / "a"), "works on a"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4 and 2 more")],
)
def test_the_first_five_are_named(count, said):
    assert listed(range(count)) == said


def _killed_within(folder):
    """Let a process die that was writing a draft in `folder`."""
    pid = os.fork()
    if not pid:
        with files.temporary(folder) as draft:
            (draft / "half").write_text("written")
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_draft_of_a_killed_process_goes_when_its_folder_is_used_again(tmp_path):
    (tmp_path / ".new-of-mine").mkdir()
    _killed_within(tmp_path)
    with files.temporary(tmp_path) as draft:
        assert sorted(tmp_path.iterdir()) == sorted([draft, tmp_path / ".new-of-mine"])
        files.sweep(tmp_path)
        assert draft.is_dir()  # its process lives
        files.write_text(tmp_path / "a.txt", "a")
        assert draft.is_dir()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".new-of-mine", "a.txt"]
