"""Downloading from real servers on the loopback that behave well, badly, or not at all."""

import contextlib
import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from gluonexp.base.download import NoMirror, fetch, obstacles, shown
from gluonexp.base.errors import GluonexpError

NAME = "data.gz"
CONTENT = np.random.default_rng(0).integers(0, 256, size=300_000, dtype=np.uint8).tobytes()
HALF = len(CONTENT) // 2


class Mirror(ThreadingHTTPServer):
    """Serves `content` under NAME and writes down the Range header of every request."""

    daemon_threads = True

    def __init__(
        self,
        content=CONTENT,
        *,
        ranges=True,
        breaks_at=(),
        status=200,
        headers=(),
        length=True,
        stalls=False,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.ranges = ranges
        self.breaks_at = list(breaks_at)  # bytes sent before the connection breaks, by request
        self.status = status
        self.headers = dict(headers)
        self.length = length  # whether it says how long the content is
        self.stalls = threading.Event() if stalls else None  # half of the content, then nothing
        self.requests = []
        self.authorized = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers["Range"]
        server.requests.append(wanted)
        server.authorized.append(self.headers["Authorization"])
        if server.status != 200 or self.path != f"/{NAME}":
            self.send_error(server.status if server.status != 200 else 404)
            return
        body = server.content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = body[start:]
        if server.stalls:
            self.wfile.write(body[: HALF - start])
            server.stalls.wait()
            return
        self.wfile.write(body[: server.breaks_at.pop(0)] if server.breaks_at else body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """Let no proxy come between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GLUONEXP_OFFLINE", raising=False)


@pytest.fixture
def dead():
    """Return the address of a server that is not there: its port is held, but refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


def check(path):
    if hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(CONTENT).digest():
        raise GluonexpError("wrong digest")


def get(dest, *mirrors, **arguments):
    urls = [(mirror if isinstance(mirror, str) else mirror.url) + NAME for mirror in mirrors]
    needed = {NAME: "sha256 123"}
    return fetch(dest / NAME, urls, check=check, needed=needed, **arguments)


def left_over(dest):
    return [path.name for path in dest.iterdir() if path.name.endswith(".part")]


def interrupted(dest, mirror, content):
    """Leave the part file of a download from `mirror` that broke after `content`."""
    mirror.content, whole = content + b"never sent", mirror.content
    mirror.breaks_at = [len(content), 0]
    with pytest.raises(GluonexpError):
        get(dest, mirror)
    assert len(left_over(dest)) == 1
    mirror.content = whole
    mirror.requests.clear()


def test_a_file_is_downloaded_once(tmp_path):
    dest = tmp_path / "made" / "on the way"
    with Mirror() as mirror:
        path = get(dest, mirror, size=len(CONTENT))
        assert path == dest / NAME
        assert path.read_bytes() == CONTENT
        assert get(dest, mirror) == path
        assert mirror.requests == [None]
    assert left_over(dest) == []


def test_a_line_says_what_is_downloaded_where_there_is_no_terminal(tmp_path, capsys):
    with Mirror() as mirror:
        get(tmp_path, mirror)
        assert capsys.readouterr() == ("", f"downloading {mirror.url}{NAME} (0.3 MB)\n")


def test_a_broken_connection_is_resumed_at_once(tmp_path):
    with Mirror(breaks_at=[100_000, 50_000]) as mirror:
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_a_broken_download_is_resumed_by_the_next_call(tmp_path):
    with Mirror() as mirror:
        interrupted(tmp_path, mirror, CONTENT[:HALF])
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [f"bytes={HALF}-"]
    assert left_over(tmp_path) == []


def test_a_server_that_ignores_range_sends_it_all_again(tmp_path):
    with Mirror(ranges=False, breaks_at=[HALF]) as mirror:
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [None, f"bytes={HALF}-"]


def test_a_complete_part_needs_no_more_bytes(tmp_path):
    with Mirror() as mirror:
        interrupted(tmp_path, mirror, CONTENT)
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [f"bytes={len(CONTENT)}-"]  # answered by 416


@pytest.mark.parametrize("stale", [b"old" * 1000, CONTENT + b"too long"])
def test_a_part_of_a_file_that_has_changed_since_is_thrown_away(tmp_path, stale):
    with Mirror() as mirror:
        interrupted(tmp_path, mirror, stale)
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [f"bytes={len(stale)}-", None]
    assert left_over(tmp_path) == []


def test_a_part_of_one_mirror_is_not_continued_at_another(tmp_path):
    # Mirrors compress the same content differently.
    with Mirror(b"another compression" * 1000) as first, Mirror() as second:
        interrupted(tmp_path, first, b"another compression")
        assert get(tmp_path, second).read_bytes() == CONTENT
        assert second.requests == [None]


def test_a_corrupt_file_is_removed_and_the_next_mirror_tried(tmp_path):
    with Mirror(CONTENT[:-1] + b"!") as corrupt, Mirror() as good:
        assert get(tmp_path, corrupt, good).read_bytes() == CONTENT
        assert (corrupt.requests, good.requests) == ([None], [None])
    assert left_over(tmp_path) == []


def test_a_file_of_another_size_is_not_even_read(tmp_path):
    with Mirror(b"<html>sorry</html>") as page:
        with pytest.raises(GluonexpError, match="the file has 18 bytes, not 300000"):
            get(tmp_path, page, size=len(CONTENT))
        with Mirror() as good:
            assert get(tmp_path, page, good, size=len(CONTENT)).read_bytes() == CONTENT
    assert left_over(tmp_path) == []


def test_a_mirror_without_the_file_or_not_there_is_passed_over(tmp_path, dead):
    with Mirror(status=404) as empty, Mirror(status=503) as busy, Mirror() as good:
        assert get(tmp_path, dead, empty, busy, good).read_bytes() == CONTENT


def test_a_mislabelled_encoding_is_not_undone(tmp_path):
    with Mirror(headers={"Content-Encoding": "gzip"}) as mirror:
        assert get(tmp_path, mirror).read_bytes() == CONTENT


def test_when_all_fails_one_message_says_what_to_do(tmp_path, dead):
    with (
        Mirror(status=404) as empty,
        Mirror(b"corrupt") as corrupt,
        Mirror(breaks_at=[9, 0]) as cut,
    ):
        with pytest.raises(GluonexpError) as caught:
            get(tmp_path, dead, empty, corrupt, cut)
        assert str(caught.value).splitlines() == [
            "data.gz cannot be downloaded:",
            f"  {dead}data.gz: no connection",
            f"  {empty.url}data.gz: 404 Not Found",
            f"  {corrupt.url}data.gz: wrong digest",
            f"  {cut.url}data.gz: the connection broke",
            f"Without a download, put into {tmp_path}:",
            "  data.gz  (sha256 123)",
            "or set dataset.root (or GLUONEXP_DATA) to a folder that has them.",
        ]
    assert not (tmp_path / NAME).exists()
    assert len(left_over(tmp_path)) == 1  # of the mirror that may yet deliver the rest


def test_parallel_jobs_download_once(tmp_path):
    together = threading.Barrier(6)

    def job(_):
        together.wait()
        return get(tmp_path, mirror).read_bytes()

    with Mirror() as mirror, ThreadPoolExecutor(6) as pool:
        assert set(pool.map(job, range(6))) == {CONTENT}
        assert mirror.requests == [None]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GluonexpError, match=r"cannot download data\.gz to .*file/cache"):
        get(tmp_path / "file" / "cache", "http://127.0.0.1:9/")


def test_a_file_may_have_another_name_and_form_at_the_mirror(tmp_path):
    def unpack(part, target):
        target.write_bytes(part.read_bytes()[:HALF])
        part.unlink()

    with Mirror() as mirror:
        urls = [mirror.url + NAME]
        path = fetch(tmp_path / "mine", urls, check=check, needed={}, place=unpack)
        assert path.read_bytes() == CONTENT[:HALF]
        assert mirror.requests == [None]
    assert left_over(tmp_path) == []


def is_right(path):
    return path.exists() and path.read_bytes() == CONTENT


def test_a_file_is_replaced_only_by_a_checked_one(tmp_path, dead):
    path = tmp_path / NAME
    path.write_bytes(b"wrong")
    with pytest.raises(NoMirror) as caught:
        get(tmp_path, dead, ready=lambda: is_right(path))
    assert caught.value.failures == [f"  {dead}{NAME}: no connection"]
    assert path.read_bytes() == b"wrong"
    with Mirror() as mirror:
        assert get(tmp_path, mirror).read_bytes() == b"wrong"
        assert get(tmp_path, mirror, ready=lambda: is_right(path)).read_bytes() == CONTENT


def test_parallel_jobs_replace_a_wrong_file_once(tmp_path):
    (tmp_path / NAME).write_bytes(b"wrong")
    together = threading.Barrier(4)

    def job(_):
        answers = []

        def ready():
            answers.append(is_right(tmp_path / NAME))
            if len(answers) == 1:
                together.wait()  # all of them have seen the wrong file
            return answers[-1]

        return get(tmp_path, mirror, ready=ready).read_bytes()

    with Mirror() as mirror, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(job, range(4))) == {CONTENT}
        assert mirror.requests == [None]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("damaged"), KeyError),
        (OSError("damaged"), GluonexpError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "damaged"), UnicodeDecodeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_download_on_which_the_check_breaks_does_not_stay(tmp_path, error, told):
    def broken(path):
        raise error

    with Mirror() as mirror:
        with pytest.raises(told, match="damaged"):
            fetch(tmp_path / NAME, [mirror.url + NAME], check=broken, needed={})
        assert left_over(tmp_path) == []
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [None, None]


@pytest.mark.parametrize("told", [True, False])
def test_a_file_beyond_the_limit_is_not_taken_in(tmp_path, told):
    with Mirror(length=told) as mirror:
        assert get(tmp_path / "a", mirror, limit=len(CONTENT)).read_bytes() == CONTENT
        with pytest.raises(NoMirror) as caught:
            get(tmp_path / "b", mirror, limit=len(CONTENT) - 1)
    has = "300000 bytes, more than 299999" if told else "more than 299999 bytes"
    assert caught.value.failures == [f"  {mirror.url}{NAME}: the file has {has}"]
    assert left_over(tmp_path / "b") == []


def test_a_mirror_that_stalls_is_given_up_soon(tmp_path):
    began = time.monotonic()
    with Mirror(stalls=True) as mirror:
        with pytest.raises(NoMirror) as caught:
            get(tmp_path, mirror, patience=0.2)
        mirror.stalls.set()
    assert caught.value.failures == [f"  {mirror.url}{NAME}: timed out"]
    assert len(mirror.requests) == 2  # the second brought nothing
    assert time.monotonic() - began < 5


def test_the_remedy_is_the_callers(tmp_path, dead):
    with pytest.raises(NoMirror) as caught:
        get(tmp_path, dead, remedy="or give up.")
    assert str(caught.value).splitlines()[-1] == "or give up."


def test_a_password_in_an_address_is_used_but_never_shown(tmp_path, capsys, dead):
    with Mirror(status=404) as empty, Mirror() as mirror:
        secret = mirror.url.replace("//", "//me:secret@")
        mirrors = [empty.url.replace("//", "//me:secret@"), "htp://me:secret@host/", "http://me@/"]
        with pytest.raises(NoMirror) as caught:
            get(tmp_path, *mirrors)
        assert caught.value.failures == [
            f"  {empty.url}{NAME}: 404 Not Found",
            f"  htp://host/{NAME}: not an address that files can be downloaded from",
            f"  http:///{NAME}: not an address that files can be downloaded from",
        ]
        get(tmp_path, secret)
        assert mirror.authorized == ["Basic bWU6c2VjcmV0"]
    out = "".join(capsys.readouterr()) + str(caught.value)
    assert f"downloading {mirror.url}{NAME}" in out
    assert "secret" not in out
    assert shown("https://host/a@b?c@d") == "https://host/a@b?c@d"


def test_what_keeps_files_from_being_downloaded_is_told_soon(dead, monkeypatch):
    with Mirror() as mirror, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        never = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        urls = [mirror.url + NAME, f"{mirror.url}other", dead + NAME, "http://["]
        assert obstacles(urls) == [
            None,
            "404 Not Found",
            "no connection",
            "not an address that files can be downloaded from",
        ]
        began = time.monotonic()
        answers = obstacles([never + NAME] * 8, seconds=0.5)
        assert time.monotonic() - began < 2  # of all together
        assert set(answers) <= {"no answer", "timed out"}
        monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
        assert obstacles([mirror.url + NAME]) == ["not asked, because GLUONEXP_OFFLINE is set"]


def test_a_server_that_drips_its_answer_does_not_hold_anybody_up():
    """Every byte of it comes in time, so that no timeout of a request is ever reached."""
    over = threading.Event()

    def drip():
        link, _ = listening.accept()
        with link, contextlib.suppress(ConnectionError):
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
                if over.wait(0.05):
                    return
                link.sendall(bytes([byte]))

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        dripping = [threading.Thread(target=drip) for _ in range(8)]
        for thread in dripping:
            thread.start()
        began = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        assert obstacles([url] * 8, seconds=0.5) == ["no answer"] * 8
        assert 0.5 <= time.monotonic() - began < 3
        over.set()
        for thread in dripping:
            thread.join()


def test_offline_nothing_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
    with Mirror() as mirror:
        with pytest.raises(NoMirror, match="not asked, because GLUONEXP_OFFLINE is set"):
            get(tmp_path, mirror)
        monkeypatch.setenv("GLUONEXP_OFFLINE", "0")
        assert get(tmp_path, mirror).read_bytes() == CONTENT
        assert mirror.requests == [None]
