"""What `docs/messages.md` and the how-to pages quote is said somewhere in the source."""

import ast
import functools
import re
from pathlib import Path

import hydra
import omegaconf
import pytest

ROOT = Path(__file__).parents[2]
FIELD = "\0"  # stands for what an f-string fills in

# What others say, of what people type.
HYDRAS = ("Could not override", "Could not find", "could not be converted to")


def text(node):
    """Return a string as it is written, its fields replaced; None of what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) or FIELD for part in node.values)
    return None


def strings(*folders):
    found = set()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
            docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            said = [text(node) for node in nodes if id(node) not in docs]
            found |= {" ".join(one.split()) for one in said if one is not None}
    return found


@functools.cache
def own():
    return strings(ROOT / "gluonexp", ROOT / "hydra_plugins")


@functools.cache
def hydras():
    return strings(*(Path(package.__file__).parent for package in (hydra, omegaconf)))


def said(quoted, among):
    """Say whether one of the strings has all that is fixed in a message, in that order."""
    fixed = [re.escape(part.strip()) for part in quoted.split("...") if part.strip()]
    return any(re.search(".*".join(fixed), one) for one in among)


def messages():
    page = (ROOT / "docs/messages.md").read_text(encoding="utf-8")
    return re.findall(r"^`([^`]+)`\n: ", page, re.M)


def tables():
    """Return what the how-to pages quote in the first column of their tables of messages."""
    found = []
    for page in sorted((ROOT / "docs/howto").glob("*.md")):
        *_, rest = page.read_text(encoding="utf-8").partition("| message | what to do |\n")
        rows = re.findall(r"^\| (.+?) \| ", rest, re.M)
        found += [(page.name, quoted) for row in rows for quoted in re.findall("`([^`]+)`", row)]
    return found


def test_there_are_messages_to_look_for():
    assert len(messages()) > 50
    assert len({page for page, _ in tables()}) > 8


@pytest.mark.parametrize("quoted", messages())
def test_a_message_is_one_that_is_said(quoted):
    assert said(quoted, hydras() if quoted.startswith(HYDRAS) else own())


@pytest.mark.parametrize(("page", "quoted"), tables())
def test_a_message_in_a_table_is_one_that_is_said(page, quoted):
    assert said(quoted, own())


def test_what_nobody_says_is_found():
    assert not said("the moon is not cheese", own())
    assert not said("choose one of ... must be at least", own())
