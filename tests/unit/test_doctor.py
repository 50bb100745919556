"""The real checks, in an environment made good or bad."""

import importlib.machinery
import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from gluonexp.base import device
from gluonexp.base import mx as door
from gluonexp.base.errors import GluonexpError
from gluonexp.cli.doctor import Check, checks, render
from gluonexp.engines.torch import library

doctor = sys.modules["gluonexp.cli.doctor"]  # the command has this name too


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """An empty working directory, home and caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GLUONEXP_DATA", raising=False)
    monkeypatch.delenv("MXNET_HOME", raising=False)


def found(uri=None):
    return {check.name: check for check in checks(uri)}


def test_an_empty_machine_can_run_the_main_job(tmp_path):
    looked = found()
    assert [name for name, check in looked.items() if check.ok is False] == []
    assert looked["Python"].detail.startswith(".".join(map(str, sys.version_info[:3])))
    assert looked["MXNet"].detail.startswith("1.9.1")
    assert "CPU with 1 threads" in looked["devices"].detail
    assert looked["data"].ok is None
    assert str(tmp_path / "cache") in looked["data"].detail
    assert (looked["weights"].ok, looked["weights"].detail[:4]) == (None, "none")
    assert "cpu" in looked["extras"].detail
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_data_and_weights_that_are_there_are_listed(tmp_path, monkeypatch):
    (tmp_path / "sets" / "fashion-mnist").mkdir(parents=True)
    (tmp_path / "sets" / "cifar10").mkdir()
    monkeypatch.setenv("GLUONEXP_DATA", str(tmp_path / "sets"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "alexnet-44335d1f.params").write_bytes(bytes(2_000_000))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    looked = found()
    data = f"{tmp_path / 'sets'} (GLUONEXP_DATA): cifar10, fashion-mnist"
    assert looked["data"] == Check("data", True, data)
    weights = f"1 in {tmp_path / 'home' / 'models'}, 2 MB"
    assert looked["weights"] == Check("weights", True, weights)


def test_a_data_folder_that_is_not_there_has_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUONEXP_DATA", str(tmp_path / "typo"))
    data = found()["data"]
    assert (data.ok, data.detail) == (None, f"{tmp_path / 'typo'} does not exist")
    assert "GLUONEXP_DATA" in data.remedy


def test_a_store_that_cannot_be_used_fails_its_check_and_no_other():
    looked = found("file:///somewhere")
    assert [name for name, check in looked.items() if check.ok is False] == ["store"]
    assert "file:///somewhere" in looked["store"].detail


def test_a_broken_mxnet_is_one_failed_line_and_exit_code_1(tmp_path):
    (tmp_path / "broken" / "mxnet").mkdir(parents=True)
    cause = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "broken" / "mxnet" / "__init__.py").write_text(f"raise OSError({cause!r})")
    done = subprocess.run(
        [sys.executable, "-m", "gluonexp", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "broken")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (1, "")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert "`apt-get install libgomp1`" in failed[0]
    assert len(done.stdout.splitlines()) == len(checks())


def test_each_check_is_one_line_whatever_it_says():
    console = Console(width=40, record=True, file=io.StringIO())
    shown = [
        Check("one", True, "x" * 100),
        Check("three", False, "gone", "pip install 'gluonexp[cpu]'"),
        Check("four", None, "[bold]"),
    ]
    render(shown, console)
    assert console.export_text().splitlines() == [
        f"ok    one    {'x' * 100}",
        "FAIL  three  gone  -> pip install 'gluonexp[cpu]'",
        "-     four   [bold]",
    ]


def test_pytorch_that_is_missing_is_one_optional_line(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda *packages: {})
    assert doctor._torch() == (
        None,
        "not installed; engine=torch needs it",
        "pip install 'gluonexp[torch]'",
    )


def test_what_pytorch_can_compute_on(monkeypatch):
    torch = pytest.importorskip("torch")
    looked = found()["PyTorch"]
    assert looked.ok and looked.detail.startswith(torch.__version__)
    assert "CPU with 1 threads, " in looked.detail and "bfloat16" in looked.detail
    gpu = door.Gpu("NVIDIA H200", (9, 0))
    monkeypatch.setattr(door, "gpus", lambda: [gpu])
    assert "https://pytorch.org" in doctor._torch()[2]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    assert doctor._torch()[1].endswith("; GPUs it has code for: 1")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86"])
    assert doctor._torch()[1].endswith(f"no code for {gpu}")


def test_two_sets_of_cuda_libraries_are_said_to_share_no_process(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setattr(library, "gpu_wheel", lambda: "mxnet-cu112")
    assert doctor._torch()[0] is True  # of PyTorch without CUDA
    package = tmp_path / "torch"
    package.mkdir()
    (package / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(library, "find_spec", lambda name: spec)
    ok, detail, remedy = doctor._torch()
    assert ok is None and "CUDA 12.8, whose libraries share no process with mxnet-cu112" in detail
    assert remedy.startswith("`pip uninstall -y mxnet-cu112`, then `pip install 'gluonexp[cpu]'`")
    with pytest.raises(GluonexpError, match=r"^engine=torch: PyTorch is for CUDA 12\.8"):
        library.load()


@pytest.mark.parametrize(
    ("built", "usable"),
    [
        (["sm_80"], True),
        (["sm_89"], False),
        (["sm_75", "sm_90a"], False),
        (["compute_75"], True),
        (["sm_75", "compute_90"], False),
        ([], False),
    ],
)
def test_code_is_for_its_generation_and_ptx_for_all_later_ones(built, usable):
    assert device.has_code(built, (8, 6)) is usable
