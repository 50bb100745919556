"""The Python API without a run: what it imports, how it types and shows what was recorded."""

import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gluonexp.api as gx
from gluonexp.api import html, listing, values
from gluonexp.config import hints
from gluonexp.inference.predict import image_files
from gluonexp.run import conf_dir
from gluonexp.tracking.read.records import OWN_LOOP, RunRecord


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


@pytest.fixture
def table():
    """A table of two runs, of which one has a parameter that the other has not."""
    return pd.DataFrame(
        {
            "name": ["old", "new"],
            "started": pd.to_datetime(["2025-01-01", "2026-01-01"], utc=True),
            "seconds": [1.0, 2.0],
            "augment": [None, "crop"],
            "amp": values.column("amp", [None, "true"]),
        }
    )


@pytest.mark.parametrize(
    "where",
    [
        *["started > '2025-06-30'", "started > '2025-06-30T12:00Z'", "'2025-02' < started"],
        *["started > @noon and name == 'new'", "seconds > 1", "augment.str.startswith('c')"],
        *["amp", "name in ['new', 'none']"],
    ],
)
def test_a_condition_chooses_runs(table, where):
    def runs():  # between a condition and its names is as much as from `gx.runs`
        return listing._chosen(table, where)

    noon = pd.Timestamp("2025-06-30T12:00Z")  # noqa: F841 (the condition reads it)
    chosen = (lambda: runs())()
    assert chosen["name"].tolist() == ["new"] and chosen["started"].dt.tz is not None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("name = 'new'", "equal is `==`, not `=`"),
        *[(where, "is no condition") for where in ("name", "seconds", "True", "1", "augment")],
        *[(where, "give a condition as a text") for where in ("", "   ")],
        ("started > 'never'", "cannot be evaluated"),
        ("seconds > 'x'", "cannot be evaluated"),
    ],
)
def test_what_is_no_condition_is_told_in_a_line(table, where, said):
    with pytest.raises(gx.GluonexpError, match=said) as told:
        listing._chosen(table, where)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *[({"where": each}, "give a condition as a text") for each in (3, len, True)],
        *[({"limit": each}, "whole number, at least 1") for each in ("3", -1, 0, 1.5, True)],
        *[({"experiment": each}, "give the name of an experiment") for each in ("", 3)],
        ({"uri": 3}, "give the store's address as a text"),
    ],
)
def test_the_table_of_runs_refuses_what_it_cannot_take(options, said):
    with pytest.raises(gx.GluonexpError, match=said):
        gx.runs(**options)


@pytest.mark.parametrize("call", [gx.run, gx.sweep])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        (["model=mlp"], r"not a list: gx\.(run|sweep)\(\*words\)"),
        *[({"a": 1}, "not a dict"), (None, "not a NoneType"), ("", "is no override")],
        *[(word, "options belong to the command line") for word in ("--help", "-m", "--cfg")],
    ],
)
def test_what_is_no_override(call, word, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(gx.GluonexpError, match=said):
        call(word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, 3, "", " ", ["last"]])
@pytest.mark.parametrize("kind", [gx.Run, gx.Sweep, gx.load])
def test_what_names_nothing(kind, name):
    with pytest.raises(gx.GluonexpError, match=r"names? (a run|a sweep|no model)|name a "):
        kind(name)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(gx.GluonexpError, match="an empty name is no image"):
        image_files([""])


@pytest.mark.parametrize("own", [True, False])
def test_a_loop_of_ones_own_has_a_test_split_by_epoch(own):
    curves = {"loss": {0: 1.0, 1: 0.5}, "test/acc": {1: 0.8, 2: 0.9}, "last": {2: 1.0}}
    last = {name: curve[max(curve)] for name, curve in curves.items()}
    now = datetime.now(timezone.utc)
    tags = {OWN_LOOP: "true"} if own else {}
    record = RunRecord("0" * 32, "x", "FINISHED", "e", "1", now, metrics=last, tags=tags)
    run = gx.Run.of_record(Curves(curves), record)
    assert set(run.history) == (set(curves) if own else {"loss"})
    assert run.curve("test/acc").index.name == ("epoch" if own else "step")
    row = "".join(f"<td[^>]*>{cell}</td>" for cell in ("test/acc", ".*?", "0.9.*?", "2"))
    assert bool(re.search(row, run._repr_html_())) == own


class Curves:
    """A store that knows the curves of one run."""

    uri = "sqlite:///none.db"

    def __init__(self, curves):
        self._curves = curves

    def curves(self, run_ids, metric):
        return {run_id: sorted(self._curves[metric].items()) for run_id in run_ids}


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
