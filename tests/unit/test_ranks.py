"""Several processes that train one model: who they are, what they tell each other."""

import os
import socket
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from gluonexp.base import ranks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.ranks import World
from gluonexp.training.team import Team

OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
PLACE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*OF_LAUNCHERS, *[name for name in os.environ if "TORCHELASTIC" in name]):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_process_by_itself_is_the_only_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "4")  # of some other program
    assert ranks.world() == World()
    assert Team().tags == {}


def test_torchrun_says_which_process_this_is(environment: pytest.MonkeyPatch) -> None:
    local = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    job = {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "3"}
    for name, value in (PLACE | local | job).items():
        environment.setenv(name, value)
    assert ranks.world() == World(1, 2, 1, 2, job="job", restarts=3)
    assert Team(ranks.world()).tags == {"gluonexp.torchrun": "job", "gluonexp.ranks": "2"}
    environment.setenv("TORCHELASTIC_RUN_ID", "none")  # two jobs without a name are not the same
    assert ranks.world().job != "none"
    environment.setenv("LOCAL_RANK", "first")
    with pytest.raises(GluonexpError, match="LOCAL_RANK"):
        ranks.world()


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="only /proc tells")
@pytest.mark.parametrize("typed", [None, "7"])
def test_threads_are_shared_out_unless_the_user_chose(typed: str | None) -> None:
    """What torchrun does: its own environment changes after it was started."""
    share = (
        "import os; from gluonexp.base import ranks;"
        "ranks.share_cores(ranks.World(0, 64, 0, 64)); print(os.environ['OMP_NUM_THREADS'])"
    )
    launch = (
        "import os, subprocess, sys; os.environ.setdefault('OMP_NUM_THREADS', '5');"
        f"sys.exit(subprocess.call([sys.executable, '-c', {share!r}]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", launch],
        env=environment | ({} if typed is None else {"OMP_NUM_THREADS": typed}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert int(done.stdout) == (int(typed) if typed else max(1, (ranks.usable_cores() or 1) // 64))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_each_row_is_of_one_process(count: int) -> None:
    parts = [range(count)[Team(World(rank, 3)).part(count)] for rank in range(3)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


TOGETHER = """
    import signal, sys
    from gluonexp.base.errors import GluonexpError
    from gluonexp.base.ranks import world
    from gluonexp.engines.torch import library

    library.load()
    import torch
    from gluonexp.engines.torch.ranks import joined

    ended = sys.argv[1]
    try:
        with joined(world()) as team:
            first = team.rank == 0
            assert team.tell({"a": [1, 2]} if first else None) == {"a": [1, 2]}
            numbers = torch.arange(4.0) * (team.rank + 1)
            team.sum_(numbers)
            assert numbers.tolist() == [0, 3, 6, 9]
            team.share_(numbers.mul_(team.rank + 1))
            assert numbers.tolist() == [0, 3, 6, 9]
            team.check_alike(lambda: {"0.weight": "abc"})
            try:
                team.check_alike(lambda: {"0.weight": str(team.rank)})
            except GluonexpError as error:
                assert not first and str(error).startswith("0.weight is not")
            else:
                assert first
            if ended == "raises" and not first:
                raise ZeroDivisionError("out of luck")
            elif ended == "signal":
                with team.watched():
                    if not first:
                        signal.raise_signal(signal.SIGTERM)
                    team.sum_(numbers)
            team.sum_(numbers)
    except (GluonexpError, ZeroDivisionError) as error:
        if first:
            print(error)
        else:
            team.peers.outlive_first()
    except SystemExit as error:
        print("signal", error.signum)
"""


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("raises", ["rank 1: ZeroDivisionError: out of luck (<string>, line"]),
        ("signal", ["signal 15", "signal 15"]),
    ],
)
def test_processes_tell_each_other_values_and_why_they_end(
    environment: pytest.MonkeyPatch, ended: str, said: list[str]
) -> None:
    with closing(socket.create_server(("localhost", 0))) as free:
        place = PLACE | {"MASTER_PORT": str(free.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TOGETHER), ended],
            env={
                **os.environ,
                **place,
                "RANK": rank,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        printed = "".join(process.communicate(timeout=60)[0] for process in started)
    finally:
        for process in started:
            process.kill()
    lines = printed.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
