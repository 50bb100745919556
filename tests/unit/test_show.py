"""What is printed: names as they are, and commands that can be pasted."""

import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from gluonexp import run
from gluonexp.assembly import Data
from gluonexp.base.progress import counting_bar
from gluonexp.base.text import in_shell, plain_console, store_option, tell
from gluonexp.config.overrides import text_of
from gluonexp.data.types import Split
from gluonexp.experiment import show
from gluonexp.sweep.outcomes import Outcome
from gluonexp.sweep.screen import Jobs
from gluonexp.tracking.statuses import FAILED, FINISHED
from gluonexp.training import job_folder

NAMES = ["brackets [old]", "[red]", "[/]", ":cat:", "a\\[b", "back\\"]


@pytest.fixture(params=[Console, plain_console])
def console(request):
    return request.param(file=io.StringIO(), width=60)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(console, name):
    split = Split(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int64))
    show.data(console, Data((name,), split, None, None, name, (name,), "abc"))
    show.untracked(console, Path(name))
    show.stopped(console, name)
    jobs = Jobs(console, 3, "val/acc")
    failed = Outcome(job=0, varied={}, status=FAILED, run_id=None, point="", error=name)
    jobs.ended(failed, name, name)
    jobs.known(name, Outcome(job=1, varied={}, status=FINISHED, run_id="a" * 32, point=""))
    tell(console, name)
    assert console.file.getvalue().splitlines() == [
        f"{name}: 1 train images of 1 classes (abc)",
        f"  note: {name}",
        f"not tracked; the artifacts are in {name}",
        f"stopped early: {name}",
        f"[1/3] {name}  FAILED: {name}",
        f"      its output: {name}",
        f"[2/3] {name}  val/acc none  (before; run aaaaaaaa)",
        name,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_shows_a_name_as_it_is(name):
    with counting_bar() as bar:
        bar.add_task(name, total=1)
        assert str(bar.columns[0](bar.tasks[0])) == name


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["gluonexp", "predict", "last"], "gluonexp predict last"),
        (["--to", "my dir (1)"], "--to 'my dir (1)'"),
        (["trainer.resume=my dir/last"], "trainer.resume='my dir/last'"),
        (["dataset.root='photos (1)'"], "\"dataset.root='photos (1)'\""),
        (["a.b=$HOME's"], None),
        (["it's", "a b", "", "~", "x=~/y", "+a=b c", 'say "no"', "!x'"], None),
    ],
)
def test_a_command_can_be_pasted(words, printed):
    command = in_shell(*words)
    assert shlex.split(command) == words
    if printed is not None:
        assert command == printed


def test_the_store_is_named_so_that_it_can_be_pasted():
    assert store_option(None) == ""
    option = store_option("sqlite:///my dir/mlflow.db")
    assert shlex.split(option) == ["--tracking-uri", "sqlite:///my dir/mlflow.db"]


def test_how_to_go_on_can_be_pasted(tmp_path):
    folder = tmp_path / "it's [1]"
    last = folder / "checkpoints" / "last"
    plain = OmegaConf.create({"build": {"allow": []}})
    assert run._how_to_resume(folder, [], plain) == ""
    last.mkdir(parents=True)
    (last / "meta.json").write_text('{"history": []}')
    # A file of the user's may say it, too; the record of the run does not count.
    composed = OmegaConf.create({"build": {"allow": ["my_package"]}})
    _, said = run._how_to_resume(folder, ["seed=1"], composed).split(": ", 1)
    *command, word, allowed = shlex.split(said)
    assert command == ["python", "-m", "gluonexp.run"]
    assert text_of(word) == str(last)
    assert allowed == "build.allow=[my_package]"
    job_folder.take(folder, "a" * 32, resumed=last)
    assert run._how_to_resume(folder, [], plain).endswith(f"trainer.resume={'a' * 32}")
