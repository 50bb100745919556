"""Telling a process that is at work from one that was."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from gluonexp.base.processes import is_alive, lives, process_start, this_boot, this_process


def test_this_process_lives_and_its_number_with_another_start_does_not() -> None:
    assert lives(this_process())
    assert this_process().partition("@")[0] == str(os.getpid())
    assert not lives(f"{os.getpid()}@1")


def test_this_process_has_started_before_it_asks() -> None:
    code = (
        "import time\n"
        "from gluonexp.base.processes import process_start\n"
        "print(process_start(), time.monotonic())"
    )
    before = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    start, asked = map(float, printed.stdout.split())
    tick = 1 / os.sysconf("SC_CLK_TCK")  # seconds
    assert process_start() < before
    assert before - tick <= start <= asked


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "raise SystemExit"])
def test_what_outlives_a_process_runs_only_if_that_was_killed(ending: str) -> None:
    read, write = os.pipe()
    code = (
        "import os\n"
        "from gluonexp.base.processes import outlived_by\n"
        f"words = '/bin/sh', '-c', 'echo ran >/dev/fd/{write}'\n"
        f"with outlived_by(*words, pass_fds=[{write}]):\n"
        f"    {ending}"
    )
    killed = "kill" in ending
    ended = subprocess.run([sys.executable, "-c", code], pass_fds=[write])
    assert ended.returncode == (-signal.SIGKILL if killed else 0)
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == ("ran\n" if killed else "")


@pytest.mark.parametrize("text", ["", "nobody", "-1@3"])
def test_what_names_no_process_does_not_live(text: str) -> None:
    assert not lives(text)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only /proc tells a zombie")
def test_one_that_ended_does_not_live_even_before_anybody_notices() -> None:
    code = (
        "from gluonexp.base.processes import this_process\n"
        "print(this_process(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert lives(name)
        child.kill()
        while lives(name):  # it is dead at once, and waits to be waited for
            os.sched_yield()
        assert child.returncode is None


def test_a_process_is_seen_only_on_its_own_machine_and_in_its_own_container() -> None:
    host, boot, me = platform.node(), this_boot(), this_process()
    gone = f"{os.getpid()}@1"
    assert is_alive(host, boot, me)
    assert is_alive(host, "", me)
    assert is_alive(host, boot, gone) is False
    assert is_alive(f"not {host}", boot, me) is None


@pytest.mark.skipif(not this_boot(), reason="this system does not tell its starts apart")
def test_a_machine_that_was_started_anew_has_none_of_its_processes() -> None:
    boot, _, table = this_boot().partition(" ")
    assert is_alive(platform.node(), f"of before {table}", this_process()) is False
    assert is_alive(platform.node(), f"{boot} pid:[1]", this_process()) is None
