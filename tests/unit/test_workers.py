"""Worker processes: late tasks, results as they come, and what becomes of whom when one dies."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from gluonexp.base import workers
from gluonexp.base.workers import TaskError, WorkerDied, Workers, cores

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.01)


def identity(value: Any) -> Any:
    return value


def after(path: Path, value: Any) -> Any:
    wait_for(path.exists)
    return value


def die(how: Callable[[], Any], path: Path) -> None:
    path.write_text(str(os.getpid()))
    how()


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_come_as_they_are_ready(tmp_path: Path) -> None:
    tasks = [("slow", after, (tmp_path / "go", 1)), ("quick", identity, (2,))]
    came = []
    with Workers(2) as pool:
        for key, result in pool.stream(tasks):
            came.append((key, result))
            (tmp_path / "go").touch()
    assert came == [("quick", 2), ("slow", 1)]


def test_a_task_is_drawn_when_a_worker_is_free_for_it() -> None:
    known: list[int] = []
    known_when_drawn = []

    def tasks() -> Iterator[tuple[int, Callable[..., Any], tuple[int]]]:
        for number in range(6):
            known_when_drawn.append(len(known))
            yield number, identity, (number,)

    with Workers(2) as pool:
        for key, result in pool.stream(tasks()):
            assert result == key
            known.append(key)
    assert sorted(known) == list(range(6))
    assert known_when_drawn == [0, 0, 1, 2, 3, 4]


def test_workers_are_used_again_and_run_side_by_side(tmp_path: Path) -> None:
    def meet(mine: str, other: str) -> int:
        (tmp_path / mine).touch()
        return after(tmp_path / other, os.getpid())

    with Workers(2) as pool:
        first = dict(pool.stream([(0, meet, ("a", "b")), (1, meet, ("b", "a"))]))
        second = dict(pool.stream([(0, meet, ("c", "d")), (1, meet, ("d", "c"))]))
    assert len(set(first.values())) == 2
    assert set(second.values()) == set(first.values())
    assert not any(map(alive, first.values()))


def test_no_more_workers_than_tasks_or_than_wanted(tmp_path: Path) -> None:
    def warm_up() -> None:
        (tmp_path / str(os.getpid())).touch()

    with Workers(3, warm_up) as pool:
        assert dict(pool.stream([(0, identity, ("one",))])) == {0: "one"}
        assert len(list(tmp_path.iterdir())) == 1
        pool.start()
        pool.start()
        wait_for(lambda: len(list(tmp_path.iterdir())) == 3)
        assert len(pool._workers) == 3
    with pytest.raises(ValueError, match="n=0: at least one worker"):
        Workers(0)


def test_warming_up_precedes_the_tasks_and_may_fail() -> None:
    class Unknown:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_anywhere",)

    def warm_up() -> None:
        os.environ["WARM"] = "yes"
        raise RuntimeError("the tasks will meet it again")

    with Workers(1, warm_up) as pool:
        assert dict(pool.stream([(0, os.getenv, ("WARM",))])) == {0: "yes"}
    with Workers(1, partial(identity, Unknown())) as pool:
        assert dict(pool.stream([(0, os.getenv, ("WARM",))])) == {0: None}


@pytest.mark.parametrize(
    ("how", "end"),
    [
        (kill_me, "was killed by signal 9 (SIGKILL)"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was killed by signal 11 (SIGSEGV)"),
        (lambda: os._exit(3), "ended with exit code 3"),
    ],
)
def test_a_worker_that_dies_loses_its_own_task_only(
    how: Callable[[], Any], end: str, tmp_path: Path
) -> None:
    tasks = [
        ("dies", die, (how, tmp_path / "pid")),
        ("lives", after, (tmp_path / "go", "well")),
        ("next", identity, ("well",)),
        ("last", identity, ("well",)),
    ]
    came: dict[str, Any] = {}
    with Workers(2) as pool:
        for key, result in pool.stream(tasks):
            came[key] = result
            if len(came) == 3:
                (tmp_path / "go").touch()
    assert list(came) == ["dies", "next", "last", "lives"]
    died = came.pop("dies")
    assert type(died) is WorkerDied
    assert str(died) == f"its process (pid {(tmp_path / 'pid').read_text()}) {end}"
    assert set(came.values()) == {"well"}


def test_a_worker_that_dies_idle_loses_nothing() -> None:
    results: list[int] = []

    def tasks() -> Iterator[tuple[int, Callable[..., Any], tuple[()]]]:
        yield 0, os.getpid, ()
        os.kill(results[0], signal.SIGKILL)
        os.waitid(os.P_PID, results[0], os.WEXITED | os.WNOWAIT)
        yield 1, os.getpid, ()

    with Workers(1) as pool:
        for _, result in pool.stream(tasks()):
            results.append(result)
    assert [type(result) for result in results] == [int, int]
    assert results[1] not in (results[0], os.getpid())


def test_a_dead_worker_is_found_though_its_child_holds_the_socket(tmp_path: Path) -> None:
    def fork_and_die() -> None:
        if os.fork() == 0:
            try:
                wait_for((tmp_path / "go").exists)
            finally:
                os._exit(0)
        kill_me()

    with Workers(1) as pool:
        (_, died), (_, result) = pool.stream([(0, fork_and_die, ()), (1, identity, ("well",))])
    (tmp_path / "go").touch()
    assert type(died) is WorkerDied
    assert result == "well"


class NeedsTwo(Exception):
    """It pickles, but does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class HoldsALock(Exception):
    """It does not pickle."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def out_of_luck(error: type[Exception], *arguments: str) -> None:
    raise error(*arguments)


def test_an_exception_comes_back_with_its_traceback() -> None:
    tasks = [(0, out_of_luck, (KeyError, "three")), (1, os.getpid, ()), (2, os.getpid, ())]
    with Workers(1) as pool:
        results = dict(pool.stream(tasks))
    assert type(results[0]) is KeyError
    assert results[0].args == ("three",)
    trace = str(results[0].__cause__)
    assert "in out_of_luck\n    raise error(*arguments)\n" in trace
    assert trace.endswith("KeyError: 'three'\n")
    assert results[1] == results[2]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (out_of_luck, (NeedsTwo, "this", "that"), "NeedsTwo: this and that\n"),
        (out_of_luck, (HoldsALock, "locked"), "HoldsALock: locked\n"),
        (threading.Lock, (), "cannot pickle '_thread.lock' object"),
    ],
)
def test_what_cannot_be_brought_back_costs_no_worker(
    function: Callable[..., Any], arguments: tuple[Any, ...], message: str
) -> None:
    tasks = [(0, os.getpid, ()), (1, function, arguments), (2, os.getpid, ())]
    with Workers(1) as pool:
        results = dict(pool.stream(tasks))
    assert type(results[1]) is TaskError
    assert message in str(results[1])
    assert results[0] == results[2]


def test_a_task_that_cannot_be_unpickled_fails_alone() -> None:
    class Unknown:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_anywhere",)

    with Workers(1) as pool:
        results = dict(pool.stream([(0, identity, (Unknown(),)), (1, identity, ("well",))]))
    assert type(results[0]) is ModuleNotFoundError
    assert results[1] == "well"


@pytest.mark.parametrize(("status", "said"), [(143, "143"), (None, "0"), ("bye", "bye")])
def test_a_task_may_leave(status: Any, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(1) as pool:
        results = dict(
            pool.stream([(0, os.getpid, ()), (1, sys.exit, (status,)), (2, os.getpid, ())])
        )
    assert type(results[1]) is WorkerDied
    assert str(results[1]) == f"it left with exit code {said}"
    assert results[0] == results[2]
    assert capfd.readouterr() == ("", "")


def test_sigterm_ends_the_task_of_a_worker() -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    tasks = [(0, os.getpid, ()), (1, terminate, ()), (2, terminate, ()), (3, os.getpid, ())]
    with Workers(1) as pool:
        results = dict(pool.stream(tasks))
    assert str(results[1]) == str(results[2]) == "it left with exit code 143"
    assert results[0] == results[3]


def test_a_task_may_be_interrupted_by_itself() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Workers(1) as pool:
        (_, result), (_, after) = pool.stream([(0, interrupt, ()), (1, identity, ("well",))])
    assert type(result) is WorkerDied
    assert str(result) == "it left with KeyboardInterrupt()"
    assert after == "well"


def test_a_closed_stdout_costs_no_task() -> None:
    with Workers(1) as pool:
        tasks = [(0, lambda: sys.stdout.close(), ()), (1, identity, ("well",))]
        assert dict(pool.stream(tasks)) == {0: None, 1: "well"}


def test_what_is_registered_for_the_exit_is_done(tmp_path: Path) -> None:
    def register() -> None:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        process.daemon = True  # ended by multiprocessing's own exit function
        process.start()
        atexit.register((tmp_path / "done").touch)
        (tmp_path / "pid").write_text(str(process.pid))

    with Workers(1) as pool:
        list(pool.stream([(0, register, ())]))
    assert (tmp_path / "done").exists()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_what_a_task_prints_is_seen_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    seen = []
    with Workers(1) as pool:
        for _ in pool.stream([(0, print, ("first",)), (1, print, ("second",))]):
            seen.append(capfd.readouterr().out)
    assert seen == ["first\n", "second\n"]


@pytest.mark.parametrize(("n", "share"), [(1, cores()), (2, max(1, cores() // 2)), (1000, 1)])
def test_the_cores_are_shared(n: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = (0, os.getenv, ("OMP_NUM_THREADS",))
    monkeypatch.delenv("OMP_NUM_THREADS")
    with Workers(n) as pool:
        assert dict(pool.stream([task])) == {0: str(share)}
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Workers(n) as pool:
        assert dict(pool.stream([task])) == {0: "7"}


def test_a_worker_imports_and_is_called_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('taken from the wrong place')")
    monkeypatch.chdir(tmp_path)

    def seen() -> Any:
        return sys.path, sys.argv, sys.orig_argv, os.getcwd(), sys.stdin.read()

    with Workers(1) as pool:
        results = dict(pool.stream([(0, seen, ())]))
    assert results[0] == (sys.path, sys.argv, sys.orig_argv, str(tmp_path), "")


def linger(folder: Path) -> None:
    """Note who we are, wait for the end, and note what it was."""
    try:
        (folder / f"busy-{os.getpid()}").touch()
        while True:  # not signal.pause(): it would not see what comes just before it
            time.sleep(0.05)
    except SystemExit as left:
        os.kill(os.getpid(), signal.SIGTERM)  # another, as a group gets it, disturbs nothing
        (folder / f"closed-{left.code}-{os.getpid()}").touch()
        raise


def test_closing_stops_what_runs_and_lets_it_close(tmp_path: Path) -> None:
    tasks = [(0, linger, (tmp_path,)), (1, after, (tmp_path, "there"))]
    with Workers(2) as pool:
        stream = pool.stream(tasks)
        assert next(stream) == (1, "there")
        wait_for(lambda: any(tmp_path.glob("busy-*")))
        stream.close()
        (closed,) = tmp_path.glob("closed-143-*")
        assert not alive(int(closed.name.rpartition("-")[2]))
        assert dict(pool.stream([(2, identity, ("well",))])) == {2: "well"}


def test_an_exception_in_the_block_stops_what_runs(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enough"), Workers(2) as pool:
        for _ in pool.stream([(0, linger, (tmp_path,)), (1, after, (tmp_path, None))]):
            wait_for(lambda: any(tmp_path.glob("busy-*")))
            raise RuntimeError("enough")
    (closed,) = tmp_path.glob("closed-143-*")
    assert not alive(int(closed.name.rpartition("-")[2]))


def test_who_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.1)

    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / str(os.getpid())).touch()
        while True:
            signal.pause()

    with pytest.raises(RuntimeError, match="enough"), Workers(2) as pool:
        for _ in pool.stream([(0, stubborn, ()), (1, identity, (None,))]):
            wait_for(lambda: any(tmp_path.iterdir()))
            raise RuntimeError("enough")
    (path,) = tmp_path.iterdir()
    assert not alive(int(path.name))


def test_warming_up_is_cut_short(tmp_path: Path) -> None:
    def warm_up() -> None:
        linger(tmp_path)

    with Workers(1, warm_up) as pool:
        pool.start()
        wait_for(lambda: any(tmp_path.glob("busy-*")))
    assert len(list(tmp_path.glob("closed-143-*"))) == 1


PARENT = """
    import os, signal, sys
    from pathlib import Path
    from gluonexp.base.workers import Workers

    folder = Path(sys.argv[1])

    def warm_up():
        (folder / f"warm-{os.getpid()}").touch()

    def linger():
        try:
            (folder / f"busy-{os.getpid()}").touch()
            while True:
                signal.pause()
        except SystemExit as left:
            (folder / f"closed-{left.code}-{os.getpid()}").touch()
            raise

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    with Workers(3, warm_up) as pool:
        pool.start()
        for _ in pool.stream([(0, linger, ()), (1, linger, ())]):
            print("a task that never ends has ended")
"""


@pytest.mark.parametrize(
    ("signum", "everybody", "returncode"),
    [
        (signal.SIGINT, True, -signal.SIGINT),
        (signal.SIGTERM, False, 128 + signal.SIGTERM),
        (signal.SIGTERM, True, 128 + signal.SIGTERM),
        (signal.SIGKILL, False, -signal.SIGKILL),
    ],
)
def test_a_signal_to_the_parent_ends_all(
    signum: signal.Signals, everybody: bool, returncode: int, tmp_path: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(list(tmp_path.glob("warm-*"))) == 3)
    wait_for(lambda: len(list(tmp_path.glob("busy-*"))) == 2)
    if everybody:  # as a terminal does it
        os.killpg(parent.pid, signum)
    else:
        parent.send_signal(signum)
    # The pipes end when the last process that has them is gone.
    out, errors = parent.communicate(timeout=60)
    assert parent.returncode == returncode, errors
    busy = {path.name.rpartition("-")[2] for path in tmp_path.glob("busy-*")}
    assert {path.name for path in tmp_path.glob("closed-*")} == {f"closed-143-{b}" for b in busy}
    assert out == ""
    if signum == signal.SIGINT:
        assert errors.count("Traceback") == 1
        assert errors.endswith("KeyboardInterrupt\n")
    else:
        assert errors == ""
