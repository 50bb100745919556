"""The digest of the source that computes: edits of comments, docstrings and layout keep it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gluonexp.base import mx as door
from gluonexp.base.files import draft, user_cache
from gluonexp.base.imports import installed

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
KEPT = 4096  # digests; a cache that has grown beyond is begun anew


def code_digest(packages: Sequence[str] = (), libraries: Sequence[str] = ()) -> str:
    """Return a digest of the code a result depends on, 16 hex digits.

    It covers the source of gluonexp and of `packages`, as `file_digests` does, and the versions
    of MXNet and of `libraries`. Unlike a commit, it is there without git.
    """
    return digest_of(file_digests(packages), installed(*libraries))


def digest_of(files: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the digest of code whose files have these digests, on libraries of these versions."""
    digest = hashlib.sha256(" ".join(door.installed_wheels().values()).encode())
    for name, each in (*files.items(), *versions.items()):
        digest.update(f"\0{name}\0{each}".encode())
    return digest.hexdigest()[:16]


def file_digests(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the digest of each file of gluonexp and of `packages`, as it lies on the disk.

    Comments, docstrings and layout do not count. Parsing takes half a second: the user's cache
    keeps the digest of a file without its comments by the digest of its bytes. Where the cache is
    damaged or cannot be written, files are parsed.
    """
    # By the version of Python, which parses.
    cache = user_cache() / f"source-digests-{sys.version_info.major}.{sys.version_info.minor}"
    known = _read(cache)
    new: dict[str, str] = {}
    found = {}
    for package in sorted({"gluonexp", *packages}):
        for name, path in _sources(package):
            source = path.read_bytes()
            raw = hashlib.sha256(source).hexdigest()
            if raw not in known:
                known[raw] = new[raw] = hashlib.sha256(_bare(source)).hexdigest()
            found[f"{package}/{name}"] = known[raw]
    if new:
        _write(cache, known if len(known) < KEPT else new)
    return found


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the Python files of a package or module, by relative path; none if there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return
    if spec and spec.submodule_search_locations is not None:
        for folder in map(Path, spec.submodule_search_locations):
            for path in sorted(folder.rglob("*.py")):
                yield path.relative_to(folder).as_posix(), path
    elif spec and spec.has_location:
        yield package, Path(str(spec.origin))


def _bare(source: bytes) -> bytes:
    """Return a source without comments, docstrings and layout; as it is where it is no Python."""
    try:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        return ast.unparse(tree).encode()
    except (SyntaxError, ValueError, RecursionError):
        return source


def _read(cache: Path) -> dict[str, str]:
    """Return the digests that the cache keeps; none where it is missing or damaged."""
    with suppress(OSError):
        checksum, _, text = cache.read_bytes().partition(b"\n")
        if checksum == hashlib.sha256(text).hexdigest().encode():
            known: dict[str, str] = json.loads(text)
            return known
    return {}


def _write(cache: Path, known: dict[str, str]) -> None:
    text = json.dumps(known).encode()
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with draft(cache) as written:
            written.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
