"""What a certificate records and allows, and what is refused in a model folder."""

import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gluonexp.base.errors import GluonexpError
from gluonexp.model_folder import guard, samples
from gluonexp.model_folder.samples import ProofSamples
from gluonexp.verification import agreement, certificate
from gluonexp.verification.agreement import INT8_DROP, TOLERANCE, Agreement
from gluonexp.verification.certificate import Certificate
from gluonexp.verification.score import Score

CLASSES = ("circle", "square", "t-shirt/top")


def made(**changed):
    fields = {
        "runtime": "module",
        "max_absolute": 2e-6,
        "max_difference": 1e-6,
        "argmax_equal": 256,
        "ties": 0,
        "images": 256,
        "correct": 200,
        "expected_correct": 200,
        "images_per_second": 70.5,
        "threads": 1,
        "versions": {"mxnet": "1.9.1"},
    }
    return Agreement(**fields | changed)


def certified(*agreements, **changed):
    fields = {
        "gluonexp": "0.1.0",
        "date": "2026-01-02T03:04:05+00:00",
        "images": 256,
        "accuracy": 0.78125,
        "agreements": agreements or (made(), made(runtime="onnx", max_difference=2e-6)),
        "files": {
            name: "0" * 64
            for name in (
                "model-0000.params",
                "model-symbol.json",
                "model.onnx",
                "samples.safetensors",
                "signature.json",
            )
        },
        "mean": (0.1, -0.2),
        "rms": (1.0, 2.0),
        "tolerance": dict(agreement.LIMITS),
        "versions": {"python": "3.11.7"},
    }
    return Certificate(**fields | changed)


def known(logits, labels=None):
    logits = np.asarray(logits, dtype=np.float32)
    count, classes = logits.shape
    labels = logits.argmax(1) if labels is None else np.asarray(labels)
    images = np.zeros((count, 2, 2, 1), dtype=np.uint8)
    return ProofSamples(images, labels.astype(np.int64), logits, tuple("abcdef"[:classes]))


def scored(logits):
    logits = np.asarray(logits, dtype=np.float32)
    return Score(logits, (0.0,), (1.0,), 10.0, 1, {"mxnet": "1.9.1"})


# How far a runtime may be.


def test_only_a_tie_may_fall_the_other_way():
    assert made().holds
    assert not made(argmax_equal=255).holds
    assert made(argmax_equal=255, ties=1).holds
    assert made(max_difference=TOLERANCE).holds
    assert not made(max_difference=1.01 * TOLERANCE).holds
    assert not made(max_difference=float("nan")).holds


def test_eight_bits_may_lose_a_declared_part_of_the_accuracy():
    def int8(**changed):
        return made(**{"runtime": "int8", "max_difference": 0.1, "argmax_equal": 250} | changed)

    allowed = int(INT8_DROP * 256)
    assert allowed == 5
    assert int8(correct=200 - allowed).holds
    assert not int8(correct=199 - allowed).holds
    assert int8(correct=256).holds
    assert not int8(max_absolute=float("nan")).holds
    assert int8(images=8, argmax_equal=7, correct=5, expected_correct=6).holds
    assert not int8(images=8, argmax_equal=7, correct=4, expected_correct=6).holds
    assert int8().sentence() == "accuracy 0.7812 (float: 0.7812), the same class on 250 of 256"


def test_a_constant_answer_near_chance_is_no_eight_bit_copy():
    """Its accuracy is as good as the network's own."""
    index = np.arange(100)
    trained = known(np.eye(4)[index // 4 % 4], labels=index % 4)
    found = agreement.compare("int8", scored(np.eye(4)[[1] * 100]), trained)
    assert (found.correct, found.expected_correct) == (25, 25)
    assert not found.holds
    assert found.allowed() == "2 images fewer right, another class on 10"


def test_eight_bits_give_the_same_class_on_nine_of_ten_images():
    def int8(images, same):
        fields = {"correct": images // 2, "expected_correct": images // 2}
        return made(runtime="int8", images=images, argmax_equal=same, **fields)

    assert int8(50, 45).holds and not int8(50, 44).holds
    assert int8(256, 231).holds and not int8(256, 230).holds
    few = int8(49, 0)  # which tell too little
    assert few.holds
    assert few.sentence().endswith("the same class on 0 of 49 (no limit: fewer than 50 images)")
    assert few.allowed() == "1 images fewer right"


def test_a_certificate_holds_to_what_it_promised():
    """Before there was a limit for other classes, accuracy alone was promised."""
    images = known(np.eye(2)[[0] * 256], labels=[0] * 200 + [1] * 56)
    row = made(runtime="int8", argmax_equal=100)
    today = certified(made(), row)
    assert not today.allows(row)
    assert "it records that int8 differs" in certificate.claims(today, [], images)
    earlier = certified(made(), row, tolerance={"logits": TOLERANCE, "int8_accuracy_drop": 0.02})
    assert earlier.allows(row) and not earlier.allows(replace(row, correct=100))
    assert certificate.claims(earlier, [], images) is None


def test_a_difference_is_measured_against_the_logits_that_decide():
    found = agreement.compare("onnx", scored([[8, 2], [1, 4.004]]), known([[8, 2], [1, 4]]))
    assert found.max_absolute == pytest.approx(0.004, rel=1e-3)
    assert found.max_difference == pytest.approx(0.004 / 6, rel=1e-3)  # most images: 6
    assert (found.argmax_equal, found.ties, found.images) == (2, 0, 2)
    assert not found.holds


def test_a_masked_class_hides_nothing():
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    logits[:, 4] = -1e9
    rounded = logits.copy()
    rounded[:, 4] += 64  # a float's neighbour
    assert agreement.compare("onnx", scored(rounded), known(logits)).holds
    others = logits[:, [1, 0, 2, 3, 4]]
    found = agreement.compare("onnx", scored(others), known(logits))
    assert found.argmax_equal < 40 and found.ties == 0
    assert not found.holds
    small = agreement.compare("onnx", scored(others[:, :4] * 1e-37), known(logits[:, :4] * 1e-37))
    assert not small.holds


def test_logits_that_are_all_nothing_are_equal():
    nothing = np.zeros((3, 4))
    assert agreement.compare("module", scored(nothing), known(nothing)).holds
    assert not agreement.compare("module", scored(nothing + 1), known(nothing)).holds


@given(
    arrays(np.float32, (6, 3), elements=st.floats(-100, 100, width=32)),
    st.floats(0.125, 8, width=32),
)
def test_a_difference_does_not_depend_on_the_scale(logits, scale):
    logits[:, 0] += 1  # not all is zero
    found = logits + np.float32(1e-3)
    one = agreement.compare("onnx", scored(found), known(logits)).max_difference
    other = agreement.compare("onnx", scored(found * scale), known(logits * scale)).max_difference
    assert other == pytest.approx(one, rel=1e-2)


def test_ties_and_accuracy_are_counted():
    trained = known([[1, 1.00001, 0], [5, 0, 0], [0, 5, 0]], labels=[1, 0, 2])
    found = agreement.compare("module", scored([[1.00001, 1, 0], [5, 0, 0], [0, 5, 0]]), trained)
    assert (found.argmax_equal, found.ties) == (2, 1)
    assert (found.correct, found.expected_correct) == (1, 2)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.holds


def test_numbers_that_are_none_never_agree():
    found = agreement.compare("module", scored([[float("nan"), 0.0]]), known([[1, 0]]))
    assert not found.holds


def test_another_number_of_classes_is_said():
    with pytest.raises(GluonexpError, match=r"onnx gives logits \(1, 3\), but .* \(1, 2\)"):
        agreement.compare("onnx", scored([[1, 2, 3]]), known([[1, 0]]))


# The record.


finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**6)


@given(finite, counts, st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_a_certificate_survives_json(number, count, texts):
    row = made(max_difference=number, correct=count, versions=texts)
    whole = certified(row, accuracy=number, files=texts, mean=(number,))
    again = Certificate.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole


@pytest.mark.fuzz
def test_any_damage_is_read_or_refused(fuzz):
    sound = json.dumps(certified().to_json())

    def read(path):
        certificate.read(path.parent).sentence()

    fuzz(read, fuzz.changed(sound), "certificate.json")


def test_it_is_written_for_people_too():
    fields = certified().to_json()
    assert list(fields["runtimes"]) == ["module", "onnx"]
    assert fields["runtimes"]["module"]["accuracy"] == 200 / 256
    assert fields["tolerance"] == {
        "logits": 1e-4,
        "int8_accuracy_drop": 0.02,
        "int8_other_class": 0.1,
    }


def test_its_sentence_and_table():
    int8 = made(runtime="int8", max_difference=0.1, argmax_equal=250, correct=198)
    whole = certified(made(), made(runtime="onnx", max_difference=2e-6), int8)
    assert whole.sentence() == (
        "module and onnx equal the trained network on 256 images: logits within 2.0e-06, the "
        "same class on 256 of 256; int8: accuracy 0.7734 (float: 0.7812), the same class on 250 "
        "of 256"
    )
    trained_on = certified(made(), split="train")
    assert trained_on.sentence().startswith(
        "module equals the trained network on 256 images of the train split: logits within"
    )
    adopted = certified(made(), reference=certificate.EXPORTED)
    assert adopted.sentence().startswith("module agrees with the files themselves on 256 images")
    assert whole.rows()[1] == ("module", "1.0e-06", "256/256", "0.7812", "70")
    assert {len(row) for row in whole.rows()} == {5}


def test_a_claim_that_is_not_so():
    logits = np.eye(2)[[0] * 256]
    images = known(logits, labels=[0] * 200 + [1] * 56)
    recorded = certified(made(), made(runtime="int8"))

    def claim(*found, **changed):
        return certificate.claims(replace(recorded, **changed), found, images)

    assert claim(made()) is None
    assert claim(made(runtime="onnx")) is None
    assert claim(made(correct=199, ties=1, argmax_equal=255)) is None
    assert "it records 200 of 256 images" in claim(made(correct=199))
    assert claim(made(runtime="int8", correct=197)) is None
    assert claim(made(runtime="int8", correct=190)) is not None
    assert "it records 12 images" in claim(images=12)
    assert "it allows" in claim(tolerance={"logits": 1e-3, "int8_accuracy_drop": 0.0})
    assert "it allows" in claim(tolerance=agreement.LIMITS | {"int8_other_class": 1.0})
    assert "another split" in claim(split="test")


def written(folder, fields):
    (folder / "certificate.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 2),
        (("date",), 5),
        (("images",), -1),
        (("images",), True),
        (("accuracy",), "0.9"),
        (("reference",), "my word"),
        (("split",), "secret"),
        (("runtimes", "module", "accuracy"), 1.0),
        (("runtimes", "module", "images"), 0),
        (("mean",), [float("nan")]),
        (("files",), ["model-0000.params"]),
        (("files",), {"model-0000.params": 1}),
        (("runtimes",), [1]),
        (("runtimes", "module"), 1),
        (("runtimes", "module", "threads"), 1.5),
        (("runtimes", "module", "versions"), None),
    ],
    ids=str,
)
def test_a_field_that_is_something_else_is_refused(tmp_path, place, value):
    fields = certified().to_json()
    target = fields
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(GluonexpError, match=r"certificate\.json: "):
        certificate.read(written(tmp_path, fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "[" * 100_000])
def test_what_is_no_certificate(tmp_path, text):
    (tmp_path / "certificate.json").write_text(text)
    with pytest.raises(GluonexpError, match=r"certificate\.json"):
        certificate.read(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b"])
def test_a_certificate_names_only_its_own_folder(tmp_path, name):
    whole = certified()
    fields = replace(whole, files={**whole.files, name: "0" * 64}).to_json()
    with pytest.raises(GluonexpError, match="is no file of its folder: refused"):
        certificate.read(written(tmp_path, fields))


def test_a_certificate_vouches_for_the_network(tmp_path):
    whole = certified()
    fields = replace(whole, files={"signature.json": "0" * 64}).to_json()
    with pytest.raises(GluonexpError, match=r"does not vouch for model-0000\.params, model-symb"):
        certificate.read(written(tmp_path, fields))
    assert certificate.read(written(tmp_path, whole.to_json())) == whole


def test_without_a_certificate(tmp_path):
    with pytest.raises(GluonexpError, match=r"not certified \(certificate\.json is missing\)"):
        certificate.read(tmp_path)


# The samples.


def some(count=5, shape=(4, 3, 1)):
    rng = np.random.default_rng(0)
    return ProofSamples(
        images=rng.integers(0, 256, (count, *shape), dtype=np.uint8),
        labels=rng.integers(0, 3, count),
        logits=rng.normal(size=(count, 3)).astype(np.float32),
        classes=CLASSES,
    )


def test_samples_survive_their_file(tmp_path):
    whole = replace(some(), split="val")
    path = samples.write(tmp_path, whole)
    assert path.name == "samples.safetensors" and list(tmp_path.iterdir()) == [path]
    again = samples.read(tmp_path)
    assert (again.classes, again.split) == (CLASSES, "val")
    for name in ("images", "labels", "logits"):
        array = getattr(again, name)
        np.testing.assert_array_equal(array, getattr(whole, name))
        assert array.dtype == getattr(whole, name).dtype


def test_samples_keep_their_order_in_memory_or_not(tmp_path):
    whole = some()
    turned = replace(whole, images=np.asfortranarray(whole.images), logits=whole.logits[:, ::-1])
    samples.write(tmp_path, turned)
    again = samples.read(tmp_path)
    np.testing.assert_array_equal(again.images, whole.images)
    np.testing.assert_array_equal(again.logits, whole.logits[:, ::-1])


def test_samples_are_few_and_small(tmp_path):
    assert samples.count(10_000, (28, 28, 1)) == 256
    assert samples.count(40, (28, 28, 1)) == 40
    assert samples.count(10_000, (224, 224, 3)) == 55  # of 150,528 bytes each
    assert samples.count(10, (4000, 4000, 3)) == 1
    for macs, kept in ((10_000, 256), (350_000_000, 57), (656_000_000, 33), (10**12, 33)):
        assert samples.count(10_000, (28, 28, 1), macs=macs) == kept
    assert samples.count(20, (28, 28, 1), macs=10**12) == 20
    samples.write(tmp_path, some(300))
    assert len(samples.read(tmp_path)) == 256


def test_what_is_written_can_be_read(tmp_path):
    many = tuple(map(str, range(35_000)))
    for shape, classes in (((28, 28, 1), many), ((2048, 2048, 3), ("a", "b")), ((1, 1, 1), many)):
        whole = ProofSamples(
            images=np.zeros((100, *shape), np.uint8),
            labels=np.zeros(100, np.int64),
            logits=np.zeros((100, len(classes)), np.float32),
            classes=classes,
        )
        samples.write(tmp_path, whole)
        kept = samples.count(100, shape, len(classes))
        assert len(samples.read(tmp_path)) == kept >= 1
    assert samples.count(10_000, (28, 28, 1), 35_000) == 59  # of 784 bytes and 140,000 of logits


def test_an_image_too_large_for_samples_is_said(tmp_path):
    whole = replace(some(1), images=np.zeros((1, 4096, 3000, 3), np.uint8))
    with pytest.raises(GluonexpError, match=r"images of \(4096, 3000, 3\) .* too large to travel"):
        samples.write(tmp_path, whole)
    assert not list(tmp_path.iterdir())


def rewritten(tmp_path, **changed):
    from safetensors.numpy import save_file

    whole = some()
    tensors = {"images": whole.images, "labels": whole.labels, "logits": whole.logits} | changed
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file(tensors, tmp_path / "samples.safetensors", {"classes": json.dumps(CLASSES)})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"labels": None}, "labels is missing"),
        ({"images": np.zeros((5, 4, 3, 1), np.float32)}, "images is missing, or not uint8"),
        ({"images": np.zeros((5, 4, 3), np.uint8)}, "images is missing, or not uint8"),
        ({"labels": np.zeros(4, np.int64)}, "not equally many"),
        ({"logits": np.zeros((5, 4), np.float32)}, "not of 3 classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_samples_of_another_form(tmp_path, changed, reason):
    rewritten(tmp_path, **changed)
    with pytest.raises(GluonexpError, match=reason):
        samples.read(tmp_path)


def header(fields, length=None):
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        header(b"", length=2**63),
        header(b"{}", length=2**40),
        header(b"[" * 10_000),
        header({"images": tensor(shape=(2**62, 2**62))}),
        header({"images": tensor(offsets=(0, 2**60))}),
        header({"images": tensor(offsets=(5, 1))}) + b"\0",
        header({"images": tensor("PICKLE")}) + b"\0",
        header({"images": tensor()}) + b"\0",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_damaged_samples_are_refused(tmp_path, content):
    (tmp_path / "samples.safetensors").write_bytes(content)
    with pytest.raises(GluonexpError, match=r"samples\.safetensors"):
        samples.read(tmp_path)


def test_too_large_samples_are_not_read(tmp_path):
    with (tmp_path / "samples.safetensors").open("wb") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(GluonexpError, match="larger than samples are: refused"):
        samples.read(tmp_path)


class Leaves:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_instead_of_samples_does_nothing(tmp_path):
    proof = tmp_path / "proof"
    pickled = pickle.dumps(Leaves(proof))
    pickle.loads(pickled).close()
    assert proof.exists()  # it would
    proof.unlink()
    (tmp_path / "samples.safetensors").write_bytes(pickled)
    with pytest.raises(GluonexpError, match="not a file of samples"):
        samples.read(tmp_path)
    with zipfile.ZipFile(tmp_path / "samples.safetensors", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("images", bytes(2**24))
    with pytest.raises(GluonexpError, match="not a file of samples"):
        samples.read(tmp_path)
    assert not proof.exists()


# The folder.


def test_links_within_the_folder_are_followed_others_refused(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "b").symlink_to("a")
    guard.check_files(folder)
    (tmp_path / "outer").symlink_to(folder)
    guard.check_files(tmp_path / "outer")
    (folder / "c").symlink_to(tmp_path / "secret")
    with pytest.raises(GluonexpError, match="c is a link that leaves the folder: refused"):
        guard.check_files(folder)


def test_a_folder_is_looked_at_to_its_depths(tmp_path):
    folder = tmp_path / "export"
    (folder / "data" / "code").mkdir(parents=True)
    (folder / "data" / "a").write_text("a")
    (folder / "data" / "code" / "b").symlink_to("../a")
    (folder / "again").symlink_to("data")
    os.link(folder / "data" / "a", folder / "c")
    guard.check_files(folder)
    guard.check_files(folder / "data")
    (folder / "data" / "code" / "d").symlink_to(tmp_path)
    with pytest.raises(GluonexpError, match="code/d is a link that leaves the folder: refused"):
        guard.check_files(folder)
    (folder / "data" / "code" / "d").unlink()
    (folder / "data" / "code" / "d").symlink_to(folder)  # the folder itself, but no way out
    guard.check_files(folder)
    (folder / "data" / "e").symlink_to("../..")
    with pytest.raises(GluonexpError, match="e is a link that leaves the folder"):
        guard.check_files(folder)


def test_a_folder_of_very_many_files_is_no_export(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_MOST_ENTRIES", 5)
    for name in "abcde":
        (tmp_path / name).touch()
    guard.check_files(tmp_path)
    (tmp_path / "f").touch()
    with pytest.raises(GluonexpError, match="holds more files than any export"):
        guard.check_files(tmp_path)


def test_a_link_to_itself_or_to_nothing(tmp_path):
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(GluonexpError, match="cannot be read"):
        guard.check_files(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(GluonexpError, match="cannot be read"):
        guard.check_files(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model-0000.params")
    with pytest.raises(GluonexpError, match="neither a file nor a folder: refused"):
        guard.check_files(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(GluonexpError, match="none: cannot be read: No such file"):
        guard.check_files(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(GluonexpError, match="file: cannot be read: Not a directory"):
        guard.check_files(tmp_path / "file")


def test_json_too_large_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(GluonexpError, match="larger than any file of its kind"):
        guard.read_json(tmp_path / "x.json")
    os.mkfifo(tmp_path / "y.json")
    with pytest.raises(GluonexpError, match=r"y\.json cannot be read: it is not a file"):
        guard.read_json(tmp_path / "y.json")


# ONNX.


def network(**changed):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "weight")
    node = onnx.helper.make_node("MatMul", ["data", "weight"], ["logits"])
    graph = onnx.helper.make_graph(
        changed.get("nodes", [node]),
        "graph",
        [value("data", 1, [None, 2])],
        [value("logits", 1, [None, 2])],
        [weight],
    )
    return onnx.helper.make_model(graph, functions=changed.get("functions", []))


def refused(model, path, match):
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GluonexpError, match=match):
        guard.check_onnx(path)


def test_plain_onnx_is_accepted(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    assert guard.check_onnx(path) == path.read_bytes()


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_weights_elsewhere_are_refused(tmp_path, location):
    onnx = pytest.importorskip("onnx")
    model = network()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    refused(model, tmp_path / "model.onnx", "keeps the tensor 'weight' in another file: refused")


def test_weights_elsewhere_are_found_in_graphs_within(tmp_path):
    onnx = pytest.importorskip("onnx")
    hidden = onnx.numpy_helper.from_array(np.ones(2, np.float32), "hidden")
    onnx.external_data_helper.set_external_data(hidden, "../x")
    constant = onnx.helper.make_node("Constant", [], ["y"], value=hidden)
    value = onnx.helper.make_tensor_value_info("y", 1, [2])
    inner = onnx.helper.make_graph([constant], "inner", [], [value])
    branch = onnx.helper.make_node("If", ["data"], ["logits"], then_branch=inner)
    refused(network(nodes=[branch]), tmp_path / "model.onnx", "'hidden' in another file")
    function = onnx.helper.make_function("", "f", [], ["y"], [constant], [])
    refused(network(functions=[function]), tmp_path / "model.onnx", "'hidden' in another file")


def test_foreign_operators_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("EPContext", ["data"], ["logits"], domain="com.microsoft")
    refused(network(nodes=[node]), tmp_path / "model.onnx", "operators of 'com.microsoft'")


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 zip", pickle.dumps({"a": 1}), b"\xff" * 100], ids=repr
)
def test_what_is_not_onnx(tmp_path, content):
    pytest.importorskip("onnx")
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(GluonexpError, match=r"model\.onnx is not an ONNX file"):
        guard.check_onnx(tmp_path / "model.onnx")
    with pytest.raises(GluonexpError, match=r"none\.onnx cannot be read: No such file"):
        guard.check_onnx(tmp_path / "none.onnx")
