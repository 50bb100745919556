"""Devices, seeds and provenance."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonexp import __version__
from gluonexp.base import device, provenance, seeds
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import Gpu, mx

OLD, NEW = Gpu("A100", (8, 0)), Gpu("H200", (9, 0))


CUDA = mx.runtime.Features().is_enabled("CUDA")


def test_the_cpu_is_a_device():
    assert device.device("cpu") == mx.cpu()


@pytest.mark.skipif(CUDA, reason="the CPU wheel is not installed")
def test_auto_is_the_cpu_with_its_wheel():
    assert device.device("auto") == mx.cpu()


@pytest.mark.parametrize("name", ["", "tpu", "gpu:", "gpu:-1", "gpu:x", "cpu:1", " cpu"])
def test_an_unknown_device_is_refused_with_the_choices(name):
    with pytest.raises(GluonexpError, match="none of auto, cpu, gpu, gpu:N"):
        device.device(name)


@pytest.mark.skipif(CUDA, reason="the CPU wheel is not installed")
def test_a_gpu_with_the_cpu_wheel_is_an_error_not_an_abort():
    with pytest.raises(GluonexpError, match=r"device=gpu:0: "):
        device.device("gpu:0")


@pytest.mark.parametrize(
    ("name", "cuda", "wheel", "gpus", "expected"),
    [
        ("auto", True, True, [OLD], 0),
        ("auto", True, True, [NEW, OLD], 1),
        ("auto", True, True, [NEW], None),
        ("auto", True, False, [NEW], 0),  # a build of one's own may have code for it
        ("auto", True, True, [], None),
        ("auto", False, True, [OLD], None),
        ("gpu", True, True, [OLD], 0),
        ("gpu:1", True, True, [NEW, OLD], 1),
    ],
)
def test_choice_of_gpu(name, cuda, wheel, gpus, expected):
    assert device.choose_gpu(name, cuda=cuda, wheel=wheel, gpus=gpus) == expected


@pytest.mark.parametrize(
    ("name", "cuda", "gpus", "message"),
    [
        ("gpu", True, [], "no NVIDIA GPU is visible"),
        ("gpu:2", True, [OLD, OLD], "N is below 2"),
        ("gpu", True, [NEW], r"5\.0 to 8\.9, not for H200 \(compute capability 9\.0\)"),
        ("gpu", False, [NEW], r"not for H200"),
        ("gpu", False, [OLD], r"built without CUDA.*pip install 'gluonexp\[gpu\]'"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused(name, cuda, gpus, message):
    with pytest.raises(GluonexpError, match=message):
        device.choose_gpu(name, cuda=cuda, wheel=True, gpus=gpus)


def draws(generator):
    """Return one number of every stream that training reads."""
    return (
        random.random(),
        np.random.rand(),
        mx.nd.random.uniform().asscalar(),
        generator.random(),
    )


epochs = st.none() | st.integers(0, 10**6)


def seeded(seed, epoch):
    """Seed everything as a run does; return the generator."""
    mx.random.seed(seeds.engine_seed(seed, epoch))
    return seeds.seed_host(seed, epoch)


@given(seed=st.integers(0, 2**31 - 1), epoch=epochs)
def test_the_same_pair_gives_the_same_numbers_whatever_was_drawn_before(seed, epoch):
    first = draws(seeded(seed, epoch))
    draws(np.random.default_rng())
    assert draws(seeded(seed, epoch)) == first


@given(pairs=st.lists(st.tuples(st.integers(0, 100), epochs), min_size=2, max_size=2, unique=True))
def test_another_pair_gives_other_numbers_in_every_stream(pairs):
    one, other = (draws(seeded(*pair)) for pair in pairs)
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_numbers_of_a_pair_never_change():
    """A recorded seed must mean the same in a later release."""
    generator = seeded(0, 0)
    assert generator.permutation(8).tolist() == [3, 1, 6, 5, 7, 2, 0, 4]
    assert round(random.random(), 6) == 0.338763


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty git repository, which is the working directory."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@localhost")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "trunk")
    return tmp_path


def git(*arguments):
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(repository):
    (repository / "train.py").write_text("epochs = 1\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")


def test_a_clean_commit(repository):
    commit(repository)
    (repository / "sub").mkdir()
    os.chdir(repository / "sub")
    origin = provenance.provenance()
    assert origin.git_commit == git("rev-parse", "HEAD")
    assert origin.git_branch == "trunk"
    assert (origin.git_dirty, origin.git_diff, origin.git_untracked) == (False, "", ())


def test_changes_are_recorded_from_any_folder_below(repository):
    commit(repository)
    (repository / "train.py").write_text("epochs = 2\n")
    (repository / "new file.py").touch()
    (repository / "sub").mkdir()
    os.chdir(repository / "sub")
    origin = provenance.provenance()
    assert origin.git_dirty
    assert "-epochs = 1\n+epochs = 2\n" in origin.git_diff
    assert origin.git_untracked == ("new file.py",)


def test_what_runs_write_does_not_make_a_commit_dirty(repository):
    commit(repository)
    (repository / "mlruns").mkdir()
    (repository / "mlruns" / "mlflow.db").touch()
    assert provenance.provenance().git_dirty is False


def test_a_huge_diff_is_cut_and_says_so(repository):
    commit(repository)
    (repository / "train.py").write_text("x" * 2 * provenance.MAX_DIFF)
    diff = provenance.provenance().git_diff
    assert len(diff) < provenance.MAX_DIFF + 100
    assert "[cut here: the whole diff has 2" in diff


def test_before_the_first_commit(repository):
    (repository / "train.py").touch()
    origin = provenance.provenance()
    assert (origin.git_commit, origin.git_diff) == (None, None)
    assert (origin.git_branch, origin.git_dirty) == ("trunk", True)


def test_without_git_the_rest_is_still_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    origin = provenance.provenance()
    assert origin.git_commit is origin.git_branch is origin.git_dirty is origin.git_diff is None
    assert origin.python == ".".join(map(str, sys.version_info[:3]))
    assert origin.versions["gluonexp"] == __version__
    assert origin.versions["numpy"] == np.__version__
    assert origin.pid == os.getpid()
    assert origin.omp_threads == 1  # tests/conftest.py sets it
