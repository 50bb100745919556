"""Finding pretrained weights: caches, servers on the loopback, files, runs, registered models."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import socket
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, nd
from gluonexp.weights import find as weights
from gluonexp.weights import names, pth, torchvision, zoo
from gluonexp.weights.find import find

BACKBONE = "squeezenet1.1"  # 5 MB
STORE = gluon.model_zoo.model_store


class Server(ThreadingHTTPServer):
    """Serves what `files` holds by path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.over = threading.Event()  # ends the answers that stall
        self.stalling = set()
        self.requests = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # some only ask whether it is there
            if self.path in self.server.stalling:
                self.wfile.write(body[:1000])
                self.server.over.wait()
            else:
                self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture
def dead():
    """Return the address of a server that is not there: its port is held, but refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


@pytest.fixture(scope="module")
def arrays():
    """Return values of the backbone by the zoo's names, each of its own."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=entry.shape).astype(np.float32)
        for name, entry in names.layout(BACKBONE).items()
    }


@pytest.fixture(scope="module")
def params(arrays, tmp_path_factory):
    """Return the bytes of the file that MXNet might have published."""
    path = tmp_path_factory.mktemp("published") / "a.params"
    nd.save(str(path), {name: nd.array(array) for name, array in arrays.items()})
    return path.read_bytes()


@pytest.fixture
def place(params, tmp_path, monkeypatch, dead):
    """Make `params` the published file; no server has it. Return its place in the cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.setenv("MXNET_GLUON_REPO", dead.rstrip("/"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("GLUONEXP_OFFLINE", raising=False)
    sha1 = hashlib.sha1(params).hexdigest()
    monkeypatch.setitem(STORE._model_sha1, BACKBONE, sha1)
    monkeypatch.setattr(torchvision, "SERVER", dead)
    return tmp_path / "mxnet" / "models" / f"{BACKBONE}-{sha1[:8]}.params"


@pytest.fixture
def bundle(arrays, tmp_path, monkeypatch):
    """Make weights that are bundled for the backbone."""
    path = tmp_path / "bundle" / "net.safetensors"
    path.parent.mkdir()
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_file(half, path, metadata={"title": "features of a test"})
    monkeypatch.setitem(weights.BUNDLED, BACKBONE, path)
    return path


def zipped(place, content, name=None, compression=zipfile.ZIP_STORED):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as made:
        made.writestr("README", "not wanted")
        made.writestr(name or place.name, content)
    return archive.getvalue()


def serve(server, monkeypatch, place, body):
    monkeypatch.setenv("MXNET_GLUON_REPO", server.url)
    server.files[f"/gluon/models/{place.stem}.zip"] = body


def visible(folder):
    """Return the content of each file below that is not a lock or a part of a download."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def refused(*arguments, **more):
    with pytest.raises(GluonexpError) as caught:
        find(*arguments, **more)
    return str(caught.value)


# --- what MXNet published ------------------------------------------------------------------------


def test_a_published_file_is_downloaded_once(place, params, arrays, server, monkeypatch):
    serve(server, monkeypatch, place, zipped(place, params, compression=zipfile.ZIP_DEFLATED))
    found = find("imagenet", BACKBONE)
    assert_same(found.arrays, arrays)
    assert (found.choice, found.adapted, found.warning) == ("imagenet", False, None)
    assert found.sha256 == hashlib.sha256(params).hexdigest()
    assert found.title == f"ImageNet, of MXNet's model zoo ({place.name})"
    assert visible(place.parent) == {place.name: params}
    assert [path.name for path in place.parent.iterdir() if path.suffix != ".lock"] == [place.name]
    again = find("auto", BACKBONE, sha256=found.sha256.upper())
    assert (again.choice, again.sha256, again.warning) == ("imagenet", found.sha256, None)
    assert server.requests == [f"/gluon/models/{place.stem}.zip"]


def test_auto_downloads_what_can_be_reached(place, params, server, monkeypatch):
    serve(server, monkeypatch, place, zipped(place, params))
    found = find("auto", BACKBONE)
    assert (found.choice, found.warning) == ("imagenet", None)
    assert visible(place.parent) == {place.name: params}


def test_a_file_put_there_by_hand_is_used_without_a_server(place, params, arrays):
    place.parent.mkdir(parents=True)
    place.write_bytes(params)
    assert_same(find("imagenet", BACKBONE).arrays, arrays)


def spoiled(params):
    return params[:-1] + bytes([params[-1] ^ 1])


def damaged(place, params):
    """Damage the compressed data, of which bz2 complains by an error of the operating system."""
    content = bytearray(zipped(place, params[:1_000_000], None, zipfile.ZIP_BZIP2))
    content[len(content) // 2 : len(content) // 2 + 9] = bytes(9)
    return bytes(content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda place, params: zipped(place, spoiled(params)), r"its sha1 is \w+, not \w+"),
        (lambda place, params: zipped(place, params)[:-1000], r"not a sound zip file \(.+\)"),
        (lambda place, params: zipped(place, params)[:9], r"not a sound zip file \(.+\)"),
        (lambda place, params: b"<html>sorry</html>", r"not a sound zip file \(.+\)"),
        (lambda place, params: zipped(place, params, "../x"), r"there is no \S+\.params in it"),
        (
            lambda place, params: zipped(place, bytes(9_000_000), None, zipfile.ZIP_DEFLATED),
            r"the \S+\.params in it is too .+",
        ),
        (
            lambda place, params: zipped(place, bytes(9_000_000)),
            r"the file has \d+ bytes, more .+",
        ),
        (lambda place, params: damaged(place, params), r"not a sound zip file \(.+\)"),
        (lambda place, params: None, "404 Not Found"),
    ],
    ids=[
        *("wrong hash", "truncated", "cut off", "a page", "another name", "unfolds", "too large"),
        *("damaged inside", "missing"),
    ],
)
@pytest.mark.parametrize("before", [None, b"something else"], ids=["empty", "filled"])
def test_what_is_not_the_file_leaves_the_cache_as_it_was(
    place, params, dead, server, monkeypatch, make, reason, before
):
    serve(server, monkeypatch, place, make(place, params))
    place.parent.mkdir(parents=True)
    if before:
        place.write_bytes(before)
    cache = visible(place.parents[2])
    sha1, theirs = STORE._model_sha1[BACKBONE], torchvision.file_name(BACKBONE)
    lines = refused("imagenet", BACKBONE).splitlines()
    assert lines.pop(0) == f"model.weights=imagenet: those of {BACKBONE} cannot be had:"
    url = f"  {server.url}gluon/models/{place.stem}.zip: "
    assert lines[0].startswith(url)
    assert re.fullmatch(reason, lines.pop(0).removeprefix(url))
    if before:
        wrong = hashlib.sha1(before).hexdigest()
        assert lines.pop(0) == f"  {place}: its sha1 is {wrong}, not {sha1}"
    assert lines == [
        f"  {dead}{theirs}: no connection",
        f"ImageNet weights of {BACKBONE} are {place.name} (sha1 {sha1}) in {place.parent}, or "
        f"{theirs} (sha256 {torchvision.PUBLISHED[BACKBONE]}) in "
        f"{place.parents[2]}/cache/gluonexp/weights.",
        "Put such a file there, or choose other weights: model.weights=auto, bundled, none or a "
        "file.",
    ]
    assert visible(place.parents[2]) == cache
    # Nor does anything of it stay in the way of the right file.
    serve(server, monkeypatch, place, zipped(place, params))
    assert find("imagenet", BACKBONE).sha256 == hashlib.sha256(params).hexdigest()


def test_a_right_file_is_read_once_for_either_digest(place, params, monkeypatch):
    place.parent.mkdir(parents=True)
    place.write_bytes(params)
    read, original = [], zoo.digest
    monkeypatch.setattr(zoo, "digest", lambda *said: read.append(said) or original(*said))
    for choice in ("imagenet", "auto"):
        find(choice, BACKBONE)
        assert read == [(place, "sha1"), (place, "sha256")]
        read.clear()


def test_a_password_in_the_address_of_a_server_is_not_shown(place, bundle, monkeypatch, capsys):
    with_password = (
        zoo.mxnet_file(BACKBONE).url.partition("/gluon")[0].replace("//", "//me:secret@")
    )
    monkeypatch.setenv("MXNET_GLUON_REPO", with_password)
    monkeypatch.setenv("GLUONEXP_TORCHVISION", "htp://me:secret@host")
    said = [refused("imagenet", BACKBONE), repr(find("auto", BACKBONE)), *capsys.readouterr()]
    assert (
        f"  {with_password.replace('me:secret@', '')}/gluon/models/{place.stem}.zip: " in said[0]
    )
    assert "  htp://host/squeezenet1_1-b8a52dc0.pth: not an address " in said[0]
    assert "secret" not in "".join(said)


@pytest.mark.parametrize("choice", ["imagenet", "auto"])
def test_a_place_that_cannot_be_looked_at_is_told(choice, place, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("MXNET_HOME", f"{tmp_path}/{'x' * 300}")
    said = refused(choice, BACKBONE) if choice == "imagenet" else find(choice, BACKBONE).warning
    assert f"{place.name} cannot be read: File name too long" in said
    monkeypatch.setitem(weights.BUNDLED, BACKBONE, tmp_path / ("x" * 300))
    assert "x cannot be read: File name too long; ImageNet" in refused("bundled", BACKBONE)
    found = find("auto", BACKBONE)
    assert found.choice == "none"
    assert "x cannot be read: File name too long, so training starts from random" in found.warning


def test_a_wrong_file_in_the_cache_is_downloaded_again(place, params, arrays, server, monkeypatch):
    place.parent.mkdir(parents=True)
    place.write_bytes(params[:-7])
    serve(server, monkeypatch, place, zipped(place, params))
    found = find("imagenet", BACKBONE)
    assert_same(found.arrays, arrays)
    wrong, right = hashlib.sha1(params[:-7]).hexdigest(), hashlib.sha1(params).hexdigest()
    assert (
        found.warning == f"{place}: its sha1 is {wrong}, not {right}, so it was downloaded again"
    )
    assert visible(place.parent) == {place.name: params}


def test_the_message_tells_where_each_network_is_published():
    said = {backbone: weights.published(backbone) for backbone in STORE._model_sha1}
    assert (
        "alexnet-44335d1f.params (sha1 44335d1f0046b328243b32a26a4fbd62d9057b45)"
        in said["alexnet"]
    )
    assert "alexnet-owt-7be5be79.pth (sha256 7be5be79" in said["alexnet"]
    assert "vgg11-8a719046.pth (sha256 8a719046...)" in said["vgg11"]
    assert ".pth" not in said["inceptionv3"]


# --- what torchvision published ------------------------------------------------------------------


@pytest.fixture
def foreign(place, arrays, tmp_path, server, monkeypatch):
    """Serve a file as torchvision publishes it; return its bytes and its place in the cache."""
    torch = pytest.importorskip("torch")
    parts = ("squeeze", "expand1x1", "expand3x3")
    fires = [f"features.{n}.{part}" for n in (3, 4, 6, 7, 9, 10, 11, 12) for part in parts]
    layers = ["features.0", *fires, "classifier.1"]  # in the zoo's order
    theirs = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    tensors = map(torch.tensor, arrays.values())
    path = tmp_path / "made.pth"
    torch.save(dict(zip(theirs, tensors, strict=True)), path)
    content = path.read_bytes()
    path.unlink()
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(torchvision, "SERVER", f"{server.url}models/")
    monkeypatch.setitem(torchvision.PUBLISHED, BACKBONE, sha256[:8])
    monkeypatch.delitem(torchvision.SIZES, BACKBONE)
    name = torchvision.file_name(BACKBONE)
    server.files[f"/models/{name}"] = content
    return content, tmp_path / "cache" / "gluonexp" / "weights" / name


def test_the_server_of_torchvisions_files_can_be_another(foreign, server, monkeypatch, dead):
    _, kept = foreign
    monkeypatch.setattr(torchvision, "SERVER", dead)
    monkeypatch.setenv("GLUONEXP_TORCHVISION", f"{server.url}models")
    assert find("imagenet", BACKBONE).title == f"ImageNet, of torchvision ({kept.name})"


@pytest.mark.parametrize("choice", ["imagenet", "auto"])
def test_torchvision_is_next(choice, foreign, arrays, server, tmp_path):
    content, kept = foreign
    found = find(choice, BACKBONE)
    assert_same(found.arrays, arrays)
    assert (found.choice, found.adapted, found.warning) == ("imagenet", False, None)
    assert found.title == f"ImageNet, of torchvision ({kept.name})"
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert visible(tmp_path) == {kept.relative_to(tmp_path).as_posix(): content}
    asked = len(server.requests)
    assert find(choice, BACKBONE).sha256 == found.sha256
    assert len(server.requests) == asked


def test_the_wrong_file_of_torchvision_is_not_kept(foreign, server, tmp_path):
    content, kept = foreign
    server.files[f"/models/{kept.name}"] = content[:-1] + b"!"
    found = re.search(r"its sha256 is (\w{8}), not (\w{8})\n", refused("imagenet", BACKBONE))
    assert found[2] == hashlib.sha256(content).hexdigest()[:8] != found[1]
    assert visible(tmp_path) == {}


def test_a_digest_says_which_of_the_two_is_meant(foreign, place, params, server, monkeypatch):
    content, _ = foreign
    serve(server, monkeypatch, place, zipped(place, params))
    for wanted in (content, params, content):
        sha256 = hashlib.sha256(wanted).hexdigest()
        assert find("imagenet", BACKBONE, sha256=sha256).sha256 == sha256
    assert find("imagenet", BACKBONE).sha256 == hashlib.sha256(params).hexdigest()


def test_what_torchvision_strides_otherwise_is_marked(tmp_path):
    layers = ["conv1", "bn1"]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for at in (f"layer{stage}.{block}" for block in range(blocks)):
            layers += [f"{at}.{kind}{n}" for n in (1, 2, 3) for kind in ("conv", "bn")]
            layers += [f"{at}.downsample.{n}" for n in (0, 1)] if at.endswith(".0") else []
    statistics = ("weight", "bias", "running_mean", "running_var")
    theirs = [
        f"{layer}.{kind}"
        for layer in layers
        for kind in (statistics if re.search(r"bn\d$|downsample\.1$", layer) else ["weight"])
    ]
    theirs += ["fc.weight", "fc.bias"]
    layout = names.layout("resnet50_v1")
    # torchvision's convolutions have no bias.
    ours = [e for n, e in layout.items() if not re.search(r"conv\d+_bias$", e.counted)]
    arrays = [np.zeros(entry.shape, np.float16) for entry in ours]
    save_file(dict(zip(theirs, arrays, strict=True)), tmp_path / "r.safetensors")
    found = find(str(tmp_path / "r.safetensors"), "resnet50_v1")
    assert found.adapted
    assert list(found.arrays) == list(layout)
    # The same network in the zoo's own names is not torchvision's, nor need it be told of.
    save_file(found.arrays, tmp_path / "z.safetensors")
    assert not find(str(tmp_path / "z.safetensors"), "resnet50_v1").adapted


# --- auto, offline -------------------------------------------------------------------------------


def test_auto_takes_the_bundled_where_nothing_is_reached(place, bundle, arrays, dead, tmp_path):
    before = visible(tmp_path)
    found = find("auto", BACKBONE)
    assert (found.choice, found.title) == ("bundled", "features of a test")
    assert_same(found.arrays, {n: a.astype(np.float16).astype("f4") for n, a in arrays.items()})
    assert found.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert found.warning == (
        f"no ImageNet weights of {BACKBONE} are cached, and none can be downloaded "
        "(no connection), so training starts from features of a test"
    )
    assert visible(tmp_path) == before
    assert find(found.choice, BACKBONE, sha256=found.sha256).warning is None


def test_auto_without_bundled_weights_is_none_and_says_so(place):
    found = find("auto", "mobilenet0.25")
    assert (found.choice, found.sha256, found.arrays) == ("none", None, {})
    assert found.warning.startswith("no ImageNet weights of mobilenet0.25 are cached, and none ")
    assert found.warning.endswith(
        "no connection), and none are bundled for mobilenet0.25, only for alexnet, so training "
        "starts from random weights, which with frozen features is rarely what one wants"
    )


def test_bundled_weights_that_end_too_early_are_not_taken(place, bundle, arrays):
    def layers(count):
        return {n for n in arrays if n.startswith("features") and int(n.split(".")[1]) < count}

    half = {name: array for name, array in arrays.items() if name in layers(7)}
    save_file(half, bundle)
    for choice in ("bundled", "auto"):
        for needed in (None, layers(6), layers(7)):
            found = find(choice, BACKBONE, needed=needed)
            assert (found.choice, found.arrays.keys()) == ("bundled", half.keys())
    only = "the bundled ones hold the first 7 feature layers only: model.cut=7"
    assert refused("bundled", BACKBONE, needed=layers(8)).startswith(
        f"model.weights=bundled: {only}; ImageNet weights of {BACKBONE} are "
    )
    found = find("auto", BACKBONE, needed=layers(99))
    assert (found.choice, found.arrays) == ("none", {})
    assert (
        f"(no connection), and {only}, so training starts from random weights, " in found.warning
    )


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"damaged"), Path.unlink])
def test_auto_goes_on_without_bundled_weights_that_cannot_be_read(place, bundle, spoil):
    spoil(bundle)
    assert refused("bundled", BACKBONE).startswith("model.weights=bundled: ")
    found = find("auto", BACKBONE)
    assert found.choice == "none"
    assert str(bundle) in found.warning


def test_servers_that_never_answer_hold_auto_up_once(place, bundle, monkeypatch):
    began = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MXNET_GLUON_REPO", url)
        monkeypatch.setenv("GLUONEXP_TORCHVISION", url)
        found = find("auto", BACKBONE)
    assert found.choice == "bundled"
    assert re.search(r"\((no answer|timed out)(; (no answer|timed out))?\)", found.warning)
    assert 3 <= time.monotonic() - began < 5


def test_a_server_that_stalls_does_not_hold_auto_up(place, bundle, params, server, monkeypatch):
    assert weights._HASTY <= 10  # seconds
    monkeypatch.setattr(weights, "_HASTY", 0.2)
    serve(server, monkeypatch, place, zipped(place, params))
    server.stalling = set(server.files)
    began = time.monotonic()
    found = find("auto", BACKBONE)
    assert time.monotonic() - began < 5
    assert found.choice == "bundled"
    assert f"{server.url}gluon/models/{place.stem}.zip: timed out; no connection" in found.warning


def test_offline_asks_no_server_but_uses_the_cache(
    place, bundle, params, server, monkeypatch, tmp_path
):
    serve(server, monkeypatch, place, zipped(place, params))
    monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
    found = find("auto", BACKBONE)
    assert found.choice == "bundled"
    assert "not asked, because GLUONEXP_OFFLINE is set" in found.warning
    assert "not asked, because GLUONEXP_OFFLINE is set\n" in refused("imagenet", BACKBONE)
    assert server.requests == []
    monkeypatch.setenv("GLUONEXP_OFFLINE", "0")
    assert find("auto", BACKBONE).choice == "imagenet"
    monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
    assert find("auto", BACKBONE).choice == "imagenet"


def test_auto_tells_of_a_wrong_file_that_it_cannot_replace(place, bundle):
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    found = find("auto", BACKBONE)
    assert found.choice == "bundled"
    assert f"{place}: its sha1 is {hashlib.sha1(b'something else').hexdigest()}" in found.warning
    assert place.read_bytes() == b"something else"


# --- the others ----------------------------------------------------------------------------------


def test_none_is_none(place):
    found = find("none", "alexnet")
    assert (found.choice, found.sha256, found.arrays) == ("none", None, {})
    assert found.warning is None


def test_bundled_weights_are_not_there_for_all(place):
    assert refused("bundled", "vgg11").startswith(
        "model.weights=bundled: none are bundled for vgg11, only for alexnet; ImageNet weights of "
    )


@pytest.mark.parametrize("backbone", weights.BUNDLED)
def test_the_bundled_weights_fit(backbone):
    path = weights.BUNDLED[backbone]
    found = find("bundled", backbone)
    assert found.title == pth.metadata(path)["title"]
    assert path.stat().st_size <= 6_000_000
    assert all(np.isfinite(array).all() for array in found.arrays.values())


@pytest.mark.parametrize("suffix", [".params", ".safetensors"])
def test_a_file_of_ones_own(suffix, params, arrays, tmp_path, monkeypatch):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".params":
        path.write_bytes(params)
    else:
        save_file(arrays, path)
    monkeypatch.chdir(tmp_path)
    found = find(path.name, BACKBONE)
    assert (found.choice, found.title, found.adapted) == (str(path), path.name, False)
    assert_same(found.arrays, arrays)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert find(found.choice, BACKBONE, sha256=sha256).sha256 == sha256
    assert refused(found.choice, BACKBONE, sha256="00" * 32) == (
        f"model.weights={path}: the sha256 of {path.name} is {sha256}, not the {'00' * 32} that "
        "model.sha256 asks for"
    )
    assert refused(path.name, "resnet18_v1").startswith(f"{path}: not the weights of ")


def test_what_is_no_choice_is_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("imagnet", "alexnet") == (
        "model.weights=imagnet: no such file; it is imagenet, bundled, none, auto, a file "
        "(.params .pth .pt .safetensors), runs:/RUN_ID or models:/NAME@ALIAS"
    )
    (tmp_path / "folder.params").mkdir()
    (tmp_path / "net.onnx").write_bytes(b"")
    for name in ("folder.params", "net.onnx"):
        assert refused(name, "alexnet") == (
            f"{tmp_path / name}: not a file of weights (.params .pth .pt .safetensors)"
        )
    assert refused("none", "alexnet", sha256="ab").startswith(
        "model.weights=none: the sha256 of none: random initial values is None, not the ab "
    )


def test_what_is_no_text_is_told(tmp_path):
    for choice in (None, 12):
        assert refused(choice, "alexnet").startswith(f"model.weights={choice}: not a text; it is ")
    said = refused("none", "alexnet", sha256=12)
    assert said == "model.sha256=12: not a text; quote the digits: '\"...\"'"


def test_odd_paths_are_told_in_one_message():
    assert refused("~nobody-here/w.params", "alexnet").startswith(
        "model.weights=~nobody-here/w.params: no such file; it is imagenet, "
    )
    assert refused(f"{'x' * 300}.params", "alexnet").endswith(
        "x.params cannot be read: File name too long"
    )


def test_a_file_that_repeats_its_data_is_refused_before_it_is_copied(tmp_path):
    torch = pytest.importorskip("torch")
    path, base = tmp_path / "views.pth", torch.zeros(10_000)
    torch.save({f"head.{n}": base for n in range(1000)}, path)
    assert refused(str(path), BACKBONE) == (
        f"{path}: of {path.stat().st_size} bytes, holds tensors of 40000000 bytes that are the "
        "same data over and over; save every parameter once"
    )


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["features.3.0.0.bias", "head.1.weight"])
def test_values_that_are_no_numbers_are_refused_where_they_are_used(name, value, arrays, tmp_path):
    spoiled = {n: a.copy() for n, a in arrays.items()}
    spoiled.setdefault(name, np.zeros((2, 2), np.float32)).flat[1] = value
    save_file(spoiled, tmp_path / "s.safetensors")
    for needed in (None, set(arrays)):
        assert refused(str(tmp_path / "s.safetensors"), BACKBONE, needed=needed) == (
            f"model.weights={tmp_path}/s.safetensors: {name} of s.safetensors holds values that "
            "are not finite numbers (inf or nan); choose other weights"
        )
    if not name.startswith("head."):
        find(str(tmp_path / "s.safetensors"), BACKBONE, needed=set(arrays) - {name})


def test_a_digest_is_read_in_blocks(tmp_path):
    content = bytes(3 << 20)
    (tmp_path / "a").write_bytes(content)
    assert zoo.digest(tmp_path / "a", "sha256") == hashlib.sha256(content).hexdigest()
    with pytest.raises(GluonexpError, match="b cannot be read: No such file"):
        zoo.digest(tmp_path / "b", "sha1")


# --- earlier runs and registered models ----------------------------------------------------------


class Store:
    """A store with one finished run, and what the run holds."""

    def __init__(self, folder, arrays):
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.client = tracking.open_store(self.uri)
        experiment = tracking.ensure_experiment(self.client, "earlier", self.uri)
        run = self.client.create_run(experiment, run_name="wise-owl-1")
        self.run_id, self.artifacts = run.info.run_id, run.info.artifact_uri
        self.arrays = {n: a for n, a in arrays.items() if n.startswith("features.")}
        self.head = {"head.1.weight": np.ones((3, 512), np.float32)}
        named = {n.replace("features.", "backbone."): a for n, a in self.arrays.items()}
        counted = {
            f"arg:squeezenet7_{names.layout(BACKBONE)[n].counted}": a for n, a in arrays.items()
        }
        self.log("checkpoint", "model.params", named | self.head)
        self.log("export", "model-0000.params", counted)
        self.client.set_terminated(run.info.run_id, "FINISHED")
        self.client.create_registered_model("net")

    def log(self, folder, name, arrays, run_id=None):
        path = Path(self.uri.removeprefix("sqlite:///")).parent / name
        nd.save(str(path), {name: nd.array(array) for name, array in arrays.items()})
        self.client.log_artifact(run_id or self.run_id, str(path), folder)
        path.unlink()

    def sha256(self, path):
        return hashlib.sha256(Path(self.artifacts, path).read_bytes()).hexdigest()

    def version(self, source, run_id=None):
        run_id = run_id or self.run_id
        return self.client.create_model_version("net", source, run_id=run_id).version


@pytest.fixture(scope="module")
def store(arrays, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"), arrays)


@pytest.mark.parametrize("short", [False, True, "last"])
def test_an_earlier_run_gives_its_checkpoint(short, store):
    ref = {False: store.run_id, True: store.run_id[:8]}.get(short, "last")
    found = find(f"runs:/{ref}", BACKBONE, tracking_uri=store.uri)
    assert found.choice == f"runs:/{store.run_id}/checkpoint/model.params"
    assert found.title == "checkpoint/model.params of run wise-owl-1"
    assert found.sha256 == store.sha256("checkpoint/model.params")
    assert not found.adapted
    assert_same(found.arrays, store.arrays | store.head)
    assert find(found.choice, BACKBONE, tracking_uri=store.uri).sha256 == found.sha256


def test_an_earlier_run_gives_another_artifact(store, arrays):
    choice = f"runs:/{store.run_id}/export/model-0000.params"
    found = find(choice, BACKBONE, tracking_uri=store.uri)
    assert (found.choice, found.sha256) == (choice, store.sha256("export/model-0000.params"))
    assert_same(found.arrays, arrays)


def test_what_an_earlier_run_has_not_is_told(store, tmp_path):
    uri = store.uri
    assert "in export/ there is model-0000.params" in refused(
        f"runs:/{store.run_id}/export/nothing.params", BACKBONE, tracking_uri=uri
    )
    # The message speaks of the run, not of a copy that is gone.
    choice = f"runs:/{store.run_id}/checkpoint/model.params"
    assert refused(choice, "alexnet", tracking_uri=uri).startswith(
        f"{choice}: not the weights of alexnet: features.0.weight is "
    )
    assert refused(f"runs:/{store.run_id}/export", BACKBONE, tracking_uri=uri) == (
        f"runs:/{store.run_id}/export: not a file of weights (.params .pth .pt .safetensors)"
    )
    assert "no run id begins with abcdef0" in refused("runs:/abcdef0", BACKBONE, tracking_uri=uri)
    none = f"sqlite:///{tmp_path}/none.db"
    assert "there is no store at" in refused("runs:/last", BACKBONE, tracking_uri=none)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("/export", "checkpoint/model.params"),  # which is of the same network, and says more
        ("/checkpoint", "model.params"),
        ("", "checkpoint/model.params"),
    ],
)
@pytest.mark.parametrize("uri", ["runs:/", "path"])
def test_a_registered_model_gives_the_checkpoint_of_its_run(folder, path, uri, store):
    source = f"runs:/{store.run_id}" if uri == "runs:/" else store.artifacts
    version = store.version(source + folder)
    store.client.set_registered_model_alias("net", "best", str(version))
    found = find("models:/net@best", BACKBONE, tracking_uri=store.uri)
    assert found.choice == f"models:/net/{version}"
    assert found.title == f"{path} of version {version} of model net"
    assert found.sha256 == store.sha256("checkpoint/model.params")
    assert_same(found.arrays, store.arrays | store.head)
    # What was found stays, when the alias goes elsewhere.
    store.client.set_registered_model_alias("net", "best", str(store.version(source + "/export")))
    again = find(found.choice, BACKBONE, tracking_uri=store.uri)
    assert (again.choice, again.title) == (found.choice, found.title)


def test_what_is_no_registered_model_is_told(store):
    uri = store.uri
    for choice in ("models:/net", "models:/net/newest", "models:/net@best/2", "models:/@best"):
        assert refused(choice, BACKBONE, tracking_uri=uri) == (
            f"model.weights: {choice}: write models:/NAME@ALIAS, models:/NAME/3 or models:/m-ID"
        )
    assert refused("models:/net@gone", BACKBONE, tracking_uri=uri).startswith(
        "model.weights: version @gone of model net cannot be found: "
    )
    version = store.version(f"{store.artifacts}/nowhere")
    assert refused(f"models:/net/{version}", BACKBONE, tracking_uri=uri) == (
        f"version {version} of model net cannot be read: {store.artifacts}/nowhere has none of "
        "checkpoint/model.params, model.params, export/model-0000.params, "
        "data/model-0000.params, model-0000.params"
    )


# --- what a run says of its network --------------------------------------------------------------

CLASSES = ["cat", "dog", "eel"]


@pytest.fixture
def two_forms(monkeypatch):
    """Let the backbone be one that torchvision has in another form."""
    monkeypatch.setattr(torchvision, "ADAPTED", frozenset({BACKBONE}))


def meta(content, adapted):
    return {
        "epoch": 3,
        "identity": {"seed": 1, "pretrained": {"adapted": adapted}, "classes": CLASSES},
        "sha256": {"model.params": hashlib.sha256(content).hexdigest()},
    }


def tuned(folder, store, name="model.params"):
    """Put the parameters of a fine-tuned network into a folder."""
    folder.mkdir(exist_ok=True)
    held = {n.replace("features.", "backbone."): nd.array(a) for n, a in store.arrays.items()}
    nd.save(str(folder / name), held | {n: nd.array(a) for n, a in store.head.items()})
    return folder / name


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("name", ["model.params", "renamed.params"])
def test_the_meta_beside_a_file_says_what_it_is(adapted, name, store, two_forms, tmp_path):
    path = tuned(tmp_path, store, name)
    (tmp_path / "meta.json").write_text(json.dumps(meta(path.read_bytes(), adapted)))
    found = find(str(path), BACKBONE)
    assert (found.adapted, found.classes) == (adapted, ("cat", "dog", "eel"))


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"sha256": 1, "identity": 2}',
        json.dumps(meta(b"another file", True)),
    ],
    ids=["none", "empty", "list", "deep", "nothing", "numbers", "of another file"],
)
def test_without_the_meta_the_form_is_not_guessed(wrong, store, two_forms, tmp_path, monkeypatch):
    path = tuned(tmp_path, store)
    if wrong is not None:
        (tmp_path / "meta.json").write_text(wrong)
    assert refused(str(path), BACKBONE) == (
        f"{path}: {BACKBONE} has other strides in torchvision than in Gluon, and nothing tells "
        "whose this fine-tuned one has: name its run, model.weights=runs:/RUN_ID, or keep the "
        "meta.json of its checkpoint beside the file"
    )
    monkeypatch.setattr(torchvision, "ADAPTED", frozenset())  # where there is nothing to guess
    found = find(str(path), BACKBONE)
    assert (found.adapted, found.classes) == (False, None)


@pytest.mark.parametrize(
    "said", [{}, {"pretrained": None}, {"pretrained": {"adapted": 1}, "classes": [1, 2]}]
)
def test_the_meta_of_earlier_versions_does_not_say(said, store, two_forms, tmp_path):
    path = tuned(tmp_path, store)
    held = meta(path.read_bytes(), True) | {"identity": said}
    (tmp_path / "meta.json").write_text(json.dumps(held))
    assert "nothing tells whose this fine-tuned one has" in refused(str(path), BACKBONE)


def test_the_signature_beside_an_export_tells_its_classes(store, tmp_path):
    path = tuned(tmp_path, store, "model-0000.params")
    (tmp_path / "signature.json").write_text(json.dumps({"format": 1, "classes": CLASSES}))
    assert find(str(path), BACKBONE).classes == ("cat", "dog", "eel")
    other = tuned(tmp_path, store, "other.params")
    assert find(str(other), BACKBONE).classes is None


@pytest.fixture
def run_with_meta(store, tmp_path):
    """Record a run whose network has torchvision's strides; return its id and its artifacts."""
    experiment = store.client.get_run(store.run_id).info.experiment_id
    info = store.client.create_run(experiment).info
    path = tuned(tmp_path / "checkpoint", store)
    path.with_name("meta.json").write_text(json.dumps(meta(path.read_bytes(), True)))
    store.client.log_artifacts(info.run_id, str(path.parent), "checkpoint")
    exported = tuned(tmp_path / "export", store, "model-0000.params")
    exported.with_name("signature.json").write_text(json.dumps({"classes": CLASSES}))
    store.client.log_artifacts(info.run_id, str(exported.parent), "export")
    return info.run_id, info.artifact_uri


@pytest.mark.parametrize("path", ["", "/checkpoint/model.params", "/export/model-0000.params"])
def test_a_run_says_that_its_network_is_torchvisions(path, store, run_with_meta, two_forms):
    found = find(f"runs:/{run_with_meta[0]}{path}", BACKBONE, tracking_uri=store.uri)
    assert (found.adapted, found.classes) == (True, ("cat", "dog", "eel"))
    assert "nothing tells" in refused(f"runs:/{store.run_id}", BACKBONE, tracking_uri=store.uri)


@pytest.mark.parametrize("path", ["/export", "/checkpoint", "", "/checkpoint/model.params"])
@pytest.mark.parametrize("uri", ["runs:/", "path"])
def test_so_does_a_registered_model(path, uri, store, run_with_meta, two_forms):
    run_id, artifacts = run_with_meta
    version = store.version((f"runs:/{run_id}" if uri == "runs:/" else artifacts) + path, run_id)
    found = find(f"models:/net/{version}", BACKBONE, tracking_uri=store.uri)
    assert (found.adapted, found.classes) == (True, ("cat", "dog", "eel"))


@pytest.mark.parametrize("removed", [False, True])
def test_the_run_of_a_registered_model_may_be_gone(
    removed, store, run_with_meta, two_forms, tmp_path
):
    run_id, artifacts = run_with_meta
    version = store.version(f"runs:/{run_id}/checkpoint", run_id)
    path = Path(artifacts.removeprefix("file://"), "checkpoint")
    copy = tmp_path / "elsewhere" / "export"  # as a folder of its run would be called
    shutil.copytree(path, copy)
    copied = store.version(str(copy), run_id)
    store.client.delete_run(run_id)
    if removed:
        store.client._tracking_client.store._hard_delete_run(run_id)
        shutil.rmtree(path.parent)
        assert refused(f"models:/net/{version}", BACKBONE, tracking_uri=store.uri) == (
            f"the artifacts of version {version} of model net cannot be read: "
            f"Run with id={run_id} not found"
        )
    else:
        assert find(f"models:/net/{version}", BACKBONE, tracking_uri=store.uri).adapted
    # What lies beside a file is believed without a run.
    found = find(f"models:/net/{copied}", BACKBONE, tracking_uri=store.uri)
    assert (found.adapted, found.classes) == (True, ("cat", "dog", "eel"))
    (copy / "meta.json").unlink()
    if removed:
        assert refused(f"models:/net/{copied}", BACKBONE, tracking_uri=store.uri).startswith(
            f"models:/net/{copied}: {BACKBONE} has other strides"
        )


def test_an_export_elsewhere_is_not_taken_for_a_runs(store, tmp_path):
    """Beside it lies what has nothing to do with it."""
    path = tuned(tmp_path / "export", store, "model-0000.params")
    tuned(tmp_path / "checkpoint", store)
    version = store.version(str(path.parent))
    found = find(f"models:/net/{version}", BACKBONE, tracking_uri=store.uri)
    assert found.title == f"model-0000.params of version {version} of model net"
