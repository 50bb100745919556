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
    {"__main__"},
    {"cli"},
    {"run"},
    {"experiment", "doctor", "sweep", "evaluate"},
    {"job"},
    {"resume"},
    {"reexport"},
    {"record", "show", "compare", "flavor", "formats"},
    {"predict", "verify"},
    {"build"},
    {"callbacks", "lr_find"},
    {"loop"},
    {"data", "models", "freeze", "optim", "loss", "metrics", "checkpoint"},
    {"weights"},
    {"tracking", "export", "report", "study"},
    {"schema", "runtime", "download", "outcomes"},
    {"workers"},
    {"mx", "progress", "processes"},
    {"errors"},
    {"__init__"},
)
# Plain types, which everybody may speak of.
PLAIN = "gluonexp.data.types"

ALLOWED = {
    "mxnet": {"mx"},
    "mlflow": {"tracking", "export/flavor.py", "cli"},
    "matplotlib": {"report"},
    "hydra": {"run", "build", "schema", "cli", "sweep"},
    "omegaconf": {"run", "build", "schema", "cli", "sweep"},
    "optuna": {"study"},
    "cloudpickle": {"sweep", "workers"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "openvino": {"export"},
}

LONGEST = 400  # lines


def place(module):
    return module.relative_to(PACKAGE).as_posix()


def room(module):
    if place(module) == "export/flavor.py":  # it is made of what is above the export, too
        return "flavor"
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


def floor(name):
    return next(index for index, rooms in enumerate(FLOORS) if name in rooms)


def imported_room(name):
    """Return the room of an imported `gluonexp` name."""
    if name.startswith("gluonexp.export.flavor"):
        return "flavor"
    part = name.split(".")[1]
    known = (PACKAGE / f"{part}.py").exists() or (PACKAGE / part).is_dir()
    return part if known else "__init__"


def test_every_room_is_on_one_floor():
    rooms = [name for rooms in FLOORS for name in rooms]
    assert len(rooms) == len(set(rooms))
    assert {room(module) for module in MODULES} == set(rooms)


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_imports_point_down(module):
    here = room(module)
    for name in imported(module):
        if name.startswith("gluonexp.") and not name.startswith(PLAIN):
            there = imported_room(name)
            assert there == here or floor(there) > floor(here), f"{place(module)} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_each_library_has_its_rooms(module):
    for name in imported(module):
        rooms = ALLOWED.get(name.split(".")[0])
        inside = rooms is None or {room(module), place(module)} & rooms
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
    assert loaded & {"mxnet", "mlflow", "matplotlib", "sklearn", "pandas", "optuna"} == set()
