"""The built pages: strict, complete, and in a browser, which asks nothing of the network."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from omegaconf import OmegaConf

from gluonexp import run as app
from tests.docs.shell import ROOT

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
WIDTHS = {"desktop": 1440, "phone": 390}
# What makes a page wider than it is shown: each such element, and by how many pixels.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = element => {
    for (let at = element; at; at = at.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(at).overflowX)
          && at !== document.body && at !== document.documentElement) return true;
    return false;
  };
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll('body *')]
    .filter(element => element.getBoundingClientRect().right > width + 1 && !scrolls(element))
    .map(element => element.outerHTML.slice(0, 120)).concat(['the page']);
}"""


class Build(NamedTuple):
    done: "subprocess.CompletedProcess[str]"
    options: list[str]
    folder: Path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The pages as `make docs` builds them; every notebook is run."""
    [command] = re.findall(r"\$\(BIN\)/sphinx-build (.*)", (ROOT / "Makefile").read_text())
    folder = tmp_path_factory.mktemp("docs")
    options = command.replace("build/docs", str(folder)).split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    return Build(done, options, folder / "html")


@pytest.fixture(scope="module")
def pages(build: Build) -> Path:
    """The folder of the pages; what is wrong with them is a test's matter."""
    return build.folder


@pytest.fixture(scope="module")
def site(pages: Path) -> Iterator[str]:
    """The address of the pages on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    handler = functools.partial(Quiet, directory=str(pages))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def test_the_build_warns_of_nothing(build: Build) -> None:
    assert build.done.returncode == 0, build.done.stderr
    assert {"-W", "-n"} <= set(build.options)
    assert "WARNING:" not in build.done.stderr


def built(pages: Path) -> list[str]:
    found = (path.relative_to(pages) for path in pages.rglob("*.html"))
    return sorted(path.as_posix() for path in found if path.parts[0] != "_static")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pages_ask_nothing_of_the_network_and_are_no_wider_than_the_screen(
    pages: Path, site: str, browser: Any, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    page.on(
        "console",
        lambda said: errors.append(f"{page.url}: {said.text}") if said.type == "error" else None,
    )
    wide = {}
    for name in built(pages):
        page.goto(site + name)
        if found := page.evaluate(TOO_WIDE):
            wide[name] = found
    page.close()
    assert wide == {}
    assert errors == []
    assert [url for url in asked if not url.startswith((site, "data:"))] == []
    assert len(asked) > len(built(pages))


def test_the_search_finds_freeze(site: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{site}search.html?q=freeze")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    page.close()
    assert any("configuration.html" in link for link in found)
    assert any("howto/" in link for link in found)


def objects(pages: Path) -> dict[str, str]:
    """Return what the pages describe, and where: Sphinx's inventory."""
    packed = (pages / "objects.inv").read_bytes().split(b"\n", 4)[4]
    rows = [row.split() for row in zlib.decompress(packed).decode().splitlines()]
    return {f"{row[1]} {row[0]}": row[3] for row in rows}


def leaves(node: Any, above: str) -> Iterator[str]:
    """Yield the keys of a composed configuration that hold a value."""
    if not OmegaConf.is_dict(node) or node._is_none() or not len(node):
        yield above
        return
    for name in node:
        if name != "_target_":
            yield from leaves(node._get_node(name), f"{above}.{name}" if above else str(name))


def test_every_key_of_every_configuration_is_explained(pages: Path) -> None:
    explained = objects(pages)
    choices = [
        f"{path.parent.name}={path.stem}"
        for path in Path(app.conf_dir()).glob("*/*.yaml")
        if path.parent.name not in ("experiment", "sweep")
    ]
    keys = {
        key
        for words in ([], *([each] for each in choices))
        for key in leaves(app.composition(words), "")
    }
    for path in Path(app.conf_dir()).glob("hydra/*/*.yaml"):
        given = yaml.safe_load(path.read_text("utf-8"))
        above = f"hydra.{path.parent.name}"
        keys |= {f"{above}.{key}" for key in given if key not in ("_target_", "defaults")}
    assert len(keys) > 100
    assert sorted(key for key in keys if f"std:confval {key}" not in explained) == []
    text = (pages / "reference" / "configuration.html").read_text("utf-8")
    described = re.findall(
        r'id="confval-([\w.-]+)".*?<dd>(.*?)</dd></dl>\s*(?=<dl|</section)', text, re.DOTALL
    )
    silent = [name for name, body in described if "</dl>\n<p>" not in body]
    assert len(described) > 100
    assert silent == []


def test_every_command_and_every_name_of_the_api_has_its_place(pages: Path) -> None:
    import gluonexp.api as gx
    from gluonexp.cli import main

    explained = objects(pages)
    names = {each.partition(" ")[2] for each in explained if each.startswith("py:")}
    assert sorted(name for name in gx.__all__ if f"gluonexp.api.{name}" not in names) == []
    text = (pages / "reference" / "commands.html").read_text("utf-8")
    assert [name for name in main.commands if f'id="gluonexp-{name}"' not in text] == []


def test_readme_lists_the_groups_and_their_choices() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+` ?)+)\|", text, re.MULTILINE)
    listed = {group: set(re.findall(r"`(\w+)`", choices)) for group, choices in rows}
    there: dict[str, set[str]] = {}
    for path in (ROOT / "conf").glob("*/*.yaml"):
        there.setdefault(path.parent.name, set()).add(path.stem)
    assert listed == there
    assert len(text.splitlines()) <= 95


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
