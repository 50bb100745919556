"""Artifacts copied from stores: whole, checked, and resumed."""

import contextlib
import hashlib
import http.server
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.utils import rest_utils
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from gluonexp.base import files as base_files
from gluonexp.base import transfer
from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import artifacts, ensure_experiment, internals, open_store, references
from gluonexp.tracking.artifacts import RECEIPTS, Artifacts, StoredFile

FILES = {
    "export/model-0000.params": b"\x12\x01" * 5000,
    "export/model-symbol.json": b"{}",
    "plots/curves.png": b"\x89PNG" * 10,
    "notes.txt": b"short",
    "empty": b"",
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def contents(folder):
    """Return what was copied into a folder, and whatever else is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECEIPTS
    }


def hidden(folder):
    """Return what a download left in a folder besides files and the receipts."""
    return [path for path in folder.rglob(".*") if path.name != RECEIPTS]


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# --- a store on this machine ---------------------------------------------------------------------


class Run:
    """A run with the files, in a store with others."""

    def __init__(self, client, made):
        self.client = client
        self.uri = client.tracking_uri
        self.experiment = ensure_experiment(client, "digits", self.uri)
        self.id = self.make()
        client.log_artifacts(self.id, str(made))
        self.source = references.artifacts(client, self.id)
        self.folder = self.source.local("")

    def make(self, **tags):
        run = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.client.set_terminated(run)
        return run


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


@pytest.fixture
def run(client, tmp_path):
    fill(tmp_path / "made", FILES)
    return Run(client, tmp_path / "made")


def test_files_are_listed_with_their_sizes(run):
    assert run.source.title == f"run {run.id}"
    assert run.source.run_id == run.id
    listed = {file.path: file.size for file in run.source.files()}
    assert listed == {name: len(content) for name, content in FILES.items()}
    assert list(listed) == sorted(listed)
    assert [file.path for file in run.source.files("export/")] == [
        "export/model-0000.params",
        "export/model-symbol.json",
    ]
    assert run.source.files("plots/curves.png") == [StoredFile("plots/curves.png", 40)]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", r"has no nothing; there is empty, export, notes\.txt, plots"),
        ("export/model", r"no export/model; in export/ there is model-0000\.params, model-symbol"),
        ("elsewhere/x", r"has no elsewhere/x; in elsewhere/ there is nothing"),
    ],
)
def test_what_there_is_is_told(run, path, message):
    with pytest.raises(GluonexpError, match=message):
        run.source.files(path)


@pytest.mark.parametrize("path", ["../secret", "export/../../secret", "/etc/hostname"])
def test_no_path_leads_out(run, tmp_path, path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(GluonexpError):
        run.source.files(path)


def test_a_download_is_whole_and_the_second_copies_nothing(run, tmp_path):
    to = tmp_path / "deep" / "to"
    done = artifacts.download(run.source, run.source.files(), to)
    assert contents(to) == FILES
    assert sorted(done.copied) == sorted(FILES)
    assert done.size == sum(map(len, FILES.values()))
    times = {name: (to / name).stat().st_mtime_ns for name in FILES}
    again = artifacts.download(run.source, run.source.files(), to)
    assert (again.copied, sorted(again.kept), again.size) == ((), sorted(FILES), done.size)
    assert {name: (to / name).stat().st_mtime_ns for name in FILES} == times


def test_only_what_is_missing_or_wrong_is_copied_again(run, tmp_path):
    artifacts.download(run.source, run.source.files(), tmp_path / "to")
    (tmp_path / "to/notes.txt").write_bytes(b"SHORT")  # the same size
    (tmp_path / "to/empty").unlink()
    (tmp_path / "to/plots/curves.png").write_bytes(b"half")
    (tmp_path / "to/mine").write_bytes(b"kept")
    done = artifacts.download(run.source, run.source.files(), tmp_path / "to")
    assert sorted(done.copied) == ["empty", "notes.txt", "plots/curves.png"]
    assert contents(tmp_path / "to") == FILES | {"mine": b"kept"}


@pytest.mark.parametrize("path", ["", "export", "export/model-0000.params"])
def test_what_the_certificate_does_not_know_does_not_arrive(run, tmp_path, path):
    digests = {name: sha256(FILES[f"export/{name}"]) for name in os.listdir(run.folder / "export")}
    certificate = run.folder / "export" / "certificate.json"
    certificate.write_text(json.dumps({"files": digests}))
    artifacts.download(run.source, run.source.files(path), tmp_path / "right")
    params = run.folder / "export" / "model-0000.params"
    damaged = bytearray(params.read_bytes())
    damaged[77] ^= 1
    params.write_bytes(damaged)
    with pytest.raises(GluonexpError, match=r"export/model-0000\.params of run .* its sha256 is"):
        artifacts.download(run.source, run.source.files(path), tmp_path / "to")
    assert "export/model-0000.params" not in contents(tmp_path / "to")
    assert {name for name in os.listdir(tmp_path / "to") if name[0] == "."} <= {RECEIPTS}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"files": [1]}', '{"files": {"model-symbol.json": 7}}']
)
def test_a_certificate_of_another_kind_says_nothing(run, tmp_path, text):
    (run.folder / "export" / "certificate.json").write_text(text)
    artifacts.download(run.source, run.source.files("export"), tmp_path / "to")
    assert contents(tmp_path / "to").keys() > {"export/model-symbol.json"}


def test_a_folder_in_the_way_is_told(run, tmp_path):
    (tmp_path / "to" / "notes.txt" / "x").mkdir(parents=True)
    there = re.escape(f"cannot download to {tmp_path}/to/")
    with pytest.raises(GluonexpError, match=rf"{there}notes\.txt: a folder lies where the file"):
        artifacts.download(run.source, run.source.files(), tmp_path / "to")
    (tmp_path / "to" / "plots").write_text("")
    with pytest.raises(GluonexpError, match=f"{there}plots/curves.png: a file lies where a fold"):
        artifacts.download(run.source, run.source.files("plots"), tmp_path / "to")
    assert hidden(tmp_path / "to") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(GluonexpError, match=f"cannot download to {tmp_path}/file"):
        artifacts.download(run.source, run.source.files(), tmp_path / "file")


# --- what a reference means ----------------------------------------------------------------------


def test_runs_and_models_have_artifacts(run):
    client, uri = run.client, f"{run.client.get_run(run.id).info.artifact_uri}/export"
    client.create_registered_model("digits")
    client.create_model_version("digits", uri, run.id)
    client.set_registered_model_alias("digits", "champion", "1")
    for ref in ("last", run.id, f"runs:/{run.id}", run.id[:6]):
        assert references.artifacts(client, ref).run_id == run.id
    for ref in ("models:/digits@champion", "models:/digits/1"):
        model = references.artifacts(client, ref)
        assert (model.title, model.run_id) == ("models:/digits/1", run.id)
        listed = [file.path for file in model.files()]
        assert listed == ["model-0000.params", "model-symbol.json"]
    for ref in ("models:/digits", "models:/digits/2", "models:/other@x", "m-1", "nothing"):
        with pytest.raises(GluonexpError, match=ref.removeprefix("models:/")[:5]):
            references.artifacts(client, ref)


def test_a_sweep_stands_for_its_best_run(run):
    done = run.make(**{"gluonexp.kind": "sweep", "gluonexp.sweep.best": run.id})
    begun = run.make(**{"gluonexp.kind": "sweep"})
    assert references.best_of_sweep(run.client, done) == run.id
    assert references.best_of_sweep(run.client, f"runs:/{done[:8]}") == run.id
    for other in (run.id, "last", "models:/a@b"):
        assert references.best_of_sweep(run.client, other) == other
    with pytest.raises(GluonexpError, match=f"sweep {begun} has no best run yet"):
        references.best_of_sweep(run.client, begun)
    # Its own files are those that `gluonexp download` copies.
    assert references.artifacts(run.client, done).run_id == done


# --- a server ------------------------------------------------------------------------------------


def resumes_what_is_there(client, remote, to, monkeypatch):
    """Let MLflow's server send the second half of a file only."""
    path = "export/model-0000.params"
    digests = {"files": {"model-0000.params": sha256(FILES[path])}}
    client.log_text(remote, json.dumps(digests), "export/certificate.json")
    source = references.artifacts(client, remote)
    whole = internals.download_file

    def not_the_file(store, name, target):
        assert name == "export/certificate.json"
        whole(store, name, target)

    monkeypatch.setattr(internals, "download_file", not_the_file)
    (to / path).unlink()
    size = len(FILES[path])
    part = transfer.part_of(to / path, source.uri, path, size, sha256(FILES[path]))
    for begun in (1, size - 1, size):
        part.write_bytes(FILES[path][:begun])
        assert artifacts.download(source, source.files(path), to).copied == (path,)
        assert contents(to) == FILES
        (to / path).unlink()


def test_from_mlflows_own_server(run, tmp_path, monkeypatch):
    script = (
        "import sys; from gluonexp.tracking import ui; sys.exit(ui.serve(sys.argv[1], port=0))"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script, run.uri],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        address = ""
        assert server.stdout is not None
        for line in server.stdout:  # ends with the server, which gives up after a minute
            address = address or "".join(re.findall(r"http://127\.0\.0\.1:\d+", line)[:1])
            if line.startswith("Press"):
                break
        client = open_store(address)
        # Its artifacts are asked of the server, as those of runs that were recorded through it.
        experiment = client.create_experiment(
            "remote", artifact_location="mlflow-artifacts:/remote"
        )
        remote = client.create_run(experiment).info.run_id
        client.log_artifacts(remote, str(tmp_path / "made"))
        source = references.artifacts(client, remote)
        assert source.local("notes.txt") is None
        assert {file.path: file.size for file in source.files()} == {
            name: len(content) or None for name, content in FILES.items()
        }  # a zero is what its messages leave out
        done = artifacts.download(source, source.files(), tmp_path / "to")
        assert sorted(done.copied) == sorted(FILES)
        assert contents(tmp_path / "to") == FILES
        (tmp_path / "to/notes.txt").write_bytes(b"SHORT")
        done = artifacts.download(source, source.files(), tmp_path / "to")
        assert done.copied == ("notes.txt",)
        assert contents(tmp_path / "to") == FILES
        resumes_what_is_there(client, remote, tmp_path / "to", monkeypatch)
    finally:
        server.terminate()
        server.communicate(timeout=60)


class Store(http.server.ThreadingHTTPServer):
    """Speaks as MLflow's server does of artifacts, and fails where it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.sizes = True
        self.cut = set()  # sent by half
        self.stalled = set()  # sent by half, then nothing more comes
        self.moving = set()  # another content each time
        self.ranges = True
        self.reached, self.over = threading.Event(), threading.Event()
        self.sent = []
        self.root = f"http://127.0.0.1:{self.server_port}/api/2.0/mlflow-artifacts/artifacts"

    def source(self):
        return Artifacts(f"{self.root}/run", f"http://127.0.0.1:{self.server_port}", "it", None)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        parts = urlsplit(self.path)
        path = unquote(parts.path).partition("/mlflow-artifacts/artifacts")[2].lstrip("/")
        if "path" in parse_qs(parts.query):
            folder = parse_qs(parts.query)["path"][0].removeprefix("run").strip("/")
            self.answer(json.dumps({"files": self.listing(folder)}).encode())
        else:
            self.send(path.removeprefix("run/"))

    def listing(self, folder):
        found = {}
        for path, content in self.server.files.items():
            if path.startswith(f"{folder}/" if folder else ""):
                name, slash, _ = path[len(folder) + 1 if folder else 0 :].partition("/")
                size = {} if slash or not self.server.sizes else {"file_size": str(len(content))}
                found[name] = {"path": name, "is_dir": bool(slash), **size}
        return list(found.values())

    def send(self, path):
        server = self.server
        server.sent.append(path)
        content = server.files[path]
        if path in server.moving:
            content = str(len(server.sent)).encode() * len(content)
        half = path in server.cut | server.stalled
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not server.ranges or asked is None:
            self.answer(content, half=half)
        elif int(asked[1]) >= len(content):
            self.send_error(416)
        else:
            server.sent[-1] += f"[{asked[1]}:]"
            self.answer(content, half=half, start=int(asked[1]))
        if path in server.stalled:
            server.reached.set()
            server.over.wait()

    def answer(self, content, half=False, start=None):
        rest = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Length", str(len(rest)))
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(rest[: len(rest) // 2] if half else rest)
            self.wfile.flush()

    def log_message(self, *args):
        pass


@pytest.fixture
def store(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Store() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def test_a_server_sends_each_file_once(store, tmp_path):
    source = store.source()
    artifacts.download(source, source.files(), tmp_path)
    assert sorted(store.sent) == sorted(FILES)
    done = artifacts.download(source, source.files(), tmp_path)
    assert sorted(store.sent) == sorted(FILES)  # the receipts say their digests
    assert sorted(done.kept) == sorted(FILES)
    (tmp_path / "notes.txt").write_bytes(b"SHORT")
    artifacts.download(source, source.files(), tmp_path)
    assert sorted(store.sent) == sorted([*FILES, "notes.txt"])
    assert contents(tmp_path) == FILES


def test_a_download_that_breaks_leaves_what_was_whole(store, tmp_path):
    store.cut = {"export/model-symbol.json"}
    source = store.source()
    told = (
        r"export/model-symbol\.json of it: cut off at 0 of 2 bytes \(the connection broke\); the s"
    )
    with pytest.raises(GluonexpError, match=f"^{told}ame command resumes it$"):
        artifacts.download(source, source.files(), tmp_path)
    whole = {name: FILES[name] for name in ("empty", "export/model-0000.params")}
    assert contents(tmp_path) == whole
    assert sorted(os.listdir(tmp_path)) == [RECEIPTS, "empty", "export"]
    store.cut, store.sent[:] = set(), []
    done = artifacts.download(source, source.files(), tmp_path)
    assert sorted(done.kept) == sorted(whole)
    assert sorted(store.sent) == sorted(FILES.keys() - whole.keys())
    assert contents(tmp_path) == FILES


def test_another_size_than_the_store_says_is_told(store, tmp_path):
    source = store.source()
    listed = source.files("notes.txt")
    store.files["notes.txt"] = b"longer than it was"
    with pytest.raises(GluonexpError, match=r"notes\.txt of it .* 18 bytes instead of 5"):
        artifacts.download(source, listed, tmp_path)
    assert contents(tmp_path) == {}


def test_without_sizes_a_file_is_read_twice(store, tmp_path):
    store.sizes = False
    source = store.source()
    artifacts.download(source, source.files("plots"), tmp_path)
    assert store.sent == ["plots/curves.png"] * 2
    store.moving = {"notes.txt"}
    with pytest.raises(GluonexpError, match=r"notes\.txt of it .* read twice"):
        artifacts.download(source, source.files("notes.txt"), tmp_path)
    assert contents(tmp_path) == {"plots/curves.png": FILES["plots/curves.png"]}


def test_a_receipt_that_was_cut_off_is_passed_over(store, tmp_path):
    source = store.source()
    artifacts.download(source, source.files(), tmp_path)
    receipts = (tmp_path / RECEIPTS).read_text()
    (tmp_path / RECEIPTS).write_text(receipts[:-30])
    store.sent.clear()
    artifacts.download(source, source.files(), tmp_path)
    assert len(store.sent) == 1
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a\\..\\..\\outside"])
def test_a_server_cannot_name_a_path_outside(store, tmp_path, path):
    listing = [{"path": path, "is_dir": False, "file_size": "5"}]
    Handler.listing, before = lambda self, folder: listing, Handler.listing
    try:
        with pytest.raises(GluonexpError):
            source = store.source()
            artifacts.download(source, source.files(), tmp_path / "to")
    finally:
        Handler.listing = before
    assert store.sent == []
    assert not list(tmp_path.rglob("*outside*"))


SCRIPT = (
    "import sys\nfrom pathlib import Path\nfrom gluonexp.tracking import artifacts\n"
    "source = artifacts.Artifacts(sys.argv[1] + '/run', sys.argv[1], 'it', None)\n"
    "artifacts.download(source, source.files(), Path(sys.argv[2]))\n"
)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_download_ends_at_once_and_is_resumed(big, tmp_path, sent):
    store, to = big, tmp_path / "to"
    store.stalled = {BIG}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store.root, str(to)],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert store.reached.wait(60)
    (part,) = grown(to)
    child.send_signal(sent)
    _, told = child.communicate(timeout=20)
    assert child.returncode == -sent
    if sent == signal.SIGINT:
        line = rf"{BIG} of it: cut off at [12]\.\d of 5\.0 MB; the same command resumes it"
        assert re.search(f"^{line}$", told, re.M)
    begun = part.stat().st_size
    # The half is not under its name; of the other files, the first ones are whole.
    assert contents(to).keys() == {"empty", "export/certificate.json", part_name(part, to)}
    store.stalled = set()
    store.over.set()
    store.sent.clear()
    source = store.source()
    done = artifacts.download(source, source.files(), to)
    assert set(done.kept) == {"empty", "export/certificate.json"}
    assert f"{BIG}[{begun}:]" in store.sent and BIG not in store.sent
    assert contents(to) == store.files


# --- a large file, of which a certificate knows --------------------------------------------------

BIG = "export/model-0000.params"
CONTENT = b"".join(index.to_bytes(5, "big") for index in range(1_000_000))


def certify(store):
    digests = {"model-0000.params": sha256(store.files[BIG])}
    store.files["export/certificate.json"] = json.dumps({"files": digests}).encode()


@pytest.fixture
def big(store):
    """A server whose file takes several of the blocks that a download writes."""
    store.files[BIG] = CONTENT
    certify(store)
    return store


def grown(to):
    """Wait until a block of a part has arrived; return the parts."""
    until = time.monotonic() + 60
    while not any(part.stat().st_size for part in hidden(to)):
        assert time.monotonic() < until
    return hidden(to)


def part_name(part, to):
    return part.relative_to(to).as_posix()


def cut_off(store, to):
    """Download until the server breaks off; return the part that is left."""
    store.cut = {BIG}
    source = store.source()
    told = (
        r"^export/model-0000\.params of it: cut off at 2\.\d of 5\.0 MB \(the connection broke\); "
    )
    with pytest.raises(GluonexpError, match=f"{told}the same command resumes it$"):
        artifacts.download(source, source.files(BIG), to)
    store.cut = set()
    store.sent.clear()
    (part,) = hidden(to)
    return part


def completes(store, to, *sent):
    """Download again; the server sends just these, besides the certificate."""
    source = store.source()
    artifacts.download(source, source.files(BIG), to)
    assert [path for path in store.sent if path != "export/certificate.json"] == list(sent)
    assert contents(to) == {BIG: store.files[BIG]}


def test_a_large_file_is_resumed(big, tmp_path):
    part = cut_off(big, tmp_path)
    begun = part.stat().st_size
    assert part.read_bytes() == CONTENT[:begun]
    # Cut off once more, it is further on.
    big.cut = {BIG}
    source = big.source()
    with pytest.raises(GluonexpError, match=r"cut off at 3\.\d of 5\.0 MB"):
        artifacts.download(source, source.files(BIG), tmp_path)
    big.cut = set()
    further = part.stat().st_size
    completes(big, tmp_path, f"{BIG}[{begun}:]", f"{BIG}[{further}:]")


def test_a_whole_part_is_taken(big, tmp_path):
    cut_off(big, tmp_path).write_bytes(CONTENT)
    completes(big, tmp_path, BIG)  # 416: there is no more


def test_a_wrong_part_is_not(big, tmp_path):
    part = cut_off(big, tmp_path)
    begun = part.stat().st_size
    part.write_bytes(b"x" * begun)
    completes(big, tmp_path, f"{BIG}[{begun}:]", BIG)


def test_a_server_without_ranges_sends_all_of_it(big, tmp_path):
    cut_off(big, tmp_path)
    big.ranges = False
    completes(big, tmp_path, BIG)


def test_another_files_part_is_not_resumed(big, tmp_path):
    cut_off(big, tmp_path)
    big.files[BIG] = CONTENT[::-1]  # the same name and size
    certify(big)
    completes(big, tmp_path, BIG)


def test_another_sources_part_is_not_resumed(big, tmp_path):
    cut_off(big, tmp_path)
    big.root = big.root.replace("127.0.0.1", "localhost")
    completes(big, tmp_path, BIG)


def test_what_no_certificate_knows_is_not_resumed(big, tmp_path):
    del big.files["export/certificate.json"]
    big.cut = {BIG}
    source = big.source()
    with pytest.raises(
        GluonexpError, match="the same command resumes it, this file from its start"
    ):
        artifacts.download(source, source.files(BIG), tmp_path)
    assert hidden(tmp_path) == []
    big.cut = set()
    completes(big, tmp_path, BIG, BIG)


def test_a_server_that_is_gone_is_told(big, tmp_path):
    source = big.source()
    files = source.files(BIG)
    part = cut_off(big, tmp_path)
    big.shutdown()
    big.server_close()
    with pytest.raises(GluonexpError) as caught:
        artifacts.download(source, files, tmp_path)
    assert str(caught.value) == "the artifacts of it cannot be read: no connection"
    with pytest.raises(GluonexpError) as caught:
        artifacts.download(source, [StoredFile("notes.txt", 5), *files], tmp_path)
    assert str(caught.value) == (
        "notes.txt of it: cut off at 0 of 5 bytes (no connection); the same command resumes it"
    )
    assert hidden(tmp_path) == [part]


def test_two_downloads_to_one_folder_take_turns(big, tmp_path, monkeypatch):
    big.stalled, waits, failed = {BIG}, threading.Event(), []
    monkeypatch.setattr(base_files, "say", lambda line: waits.set())
    source = big.source()
    files = source.files(BIG)

    def first():
        try:
            artifacts.download(source, files, tmp_path)
        except GluonexpError as error:
            failed.append(str(error))

    def second():
        artifacts.download(big.source(), files, tmp_path)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert big.reached.wait(60)
    threads[1].start()
    assert waits.wait(60)
    big.stalled = set()
    big.over.set()
    for thread in threads:
        thread.join(60)
    assert len(failed) == 1 and "cut off at" in failed[0]
    assert contents(tmp_path) == {BIG: CONTENT}
    assert big.sent.count(BIG) == 1


def test_what_is_wanted_here_is_copied_unless_it_lies_here(run, store, tmp_path):
    here = run.source.fetch("export", tmp_path / "to")
    assert here == run.folder / "export"
    assert run.source.text("notes.txt") == "short"
    folder = store.source().fetch("export", tmp_path / "to")
    assert folder == tmp_path / "to" / "export"
    assert contents(tmp_path / "to").keys() == {name for name in FILES if "export/" in name}
    assert store.source().fetch("notes.txt", tmp_path / "to").read_bytes() == b"short"
    assert store.source().text("notes.txt") == "short"
    assert not (tmp_path / "to" / RECEIPTS).exists()
    with pytest.raises(GluonexpError, match=r"it has no plot; there is empty, export, notes\.txt"):
        store.source().fetch("plot", tmp_path / "to")


# --- MLflow's inside -----------------------------------------------------------------------------


def test_mlflow_has_what_is_used_of_its_inside():
    for kind in (LocalArtifactRepository, HttpArtifactRepository, MlflowArtifactsRepository):
        names = list(inspect.signature(kind._download_file).parameters)
        assert names == ["self", "remote_file_path", "local_path"]
    assert issubclass(MlflowArtifactsRepository, HttpArtifactRepository)
    names = list(inspect.signature(http_request).parameters)
    assert names[:3] == ["host_creds", "endpoint", "method"] and "extra_headers" in names
    assert list(inspect.signature(get_default_host_creds).parameters) == ["store_uri"]


def test_without_mlflows_requests_a_file_starts_again(big, tmp_path, monkeypatch):
    cut_off(big, tmp_path)
    monkeypatch.delattr(rest_utils, "http_request")
    assert not big.source().resumes
    completes(big, tmp_path, BIG)


def test_without_mlflows_own_copying_its_public_one_does(run, tmp_path, monkeypatch):
    class Public:
        """A store of files of which only what MLflow documents is known."""

        def download_artifacts(self, path, dst_path):
            return run.source._store.download_artifacts(path, dst_path)

    internals.download_file(Public(), "export/model-0000.params", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == FILES["export/model-0000.params"]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []
