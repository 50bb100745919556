"""Which version of a registered model is its champion, in a real store."""

import json
import re
from pathlib import Path

import pytest

from gluonexp import tracking
from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import ObjectiveConfig
from gluonexp.tracking import references, registry

DIGITS = [str(digit) for digit in range(10)]


class Store:
    """A store, and runs in it that left an export."""

    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = tracking.open_store(self.uri)
        self.experiment = tracking.ensure_experiment(self.client, "digits", self.uri)

    def run(self, classes=DIGITS, image=(28, 28, 1), network=(1, 28, 28), data="ab" * 32):
        """Return the id of a run, of whose export only the signature matters."""
        run_id = self.client.create_run(self.experiment).info.run_id
        if data is not None:
            self.client.log_param(run_id, "data.digest", data)
        signature = {
            "image": {
                **dict(zip(("height", "width", "channels"), image, strict=True)),
                **{"dtype": "uint8", "layout": "NHWC"},
            },
            "input": {"shape": [None, *network], "dtype": "float32", "layout": "NCHW"},
            "classes": classes,
        }
        self.client.log_text(run_id, json.dumps(signature), "export/signature.json")
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def source(self, run_id):
        return f"{self.client.get_run(run_id).info.artifact_uri}/export"

    def register(self, name, value, run_id=None, **export):
        run_id = run_id or self.run(**export)
        source, goal = self.source(run_id), ObjectiveConfig()
        return registry.register(self.client, run_id, name, source, value, goal)

    def appoint(self, name, run_id):
        """Make a champion as it is made by hand: without any tag of ours."""
        self.client.create_registered_model(name)
        made = self.client.create_model_version(name, self.source(run_id), run_id=run_id)
        self.client.set_registered_model_alias(name, "champion", made.version)
        self.client.log_metric(run_id, "val/acc", 0.5)

    def champion(self, name):
        return str(self.client.get_model_version_by_alias(name, "champion").version)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


OTHER = {
    "classes": (
        {"classes": [f"class {index}" for index in range(5)]},
        r"it has other classes than version 1 \(5: class 0, .*, class 4 \[\w{8}\] instead of "
        r"10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 \[\w{8}\]\)",
    ),
    "order": ({"classes": DIGITS[::-1]}, r"it has other classes than version 1 \(10: 9, 8, "),
    "image": (
        {"image": (32, 32, 3)},
        r"it takes other images than version 1 \(32x32x3 uint8 NHWC instead of 28x28x1 uint8 NHWC",
    ),
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["tags", "by-hand"])
@pytest.mark.parametrize("what", OTHER)
def test_what_takes_or_answers_something_else_is_no_champion(store, what, by_hand):
    export, told = OTHER[what]
    name = f"{what}{by_hand}"
    if by_hand:
        store.appoint(name, store.run())
    else:
        assert store.register(name, 0.5).champion
    other = store.register(name, 1.0, **export)
    assert (other.version, other.champion, store.champion(name)) == ("2", False, "1")
    start = f"version 2 of {name} is not the champion: "
    assert other.sentence.startswith(start)
    assert other.sentence.endswith("; move the alias by hand if that is meant")
    assert re.search(told, other.sentence)
    # One that may stand in for the champion still does, and by hand anything goes.
    assert store.register(name, 0.75).champion
    store.client.set_registered_model_alias(name, "champion", "2")
    assert not store.register(name, 2.0).champion
    assert store.register(name, 2.0, **export).champion


def test_what_the_network_makes_of_an_image_is_its_own_affair(store):
    store.register("sizes", 0.5)
    assert store.register("sizes", 1.0, network=(3, 224, 224)).champion


def test_names_that_are_not_shown_count_too(store):
    many = [f"class {index:03}" for index in range(100)]
    store.register("many", 0.5, classes=many)
    told = store.register("many", 1.0, classes=[*many[:-1], "another"])
    assert not told.champion and "100: class 000, class 001" in told.sentence
    assert "class 050" not in told.sentence
    assert not store.register("many", 1.0, classes=["a, b", *many[2:]]).champion


def test_other_data_may_compete_and_it_is_said(store):
    store.register("split", 0.5)
    better = store.register("split", 0.75, data="cd" * 32)
    assert better.sentence == (
        "version 2 of split is the champion now: val/acc 0.75 against 0.5 of version 1, on other "
        "data (digest cdcdcdcd, not abababab)"
    )
    worse = store.register("split", 0.25)
    assert worse.sentence.endswith("of version 2, on other data (digest abababab, not cdcdcdcd)")
    assert not store.register("split", 0.25, data="cd" * 32).sentence.endswith(")")
    store.appoint("found", store.run())
    assert "on other data" in store.register("found", 1.0, data="cd" * 32).sentence
    store.appoint("unsaid", store.run(data=None))
    assert store.register("unsaid", 1.0).sentence.endswith("1 against 0.5 of version 1")


def test_what_cannot_be_compared_is_said(store):
    run_id = store.run()
    store.appoint("gone", run_id)
    Path(store.source(run_id), "signature.json").unlink()
    unsure = store.register("gone", 0.75)
    assert unsure.sentence == (
        "version 2 of gone is the champion now: val/acc 0.75 against 0.5 of version 1; whether "
        "they have the same classes is not known"
    )
    for text in ("{", "[]", '{"classes": 3}', '{"classes": [], "image": [], "input": {}}'):
        store.client.log_text(run_id, text, "export/signature.json")
        store.client.set_registered_model_alias("gone", "champion", "1")
        assert store.register("gone", 0.75).sentence.endswith("is not known")


def test_the_tags_stay_when_the_run_is_gone(store):
    run_id = store.run()
    store.register("kept", 0.5, run_id)
    tags = store.client.get_model_version("kept", "1").tags
    assert tags["gluonexp.image"] == "28x28x1 uint8 NHWC"
    assert tags["gluonexp.classes"].startswith("10: 0, 1, 2")
    assert tags["gluonexp.data"] == "ab" * 32
    Path(store.source(run_id), "signature.json").unlink()
    store.client.delete_run(run_id)
    assert not store.register("kept", 1.0, classes=["cat", "dog"]).champion


def test_latest_is_the_highest_version(store):
    store.register("rock'n'roll", 0.75)
    assert registry.find_model(store.client, "models:/rock'n'roll/latest").address.endswith("/1")
    for value in (0.75, 0.5):
        store.register("newest", value)
    for version in range(3, 12):  # 10 is after 9
        store.client.create_model_version("newest", f"there/{version}")
    store.client.set_model_version_tag("newest", "2", "touched", "last")
    found = registry.find_model(store.client, "models:/newest/latest")
    assert (found.address, found.location) == ("models:/newest/11", "there/11")
    for version in range(3, 12):
        store.client.delete_model_version("newest", str(version))
    found = references.artifacts(store.client, "models:/newest/latest")
    assert found.title == "models:/newest/2"
    assert [file.path for file in found.files()] == ["signature.json"]


@pytest.mark.parametrize("name", ["empty", "nothing", "it's"])
def test_the_latest_of_nothing_is_told(store, name):
    if name == "empty":
        store.client.create_registered_model(name)
    told = f"version latest of model {name} cannot be found"
    with pytest.raises(GluonexpError, match=told):
        registry.find_model(store.client, f"models:/{name}/latest")
