"""The one door to MXNet, with real imports in fresh processes."""

import ast
import ctypes
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from operator import methodcaller
from pathlib import Path

import pytest

import gluonexp
from gluonexp.base import mx as door
from gluonexp.base.errors import GluonexpError

SOURCE = Path(gluonexp.__file__)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def python(code, *options, **environment):
    """Run code in a fresh Python; None removes a variable."""
    merged = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env={name: value for name, value in merged.items() if value is not None},
    )


def refusal(folder, body):
    """Return the message for an MXNet whose import runs `body`."""
    (folder / "mxnet").mkdir()
    (folder / "mxnet" / "__init__.py").write_text(body)
    done = python(
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from gluonexp.base.errors import GluonexpError\n"
        "try:\n    from gluonexp.base.mx import mx\n"
        "except GluonexpError as error:\n    print(error)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def compiled(tmp_path):
    """Return a function that makes a shared library of C code."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")

    def make(soname, code):
        source = tmp_path / "source.c"
        source.write_text(code)
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o"]
        subprocess.run([*command, tmp_path / soname, source], check=True)
        return tmp_path / soname

    return make


def distribution(folder, name):
    info = folder / f"{name.replace('-', '_')}-1.9.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.1\n")


def test_what_mxnet_need_not_import_is_not_imported_and_can_be():
    done = python(
        "import sys; from gluonexp.base.mx import mx\n"
        "print({'sklearn', 'scipy.stats'} & {*sys.modules})\n"
        "from scipy import stats; import sklearn.metrics; print(stats.norm.cdf(0))"
    )
    assert done.stdout.split() == ["set()", "0.5"], done.stderr


def test_importing_the_package_loads_nothing_heavy():
    done = python("import gluonexp, sys; print({'numpy', 'hydra', 'mxnet'} & set(sys.modules))")
    assert done.stdout == "set()\n"


def test_any_import_of_mxnet_after_gluonexp_works_and_says_nothing():
    done = python("import gluonexp, mxnet; mxnet.nd.ones(2).asnumpy()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_door_works_and_says_nothing_even_where_warnings_are_errors():
    done = python("from gluonexp.base.mx import mx, nd, nn; nd.ones(2).asnumpy()", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_spawned_process_that_imported_gluonexp_can_unpickle_an_array():
    from gluonexp.base.mx import nd

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, importlib.import_module, ("gluonexp",)) as pool:
        values = pool.submit(methodcaller("asnumpy"), nd.array([1, 2])).result(timeout=60)
    assert values.tolist() == [1, 2]


def test_the_import_hook_is_there_once():
    importlib.reload(gluonexp)
    names = [type(finder).__name__ for finder in sys.meta_path]
    assert names.count("_BeforeMXNet") == 1


def test_names_are_mxnets_modules_and_others_are_refused():
    import mxnet

    from gluonexp.base.mx import autograd, gluon, mx, nd, nn, sym

    assert (mx, nd, autograd, gluon) == (mxnet, mxnet.nd, mxnet.autograd, mxnet.gluon)
    assert (nn, sym) == (mxnet.gluon.nn, mxnet.sym)
    with pytest.raises(AttributeError, match="no attribute 'onnx'"):
        door.onnx  # noqa: B018


def test_an_old_python_can_parse_the_package_and_is_refused_in_one_sentence():
    ast.parse(SOURCE.read_text(), feature_version=(3, 7))
    for release in ((3, 9, 18), (3, 13, 0)):
        done = python(f"import sys; sys.version_info = {release}; import gluonexp")
        message = done.stderr.splitlines()[-1]
        assert message.startswith("ImportError: gluonexp needs Python 3.10, 3.11 or 3.12")
        assert message.endswith(f"which is 3.{release[1]}.")


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        ("raise ModuleNotFoundError('', name='mxnet')", "`pip install 'gluonexp[cpu]'`"),
        ("raise ModuleNotFoundError('', name='distutils')", "`pip install setuptools`"),
        ("raise RuntimeError('Cannot find the MXNet library')", "--force-reinstall"),
        ("import ctypes; ctypes.CDLL('libgomp.so.1-no')", "libgomp.so.1-no"),
    ],
)
def test_a_failing_import_names_its_remedy(tmp_path, body, remedy):
    message = refusal(tmp_path, body)
    assert remedy in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("soname", "remedy"),
    [
        ("libgomp.so.1", "`apt-get install libgomp1`"),
        ("libquadmath.so.0", "`apt-get install libquadmath0`"),
        ("libarmpl_lp64_mp.so", "Arm Performance Libraries"),
        ("libcuda.so.1", "driver"),
        ("libcudnn.so.8", "`pip install 'gluonexp[gpu]'`"),
        ("libodd.so.1", "install the package"),
    ],
)
def test_a_missing_library_names_its_remedy(soname, remedy):
    error = OSError(f"{soname}: cannot open shared object file: No such file or directory")
    assert soname in door.explain(error)
    assert remedy in door.explain(error)


def test_both_wheels_at_once_are_refused(tmp_path, monkeypatch):
    assert door.obstacle() is None
    distribution(tmp_path, "mxnet-cu112")
    monkeypatch.syspath_prepend(tmp_path)
    assert door.installed_wheels() == {"mxnet": "1.9.1", "mxnet-cu112": "1.9.1"}
    with pytest.raises(GluonexpError, match="`pip uninstall -y mxnet mxnet-cu112`"):
        door.__getattr__("mx")


@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_parameter_server_role_is_refused_instead_of_never_returning(role, monkeypatch):
    monkeypatch.setenv("DMLC_ROLE", role)
    with pytest.raises(GluonexpError, match=f"DMLC_ROLE={role} is set"):
        door.__getattr__("mx")


@LINUX
def test_mxnet_uses_the_usable_cores_unless_told_otherwise():
    cores = door.usable_cores()
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    code = (
        "import os; from gluonexp.base.mx import mx\n"
        "from gluonexp.base.provenance import omp_threads\n"
        "print(omp_threads(), os.environ.get('OMP_NUM_THREADS'))"
    )
    assert python(code, OMP_NUM_THREADS=None).stdout == f"{cores} None\n"
    assert python(code, OMP_NUM_THREADS="3").stdout == "3 3\n"


FAKE_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 10 ? "Old" : "New", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 10 ? 8 : 9) : (device == 10 ? 9 : 0); return 0; }
"""


def test_gpus_are_read_from_the_driver(compiled):
    folder = compiled("libcuda.so.1", FAKE_DRIVER).parent
    code = "from gluonexp.base.mx import gpus\nfor gpu in gpus(): print(gpu, gpu.supported)"
    done = python(code, LD_LIBRARY_PATH=str(folder))
    assert done.stdout.splitlines() == [
        "Old (compute capability 8.9) True",
        "New (compute capability 9.0) False",
    ]


def test_cuda_libraries_are_loaded_for_the_whole_process(compiled, tmp_path, monkeypatch):
    library = compiled("libany.so", "int gluonexp_marker(void) { return 7; }")
    expected = []
    folders = {"nvidia-cuda-runtime-cu11": "cuda_runtime", "nvidia-cublas-cu11": "cublas"}
    for wheel, folder in folders.items():
        sonames = door.CUDA_LIBRARIES[wheel]
        distribution(tmp_path, wheel)
        target = tmp_path / "nvidia" / folder / "lib"
        target.mkdir(parents=True)
        expected += [shutil.copy(library, target / soname) for soname in sonames]
    monkeypatch.syspath_prepend(tmp_path)

    removed = (tmp_path / "nvidia/cublas/lib/libcublas.so.11").rename(tmp_path / "removed")
    with pytest.raises(GluonexpError, match=r"libcublas\.so\.11 of the wheel nvidia-cublas-cu11"):
        door.preload_cuda()

    removed.rename(tmp_path / "nvidia/cublas/lib/libcublas.so.11")
    door.preload_cuda()
    for path in expected:  # it is loaded already
        ctypes.CDLL(str(path), mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    assert ctypes.CDLL(None).gluonexp_marker() == 7


@LINUX
@pytest.mark.parametrize("beside", [True, False])
def test_beside_pytorch_mxnet_has_no_threads_of_its_own(beside):
    done = python(
        "import os\n"
        "from gluonexp.base import mx\n"
        "def threads(): return len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        f"if {beside}: mx.import_beside_torch()\n"
        "mx.nd.ones(4).wait_to_read()\n"
        "print(threads() > before, 'MXNET_ENGINE_TYPE' in os.environ)"
    )
    assert done.stdout.split() == [str(not beside), "False"], done.stderr
