"""What a run writes down of its configuration."""

from gluonexp.base import provenance
from gluonexp.experiment import record

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
