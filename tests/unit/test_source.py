"""The digest of the code: what changes it, what does not, and its cache."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gluonexp.base.source import code_digest
from gluonexp.config.computing import libraries
from gluonexp.config.schema import Config

MODULE = '''"""A docstring."""

RATE = "0.1"  # a comment


def rate():
    """Another docstring."""
    return float(RATE)


class Empty(Exception):
    """A third docstring."""
'''


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Give the cache of a user who has none at first."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "gluonexp"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Give the folder of a package that can be imported."""
    folder = tmp_path / "site" / "of_the_user"
    (folder / "rates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "rates" / "rate.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    sys.modules.pop(folder.name, None)


def digest() -> str:
    return code_digest(["of_the_user"])


@pytest.mark.parametrize(
    "edited",
    [
        MODULE.replace("docstring", "sentence"),
        MODULE.replace('    """Another docstring."""\n', ""),
        MODULE.replace("a comment", "another comment"),
        MODULE.replace("\n\n\n", "\n"),
        MODULE.replace("Exception):\n", "Exception):  # none\n\n"),
    ],
    ids=["docstrings", "no docstring", "comment", "blank lines", "comment and blank line"],
)
def test_what_does_not_compute_is_not_digested(package: Path, edited: str) -> None:
    before = digest()
    assert edited != MODULE
    (package / "rates" / "rate.py").write_text(edited)
    assert digest() == before


@pytest.mark.parametrize(
    "edited",
    [
        MODULE.replace('"0.1"', '"0.2"'),
        MODULE.replace("float(RATE)", "float(RATE) / 2"),
        MODULE.replace('"""Another docstring."""\n', 'x = """Another docstring."""\n'),
        MODULE + "\x00",  # no Python at all
    ],
    ids=["string", "expression", "no docstring", "not Python"],
)
def test_what_computes_is_digested(package: Path, edited: str) -> None:
    before = digest()
    (package / "rates" / "rate.py").write_text(edited)
    assert digest() != before


def test_a_file_is_known_by_its_path_in_the_package(package: Path, tmp_path: Path) -> None:
    before = digest()
    (package / "rates").rename(package / "other_rates")
    assert digest() != before
    (package / "other_rates").rename(package / "rates")
    assert digest() == before
    assert code_digest(["not_there"]) == code_digest()


def test_a_module_without_a_package_is_digested(package: Path) -> None:
    (package.parent / "single_module.py").write_text(MODULE)
    before = code_digest(["single_module"])
    assert before != code_digest()
    (package.parent / "single_module.py").write_text(MODULE.replace("0.1", "0.2"))
    assert code_digest(["single_module"]) != before


def test_a_source_is_parsed_once(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, parsed, parse = digest(), [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda source: parsed.append(source) or parse(source))
    assert digest() == before and parsed == []
    (package / "rates" / "rate.py").write_text(MODULE + "# one more\n")
    assert digest() == before and len(parsed) == 1


@pytest.mark.parametrize("damage", ["cut off", "changed", "emptied", "not writable"])
def test_a_damaged_cache_costs_only_time(package: Path, cache: Path, damage: str) -> None:
    before = digest()
    (kept,) = cache.iterdir()
    if damage == "cut off":
        kept.write_bytes(kept.read_bytes()[:-9])
    elif damage == "changed":
        kept.write_bytes(kept.read_bytes().replace(b"1", b"2"))
    elif damage == "emptied":
        kept.write_bytes(b"")
    else:  # for the superuser too: a file lies where the folder belongs
        kept.unlink()
        cache.rmdir()
        cache.touch()
    assert digest() == before
    assert cache.is_file() or kept.stat().st_size > 1000  # it is mended where it can be


def test_the_versions_of_what_computes_are_digested(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(libraries=["numpy"])
    assert before not in (code_digest(), code_digest(libraries=["pillow"]))
    assert code_digest(libraries=["not-there"]) == code_digest()
    monkeypatch.setattr("gluonexp.base.source.installed", lambda *names: {"numpy": "0.1"})
    assert code_digest(libraries=["numpy"]) != before


@pytest.mark.parametrize(
    ("words", "computing"),
    [
        ([], {"onnxruntime", "openvino"}),
        (["export=none"], set()),
        (["export.onnx=false"], set()),
        (["export=none", "engine=torch"], {"torch"}),
        (["export.onnx=false", "export.torch=true"], {"torch"}),
        (["export=none", "model=alexnet_ft"], {"openvino"}),
        (["export=none", "model=alexnet_ft", "features.engine=torch"], {"torch"}),
        (["export=none", "model=alexnet_ft", "features.cache='off'"], set()),
    ],
)
def test_what_computes(
    compose: Callable[..., Config], words: list[str], computing: set[str]
) -> None:
    assert set(libraries(compose(*words))) == computing
