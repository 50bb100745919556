"""Every block of code in README.md and docs/ is run, in miniature: a test for each page."""

import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sybil.document import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.example import Example
from sybil.parsers.myst import CodeBlockParser

import gluonexp.api
from gluonexp.api import running
from gluonexp.tracking.read.records import RunRecord
from gluonexp.tracking.read.runs import reader
from tests.docs.shell import ROOT, Shell, ask, miniature

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a command or a program answers is shown, and not run; notebooks are run by the build.
SHOWN = {"", "text", "console", "{code-cell}"}
FENCE = re.compile(r"^ *```+ *(\S*)[^\n`]*\n.*?^ *```+ *$", re.MULTILINE | re.DOTALL)
# `# mypackage/nets.py` at the top of a block: it is that file.
FILE = re.compile(r"# ((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|toml))\b.*\n")
CLASSES = ("cat", "dog")
SERVED = "http://127.0.0.1:5001"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep, two finished runs, their registered models, and photos."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for image in range(10):
            noisy = random.integers(0, 200, (24, 24, 3)) + np.eye(3, dtype=int)[place] * 55
            Image.fromarray(noisy.astype(np.uint8)).save(folder / f"photos/{name}/{image}.jpg")
    for name in ("new.jpg", "img1.png", "img2.png"):
        Image.open(folder / "photos" / "dog" / "0.jpg").save(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        small = ["trainer.epochs=2", "model=mlp", "model.hidden=[4]"]
        ask(["-m", *miniature(["optim.lr=0.01,0.1", *small])])
        ask(["export.register=digits", *small])
        ask(["dataset=image_folder", "dataset.root=photos", "export.register=photos", *small])
    return folder


class Blocks:
    """Runs the blocks of one page, one after another, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runs = reader(None)
        [digits] = [run for run in runs.of_experiment("gluonexp") if registered(run, "digits")]
        names = dict.fromkeys(("RUN_ID", "RUN", "ID"), digits.run_id)
        self.shell = Shell(folder, names | {"SWEEP_ID": runs.parent("last").run_id})
        self.python = PythonEvaluator()
        self.evaluate: dict[str, Callable[[Example], None]] = {
            "sh": lambda example: self.shell(str(example.parsed)),
            "bash": lambda example: self.shell(str(example.parsed)),
            "python": self.run_python,
            "yaml": self.load_yaml,
        }
        self.run = 0

    def __call__(self, example: Example) -> None:
        """Run one; a notebook's cells are run by the build."""
        if example.document.text[example.start :].lstrip("`: ").startswith("{code-cell}"):
            return
        self.run += 1
        self.evaluate[example.region.lexemes["arguments"]](example)

    def parsers(self) -> list[CodeBlockParser]:
        """Return what finds the blocks of each language."""
        return [CodeBlockParser(language, self) for language in self.evaluate]

    def run_python(self, example: Example) -> None:
        """Run it, or keep it where it names a file."""
        if not self.keep(str(example.parsed)):
            with miniatures(), served(str(example.parsed)) as address:
                text = str(example.parsed).replace(SERVED, address)
                code = compile(text, example.path, "exec", dont_inherit=True)
                exec(code, example.namespace)

    def load_yaml(self, example: Example) -> None:
        """Read it, keep it where it names a file, and compose that if it is a group's."""
        assert yaml.safe_load(str(example.parsed)) is not None
        path = self.keep(str(example.parsed))
        if path is not None and path.parent.name in groups():
            folder, group, name = path.parts
            ask(["--config-dir", folder, f"{group}={Path(name).stem}", "--cfg", "job"])

    def keep(self, text: str) -> Path | None:
        """Write the file that a block is, and return its place."""
        found = FILE.match(text)
        if found is None:
            return None
        path = self.folder / found[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix == ".py":
            compile(text, str(path), "exec")
        return Path(found[1])


def groups() -> set[str]:
    """Return the names of the groups under ``conf/``."""
    return {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}


def registered(run: RunRecord, name: str) -> bool:
    """Tell whether a run's export was registered under a name."""
    return run.params.get("export.register") == name


@contextmanager
def miniatures() -> Iterator[None]:
    """Let what Python starts be as small as what a shell starts; it is exported, to be loaded."""

    def small(start: Callable[..., object]) -> Callable[..., object]:
        def started(overrides: tuple[str, ...], config_dir: object) -> object:
            words = [word for word in miniature(overrides) if word != "export=none"]
            return start(tuple(words), config_dir)

        return started

    with pytest.MonkeyPatch.context() as patch:
        for name in ("single", "several"):
            patch.setattr(running, name, small(getattr(running, name)))
        yield


@contextmanager
def served(text: str) -> Iterator[str]:
    """Serve the champion of `photos`, as `mlflow models serve` does, where a block asks it."""
    if SERVED not in text:
        yield SERVED
        return
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
    try:
        app = scoring_server.init(mlflow.pyfunc.load_model("models:/photos@champion"))
    finally:
        mlflow.set_tracking_uri(before)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        [listening] = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def languages(page: Path) -> Counter[str]:
    """Count the fenced blocks of a page by what follows the fence."""
    return Counter(found[1] for found in FENCE.finditer(page.read_text("utf-8")))


def runs(language: str) -> bool:
    """Tell whether blocks of a language are run here; directives are Sphinx's."""
    return language not in SHOWN and not re.fullmatch(r"\{[\w-]+\}.*", language)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(runs, languages(page)))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_block_of_a_page_runs(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("GLUONEXP_OFFLINE", "1")
    for name in ("MLFLOW_TRACKING_URI", "GLUONEXP_DATA"):
        monkeypatch.delenv(name, raising=False)
    modules = set(sys.modules)
    blocks = Blocks(folder)
    document = Document.parse(str(page), *blocks.parsers())
    document.namespace["gx"] = gluonexp.api  # as the cells before a notebook's block have it
    failed = []
    try:
        for example in document:
            try:
                example.evaluate()
            except Exception as error:
                failed.append(f"{page.name}:{example.line}: {type(error).__name__}: {error}")
    finally:
        for name in set(sys.modules) - modules:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
    assert not failed, "\n".join(failed)
    found = languages(page)
    assert blocks.run == sum(number for language, number in found.items() if runs(language))


def test_the_page_of_what_a_run_holds_names_all_that_one_holds(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    run = reader(None).fetch(["last"])[0]
    [artifacts] = prepared.glob(f"mlruns/artifacts/*/{run.run_id}/artifacts")
    found = [path for path in artifacts.rglob("*") if path.is_file()]
    files = {path.relative_to(artifacts).as_posix() for path in found}
    job = Path(run.tags["gluonexp.workdir"])
    files |= {path.relative_to(job).as_posix() for path in job.iterdir() if path.is_file()}
    text = (ROOT / "docs" / "reference" / "run.md").read_text("utf-8")
    named = [word.replace("CLASS", "*") for word in re.findall(r"`([^`\n]+)`", text)]
    held = {*run.metrics, *run.tags, *files}
    held |= {key for key in run.params if key.startswith(("data.", "network.", "weights."))}
    assert len(held) > 50
    assert sorted(key for key in held if not any(fnmatch(key, name) for name in named)) == []


def test_no_block_is_of_a_language_that_nobody_runs() -> None:
    known = {"sh", "bash", "python", "yaml"}
    unknown = {page.name: [each for each in languages(page) if runs(each)] for page in PAGES}
    assert {
        name: set(found) - known for name, found in unknown.items() if set(found) - known
    } == {}


def test_a_command_that_is_wrong_is_found(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {})
    for wrong in (
        "python -m gluonexp.run optim.lrr=1",
        "gluonexp predikt last",
        "gluonexp ui --no-such-option",
        "make nothing",
        "pip install 'gluonexp[nothing]'",
        "unknown command",
        "echo 'no end",
    ):
        with pytest.raises((AssertionError, ValueError)):
            shell(wrong)
