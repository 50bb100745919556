"""``hydra/launcher=ray``: a sweep's jobs as tasks of Ray, of which any may be lost."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import CompactHydraException

from gluonexp import run
from gluonexp.base.ray_cluster import Head
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.statuses import FINISHED, KILLED

ray = pytest.importorskip("ray", reason="hydra/launcher=ray needs the extra `ray`")
cluster_utils = pytest.importorskip("ray.cluster_utils")

TINY = (
    *("dataset=synthetic", "model=mlp", "model.hidden=[8]", "export=none"),
    *("trainer.epochs=2", "dataset.source.train=200", "hydra/launcher=ray"),
)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three nodes: a head that runs no jobs, and two with one core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_is_lost_and_its_point_is_tried_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    over = threading.Event()
    lost = threading.Thread(target=_lose_a_node, args=(cluster, tmp_path, over), daemon=True)
    lost.start()
    try:
        summary = run.sweep(
            *TINY,
            "trainer.epochs=60",
            f"hydra.launcher.address={cluster.address}",
            "seed=0,1,2",
            "sweep.retries=1",
        )
    finally:
        over.set()
    lost.join(10)
    assert not lost.is_alive()
    assert [one.status for one in summary.outcomes] == [FINISHED] * 3
    assert sorted(one.attempts for one in summary.outcomes) == [1, 1, 2]
    out = capfd.readouterr().out
    assert "its worker was lost" in out and "it is tried again" in out and "raylet" not in out
    _, runs = reader(None).sweep("last")
    assert sorted(one.status for one in runs) == [FINISHED] * 3 + [KILLED]
    (report,) = tmp_path.glob("mlruns/artifacts/*/*/artifacts/sweep/report.html")
    (lost_run,) = [one.run_id for one in runs if one.status == KILLED]
    told = report.read_text().partition("What was tried again")[2]
    assert lost_run[:8] in told and "its worker was lost" in told


def test_a_cluster_of_its_own_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    summary = run.sweep(*TINY, "seed=0,1", "tracking=none")
    assert [one.status for one in summary.outcomes] == [FINISHED] * 2
    assert not ray.is_initialized()
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    assert not list(Path(tempfile.gettempdir()).glob("gluonexp-ray-*"))
    assert "ray" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("address=127.0.0.1:1", "there is no cluster .*; `ray start --head` starts one"),
        ("address=ray://127.0.0.1:1", "there is no cluster .*; `ray start --head` starts one"),
        ("num_cpus=0", "a job takes a number, and more than no core"),
        ("num_gpus=many", "a job takes a number"),
        ("runtime_env=here", "a mapping is wanted"),
        ("n_jobs=0", "1 or more"),
    ],
)
def test_what_cannot_be_started_is_refused(
    option: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompactHydraException, match=f"{option}: {says}"):
        run.sweep(*TINY, "seed=0,1", f"hydra.launcher.{option}")
    assert not list(tmp_path.iterdir())


def _lose_a_node(cluster: Any, folder: Path, over: threading.Event) -> None:
    """Take a node away once a job has trained an epoch there, unless the sweep is over first."""
    while not over.wait(0.1):
        if list(folder.glob("mlruns/hydra/*/*/checkpoints/last/meta.json")):
            cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
            return


def test_a_head_that_is_gone_is_lost_after_some_looks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        head = Head(address)
        assert head.answers() and not head.lost
    assert not head.answers() and head.silent == address
    assert not head.lost  # one look in vain is not enough
    while not head.lost:
        assert not head.answers()
