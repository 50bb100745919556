"""A store that was moved, or copied, is used where it lies now."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.cli import main
from gluonexp.config.schema import TrackingConfig
from gluonexp.tracking import ensure_experiment, open_store, references
from gluonexp.tracking.artifacts import of_run
from gluonexp.tracking.logged_models import log_model, logged_model
from gluonexp.tracking.places import here, settle
from gluonexp.tracking.read.runs import reader
from gluonexp.tracking.registry import find_model
from gluonexp.tracking.sweeps import argument_tags, arguments_of

SIGNATURE, MLMODEL = "signature.json", "flavors:\n  gluonexp: {}\n"


def store_in(folder):
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def record(uri, text, run_id=None, **tags):
    """Make a run with one file in it, or write the file into a run that is there."""
    settings = TrackingConfig(backend="mlflow", uri=uri, experiment="kept", run_id=run_id)
    with tracking.tracked_run(settings, tags) as tracker, TemporaryDirectory() as folder:
        Path(folder, "note.txt").write_text(text)
        tracker.log_artifacts(Path(folder))
    return tracker.run_id


class Moved:
    """A store with a run, a model and a sweep, that lies elsewhere now."""

    def __init__(self, folder, move):
        self.before, self.now = folder / "p1", folder / "elsewhere" / "p2"
        old = store_in(self.before)
        client = open_store(old)
        self.run = record(old, "before", **{tracking.WORKDIR: f"{self.before}/jobs/1"})
        for name in ("jobs/1", "my conf", "mlruns/studies"):
            (self.before / name).mkdir(parents=True)
        export = folder / "export"
        export.mkdir()
        (export / SIGNATURE).write_text("{}")
        (export / "MLmodel").write_text(MLMODEL)
        client.log_artifacts(self.run, str(export), "export")
        self.model = log_model(client, self.run, export).model_id
        client.create_registered_model("kept")
        location = client.get_logged_model(self.model).artifact_location
        client.create_model_version("kept", location, self.run)
        words = [
            f"hydra.searchpath=['file://{self.before}/my conf','file:///usr/share']",
            f"hydra.sweeper.journal='{self.before}/mlruns/studies'",
            f"dataset.root={self.before}/mlruns",
        ]
        self.sweep = record(old, "sweep", **argument_tags(words, old))
        # As it was recorded before the place of the store was.
        self.old_sweep = record(old, "sweep", **argument_tags(words, "http://server"))
        self.now.parent.mkdir()
        move(self.before, self.now)
        self.uri = store_in(self.now)
        self.artifacts = self.now / "mlruns" / "artifacts" / "kept"


@pytest.fixture(params=["moved", "copied"])
def moved(request, tmp_path):
    return Moved(tmp_path, shutil.move if request.param == "moved" else shutil.copytree)


def test_what_was_recorded_is_found_beside_the_database(moved):
    client = open_store(moved.uri)
    run, model = moved.artifacts / moved.run, moved.artifacts / "models" / moved.model
    assert of_run(client, moved.run).local("note.txt") == run / "artifacts" / "note.txt"
    assert of_run(client, moved.run).text("note.txt") == "before"
    export = references.fetch_export(client, moved.run, moved.now)
    assert export == run / "artifacts" / "export"
    for ref in (f"models:/{moved.model}", "models:/kept/1"):
        assert find_model(client, ref).location == str(model / "artifacts")
        assert references.fetch_export(client, ref, moved.now) == model / "artifacts"
    (found,) = reader(moved.uri).fetch([moved.run])
    assert found.workdir == str(moved.now / "jobs/1")
    assert found.tags[tracking.WORKDIR] == str(moved.before / "jobs/1")


def test_what_is_written_lies_beside_the_database(moved):
    untouched = moved.before.exists() and {path for path in moved.before.rglob("*")}
    run = record(moved.uri, "new")
    assert (moved.artifacts / run / "artifacts/note.txt").read_text() == "new"
    again = record(moved.uri, "resumed", run_id=moved.run)
    assert (moved.artifacts / again / "artifacts/note.txt").read_text() == "resumed"
    client = open_store(moved.uri)
    log_model(client, run, moved.now.parents[1] / "export")
    made = logged_model(client, run)
    assert (moved.artifacts / "models" / made.model_id / "artifacts/MLmodel").is_file()
    # As nobody has asked for it before: in an experiment that had no run.
    ensure_experiment(client, "other", moved.uri)
    assert (moved.before.exists() and {path for path in moved.before.rglob("*")}) == untouched


def test_a_sweep_is_resumed_with_the_files_that_were_moved_with_it(moved):
    conf, journal = f"{moved.now}/my conf", f"{moved.now}/mlruns/studies"
    expected = [
        f"hydra.searchpath=['file://{conf}','file:///usr/share']",
        f"hydra.sweeper.storage='{journal}'",
        f"dataset.root={moved.before}/mlruns",  # the user's own, and part of what a point is
    ]
    store = reader(moved.uri)
    for sweep in store.fetch([moved.sweep, moved.old_sweep]):
        assert arguments_of(sweep, store.uri) == expected
    tracking.relocate(moved.uri)
    assert arguments_of(*store.fetch([moved.sweep]), store.uri) == expected


def test_the_doctor_says_and_mends(moved, monkeypatch):
    def doctor(*options):
        result = CliRunner().invoke(main, ["doctor", "--tracking-uri", moved.uri, *options])
        return result.output

    (line,) = [line for line in doctor().splitlines() if " store " in line]
    assert line.startswith("-") and "it was moved" in line and str(moved.before) in line
    assert line.endswith("-> gluonexp doctor --relocate")
    assert doctor("--relocate") == f"mended: {moved.before}/jobs/1 and 8 more\n"
    assert tracking.strays(moved.uri) == []
    assert doctor("--relocate") == "nothing to mend\n"
    with closing(sqlite3.connect(moved.now / "mlruns/mlflow.db")) as link:
        assert str(moved.before) not in json.dumps(
            [
                link.execute(f"SELECT * FROM {table}").fetchall()
                for table in ("runs", "experiments", "logged_models", "model_versions")
            ],
            default=str,
        )
    # Now MLflow finds them by itself.
    client = open_store(moved.uri)
    kept = client.get_run(moved.run).info.artifact_uri
    assert kept == str(moved.artifacts / moved.run / "artifacts")
    assert [item.path for item in client.list_artifacts(moved.run)] == ["export", "note.txt"]


def test_files_that_were_put_elsewhere_stay_there(tmp_path):
    uri, bulk = store_in(tmp_path), tmp_path / "bulk" / "artifacts" / "kept"
    bulk.mkdir(parents=True)
    client = open_store(uri)
    client.create_experiment("kept", artifact_location=str(bulk))
    run = record(uri, "in bulk")
    assert (bulk / run / "artifacts/note.txt").read_text() == "in bulk"
    assert of_run(client, run).text("note.txt") == "in bulk"
    assert tracking.strays(uri) == tracking.relocate(uri) == []
    address = f"s3://bucket/artifacts/{run}/artifacts"
    assert here(address, uri) == address
    assert here(f"{bulk}/export", uri) == f"{bulk}/export"


def test_a_store_reached_by_a_link_was_not_moved(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    run = record(store_in(tmp_path / "disk"), "linked")
    assert tracking.strays(store_in(tmp_path / "home")) == []
    assert of_run(open_store(store_in(tmp_path / "home")), run).text("note.txt") == "linked"


def test_what_is_no_store_here_is_not_mended(tmp_path):
    settle("http://127.0.0.1:9")
    assert tracking.strays("http://127.0.0.1:9") == tracking.strays(store_in(tmp_path)) == []
    with pytest.raises(GluonexpError, match=r"only the paths of a SQLite store"):
        tracking.relocate("http://127.0.0.1:9")
    with pytest.raises(GluonexpError, match="there is no store at"):
        tracking.relocate(store_in(tmp_path))
