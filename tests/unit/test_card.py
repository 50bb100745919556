"""The model card: what it says, and that no name in it becomes mark-up."""

import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gluonexp.base import markdown
from gluonexp.base.measures import by_class
from gluonexp.model_folder.signature import ArraySignature, Preprocessing, Signature
from gluonexp.verification import card
from gluonexp.verification.card import Origin

HOSTILE = (
    "<script>alert(1)</script>",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "a | b\n| c",
    "# heading",
    "- item",
    "1. one",
    "```\ncode",
    "**bold** _slanted_ ~~gone~~ `code`",
    "&lt;b&gt; &amp;",
    "www.evil.example and me@evil.example",
    "\u202edesrever\x1b[2J",
    "---",
    "===",
    "> said",
    "$x$ \\",
)
STEPS = Preprocessing(8, 8, 1, (0.0,), (1.0,))


def _reader():
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def _tags(text):
    """Return the kinds of all that a text is made of, inner ones too."""
    found = set()
    for token in _reader().parse(text):
        found.add(token.type)
        found |= {inner.type for inner in token.children or ()}
    return found


def _shown(text):
    """Return what a reader sees of one paragraph."""
    return "".join(
        child.content if child.type != "softbreak" else " "
        for token in _reader().parse(text)
        for child in token.children or ()
    )


def _folder(tmp_path, classes):
    Signature((8, 8, 1), STEPS, tuple(classes)).write(tmp_path)
    return tmp_path


def _origin(classes, **changed):
    labels = np.arange(len(classes)).repeat(4)
    predicted = labels.copy()
    predicted[0] = 1  # of the first class three of four are right
    fields = {
        "run_id": "0" * 32,
        "command": "python -m gluonexp.run optim.lr=0.1",
        "engine": "mxnet, float32",
        "data": "made-up images",
        "digest": "a" * 64,
        "splits": {"train": 90, "test": len(labels)},
        "split": "test",
        "scores": {"loss": 0.5, "acc": 0.75, "ece": 0.125},
        "classes": by_class(classes, labels, predicted),
    }
    return Origin(**fields | changed)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_shown_as_it_is_and_is_no_mark_up(text):
    for whole in (markdown.plain(text), f"see {markdown.plain(text)} there"):
        assert "\n" not in whole
        kinds = _tags(whole)
        assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    wanted = " ".join(re.sub(r"[\x1b\u202e]", "?", text).split())
    assert _shown(markdown.plain(text)) == wanted
    assert "://" not in markdown.plain(text) and "www." not in markdown.plain(text)


@given(st.text(max_size=60))
def test_whatever_a_name_is_it_is_one_paragraph_and_one_cell(text):
    cell = markdown.plain(text)
    allowed = {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    assert _tags(cell) <= allowed
    table = _reader().parse(markdown.table(("class", "n"), [(cell, "1")]))
    assert sum(token.type == "td_open" for token in table) == 2
    words = markdown.paragraph(f"{'word ' * 18}{cell} {'word ' * 18}{cell}")
    assert _tags(words) <= allowed | {"softbreak"}
    assert all("html" not in token.type for token in table)


def test_code_ends_where_it_ends():
    whole = markdown.code("echo '```'\n```\n# no heading", "sh")
    (block,) = _reader().parse(whole)
    assert block.type == "fence" and block.content == "echo '```'\n```\n# no heading\n"


def test_secrets_are_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "verysecretvalue")
    said = markdown.plain("https://me:pass@host/x token=abcdefghij verysecretvalue")
    assert "pass@" not in said and "abcdefghij" not in said and "verysecret" not in said


def test_a_card_says_what_is_known(tmp_path):
    names = ["cat", "dog", "cow"]
    card.write(_folder(tmp_path, names), None, _origin(names, notes=["9 files were left out"]))
    text = card.read(tmp_path)
    assert text.splitlines()[0] == "---"
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification" and "license" not in front
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert "| cat   |    1.0000 | 0.7500 | 0.8571 |      4 |" in text
    assert "Lowest recall on the test split: cat (75% of 4)." in text
    assert "calibration error (ECE) | 0.1250" in text
    assert "9 files were left out." in text
    assert "Nothing was proved" in text and "## What was proved" not in text
    assert f"`{'a' * 64}`" in text and "0" * 32 in text
    assert "python -m gluonexp.run optim.lr=0.1" in text
    assert "model.onnx" not in text and "PyTorch" not in text
    assert max(map(len, text.splitlines())) <= 100
    card.write(tmp_path, None, _origin(names, notes=["9 files were left out"]))
    assert card.read(tmp_path) == text


def test_what_only_a_run_knows_is_kept_when_it_is_exported_again(tmp_path):
    names = ["cat", "dog", "cow"]
    card.write(_folder(tmp_path, names), None, _origin(names))
    before = card.read(tmp_path)
    (tmp_path / "model.onnx").touch()
    card.write(tmp_path, None)
    after = card.read(tmp_path)
    assert "onnxruntime" in after and "onnxruntime" not in before
    start = after.index("## With") if "## With" in after else 0
    for heading in ("How good it is", "Data", "Origin", "By class"):
        section = before.split(f"## {heading}\n")[1].split("\n## ")[0].strip()
        assert section in after[start:]
    assert "Lowest recall on the test split: cat (75% of 4)." in " ".join(after.split())
    card.write(tmp_path, None)
    assert card.read(tmp_path) == after


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"", b"---\n", b"## Data\n## Data\n## x"])
def test_a_card_that_is_none_is_no_error(tmp_path, damaged):
    (tmp_path / "README.md").write_bytes(damaged)
    card.write(_folder(tmp_path, ["a", "b"]), None)
    assert card.read(tmp_path).count("## What it takes") == 1


def test_no_name_of_a_class_changes_what_a_card_is_made_of(tmp_path):
    # A signature refuses what commands a terminal.
    names = [name for name in HOSTILE if not re.search(r"[\x00-\x1f\u202e]", name)]
    plain = [f"class {index}" for index in range(len(names))]
    found = []
    for classes in (names, plain):
        origin = _origin(classes, data=classes[0], command=f"run {classes[0]} ```")
        card.write(_folder(tmp_path, classes), None, origin)
        tokens = _reader().parse(card.body(card.read(tmp_path)))
        found.append([token.type for token in tokens])
        assert not {kind for kind in found[-1] if "html" in kind}
        inner = {child.type for token in tokens for child in token.children or ()}
        assert not inner & {"link_open", "image", "html_inline", "em_open", "strong_open"}
        (tmp_path / "README.md").unlink()
    assert found[0] == found[1]


def test_a_description_is_no_longer_than_mlflow_takes(tmp_path):
    names = [f"class number {index}" for index in range(3000)]
    card.write(_folder(tmp_path, names), None, _origin(names))
    text = card.read(tmp_path)
    assert "The 100 of 3,000 classes with the lowest recall." in text
    said = card.description(text)
    assert len(said) <= card.LARGEST_DESCRIPTION
    assert said.startswith("# Image classifier: made-up images") and "library_name" not in said
    assert said.endswith("The rest is in the export, `README.md`.")
    for end in range(1000, len(text), 97):  # wherever it is cut, no block of code stays open
        monkey = card.description(text[:end] + "x" * 10_000)
        assert len(re.findall("(?m)^```", monkey)) % 2 == 0
        assert len(monkey) <= card.LARGEST_DESCRIPTION


def test_a_network_that_takes_arrays_has_a_card_of_its_own(tmp_path):
    ArraySignature((None, 16), ("yes", "no"), whole=True).write(tmp_path)
    card.write(tmp_path, None)
    text = card.read(tmp_path)
    assert "arrays (N, any, 16) of whole numbers" in " ".join(text.split())
    assert "gluonexp verify FOLDER" in text and "photo.png" not in text
    assert "pipeline_tag" not in text and "Image" not in text
