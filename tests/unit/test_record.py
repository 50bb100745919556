"""What a run writes down of its configuration."""

import numpy as np
import pytest

from gluonexp.assembly import Data
from gluonexp.base import provenance
from gluonexp.data.types import Split
from gluonexp.experiment import record
from gluonexp.inference.predict import class_places, folder_names

SECRET = "tracking.uri=postgresql://me:hunter2@db.example/runs"


def test_a_password_in_the_tracking_uri_is_written_nowhere(compose, tmp_path):
    origin = provenance.provenance()
    record.config(tmp_path, compose(SECRET), [SECRET], origin)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.*") if path.is_file())
    assert "db.example" in written
    assert "hunter2" not in written
    tags = record.tags(origin, [SECRET, "seed=1"], "cpu(0)")
    assert "hunter2" not in tags["gluonexp.overrides"]
    assert tags["gluonexp.overrides"].endswith(" seed=1")


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (["c++", "a&b", "rock'n'roll"], ["c__", "a_b", "rock_n_roll"]),
        (["a:b", "a;b", "a_b"], ["a_b-1", "a_b-2", "a_b"]),
        (["a:b", "a;b", "a_b-1"], ["a_b-2", "a_b-3", "a_b-1"]),
        (["?", "..", "x "], ["_-1", "_-2", "x"]),
    ],
)
def test_each_class_is_known_by_its_name_and_by_a_folder_of_its_own(classes, folders):
    assert folder_names(classes) == folders
    places = class_places(classes)
    assert [places[name] for name in classes] == [*range(len(classes))]
    assert [places[folder] for folder in folders] == [*range(len(classes))]


@pytest.mark.usefixtures("one_picture")
def test_the_example_of_each_class_lies_in_its_own_folder(tmp_path):
    classes = "a:b", "a;b", "a_b"
    split = Split(np.zeros((3, 8, 8, 3), np.uint8), np.arange(3))
    record.samples(tmp_path, Data(classes, split, None, split, "it", (), ""))
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*/0*.png")]
    assert sorted(written) == [
        *("data/examples/a_b-1/00000.png", "data/examples/a_b-2/00001.png"),
        "data/examples/a_b/00002.png",
    ]
