"""A run that is killed at some step, and goes on: it must be as if it had not been killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gluonexp

RUN, GLUONEXP = "gluonexp.run", "gluonexp"
SMALL = (
    *("dataset=synthetic", "dataset.source.size=8", "dataset.source.train=48"),
    *("dataset.source.test=16", "model=mlp", "model.hidden=[8]", "optim=sgd"),
    *("optim.momentum=0.9", "trainer.batch_size=8", "trainer.epochs=2"),
)
VARIANTS = {
    "epochs": SMALL,
    "steps": (
        *SMALL,
        *("trainer.checkpoint_every_steps=2", "callbacks.checkpoint.keep=2", "export=none"),
    ),
}
# What a command may leave for good: locks, Hydra's own files, and in the temporary folder
# ONNX Runtime's session. And the changes of the source, where somebody works on it meanwhile.
_KEPT = re.compile(r"\.[^/]*\.lock$|(^|/)\.hydra(/|$)|/run\.log$|^tmp/\.ses$|/config/git\.diff$")
_SAME = re.compile(
    r"checkpoint/model\.params|predictions/.*|export/model-(symbol\.json|0000\.params)"
    r"|config/resolved\.yaml|plan/.*|metrics/parameters\.jsonl"
)
_LEFT = re.compile(r"\.new-|-previous$|-journal$|^\.model|\.uploading|\.part$")


class Zygote:
    """Carries out commands in copies of a process that has imported everything."""

    def __init__(self) -> None:
        root = Path(gluonexp.__file__).parents[1]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.crash.zygote"],
            cwd=root,
            env={**os.environ, **threads, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __call__(self, **order: Any) -> int:
        """Carry out a command; return its exit code, minus a signal's number."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = self._answer()
        assert isinstance(code, int)
        return code

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"it has ended itself, with {self._process.wait()}")
        return json.loads(line)


class Place:
    """The folders of a user: where they work, the temporary one, the cache."""

    def __init__(self, zygote: Zygote, folder: Path, cache: Path | None = None) -> None:
        self._zygote, self.folder = zygote, folder
        self.work, self.temporary, self.cache = (folder / n for n in ("work", "tmp", "cache"))
        for made in (self.work, self.temporary):
            made.mkdir(parents=True)
        if cache is None:
            self.cache.mkdir()
        else:
            shutil.copytree(cache, self.cache)
        self.notes, self._count = folder / "notes", 0
        self.output = ""

    def __call__(self, module: str, arguments: Sequence[str], **death: Any) -> int:
        """Carry out a command, whose output is in `output` afterwards; return its exit code."""
        self._count += 1
        output = self.folder / f"output{self._count}"
        output.write_text("")
        if "at" in death:
            death = {"notes": str(self.notes), "roots": self._roots(), **death}
        code = self._zygote(
            cwd=str(self.work),
            environment={"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.cache)},
            output=str(output),
            module=module,
            arguments=[module, *arguments],
            **death,
        )
        self.output = output.read_text()
        return code

    def _roots(self) -> list[str]:
        return [str(each) for each in (self.work, self.temporary, self.cache)]

    def steps(self) -> list[str]:
        """Return the steps of the last command that was watched, in order."""
        return [re.sub(r"^\d+ ", "", line) for line in self.notes.read_text().splitlines()]

    @property
    def database(self) -> Path:
        return self.work / "mlruns" / "mlflow.db"

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return what the store answers; nothing where there is no store."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database)) as link:
            return link.execute(query, values).fetchall()

    def runs(self) -> dict[str, str]:
        """Return the status of each run by its id."""
        return dict(self.rows("SELECT run_uuid, status FROM runs"))

    def left(self) -> list[str]:
        """Return what was temporary and is still there."""
        inside = sorted(path for root in (self.work, self.temporary) for path in root.rglob("*"))
        names = [path.relative_to(self.folder).as_posix() for path in inside]
        return [
            name
            for name in names
            if not _KEPT.search(name)
            and (name.startswith("tmp/") or _LEFT.search(name.rpartition("/")[2]))
        ]


@dataclass(frozen=True)
class Outcome:
    """What a finished run left, as far as it is the same twice.

    Attributes
    ----------
    points
        How often a metric has a value at a step; of times, without the value.
    files
        Of the run in its store: digests of those that are the same twice.
    job
        Of its job's folder: checkpoints with their digests, and the names of the rest.
    models
        The status of each of its models.
    """

    points: Counter[tuple[Any, ...]]
    params: dict[str, str]
    files: dict[str, str]
    job: dict[str, str]
    models: list[str]
    data: list[Any]

    def differences(self, whole: Outcome) -> list[str]:
        """Say what is not as it is of the run that was never killed."""
        return [
            f"{name}: {_difference(getattr(self, name), getattr(whole, name))}"
            for name in self.__dataclass_fields__
            if getattr(self, name) != getattr(whole, name)
        ]


def outcome(place: Place, run_id: str) -> Outcome:
    """Return what a run left."""
    rows = place.rows("SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", run_id)
    points = Counter(
        (key, step, *(() if key.startswith("time/") else value)) for key, step, *value in rows
    )
    params = dict(place.rows("SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    (artifacts,) = place.rows("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)[0]
    (job,) = place.rows(
        "SELECT value FROM tags WHERE run_uuid = ? AND key = 'gluonexp.workdir'", run_id
    )[0]
    models = place.rows("SELECT status FROM logged_models WHERE source_run_id = ?", run_id)
    inputs = place.rows(
        "SELECT d.name, d.digest FROM inputs i JOIN datasets d ON i.source_id = d.dataset_uuid "
        "WHERE i.destination_id = ? ORDER BY 1",
        run_id,
    )
    return Outcome(
        points=points,
        params=params,
        files=_files(Path(artifacts), _SAME),
        job=_files(Path(job), re.compile(r".*\.safetensors")),
        models=[str(status) for (status,) in models],
        data=inputs,
    )


def _files(folder: Path, same: re.Pattern[str]) -> dict[str, str]:
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not _KEPT.search(f"/{name}"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            found[name] = digest if same.fullmatch(name) else ""
    return found


def _difference(found: Any, expected: Any) -> str:
    if not isinstance(expected, dict):
        return f"{found}, not {expected}"
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    return ", ".join(f"{key}: {found.get(key)}, not {expected.get(key)}" for key in keys[:5])


@dataclass(frozen=True)
class Death:
    """How a run dies.

    Attributes
    ----------
    variant
        Of the run, in `VARIANTS`.
    at
        Before the step of this number.
    torn
        Count only what can be half done, and die when half of it is done.
    again
        The command that goes on dies at this step; 0: it does not.
    seconds
        Killed from outside after so long, instead.
    """

    variant: str
    at: int = 0
    torn: bool = False
    again: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Whole:
    """A run that was not killed.

    Attributes
    ----------
    steps, tears
        How many there are, and how many of these can be half done.
    seconds
        How long it takes.
    """

    outcome: Outcome
    steps: int
    tears: int
    seconds: float


class Story:
    """Tells what becomes of runs that die, beside those that do not.

    Parameters
    ----------
    folder
        For all that is written; what went wrong stays there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._zygote, self._count = folder, Zygote(), 0
        self._whole: dict[str, Whole] = {}
        warm = self._place(None)
        warm(RUN, SMALL)
        self._cache = warm.cache  # the digests of the source

    def close(self) -> None:
        """End all processes."""
        self._zygote.close()

    def whole(self, variant: str) -> Whole:
        """Return what a run leaves that is not killed, and how many steps it has."""
        if variant not in self._whole:
            place, started = self._place(self._cache), time.monotonic()
            code = place(RUN, VARIANTS[variant], at=0)
            seconds = time.monotonic() - started
            (run_id,) = place.runs()
            assert (code, place.left()) == (0, []), (place.left(), place.output)
            steps = len(place.steps())
            (other := self._place(self._cache))(RUN, VARIANTS[variant], at=0, torn=True)
            found = Whole(outcome(place, run_id), steps, len(other.steps()), seconds)
            self._whole[variant] = found
        return self._whole[variant]

    def tell(self, death: Death) -> tuple[str, list[str]]:
        """Let a run die, and go on; return where it died, and what is wrong afterwards."""
        whole = self.whole(death.variant)
        words, place = VARIANTS[death.variant], self._place(self._cache)
        if death.seconds:
            code = place(RUN, words, seconds=death.seconds * whole.seconds)
            where = f"after {death.seconds:.0%} of the time"
        else:
            code = place(RUN, words, at=death.at, torn=death.torn)
            where = place.steps()[-1].replace(f"{place.folder}/", "")
        if code != -signal.SIGKILL:
            # Of the threads' steps there are now more, now fewer.
            where, problems = "not killed", [] if code == 0 else [place.output]
        else:
            problems = _go_on(place, words, death)
        problems += _compared(place, whole.outcome)
        if not problems:
            shutil.rmtree(place.folder)
        return where, [*problems, str(place.folder)] if problems else []

    def _place(self, cache: Path | None) -> Place:
        self._count += 1
        return Place(self._zygote, self._folder / str(self._count), cache)


def _go_on(place: Place, words: Sequence[str], death: Death) -> list[str]:
    """Recover, and go on as a user would; return what went wrong."""
    for at in (death.again, 0):
        arguments = words
        if place.database.exists():
            if place(GLUONEXP, ["recover"]):
                return [f"recover failed: {place.output}"]
            statuses = list(place.runs().values())
            if "RUNNING" in statuses:
                return [f"after recover the runs are {statuses}: {place.output}"]
            command = re.search("to go on:  python -m gluonexp.run (.*)", place.output)
            if command is not None:
                arguments = shlex.split(command[1])
            elif "FINISHED" in statuses:
                return []  # all of it was done
        code = place(RUN, arguments, at=at)
        if code == 0:
            return []
        if code != -signal.SIGKILL or not at:
            break
    return [f"{shlex.join(arguments)} ended with {code}: {place.output}"]


def _compared(place: Place, whole: Outcome) -> list[str]:
    """Say what is not as if the run had never been killed."""
    runs = place.runs()
    finished = [run_id for run_id, status in runs.items() if status == "FINISHED"]
    others = set(runs.values()) - {"FINISHED", "KILLED"}
    problems = [f"a run is {status}" for status in others]
    if len(finished) != 1:
        return [*problems, f"runs: {list(runs.values())}"]
    problems += outcome(place, finished[0]).differences(whole)
    return problems + [f"left: {name}" for name in place.left()]
