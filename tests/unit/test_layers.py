"""The rooms of the house: who may import whom, read from the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gluonexp"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom. A room imports rooms of lower floors only: none above, none beside it.
FLOORS = (
    "__main__",
    "cli",
    "api",
    "run",
    "experiment",
    "sweep",
    "compare",
    "mlflow_gluon",
    "inference",
    "assembly",
    "features",
    "verification",
    "export",
    "engines",
    "training",
    "freeze",
    "weights",
    "tracking",
    "models",
    "model_folder",
    "graph",
    "data",
    "report",
    "config",
    "base",
    "__init__",
)
# Nothing lies beside these at the root of the package.
ROOT_FILES = {"__init__.py", "__main__.py", "py.typed", "run.py"}
# Plain types, which everybody may speak of; and the table of old names, which the package reads.
PLAIN = ("gluonexp.data.types", "gluonexp.base.aliases")
# What a run is made of without knowing which engine computes it.
WITHOUT_MXNET = {
    *("training", "freeze", "experiment", "sweep", "compare", "tracking", "report", "data"),
    "config",
}

ALLOWED = {
    "mxnet": {"base/mx.py"},
    "mlflow": {"tracking", "inference/flavor.py", "inference/served.py", "mlflow_gluon", "cli"},
    "matplotlib": {"report"},
    "hydra": {"run", "assembly", "config", "cli", "sweep"},
    "omegaconf": {"run", "assembly", "config", "cli", "sweep"},
    "optuna": {"sweep"},
    "cloudpickle": {"sweep", "base/workers.py"},
    "onnx": {"export", "verification", "model_folder/guard.py"},
    "onnxruntime": {"verification"},
    "openvino": {"verification"},
    "torch": {"engines/torch", "verification", "export", "cli/doctor.py"},
}

LONGEST = 400  # lines


def place(module):
    return module.relative_to(PACKAGE).as_posix()


def room(module):
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module):
    """Return the full name of everything a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(module)}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_room(name):
    """Return the room of an imported `gluonexp` name."""
    part = name.split(".")[1]
    known = (PACKAGE / f"{part}.py").exists() or (PACKAGE / part).is_dir()
    return part if known else "__init__"


def test_the_rooms_are_those_of_the_floors():
    assert len(FLOORS) == len(set(FLOORS))
    assert {room(module) for module in MODULES} == set(FLOORS)


def test_the_root_holds_rooms_only():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == ROOT_FILES


def test_each_room_says_in_a_line_what_lives_there():
    for folder in {module.parent for module in MODULES}:
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
        assert said and said.splitlines()[0].endswith((".", ":")), folder


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_imports_point_down(module):
    here = room(module)
    for name in imported(module):
        if name.startswith("gluonexp.") and not name.startswith(PLAIN):
            there = imported_room(name)
            down = FLOORS.index(there) > FLOORS.index(here)
            assert there == here or down, f"{place(module)} imports {name}"


@pytest.mark.parametrize(
    "module", [path for path in MODULES if room(path) in WITHOUT_MXNET], ids=place
)
def test_what_does_not_compute_is_without_mxnet(module):
    doors = ("mxnet", "gluonexp.base.mx", "gluonexp.base.device")
    for name in imported(module):
        assert not f"{name}.".startswith(tuple(f"{door}." for door in doors)), name


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_each_library_has_its_rooms(module):
    for name in imported(module):
        rooms = ALLOWED.get(name.split(".")[0])
        here = {room(module), place(module), place(module).rpartition("/")[0]}
        inside = rooms is None or here & rooms
        assert inside, f"{place(module)} imports {name}"


def test_no_module_is_too_long():
    lengths = {place(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize(
    "command",
    [
        ["gluonexp.run", "--help"],
        ["gluonexp.run", "--cfg", "job"],
        ["gluonexp.run", "--info", "defaults"],
        ["gluonexp", "--help"],
        ["gluonexp", "doctor", "--help"],
    ],
    ids=" ".join,
)
def test_a_question_loads_no_heavy_library(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    # Lines are "import time: self | cumulative | name".
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "gluonexp" in loaded
    heavy = {"mxnet", "mlflow", "matplotlib", "sklearn", "pandas", "optuna", "torch"}
    assert loaded & heavy == set()
