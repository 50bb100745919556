"""Bad input of every kind: one sentence that names it, and nothing left that is not whole."""

import io
import json
import logging
import os
import pickle
import shutil
import sqlite3
import sys
import tarfile
import traceback
from contextlib import closing, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from gluonexp import run as application
from gluonexp.base.errors import sentence
from gluonexp.base.files import DRAFT
from gluonexp.cli import main
from gluonexp.experiment import run as train

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "dataset.source.size=8"),
    *("dataset.source.train=64", "trainer.epochs=1", "trainer.batch_size=16"),
)
PLAIN = (*TINY, "export=none")
TUNED = (
    *("model=zoo_ft", "model.backbone=squeezenet1.0", "dataset=synthetic", "export=none"),
    *("dataset.source.size=32", "trainer.epochs=1"),
)
LAST = "store/hydra/job/checkpoints/last"
SILENT = Console(file=io.StringIO())
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@cache
def composed(*words):
    return application.compose("tracking.uri=sqlite:///store/mlflow.db", *words)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with a run that was exported, and the folder of its job; tests change copies."""
    folder = tmp_path_factory.mktemp("world")
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    job = folder / "mlruns" / "hydra" / "job"
    result = train(application.compose(f"tracking.uri={uri}", *TINY), job, TINY)
    exported = next(folder.glob(f"mlruns/artifacts/*/{result.run_id}/artifacts"))
    return folder, result.run_id, exported


@pytest.fixture
def ask(tmp_path, monkeypatch, world):
    """Give a command in a folder of its own; return its exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.delenv("GLUONEXP_DATA", raising=False)
    shutil.copytree(world[0] / "mlruns", tmp_path / "store")

    def ask(*words):
        if words[0] == "train":  # what `run` does, but for Hydra, which takes half of its time
            try:
                train(deepcopy(composed(*words[1:])), tmp_path / "job", words[1:], SILENT)
            except Exception as error:
                return 1, sentence(error) or traceback.format_exc()
            return 0, ""
        if words[0] != "run":
            told = CliRunner().invoke(main, words)
            if told.exception is not None and not isinstance(told.exception, SystemExit):
                raise told.exception
            return told.exit_code, told.output
        monkeypatch.setattr(sys, "argv", ["run.py", *words[1:]])
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            try:
                application.start()
            except SystemExit as ended:
                if isinstance(ended.code, str):
                    return 1, f"{said.getvalue()}\n{ended.code}"
                return ended.code or 0, said.getvalue()
        return 0, said.getvalue()

    before = logging.getLogger().handlers[:]
    yield ask
    logging.getLogger().handlers[:] = before  # Hydra's own write into this test's folder


def statuses(database):
    if not database.is_file() or not database.read_bytes().startswith(b"SQLite format 3\0"):
        return None
    with closing(sqlite3.connect(database)) as link:
        try:
            return [status for (status,) in link.execute("SELECT status FROM runs")]
        except sqlite3.DatabaseError:
            return None


# --- what is bad -------------------------------------------------------------------------------
# A preparation gets the test's folder, makes there what is bad, and returns more words or nothing.


def written(name, content):
    """Return what writes a file, or makes a folder where the content is None."""

    def write(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def both(*steps):
    def prepare(folder):
        for step in steps:
            step(folder)

    return prepare


def photos(folder, classes="ab", count=6):
    for name in classes:
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), number * 20, np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")


def png(*size, mode="RGB"):
    kept = io.BytesIO()
    Image.new(mode, size).save(kept, "tiff" if mode == "CMYK" else "png")
    return kept.getvalue()


def jpeg():
    kept = io.BytesIO()
    Image.fromarray(
        np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    ).save(kept, "jpeg")
    return kept.getvalue()


def idx(kind, *shape, items=None):
    content = bytes(np.prod(shape) if items is None else items)
    head = bytes([0, 0, kind, len(shape)]) + b"".join(int(n).to_bytes(4, "big") for n in shape)
    return head + content


def fashion(**changed):
    """Return what writes Fashion-MNIST with two images a split, but for what is changed."""
    files = {
        "train-images-idx3-ubyte": idx(8, 2, 28, 28),
        "train-labels-idx1-ubyte": idx(8, 2),
        "t10k-images-idx3-ubyte": idx(8, 2, 28, 28),
        "t10k-labels-idx1-ubyte": idx(8, 2),
    }
    files |= {
        f"train-{name}-idx{3 if name == 'images' else 1}-ubyte": c for name, c in changed.items()
    }
    return both(*(written(f"fashion-mnist/{name}", content) for name, content in files.items()))


def archive(members):
    def write(folder):
        (folder / "cifar10").mkdir()
        with tarfile.open(folder / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    return write


class Code:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def batches():
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
    return {
        **{f"data_batch_{number}": pickle.dumps(batch, 2) for number in range(1, 6)},
        "test_batch": pickle.dumps(Code(), 2),
    }


def edited(path, change):
    """Return what changes the bytes of a file of the world's copy."""

    def edit(folder):
        (found,) = folder.glob(path)
        content = change(found.read_bytes())
        if content is None:
            found.unlink()
        else:
            found.write_bytes(content)

    return edit


def exported(name, change):
    """Return what changes a file of the export, beside an image that it could be asked about."""
    return both(edited(f"{EXPORT}/{name}", change), written(EXAMPLE, png(8, 8)))


def meta(key, value):
    """Return what puts another value into a meta, as an older version wrote it; None: nothing."""

    def edit(content):
        whole = json.loads(content)
        del whole["meta_sha256"], whole[key]
        return json.dumps(whole if value is None else {**whole, key: value}).encode()

    return edited(f"{LAST}/meta.json", edit)


def alone(folder):
    """Leave no other checkpoint, from which training could go on."""
    shutil.rmtree(folder / LAST / ".." / "best")


def flipped(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def table(connection_words):
    def edit(folder):
        with closing(sqlite3.connect(folder / "store" / "mlflow.db")) as link, link:
            link.execute(connection_words)

    return edit


RUN = ("run", *PLAIN)
FOLDER = ("train", "dataset=image_folder", "dataset.root=photos", "dataset.resize=8", *PLAIN[1:3])
FOLDER += ("export=none", "trainer.epochs=1", "tracking=none")
FASHION = (
    "train",
    "dataset=fashion_mnist",
    "dataset.root=.",
    "model=mlp",
    "export=none",
    "tracking=none",
)
CIFAR = ("train", "dataset=cifar10", "dataset.root=.", "model=mlp", "export=none", "tracking=none")
RESUME = ("train", *PLAIN, "trainer.epochs=3", "trainer.resume=store/hydra/job/checkpoints/last")
LOG = "store/hydra/job/run.jsonl"
EXAMPLE = "example.png"
EXPORT = "store/artifacts/*/*/artifacts/export"


def nothing(folder):
    pass


# Kind, preparation, command, and what is told.
CASES = {
    # configurations
    "conf-no-folder": (nothing, (*RUN, "--config-dir", "nowhere"), "nowhere"),
    "conf-no-file": (nothing, (*RUN, "--config-name", "nowhere"), "nowhere"),
    "conf-syntax": (
        written("conf/model/bad.yaml", "a: [1\n"),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad.yaml",
    ),
    "conf-binary": (
        written("conf/model/bad.yaml", b"\0\1"),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad.yaml",
    ),
    "conf-latin": (
        written("conf/model/bad.yaml", b"a: \xe9\n"),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad.yaml",
    ),
    "conf-list": (
        written("conf/model/bad.yaml", "- 1\n"),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad",
    ),
    "conf-empty": (
        written("conf/model/bad.yaml", ""),
        ("run", "--config-dir", "conf", "model=bad"),
        "model",
    ),
    "conf-object": (
        written("conf/model/bad.yaml", "a: !!python/object:os.system x\n"),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad.yaml",
    ),
    "conf-deep": (
        written("conf/model/bad.yaml", "x: " + "{a: " * 2000 + "1" + "}" * 2000),
        (*RUN, "--config-dir", "conf", "model=bad"),
        "bad.yaml",
    ),
    "conf-type": (nothing, (*RUN, "trainer.epochs=many"), "trainer.epochs"),
    "conf-range": (nothing, (*RUN, "trainer.epochs=0"), "trainer.epochs"),
    "conf-nan": (nothing, (*RUN, "optim.lr=nan"), "optim.lr"),
    "conf-key": (nothing, (*RUN, "trainer.epoch=1"), "trainer.epoch"),
    "conf-argument": (nothing, (*RUN, "+model.width=1"), "model.width"),
    "conf-choice": (nothing, (*RUN, "optim=adams"), "adams"),
    "conf-reference": (nothing, (*RUN, "model.hidden=${nowhere}"), "nowhere"),
    "conf-itself": (nothing, (*RUN, "seed=${seed}"), "seed"),
    "conf-environment": (nothing, (*RUN, "seed=${oc.env:NOT_SET}"), "NOT_SET"),
    "conf-target": (nothing, (*RUN, "model._target_=os.system"), "model._target_=os.system"),
    "conf-removed": (nothing, (*RUN, "~optim"), "optim"),
    "conf-sweep-empty": (nothing, (*RUN, "-m", "optim.lr="), "optim.lr"),
    "conf-sweep-resume": (
        nothing,
        ("run", "sweep.resume=ffffff", "tracking.uri=sqlite:///store/mlflow.db"),
        "ffffff",
    ),
    "conf-layers": (nothing, (*RUN, "model.hidden=[0]"), "model"),
    "conf-layers-huge": (nothing, (*RUN, "model.hidden=[1000000000000]"), "model"),
    "conf-device": (nothing, (*RUN, "device=gpu"), "device=gpu"),
    "conf-job-folder": (nothing, (*RUN, "hydra.run.dir=/dev/null"), "/dev/null"),
    "conf-secret": (nothing, (*RUN, "tracking.uri=foo://me:hunter2@host"), "foo://me:***@host"),
    # data files
    "idx-empty": (fashion(images=b""), FASHION, "train-images-idx3-ubyte"),
    "idx-magic": (fashion(images=b"hello" * 9), FASHION, "train-images-idx3-ubyte"),
    "idx-cut": (fashion(images=idx(8, 2, 28, 28)[:-9]), FASHION, "train-images-idx3-ubyte"),
    "idx-type": (fashion(images=idx(13, 2, 28, 28)), FASHION, "train-images-idx3-ubyte"),
    "idx-huge": (
        fashion(images=idx(8, 1 << 31, 28, 28, items=9)),
        FASHION,
        "train-images-idx3-ubyte",
    ),
    "idx-labels": (fashion(labels=idx(8, 3)), FASHION, "train-"),
    "idx-label": (fashion(labels=idx(8, 2)[:-1] + b"\x63"), FASHION, "train-"),
    "idx-folder": (fashion(images=None), FASHION, "train-images-idx3-ubyte"),
    "idx-tracked": (fashion(images=b""), FASHION[:-1], "train-images-idx3-ubyte"),
    "idx-none": (nothing, FASHION, "GLUONEXP_OFFLINE"),
    "cifar-empty": (written("cifar10/cifar-10-python.tar.gz", b""), CIFAR, "python.tar.gz"),
    "cifar-text": (written("cifar10/cifar-10-python.tar.gz", "hello"), CIFAR, "python.tar.gz"),
    "cifar-cut": (
        written("cifar10/cifar-10-python.tar.gz", b"\x1f\x8b\x08"),
        CIFAR,
        "python.tar.gz",
    ),
    "cifar-pointer": (written("cifar10/cifar-10-python.tar.gz", POINTER), CIFAR, "python.tar.gz"),
    "cifar-folder": (written("cifar10/cifar-10-python.tar.gz", None), CIFAR, "python.tar.gz"),
    "cifar-code": (archive(batches()), CIFAR, "python.tar.gz"),
    "folder-none": (nothing, FOLDER, "photos"),
    "folder-file": (written("photos", ""), FOLDER, "photos"),
    "folder-empty": (written("photos", None), FOLDER, "photos"),
    "folder-one-class": (lambda folder: photos(folder, "a"), FOLDER, "photos"),
    "folder-few": (lambda folder: photos(folder, count=1), FOLDER, "dataset.source"),
    # images
    "image-empty": (both(photos, written("photos/a/0.png", b"")), FOLDER, "0.png"),
    "image-text": (both(photos, written("photos/a/0.png", "hello")), FOLDER, "0.png"),
    "image-cut": (both(photos, written("photos/a/0.png", png(8, 8)[:40])), FOLDER, "0.png"),
    "image-jpeg-cut": (both(photos, written("photos/a/0.jpg", jpeg()[:500])), FOLDER, "0.jpg"),
    "image-bomb": (both(photos, written("photos/a/0.png", png(20_000, 20_000))), FOLDER, "0.png"),
    "image-zeros": (both(photos, written("photos/a/0.png", bytes(100))), FOLDER, "0.png"),
    "image-predict-none": (nothing, ("predict", "last", "nowhere.png"), "nowhere.png"),
    "image-predict-text": (written("x.png", "hello"), ("predict", "last", "x.png"), "x.png"),
    "image-predict-folder": (written("x", None), ("predict", "last", "x"), "x"),
    # weights
    **{
        f"weights-{name}": (
            written(f"w{suffix}", content),
            ("train", *TUNED, f"model.weights=w{suffix}"),
            f"w{suffix}",
        )
        for name, suffix, content in (
            ("pth-empty", ".pth", b""),
            ("pth-text", ".pth", b"hello"),
            ("pth-zip", ".pth", b"PK\x03\x04xx"),
            ("pth-code", ".pth", pickle.dumps(Code(), 2)),
            ("pth-pointer", ".pth", POINTER),
            ("pth-folder", ".pth", None),
            ("safetensors-empty", ".safetensors", b""),
            ("safetensors-none", ".safetensors", safetensors.numpy.save({})),
            ("safetensors-cut", ".safetensors", safetensors.numpy.save({"a": np.ones(9)})[:-9]),
            ("safetensors-other", ".safetensors", safetensors.numpy.save({"a": np.ones(9)})),
            ("params-empty", ".params", b""),
            ("params-text", ".params", b"x" * 100),
            ("params-code", ".params", pickle.dumps(Code())),
            ("format", ".onnx", b"hello"),
        )
    },
    "weights-missing": (nothing, ("train", *TUNED, "model.weights=w.pth"), "w.pth"),
    "weights-no-run": (nothing, ("train", *TUNED, "model.weights=runs:/ffffff"), "ffffff"),
    "weights-sha256": (
        written("w.pth", b"hello"),
        ("train", *TUNED, "model.weights=w.pth", "model.sha256=" + "0" * 64),
        "w.pth",
    ),
    # exports: symbols, parameters, signatures, certificates
    "symbol-cut": (
        exported("model-symbol.json", lambda content: content[:99]),
        ("predict", "last", EXAMPLE),
        "model-symbol.json",
    ),
    "symbol-gone": (
        exported("model-symbol.json", lambda content: None),
        ("predict", "last", EXAMPLE),
        "model-symbol.json",
    ),
    "params-cut": (
        exported("model-0000.params", lambda content: content[:-9]),
        ("predict", "last", EXAMPLE),
        "model-0000.params",
    ),
    "params-flipped": (
        exported("model-0000.params", flipped),
        ("verify", "last"),
        "model-0000.params",
    ),
    "signature-cut": (
        exported("signature.json", lambda content: content[:9]),
        ("evaluate", "last"),
        "signature.json",
    ),
    "certificate-list": (
        exported("certificate.json", lambda content: b"[]"),
        ("verify", "last"),
        "certificate.json",
    ),
    "onnx-cut": (
        exported("model.onnx", lambda content: content[:99]),
        ("predict", "last", EXAMPLE, "--runtime", "onnx"),
        "model.onnx",
    ),
    # checkpoints
    "checkpoint-none": (nothing, ("train", *PLAIN, "trainer.resume=nowhere"), "nowhere"),
    "checkpoint-root": (nothing, ("train", *PLAIN, "trainer.resume=/"), "trainer.resume=/"),
    "checkpoint-no-run": (nothing, ("run", "trainer.resume=ffffff"), "ffffff"),
    "checkpoint-meta-gone": (edited(f"{LAST}/meta.json", lambda content: None), RESUME, LAST),
    **{
        f"checkpoint-meta-{name}": (both(alone, edited(f"{LAST}/meta.json", change)), RESUME, LAST)
        for name, change in (
            ("empty", lambda content: b""),
            ("binary", lambda content: b"\xff\xfe"),
            ("cut", lambda content: content[:-20]),
            ("list", lambda content: b"[1]"),
            ("deep", lambda content: b"[" * 100_000),
            ("altered", lambda content: content.replace(b'"epoch": 0', b'"epoch": 1')),
        )
    },
    **{
        f"checkpoint-meta-{key}-{value}": (both(alone, meta(key, value)), RESUME, LAST)
        for key in ("sha256", "updates", "history", "identity")
        for value in (None, "x")
    },
    "checkpoint-cut": (
        both(alone, edited(f"{LAST}/model.safetensors", lambda content: content[:50])),
        RESUME,
        "model.safetensors",
    ),
    "checkpoint-flipped": (
        both(alone, edited(f"{LAST}/model.safetensors", flipped)),
        RESUME,
        "model.safetensors",
    ),
    "checkpoint-state-gone": (
        both(alone, edited(f"{LAST}/optimizer.safetensors", lambda content: None)),
        RESUME,
        "optimizer.safetensors",
    ),
    # logs
    **{
        f"log-{name}": (edited(LOG, change), ("push", "store/hydra/job"), "run.jsonl")
        for name, change in (
            ("empty", lambda content: b""),
            ("binary", lambda content: bytes(range(256)) * 9),
            ("middle", lambda content: content.replace(b'"kind":"params"', b'"kind":"parans"')),
            ("first", lambda content: content[content.index(b"\n") + 1 :]),
            ("gone", lambda content: None),
        )
    },
    "log-no-folder": (nothing, ("push", "nowhere"), "nowhere"),
    # stores
    **{
        f"store-{name}-{command[0]}": (written("mlflow.db", content), command, "mlflow.db")
        for name, content in (
            ("text", b"hello" * 99),
            ("cut", b"SQLite format 3\0" + bytes(100)),
            ("folder", None),
        )
        for command in (
            (*RUN, "tracking.uri=sqlite:///mlflow.db"),
            ("runs", "--tracking-uri", "sqlite:///mlflow.db"),
            ("predict", "last", "x.png", "--tracking-uri", "sqlite:///mlflow.db"),
        )
    },
    "store-newer": (
        table("UPDATE alembic_version SET version_num = 'ffffffffffff'"),
        ("runs",),
        "mlflow.db",
    ),
    "store-other": (
        table("DROP TABLE metrics"),
        ("compare", "--experiment", "gluonexp"),
        "mlflow.db",
    ),
    "store-none": (nothing, ("runs", "--tracking-uri", "sqlite:///nowhere/m.db"), "nowhere/m.db"),
    "store-scheme": (nothing, ("runs", "--tracking-uri", "foo://host"), "foo://host"),
    "store-address": (nothing, ("runs", "--tracking-uri", "http://["), "http://["),
    "store-memory": (nothing, ("runs", "--tracking-uri", "sqlite://"), "sqlite://"),
    "store-path": (nothing, ("runs", "--tracking-uri", "some/folder"), "some/folder"),
    # arguments
    **{
        f"arguments-{' '.join(words).replace('/', '-')}": (nothing, words, told)
        for *words, told in (
            ("nowhere", "nowhere"),
            ("predict", "MODEL"),
            ("predict", "last", "x.png", "x.png"),
            ("predict", "ffffff", "x.png", "ffffff"),
            ("predict", "../", "x.png", ".."),
            ("predict", "models:/x/y", "x.png", "models:/x/y"),
            ("predict", "runs:/", "x.png", "not a run"),
            ("evaluate", "last", "dataset=nowhere", "nowhere"),
            ("evaluate", "last", "trainer.epochs=1", "trainer.epochs"),
            ("evaluate", "last", "dataset.x=(", "dataset.x"),
            ("evaluate", "", "signature.json"),
            ("verify", "/dev/null", "/dev/null"),
            ("verify", "ffffff", "ffffff"),
            ("export", "ffffff", "--to", "x", "ffffff"),
            ("export", "last", "--to", "/proc/x", "/proc/x"),
            ("download", "last", "nowhere", "--to", "x", "nowhere"),
            ("download", "last", "--to", "/proc/x", "/proc/x"),
            ("compare", "compare"),
            ("compare", "ffffff", "ffffff"),
            ("compare", "--sweep", "ffffff", "ffffff"),
            ("compare", "--experiment", "nowhere", "nowhere"),
            ("runs", "--limit", "-1", "--limit"),
            ("runs", "--sweep", "ffffff", "ffffff"),
            ("runs", "--experiment", "nowhere", "nowhere"),
            ("push", "ffffff", "ffffff"),
            ("push", "--all", "--to", "foo://host", "foo://host"),
            ("recover", "nowhere", "nowhere"),
            ("replay", "MODEL"),
            ("replay", "ffffff", "ffffff"),
            ("replay", "last", "nowhere=1", "nowhere"),
            ("replay", "last", "dataset.x=(", "dataset.x"),
            ("replay", "last", "dataset=synthetic", "dataset.source.train=65", "digest"),
            ("stop", "ffffff", "ffffff"),
            ("stop", "last", "no run trains"),
            ("cache", "nowhere", "nowhere"),
            ("cache", "list", "--folder", "/dev/null", "/dev/null"),
            ("doctor", "nowhere", "nowhere"),
            ("ui", "--port", "99999", "--port"),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_and_leaves_nothing(name, ask, tmp_path):
    prepare, words, told = CASES[name]
    prepare(tmp_path)
    code, said = ask(*words)
    assert code in (1, 2), said
    assert "Traceback" not in said
    assert told in said
    assert "hunter2" not in said
    assert not list(tmp_path.rglob(f"{DRAFT}*"))
    after = statuses(tmp_path / "store" / "mlflow.db")
    assert after is None or "RUNNING" not in after
