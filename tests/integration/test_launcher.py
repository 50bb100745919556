"""``hydra/launcher=processes``: Hydra's jobs in workers that die alone."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import hydra
import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException, ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from gluonexp.base.workers import WorkerDied, cores
from gluonexp.run import conf_dir
from gluonexp.tracking import open_store

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROOT = Path(__file__).parents[2]
Launch = Callable[..., Any]


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Give the launcher as Hydra makes it: ``launcher(task_function, "override", ...)``."""
    monkeypatch.chdir(tmp_path)

    def made(
        task_function: Callable[[DictConfig], Any], *overrides: str, name: str = "processes"
    ) -> Any:
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(
            "config",
            [f"hydra/launcher={name}", "hydra/hydra_logging=none", *overrides],
            RunMode.MULTIRUN,
        )
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        one = Plugins.instance().instantiate_launcher(context, task_function, config)
        ends.callback(one.close)
        return one

    with (
        ExitStack() as ends,
        hydra.initialize_config_dir(version_base="1.3", config_dir=conf_dir(), job_name="try"),
    ):
        yield made


def job(config: DictConfig) -> Any:
    """Do what the seed says."""
    if config.seed == 1:
        raise KeyError("one")
    if config.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 3:
        sys.exit(3)
    if config.seed == 4:
        return threading.Lock()
    mine = HydraConfig.get()
    return config.seed, mine.job.num, mine.job.id, mine.job.name, mine.runtime.output_dir


def test_a_batch_is_composed_and_run_as_hydra_does(launcher: Launch, tmp_path: Path) -> None:
    there = launcher(job, "hydra.launcher.n_jobs=2")
    points = [[f"seed={seed}", "optim=sgd"] for seed in (7, 8, 9)]
    ended = there.launch([points[0], [*points[1], "optim.lr=0.5"], points[2]], 4)
    (folder,) = (tmp_path / "mlruns" / "hydra").iterdir()
    for number, (seed, done) in enumerate(zip((7, 8, 9), ended, strict=True), start=4):
        home = folder / str(number)
        assert done.status is JobStatus.COMPLETED
        assert done.return_value == (seed, number, str(number), "try", str(home))
        assert done.cfg.optim.name == "sgd"
        assert done.overrides[0] == f"seed={seed}"
        assert OmegaConf.load(home / ".hydra" / "overrides.yaml") == done.overrides
    assert ended[1].cfg.optim.lr == 0.5
    assert sorted(path.name for path in folder.iterdir()) == ["4", "5", "6"]


def test_jobs_fail_each_for_itself(launcher: Launch) -> None:
    there = launcher(job, "hydra.launcher.n_jobs=1")
    jobs = [[f"seed={seed}"] for seed in range(6)]
    ended = dict(there.stream(enumerate([*jobs, ["sead=6"], ["seed=7", "hydra.verbose=true"]])))
    failed = {number: done for number, done in ended.items() if done.status is JobStatus.FAILED}
    assert sorted(failed) == [1, 2, 3, 4, 6]
    assert sorted(ended) == list(range(8))
    errors = {number: done._return_value for number, done in failed.items()}
    assert type(errors[1]) is KeyError
    assert 'raise KeyError("one")' in str(errors[1].__cause__)
    assert type(errors[2]) is type(errors[3]) is WorkerDied
    assert str(errors[2]).endswith("was killed by signal 9 (SIGKILL)")
    assert str(errors[3]) == "it left with exit code 3"
    assert "cannot pickle" in str(errors[4])
    assert isinstance(errors[6], ConfigCompositionException)
    assert "sead" in str(errors[6])
    assert failed[2].overrides == ["seed=2"]
    assert [ended[number].return_value[0] for number in (0, 5, 7)] == [0, 5, 7]


def test_a_job_is_drawn_when_a_worker_is_free(launcher: Launch) -> None:
    there = launcher(job, "hydra.launcher.n_jobs=2")
    known_when_drawn, known = [], []

    def jobs() -> Iterator[tuple[int, list[str]]]:
        for number in range(10, 14):
            known_when_drawn.append(len(known))
            yield number, [f"seed={number}"]

    for number, done in there.stream(jobs()):
        assert done.return_value[:2] == (number, number)
        known.append(number)
    assert known_when_drawn == [0, 0, 1, 2]


def test_a_failing_source_of_jobs_says_so(launcher: Launch) -> None:
    def jobs() -> Iterator[tuple[int, list[str]]]:
        yield 0, ["seed=10"]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(launcher(job, "hydra.launcher.n_jobs=2").stream(jobs()))


def test_so_many_workers(launcher: Launch) -> None:
    assert launcher(job).n_workers == cores()
    there = launcher(job, "hydra.launcher.n_jobs=3")
    assert there.n_workers == 3
    there.start(2)
    there.start(5)
    assert there.n_workers == 2
    assert [done.return_value[0] for _, done in there.stream([(0, ["seed=10"])])] == [10]
    there.close()
    assert there.n_workers == 3


@pytest.mark.parametrize("n_jobs", ["0", "-2", "two", "1.5"])
def test_a_number_of_jobs_that_is_none(launcher: Launch, n_jobs: str) -> None:
    with pytest.raises(CompactHydraException) as refused:
        launcher(job, f"hydra.launcher.n_jobs={n_jobs}")
    said = f"hydra.launcher.n_jobs={n_jobs}: 1 or more, or -1 for as many as there is room for"
    assert str(refused.value) == said


@dataclass
class OfJoblib:
    """What hydra-joblib-launcher registers, in short."""

    _target_: str = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    n_jobs: int = -1
    backend: str | None = None
    pre_dispatch: str = "2*n_jobs"


@pytest.mark.filterwarnings("ignore:.*hydra/launcher/joblib:UserWarning")
def test_ours_is_taken_where_the_published_launcher_is_installed(
    launcher: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ConfigStore.instance()
    monkeypatch.setitem(store.repo["hydra"]["launcher"], "joblib.yaml", None)
    store.store(group="hydra/launcher", name="joblib", node=OfJoblib, provider="theirs")
    there = launcher(job, "hydra.launcher.n_jobs=1", name="joblib")
    assert type(there).__module__ == "hydra_plugins.gluonexp.launchers"
    assert [done.return_value[0] for _, done in there.stream([(0, ["seed=10"])])] == [10]


# A user's own application: not gluonexp's, with classes of its own, and no `if __name__ == ...`.
SCRIPT = """
    import json, os
    from pathlib import Path
    import hydra
    from hydra.core.hydra_config import HydraConfig

    class Unlucky(Exception):
        pass

    def helper(number):
        if number == 2:
            raise Unlucky("two")
        return {"number": number, "parent": PARENT, "threads": os.environ["OMP_NUM_THREADS"]}

    @hydra.main(version_base="1.3", config_path=None)
    def main(config):
        text = json.dumps(helper(config.number))
        Path(HydraConfig.get().runtime.output_dir, "told.json").write_text(text)

    PARENT = os.getpid()
    main()
"""


def test_a_script_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [
            *(sys.executable, "script.py", "-m", "+number=1,2,3", "hydra.sweep.dir=out"),
            "hydra.sweeper._target_=hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
            "hydra.launcher._target_=hydra_plugins.gluonexp.launchers.JoblibLauncher",
            "+hydra.launcher.n_jobs=2",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stdout.endswith("[HYDRA] Launching 3 jobs, 2 at a time\n")
    assert 'in helper\n    raise Unlucky("two")\nUnlucky: two\n' in done.stderr
    told = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("out/*/told.json"))]
    assert [row["number"] for row in told] == [1, 3]
    assert len({row["parent"] for row in told}) == 1
    assert {row["threads"] for row in told} == {"1"}


TRACKED = """
    import signal, sys
    from pathlib import Path
    import hydra
    from gluonexp.config.schema import TrackingConfig
    from gluonexp.tracking import tracked_run

    @hydra.main(version_base="1.3", config_path=None)
    def main(config):
        with tracked_run(TrackingConfig(uri=config.uri, experiment="sweep")) as tracker:
            Path(f"running-{tracker.run_id}").touch()
            while True:
                signal.pause()

    main()
"""


def test_a_run_is_killed_with_its_sweep(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = open_store(uri)
    (tmp_path / "script.py").write_text(textwrap.dedent(TRACKED))
    sweep = subprocess.Popen(
        [
            *(sys.executable, "script.py", "-m", "+n=1", f"+uri='{uri}'"),
            "hydra.sweeper._target_=hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
            "hydra.launcher._target_=hydra_plugins.gluonexp.launchers.ProcessLauncher",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("running-*")):
        assert sweep.poll() is None and time.monotonic() < deadline, sweep.communicate()
        time.sleep(0.02)
    sweep.kill()
    sweep.communicate(timeout=60)  # the pipes end with the last process
    (running,) = tmp_path.glob("running-*")
    assert store.get_run(running.name.removeprefix("running-")).info.status == "KILLED"


def test_gluonexp_started_by_its_console_script(tmp_path: Path) -> None:
    """The task is in an imported module then; with ``python -m`` it is in ``__main__``."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from gluonexp.run import start; start()"),
            *("-m", "seed=7", "dataset=synthetic", "tracking=none", "trainer.epochs=1"),
            *("export=none", "hydra/launcher=processes", "hydra.sweep.dir=out"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    meta = json.loads((tmp_path / "out" / "0" / "checkpoints" / "best" / "meta.json").read_text())
    assert meta["epoch"] == 0
