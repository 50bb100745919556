"""Runs the lines of a shell block in this process, each small: a process takes four seconds.

A line is one of three things: run here (`python -m gluonexp.run`, `gluonexp`); looked at, where it
cannot run in a test (`LOOKED_AT` says why, and what is looked at instead); or wrong.
"""

import ast
import importlib.util
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from gluonexp import run as app
from gluonexp.cli import main
from gluonexp.config.overrides import as_typed, by_key

ROOT = Path(__file__).parents[2]


class Line(NamedTuple):
    """One command: what was set before its words, and its words."""

    environment: Mapping[str, str]
    words: tuple[str, ...]


def lines(block: str) -> Iterator[Line]:
    """Yield the commands of a block; text that a shell would not take is an error."""
    checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    if checked.returncode:
        raise ValueError(checked.stderr)
    waiting = ""
    for row in block.replace("\\\n", " ").splitlines():
        waiting += row
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # within quotes, which end further below
            waiting += "\n"
            continue
        waiting = ""
        for command in _split(words):
            environment = {}
            while command and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", command[0], re.DOTALL):
                key, _, value = command.pop(0).partition("=")
                environment[key] = value
            if command:
                yield Line(environment, tuple(command))


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", ";", "|"):
            yield command
            command = []
        else:
            command.append(word)


# What a miniature is made of: these keys and groups, whatever the line says of them.
SMALL = {
    "trainer.epochs": "1",
    "trainer.batch_size": "32",
    "features.cache": "off",
    "hydra.sweeper.n_trials": "2",
}
SYNTHETIC = {
    "dataset": "synthetic",
    "dataset.source.train": "64",
    "dataset.source.test": "32",
    "dataset.source.classes": "3",
}
# Lines with one of these are composed, and not run: other tests do what takes several processes
# or hosts, and a network of the zoo trains for minutes.
COMPOSED = {
    "hydra/launcher=": "starts other processes, on other hosts",
    "tracking.uri=http": "needs a server",
    "postgresql://": "needs a database",
    "grpc://": "needs a server",
    ".pth": "needs a file that is downloaded",
    "model.weights=imagenet": "needs a file that is downloaded",
    "device=gpu": "needs a GPU",
    "callbacks=notify": "needs a webhook",
    "notify.webhook": "needs a webhook",
}
# Commands of gluonexp of which the words are looked at, and why.
PARSED = {"ui": "serves until it is ended", "stop": "needs a run that trains"}
# What cannot run in a test, why, and what is looked at instead (a function of the words).
Look = Callable[[Sequence[str]], None]
LOOKED_AT: dict[str, tuple[str, Look]] = {}


def looked_at(*names: str, why: str) -> Callable[[Look], Look]:
    """Declare what is looked at instead of running a command."""

    def declare(look: Look) -> Look:
        LOOKED_AT.update(dict.fromkeys(names, (why, look)))
        return look

    return declare


@looked_at("make", why="installs from the package index, or runs this suite")
def _make(words: Sequence[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [word for word in words[1:] if "=" not in word]
    assert set(named) <= set(targets), f"no target {named}"


@looked_at("pip", "uv", why="installs from the package index")
def _pip(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        if found := re.fullmatch(r"(?:gluonexp|\.)\[([\w,-]+)\].*", word):
            extras = set(found[1].split(","))
            assert extras <= set(project["optional-dependencies"]), f"no extra {extras}"


@looked_at("torchrun", why="starts several processes")
def _torchrun(words: Sequence[str]) -> None:
    assert words[words.index("-m") + 1] == "gluonexp.run"
    compose(words[words.index("-m") + 2 :])


@looked_at("mlflow", why="serves until it is ended")
def _mlflow(words: Sequence[str]) -> None:
    from mlflow.cli import cli

    _parsed(cli, words[1:])


@looked_at("apt-get", "docker", "ray", "sbatch", why="changes the system, or needs one of its own")
@looked_at("git", "curl", why="asks the network")
@looked_at("jq", why="reads what another command prints")
@looked_at("cd", "export", ".", "source", "eval", "mkdir", "ls", "cat", why="is the shell's")
def _nothing(words: Sequence[str]) -> None:
    """`bash -n` has read it."""


def _parsed(command, words: Sequence[str]) -> None:
    """Let click parse a command line, without running it."""
    context = command.make_context("command", list(words), resilient_parsing=False)
    if hasattr(command, "resolve_command"):
        _, below, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        _parsed(below, rest)


def compose(words: Sequence[str]) -> None:
    """Check that the words of a run are what Hydra takes, options and sweeps among them."""
    folder, overrides = None, []
    waiting = iter(words)
    for word in waiting:
        if word in ("--config-dir", "-cd"):
            folder = next(waiting)
        elif word.startswith("--config-dir="):
            folder = word.partition("=")[2]
        elif not word.startswith(("-", "sweep.resume=")):
            overrides.append(_single(word))
    ask([*(["--config-dir", folder] if folder else []), *overrides, "--cfg", "all"])


def _single(word: str) -> str:
    """Return an override with the first of the values that it gives to a sweep."""
    [word] = as_typed([word])
    parsed = OverridesParser.create().parse_override(word)
    if not parsed.is_sweep_override():
        return word
    value = parsed._value
    if isinstance(value, IntervalSweep):
        return f"{parsed.key_or_group}={value.start}"
    return f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}"


def ask(words: Sequence[str]) -> None:
    """Let the application answer or train, and fail as it fails."""
    argv, handlers = sys.argv, logging.getLogger().handlers[:]
    sys.argv = ["run.py", *words]
    try:
        app.start()
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise AssertionError(f"ended with {ended.code}: {shlex.join(words)}") from ended
    finally:
        sys.argv = argv
        logging.getLogger().handlers[:] = handlers


def miniature(words: Sequence[str], resumed: int = 0) -> list[str]:
    """Return the words of a run with what makes it small in the place of what makes it long.

    What is resumed is trained one epoch further each time, of 2 that it has; `resumed` counts.
    """
    typed = {key: word for key, word in by_key(words).items() if re.match(r"[\w~+]", word)}
    options = [word for word in words if word not in typed.values()]
    if "trainer.resume" in typed or "sweep.resume" in typed:
        small = {"trainer.epochs": str(2 + resumed)} if "trainer.resume" in typed else {}
        return [*options, *(typed | _overrides(small)).values()]
    small = dict(SMALL)
    if "hydra/sweeper" not in typed and typed.get("sweep") != "sweep=lr_search":
        del small["hydra.sweeper.n_trials"]
    if "dataset.root" not in typed and not {"dataset", "build.allow"} <= set(typed):
        typed = {key: word for key, word in typed.items() if not key.startswith("dataset")}
        small |= SYNTHETIC
    model = typed.get("model", "")
    if "_ft" in model or "experiment" in typed:
        small |= {"dataset.resize": "64"}
    if "_ft" in model:
        small |= {"model.head": "[]"}
        small["model.weights"] = "none"
    if typed.get("trainer") == "trainer=lr_find":
        small["trainer.lr_find.steps"] = "50"
    if "experiment" in typed:
        small |= {"model": "mlp", "dataset.val_fraction": "0.1"}
    if not any(key.startswith(("export", "tracking.experiment")) for key in typed):
        small["export"] = "none"
    varied = {key for key, word in typed.items() if re.search(r"=\w*\(|=[^\[]*,", word)}
    small = {key: value for key, value in small.items() if key not in varied}
    few = {key: _two(word) for key, word in typed.items()}
    return [*options, *(few | _overrides(small)).values()]


def _two(word: str) -> str:
    """Return what a sweep varies with the first two of its values."""
    key, _, values = word.partition("=")
    if re.fullmatch(r"range\(\d+\)", values):
        return f"{key}=range(2)"
    if not re.fullmatch(r"[\w.,-]+", values):
        return word
    return f"{key}={','.join(values.split(',')[:2])}"


def _overrides(values: Mapping[str, str]) -> dict[str, str]:
    return {key: f"{key}={value}" for key, value in values.items()}


class Shell:
    """Runs blocks in a folder that holds runs, a sweep, a registered model and photos.

    Parameters
    ----------
    folder
        The folder, which is changed.
    names
        What stands for something of one's own in a command, and what it is in this folder.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.folder = folder
        self.names = names
        self.resumed = 0
        self.done: list[tuple[str, str]] = []  # a line, and what was done with it

    def __call__(self, block: str) -> None:
        """Run a block."""
        for line in lines(block):
            words = tuple(self._named(word) for word in line.words)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                patch.syspath_prepend(str(self.folder))
                for key, value in line.environment.items():
                    patch.setenv(key, self._named(value))
                said = shlex.join(line.words)
                try:
                    self.done.append((said, self._do(words, patch)))
                except Exception as error:
                    raise AssertionError(f"{said}\n{type(error).__name__}: {error}") from error

    def _named(self, word: str) -> str:
        for name, value in self.names.items():
            word = re.sub(rf"(?<![\w-]){name}(?![\w-])", value, word)
        return word

    def _do(self, words: Sequence[str], patch: pytest.MonkeyPatch) -> str:
        if words[:3] == ("python", "-m", "gluonexp.run"):
            return self._run(words[3:], patch)
        if words[:2] == ("gluonexp", "run"):
            return self._run(words[2:], patch)
        if words[0] == "gluonexp":
            return self._command(words[1:])
        if words[:2] == ("python", "-c"):
            ast.parse(words[2])
            return "looked at: the code is parsed"
        if words[0] == "python" and words[1].endswith(".py"):
            return self._script(words[1:], patch)
        if words[0] in ("python", "python3") and words[1] == "-m":
            if words[2] == "pip":
                LOOKED_AT["pip"][1](words[2:])
            assert importlib.util.find_spec(words[2]), f"no module {words[2]}"
            return "looked at: there is such a module"
        if words[0] not in LOOKED_AT:
            raise AssertionError("neither run nor looked at: tests/docs/shell.py has to say which")
        why, look = LOOKED_AT[words[0]]
        look(words)
        return f"looked at: it {why}"

    def _run(self, words: Sequence[str], patch: pytest.MonkeyPatch) -> str:
        if set(app.QUESTIONS) & set(words):
            ask(words)
            return "run"
        compose(words)
        for sign, why in COMPOSED.items():
            if any(sign in word for word in words):
                return f"looked at: it {why}"
        # What refers to runs needs those that are there; what does not leaves them the last ones.
        refers = re.search(r"resume=|runs:/|models:/|tracking.experiment=", " ".join(words))
        if not refers and "MLFLOW_TRACKING_URI" not in os.environ:
            patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///scratch/mlflow.db")
        self.resumed += any(word.startswith("trainer.resume=") for word in words)
        ask(miniature(words, self.resumed))
        return "run"

    def _script(self, words: Sequence[str], patch: pytest.MonkeyPatch) -> str:
        patch.setattr(sys, "argv", list(words))
        bin_folder = str(Path(sys.executable).parent)  # where `gluonexp` is
        patch.setenv("PYTHONPATH", str(ROOT))  # what it starts finds this gluonexp
        patch.setenv("PATH", os.pathsep.join([bin_folder, os.environ["PATH"]]))
        try:
            runpy.run_path(str(self.folder / words[0]), run_name="__main__")
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise AssertionError(f"ended with {ended.code}") from ended
        return "run"

    def _command(self, words: Sequence[str]) -> str:
        if words[0] in PARSED:
            _parsed(main, words)
            return f"looked at: it {PARSED[words[0]]}"
        ended = CliRunner().invoke(main, list(words), catch_exceptions=True)
        if ended.exit_code:
            raise AssertionError(f"ended with {ended.exit_code}: {ended.output}") from (
                ended.exception
            )
        return "run"
