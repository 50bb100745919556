"""The Python API on real runs: as the command line's, and nothing left behind."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gluonexp.api as gx

SMALL = ("dataset=synthetic", "model=mlp", "trainer.epochs=2", "export.onnx=false")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run, and a sweep of two points, one of which fails."""
    folder, before = tmp_path_factory.mktemp("api"), Path.cwd()
    os.chdir(folder)
    try:
        gx.run(*SMALL, "tracking.run_name=<b>first</b>", "export.register=small")
        gx.sweep(*SMALL, "optim.lr=0.01,1e30")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def inside(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def first(inside):
    return gx.Run(gx.runs(where="name == '<b>first</b>'")["run_id"][0])


def snapshot():
    import mlflow

    root = logging.getLogger()
    return {
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(each) for each in range(1, 17) if each not in (9,)],
        "handlers": (root.handlers[:], root.level),
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "warnings": warnings.filters[:],
        "streams": (sys.stdout, sys.stderr),
        "path": sys.path[:],
        "garbage": gc.isenabled(),
        "store": (mlflow.get_tracking_uri(), mlflow.active_run()),
    }


def test_a_run_is_the_command_lines(first, inside):
    assert first.status == "FINISHED"
    assert first.params["trainer.epochs"] == 2 and first.params["model._target_"]
    assert list(first.history.index) == [0, 1]
    assert first.curve("val/acc").tolist() == first.history["val/acc"].tolist()
    assert first.metrics["val/acc"] == first.history["val/acc"].iloc[-1]
    assert "test/acc" not in first.history
    assert {"export/signature.json", "plots/curves.png"} <= set(first.files)
    assert "tracking.run_name" in first.file(Path("config/overrides.yaml")).read_text()
    with pytest.raises(gx.GluonexpError, match="3 is no path"):
        first.file(3)
    (log,) = first.folder.glob("*.log")
    assert first.folder.parent == inside / "mlruns/hydra" and log.name == "run.log"
    with pytest.raises(gx.GluonexpError, match="has no metric val/f1; it has "):
        first.curve("val/f1")


def test_it_shows_itself(first):
    assert repr(first).startswith(f"<Run {first.id[:8]} '<b>first</b>' FINISHED: ")
    shown = first._repr_html_()
    assert "data:image/png;base64," in shown and "&lt;b&gt;first" in shown
    assert "<b>" not in shown and "<script" not in shown


def test_names_mean_what_they_mean_to_the_commands(first, inside):
    for name in (first.id[:8], f"runs:/{first.id}", "models:/small@champion"):
        assert gx.Run(name).id == first.id
        assert gx.load(name).classes == first.model().classes
    sweep = gx.Sweep("last")
    assert gx.Run(sweep.id).id == gx.Run(sweep).id == sweep.best.id  # of a sweep, its best run
    assert gx.Run(first).id == first.id
    assert gx.Sweep(sweep).id == gx.Sweep(sweep.best).id == sweep.id
    with pytest.raises(gx.GluonexpError, match="no run id begins with"):
        gx.Run("0" * 32)
    for alone in (first, first.id):
        with pytest.raises(gx.GluonexpError, match="is no sweep"):
            gx.Sweep(alone)
    with pytest.raises(gx.GluonexpError, match="model none cannot be found"):
        gx.Run("models:/none@champion")


def test_a_sweep_with_a_point_that_fails(inside):
    sweep = gx.Sweep()
    table = sweep.table
    assert sweep.status == "FAILED" and len(sweep.runs) == 2
    assert table["status"].tolist() == ["FINISHED", "FAILED"]
    assert table["optim.lr"].tolist() == [0.01, 1e30] and table["rank"][0] == 1
    assert sweep.best.id == table["run_id"][0] and sweep.report.suffix == ".html"
    written = pd.read_csv(sweep.report.with_name("results.csv"))
    assert list(written) == list(table) and len(written) == len(table)
    assert "diverged" in sweep._repr_html_() and "data:image/svg+xml" in sweep._repr_html_()


def test_the_table_of_runs(first, inside):
    table = gx.runs()
    assert list(table)[:6] == ["run_id", "name", "experiment", "status", "started", "seconds"]
    assert len(table) == 3 and table["started"].is_monotonic_decreasing
    assert table["optim.lr"].dtype == float and table["trainer.epochs"].dtype == int
    least = 0.0  # noqa: F841 (the condition reads it)
    good = gx.runs(where="`val/acc` >= @least and status == 'FINISHED'")
    assert set(good["run_id"]) == {first.id, gx.Sweep().best.id}
    assert len(gx.runs(where="started > '2020-01-01'")) == 3
    assert gx.runs(limit=1)["run_id"].tolist() == table["run_id"].tolist()[:1]
    assert len(gx.runs("gluonexp", limit=2)) == 2
    with pytest.raises(gx.GluonexpError, match="no experiment nowhere"):
        gx.runs("nowhere")


def test_a_model_classifies_whatever_is_an_image(first, inside, tmp_path):
    model = first.model()
    height, width, channels = model.shape
    images = np.random.default_rng(0).integers(0, 256, (70, height, width, channels), np.uint8)
    rows = model.probabilities(images)
    assert rows.shape == (70, len(model.classes))
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    best = [model.classes[index] for index in rows.argmax(axis=1)]
    assert model(images)["class"].tolist() == best
    squeezed = images[0, ..., 0] if channels == 1 else images[0]
    picture, file = Image.fromarray(squeezed), tmp_path / "0.png"
    picture.save(file)
    for same in (images[0], squeezed, picture, file, str(file), tmp_path, [picture]):
        np.testing.assert_allclose(model.probabilities(same), rows[:1], atol=1e-6)
    mixed = model([images[1], file, images[2:4]])
    assert mixed["image"].tolist() == [0, str(file), 2, 3]
    top = model.predict(images[:2], top=2)
    assert list(top) == ["image", "class", "probability", "class.2", "probability.2"]
    assert (top["probability"] >= top["probability.2"]).all()
    assert model([]).empty
    export = first.file("export")
    alone = gx.load(export).probabilities(images[:1])
    np.testing.assert_allclose(alone, rows[:1], atol=1e-6)
    assert gx.load(gx.Sweep()).classes == model.classes == gx.load("last").classes


def test_what_is_no_image_is_told(first, tmp_path):
    model = first.model()
    (tmp_path / "no.png").write_bytes(b"nothing")
    for given, said in (
        (np.zeros((2, 2), np.float32), "arrays of uint8"),
        (np.zeros((1, 2, 2, 7), np.uint8), "no image"),
        (tmp_path / "no.png", "not a JPEG"),
        (tmp_path / "none.png", "no such image"),
        ({"a": 1}, "dict is no image"),
        ("", "an empty name is no image"),
    ):
        with pytest.raises(gx.GluonexpError, match=said):
            model(given)
    for top in ("3", 1.5, 0, True):
        with pytest.raises(gx.GluonexpError, match=f"top={top!r}: must be a whole number"):
            model([], top=top)
    with pytest.raises(gx.GluonexpError, match="runtime=nothing: there is module"):
        gx.load(first, runtime="nothing")


def test_a_run_that_is_not_tracked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = gx.run(*SMALL, "tracking=none")
    assert run.id is None and run.status == "FINISHED" and len(run.history) == 2
    assert "export/signature.json" in run.files and run.model().classes
    assert not Path("mlruns/mlflow.db").exists() and "untracked" in run._repr_html_()
    with pytest.raises(gx.GluonexpError, match="is in no store"):
        gx.Run(run)


def test_nothing_is_left_behind(inside):
    from hydra.core.global_hydra import GlobalHydra

    before = snapshot()
    gx.run(*SMALL, "hydra.job.chdir=true")
    with pytest.raises(gx.GluonexpError, match="training diverged"):
        gx.run(*SMALL, "optim.lr=1e30")
    after = snapshot()
    assert {key: after[key] for key in before} == before
    assert not GlobalHydra.instance().is_initialized()
    assert gx.runs(limit=1)["status"][0] == "FAILED"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(130)])  # Ctrl-C; in a job
def test_an_interrupted_sweep_says_which_call_goes_on(stop, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise stop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gluonexp.sweep.conduct._run", interrupted)
    store = "tracking.uri=sqlite:///mine.db"
    with pytest.raises(KeyboardInterrupt) as told:
        gx.sweep(*SMALL, store, "optim.lr=0.01,0.1")
    sweep = gx.Sweep(uri="sqlite:///mine.db")
    call = f"gx.sweep('sweep.resume={sweep.id}', '{store}')"
    assert str(told.value) == f"interrupted; to continue: {call}"
    assert sweep.status == "KILLED"


def test_within_another_application_of_hydra(inside):
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_dir(str(inside), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        assert gx.run(*SMALL, "export=none").status == "FINISHED"
        assert GlobalHydra.instance().hydra is theirs


def test_in_a_thread_that_is_not_main(inside):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(gx.run(*SMALL).status))
    thread.start()
    thread.join(100)
    assert ended == ["FINISHED"]


def test_a_folder_of_ones_own_groups(inside, tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/mine.yaml").write_text("defaults:\n  - adam\nlr: 0.0123\n")
    run = gx.run(*SMALL, "export=none", "optim=mine", config_dir=tmp_path)
    assert run.params["optim.lr"] == 0.0123


class Kernel:
    """A notebook's, whose cells run here one after the other."""

    def __init__(self, folder):
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(cwd=str(folder))

    def cell(self, source, interrupt_at=None):
        """Run a cell; return its output as a page would have it: (kind, text) of each."""
        asked, shown, places = self.client.execute(source), [], {}
        for _ in range(1000):
            message = self.client.get_iopub_msg(timeout=100)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            text = content.get("text") or content.get("data", {}).get("text/plain", "")
            if kind == "update_display_data":
                shown[places[content["transient"]["display_id"]]] = ("display_data", text)
            elif kind == "stream" and shown and shown[-1][0] == "stream":
                shown[-1] = ("stream", shown[-1][1] + text)
            elif kind in ("stream", "display_data", "execute_result", "error"):
                places[content.get("transient", {}).get("display_id")] = len(shown)
                shown.append((kind, text or f"{content.get('ename')}: {content.get('evalue')}"))
            if interrupt_at and kind == "stream" and interrupt_at in text:
                self.manager.interrupt_kernel()
        raise AssertionError(f"too much output: {shown[-5:]}")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    pytest.importorskip("ipykernel")
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    kernel.cell("import gluonexp.api as gx, matplotlib")
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_a_cell_that_trains_has_a_short_output(kernel):
    small = ", ".join(map(repr, SMALL))
    (_, backend) = kernel.cell("print(matplotlib.get_backend())")[0]
    shown = kernel.cell(f"run = gx.run({small})\nrun")
    kinds = [kind for kind, _ in shown]
    assert kinds.count("display_data") <= 3 and len(shown) <= 8  # a bar is one output
    assert all(not text for kind, text in shown if kind == "display_data")
    assert "".join(text for kind, text in shown if kind == "stream").count("Epoch ") == 2
    assert "\x1b[" not in str(shown) and "ipywidgets" not in str(shown)
    assert shown[-1][0] == "execute_result" and "FINISHED" in shown[-1][1]
    assert kernel.cell("print(matplotlib.get_backend())") == [("stream", backend)]


def test_an_interrupted_cell_ends_its_run_and_nothing_else(kernel):
    small = ", ".join(map(repr, (*SMALL, "trainer.epochs=5000", "export=none")))
    kernel.cell("import signal; handlers = [signal.getsignal(n) for n in (1, 2, 10, 15)]")
    shown = kernel.cell(f"gx.run({small})", interrupt_at="Epoch 1.")
    kind, said = shown[-1]
    assert kind == "error" and said.startswith("KeyboardInterrupt: interrupted; to continue: gx.")
    cell = "killed = gx.runs(limit=1).iloc[0]; print(killed.status, len(gx.runs()))"
    assert kernel.cell(cell)[-1][1].split()[0] == "KILLED"
    assert kernel.cell("print(handlers == [signal.getsignal(n) for n in (1, 2, 10, 15)])") == [
        ("stream", "True\n")
    ]
    again = (
        "done = len(gx.Run(killed.run_id).history)\n"
        "run = gx.run(f'trainer.resume={killed.run_id}', f'trainer.epochs={done + 1}')\n"
        "print(run.status, len(run.history) == done + 1)"
    )
    assert kernel.cell(again)[-1][1].endswith("FINISHED True\n")
