"""Jobs of a sweep on other hosts than the one that leads it: one code, one store, one record.

Here the sweep is led by a host of another name, and its workers are on this one.
"""

import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from gluonexp import run as app
from gluonexp.base.errors import GluonexpError
from gluonexp.config import hydra_private
from gluonexp.sweep import remote
from gluonexp.tracking import open_store

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    remote._own_code.cache_clear()
    before = hydra_private.state()
    yield tmp_path
    hydra_private.restore(before)  # a worker has that of its jobs


def packed(*overrides: str, config_dir: str | None = None) -> tuple[bytes, bytes]:
    """Return a job of `told`, and what it shares with others."""
    folder = config_dir or app.conf_dir()
    with hydra_private.application(folder, job_name="try"):
        loader = GlobalHydra.instance().config_loader()
        search = [f"hydra.searchpath=[file://{app.conf_dir()}]"] if config_dir else []
        # A job's log file would stay open in this process, and fail where the folder is gone.
        quiet = ["hydra/hydra_logging=none", "hydra/job_logging=none"]
        master = loader.load_configuration("config", [*quiet, *search], RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sender = remote.Sender(context, master, told)
        return sender.shared, sender.packed(0, overrides)


def told(config: DictConfig) -> Any:
    """Return what a job finds."""
    return config.optim.lr, config.trainer.resume, config.tracking.uri


def led_by(host: str, monkeypatch: pytest.MonkeyPatch, *overrides: str, **how: Any) -> Any:
    """Return what a job finds that another host has packed."""
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: host)
        shared, job = packed(*overrides, **how)
    return remote.run(shared, job).return_value


def test_a_job_is_composed_where_the_sweep_is_led(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = folder / "conf"
    (theirs / "optim").mkdir(parents=True)
    (theirs / "config.yaml").write_text(Path(app.conf_dir(), "config.yaml").read_text())
    (theirs / "optim" / "mine.yaml").write_text("defaults: [sgd]\nlr: 0.125\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    words = ["optim=mine", f"trainer.resume={checkpoint}"]
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "leader")
        shared, job = packed(*words, config_dir=str(theirs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # that of the leader, whose files are not here
    (theirs / "optim" / "mine.yaml").unlink()
    found = remote.run(shared, job).return_value
    assert found == (0.125, str(checkpoint), "http://there")
    checkpoint.rmdir()  # it stayed on another host
    assert remote.run(shared, job).return_value == (0.125, None, "http://there")


def test_other_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "site" / "rates"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("RATE = 0.1\n")
    monkeypatch.syspath_prepend(str(package.parent))
    shared, job = packed("build.allow=[rates]")
    (package / "__init__.py").write_text("RATE = 0.1  # a tenth\n")
    assert remote.run(shared, job)
    (package / "__init__.py").write_text("RATE = 0.2\n")
    assert remote.run(shared, job)  # this process has imported it by now
    remote._own_code.cache_clear()
    with pytest.raises(GluonexpError) as refused:
        remote.run(shared, job)
    said = str(refused.value)
    assert said.startswith(f"host {platform.node()} has other code (") and "same gluonexp" in said


def test_other_versions_of_what_computes_are_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"onnxruntime": "1.0"}
    monkeypatch.setattr(remote, "_versions", lambda computing: there)
    monkeypatch.setattr(remote, "code_digest", lambda *of: "0123456789abcdef")
    shared, job = packed()
    monkeypatch.setattr(remote, "_versions", lambda computing: {"onnxruntime": "1.1"})
    monkeypatch.setattr(remote, "code_digest", lambda *of: "fedcba9876543210")
    with pytest.raises(GluonexpError, match=r"\(fedcba98: onnxruntime 1.1 instead of 1.0\)"):
        remote.run(shared, job)


def test_a_store_in_files_of_another_host_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in ("null", "sqlite:///store.db"):
        with pytest.raises(GluonexpError, match=r"files of leader, .*=http://HOST:PORT"):
            led_by("leader", monkeypatch, f"tracking.uri={uri}")
    assert not list(folder.rglob("*.db"))
    assert led_by("leader", monkeypatch, "tracking=none")
    assert led_by("leader", monkeypatch, "tracking.uri=http://there")


def test_files_of_runs_are_where_all_hosts_have_them(
    new_database: Callable[[], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = new_database()
    run_id = open_store(uri).create_run("0").info.run_id  # its files are to lie in this folder
    words = [f"tracking.uri={uri}", f"tracking.run_id={run_id}", "hydra.sweep.dir=out"]
    with pytest.raises(GluonexpError, match="cannot write what the runs of the sweep keep"):
        led_by("leader", monkeypatch, *words)
    (folder / "out").mkdir()
    (folder / "out" / "multirun.yaml").touch()  # as the leader does, on a disk that both share
    assert led_by("leader", monkeypatch, *words)
