"""The wheel, built from the source distribution and installed into an empty environment."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "gluonexp/cli/project"  # what `gluonexp init` writes


def call(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the source distribution, and the wheel from it, without any network."""
    dist = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT, cwd=dist)
    return next(dist.glob("gluonexp-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the scripts folder of an environment with the wheel, and dependencies from here."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    call(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # A path in a .pth file is searched, but the .pth files there are not read: this environment
    # sees the dependencies, and not the editable gluonexp beside them.
    site_packages = next(folder.glob("lib/python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_holds_the_package_its_configuration_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"gluonexp", "hydra_plugins"}
    assert {name for name in names if name.startswith("hydra_plugins/")} == {
        f"hydra_plugins/gluonexp/{name}.py"
        for name in ("__init__", "launchers", "ray_launcher", "submitit_launcher", "sweepers")
    }
    assert "gluonexp/report/page.html" in names
    groups = {
        f"gluonexp/conf/{path.relative_to(ROOT / 'conf').as_posix()}"
        for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert groups
    assert groups <= set(names)
    project = {path.relative_to(ROOT).as_posix() for path in (ROOT / PROJECT).rglob("*.jinja")}
    assert len(project) > 10 and project <= set(names)
    assert "gluonexp/weights/alexnet-cifar10.safetensors" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_readme_of_a_package_index_has_no_link_to_what_is_not_there(wheel):
    with zipfile.ZipFile(wheel) as packed:
        [metadata] = [name for name in packed.namelist() if name.endswith("/METADATA")]
        text = packed.read(metadata).decode()
    assert "# gluonexp" in text
    assert "make demo" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []


def test_both_commands_find_the_wheels_own_configuration(installed, tmp_path):
    origin = call(
        installed / "python", "-c", "import gluonexp; print(gluonexp.__file__)", cwd=tmp_path
    )
    package = Path(origin).parent
    assert package.is_relative_to(installed.parent)
    module = [installed / "python", "-m", "gluonexp.run"]
    script = [installed / "gluonexp", "run"]
    for command in (module, script):
        assert "batch_size:" in call(*command, "--cfg", "job", cwd=tmp_path)
        assert str(package / "conf") in call(*command, "--info", "config", cwd=tmp_path)
        assert "GridSweeper" in call(*command, "--cfg", "hydra", cwd=tmp_path)
    assert "doctor" in call(installed / "gluonexp", "--help", cwd=tmp_path)
