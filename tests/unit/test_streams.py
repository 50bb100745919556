"""Standard streams that are closed, or that nobody reads any more."""

import io
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from gluonexp.base import streams, text
from gluonexp.base.streams import lasting

CLOSED = """
import os, subprocess, sys
import gluonexp

print("nobody sees this", flush=True)
print("nor this", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    child = subprocess.run([sys.executable, "-c", "print(1, flush=True)"])
    file.write(f"{file.fileno() > 2} {child.returncode}")
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path, closed):
    command = [sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "True 0"


@pytest.fixture(params=[True, False])
def printing(request, monkeypatch):
    """Let standard output lead to a file descriptor, buffered or not."""

    def printing(descriptor):
        raw = io.FileIO(descriptor, "w")
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw) if request.param else raw, write_through=not request.param
        )
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return printing


def _unread():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_reader_that_has_gone_is_seen(printing):
    reader, writer = os.pipe()
    printing(writer)
    assert not streams.unread()
    os.close(reader)
    assert streams.unread()


@pytest.mark.parametrize(
    "full", [_unread, lambda: os.open("/dev/full", os.O_WRONLY)], ids=["pipe", "disk"]
)
def test_what_cannot_be_printed_is_dropped(printing, full):
    stream = printing(full())
    with lasting():
        for _ in range(3):
            print("x" * 10_000, flush=True)
        print("what is left at the end")
    assert sys.stdout is stream
    with pytest.raises(OSError):
        print("again as it was", flush=True)
    with suppress(OSError):  # it tries once more where it is buffered
        stream.close()


def test_what_can_be_printed_is_and_waits_for_a_slow_reader(printing, capfd):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = printing(writer)
    print("before,", end=" ")
    got = []
    with open(reader, encoding="utf-8") as lines:
        thread = threading.Thread(target=lambda: got.append(lines.read()))
        with lasting():
            thread.start()
            for _ in range(20):
                print("x" * 9_999)
        stream.close()
        thread.join()
    assert got == ["before, " + ("x" * 9_999 + "\n") * 20]


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_has_no_characters_for_is_escaped(monkeypatch, tmp_path, charset):
    name = os.fsdecode(b"caf\xe9 ") + "猫"
    with (tmp_path / "out").open("w", encoding=charset) as out:
        monkeypatch.setattr(sys, "stdout", out)
        with lasting():
            print(name)
        streams.show_all()
        print(name)
    cat = "猫" if charset == "utf-8" else "\\u732b"
    assert (tmp_path / "out").read_text(encoding=charset) == f"caf\\udce9 {cat}\n" * 2


def test_a_name_that_cannot_be_written_is_told():
    with pytest.raises(UnicodeEncodeError) as caught:
        f"a folder {os.fsdecode(b'caf' + bytes([233]))} of images".encode()
    assert text.not_utf8(caught.value).startswith("caf\\udce9: this name is not UTF-8")
    with pytest.raises(UnicodeEncodeError) as caught:
        "é".encode("ascii")
    assert text.not_utf8(caught.value) is None  # is something else


def test_streams_of_others_stay_as_they_are(monkeypatch):
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    with lasting():
        assert sys.stdout is notebook
