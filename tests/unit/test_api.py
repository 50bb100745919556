"""The Python API without a run: what it imports, how it types and shows what was recorded."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gluonexp.api as gx
from gluonexp.api import html, listing, values
from gluonexp.config import hints
from gluonexp.run import conf_dir


def test_its_import_is_light():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import gluonexp.api"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "gluonexp" in loaded
    heavy = {"mxnet", "mlflow", "matplotlib", "pandas", "numpy", "hydra", "omegaconf", "rich"}
    assert loaded & heavy == set()


def test_every_name_is_documented_with_an_example():
    for name in gx.__all__:
        named = getattr(gx, name)
        is_error = isinstance(named, type) and issubclass(named, Exception)
        assert named.__doc__ and (is_error or ">>>" in named.__doc__), name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3", 3), ("0.001", 0.001), ("1e-05", 1e-05), ("true", True), ("null", None)],
        *[("007", "007"), ("1e5", "1e5"), ("adam", "adam"), ("[0.9,0.999]", "[0.9,0.999]")],
    ],
)
def test_a_recorded_text_is_what_it_was(text, value):
    found = values.typed("key", text)
    assert (found, type(found)) == (value, type(value))


def test_a_digest_of_digits_is_a_text():
    assert values.typed("data.digest", "12345678") == "12345678"


@pytest.mark.parametrize(
    ("texts", "dtype", "cells"),
    [
        (["1", "2"], "int64", [1, 2]),
        (["1", None], "Int64", [1, pd.NA]),
        (["1", "0.5", "null"], "float64", [1.0, 0.5, np.nan]),
        (["true", "false"], "bool", [True, False]),
        (["auto", "0.5", None], "object", ["auto", "0.5", None]),
        (["null", "null"], "object", [None, None]),
    ],
)
def test_a_column_has_one_type(texts, dtype, cells):
    found = values.column("key", texts)
    assert found.dtype == dtype
    pd.testing.assert_series_equal(found, pd.Series(cells, dtype=dtype))


def test_a_condition_that_names_no_column_says_which_is_meant():
    table = pd.DataFrame({"val/acc": [0.5, 0.9]})
    with pytest.raises(gx.GluonexpError, match="did you mean val/acc"):
        listing._chosen(table, "`val/ac` > 0.1")
    with pytest.raises(gx.GluonexpError, match="between backquotes"):
        listing._chosen(table, "val/acc > 0.1")
    assert len(listing._chosen(table, "`val/acc` > 0.6")) == 1


def test_what_a_notebook_shows_is_escaped():
    evil = "<script>alert(1)</script>"
    shown = html.block(
        html.title(evil, evil),
        html.code(evil),
        html.note(evil),
        html.link("http://x/?a=\"'<", evil),
        html.link("javascript:alert(1)", "here"),
        html.picture(b"", evil + '"'),
        html.svg("<svg></svg>", evil),
        html.table([evil], [[evil]]),
    )
    assert "<script" not in shown
    assert 'href="javascript' not in shown
    assert '="http://x/?a=&quot;' in shown


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lrx=1", "optim.lrx: did you mean optim.lr? "),
        ("model=foo", "Could not find 'model/foo'; Available options in 'model': "),
        ("optim.lr=abc", "Value 'abc' of type 'str' could not be converted to Float"),
        ("optim.lr=1,2", "several values are for a sweep"),
    ],
)
def test_what_hydra_refuses_is_one_sentence(word, said):
    from gluonexp import run

    with pytest.raises(Exception) as refused:
        run.single(word)
    sentence = hints.sentence(refused.value, [word], conf_dir())
    assert sentence is not None and said in sentence
    assert "\n" not in sentence


def test_a_folder_of_groups_that_is_not_there(tmp_path: Path):
    with pytest.raises(gx.GluonexpError, match="there is no such folder"):
        gx.run(config_dir=tmp_path / "none")


def test_a_sweep_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("hydra.mode=MULTIRUN", "sweep.resume=last"):
        with pytest.raises(gx.GluonexpError, match=r"gx\.sweep"):
            gx.run(word)
    assert list(tmp_path.iterdir()) == []
