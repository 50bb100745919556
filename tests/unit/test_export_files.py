"""What lies in an export's folder may come from anybody: it is read, or refused in a sentence."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import mx, nd, nn, sym
from gluonexp.export import symbol
from gluonexp.model_folder import signature
from gluonexp.model_folder.names import MODEL
from gluonexp.model_folder.network import read_network, read_params, read_symbol
from gluonexp.model_folder.signature import ArraySignature, Preprocessing, Signature
from gluonexp.verification import runtimes

RUNTIMES = ["module", "symbolblock"]
SIGNATURE = Signature((6, 5, 2), Preprocessing(6, 5, 2, (0.5,), (0.25, 1.0)), ("a", "b", "c"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(nd.zeros((1, 2, 6, 5)))
    symbol.export(net, folder, SIGNATURE)
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def params(folder, change):
    path = str(folder / "model-0000.params")
    values = nd.load(path)
    change(values)
    nd.save(path, values)


def test_an_export_is_three_files(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {"model-symbol.json", "model-0000.params", "signature.json"}


def test_what_is_read_is_what_mxnet_reads(exported):
    network = read_network(exported, MODEL, "data", (1, 2, 6, 5))
    reference, arguments, statistics = mx.model.load_checkpoint(str(exported / "model"), 0)
    assert network.symbol.tojson() == reference.tojson()
    assert network.values.keys() == {*arguments, *statistics}
    for name, value in {**arguments, **statistics}.items():
        assert network.values[name].dtype == value.dtype
        np.testing.assert_array_equal(network.values[name].asnumpy(), value.asnumpy())


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("_Native", {"info": "0x4141414141414141"}),
        ("_NDArray", {"info": "0x4141414141414141"}),
        ("_backward__Native", {"info": "0x4141414141414141"}),
        ("Custom", {"op_type": "anything"}),
        ("_cvimread", {"filename": "signature.json"}),
        ("scatter_nd", {"shape": "(2, 2)"}),
        ("_contrib_index_copy", {}),
        ("SequenceLast", {"use_sequence_length": "True"}),
        ("_contrib_ROIAlign", {"pooled_size": "(1, 1)", "spatial_scale": "1.0"}),
        ("_split_v2_backward", {}),
        ("_npi_backward_polyval", {}),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_operators_that_are_more_than_arithmetic_are_refused(copy, operator, attributes, nested):
    hostile = {"op": operator, "name": "hostile", "attrs": attributes, "inputs": [[0, 0, 0]]}

    def change(graph):
        node = next(node for node in graph["nodes"] if node["op"] == "Flatten")
        if nested:
            data = {"op": "null", "name": "x", "inputs": []}
            node["subgraphs"] = [{"nodes": [data, hostile], "heads": [[1, 0, 0]]}]
        else:
            node.update(op=operator, attrs=attributes)

    edited(copy / "model-symbol.json", change)
    for name in RUNTIMES:
        with pytest.raises(GluonexpError, match=rf"not loaded, for its operator {operator} can"):
            runtimes.load(copy, name)


def test_a_key_given_twice_hides_nothing(copy):
    path = copy / "model-symbol.json"
    text = path.read_text()
    for pair in ('"op": "_Native", "op": "Flatten"', '"op": "Flatten", "op": "_Native"'):
        path.write_text(text.replace('"op": "Flatten"', pair))
        try:
            found = read_symbol(path)
        except GluonexpError as error:
            assert "_Native" in str(error)
        else:
            assert "_Native" not in found.tojson()


@settings(max_examples=60)
@given(st.data())
def test_truncated_parameters_are_one_error(exported, tmp_path_factory, data):
    whole = (exported / "model-0000.params").read_bytes()
    kept = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path_factory.mktemp("cut") / "model-0000.params"
    path.write_bytes(whole[:kept])
    with pytest.raises(GluonexpError, match=r"model-0000\.params"):
        read_params(path)


@pytest.mark.parametrize("extent", [2**31 - 1, 2**40, 2**62, -(2**40)])
def test_sizes_the_file_does_not_have_take_no_memory(copy, extent):
    path = copy / "model-0000.params"
    whole = path.read_bytes()
    shape = struct.pack("<i4q", 4, 4, 2, 3, 3)  # the convolution's weight
    assert shape in whole
    path.write_bytes(whole.replace(shape, struct.pack("<i4q", 4, extent, 2, 3, 3)))
    for name in RUNTIMES:
        with pytest.raises(GluonexpError, match=r"model-0000\.params: damaged"):
            runtimes.load(copy, name)


def test_parameters_of_another_network_are_told_by_name(copy):
    key = "arg:net_dense0_weight"
    params(copy, lambda values: values.update({key: nd.zeros((3, 7))}))
    with pytest.raises(GluonexpError, match=r"net_dense0_weight is \(3, 7\), but \(3, 48\) in"):
        runtimes.load(copy, "module")
    params(copy, lambda values: values[key].__setitem__(0, np.nan))
    with pytest.raises(GluonexpError, match="net_dense0_weight holds values that are not finite"):
        runtimes.load(copy, "module")  # ReLU would hide them
    params(copy, lambda values: values.pop(key))
    with pytest.raises(GluonexpError, match="net_dense0_weight is missing, which model-symbol"):
        runtimes.load(copy, "symbolblock")
    params(copy, lambda values: values.update(plain=nd.zeros((1,))))
    with pytest.raises(GluonexpError, match="'plain' begins with neither arg: nor aux:"):
        runtimes.load(copy, "module")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", '{"nodes": 3}', "[" * 100_000, '{"nodes": []}', "\x00", '{"nodes": [{}]}'],
    ids=["empty", "list", "number", "no nodes", "deep", "none", "binary", "no operator"],
)
@pytest.mark.parametrize("name", ["model-symbol.json", "signature.json"])
def test_what_is_no_symbol_or_signature_is_one_error(copy, name, content):
    (copy / name).write_text(content)
    for runtime in RUNTIMES:
        with pytest.raises(GluonexpError, match=name):
            runtimes.load(copy, runtime)


@pytest.mark.fuzz
def test_any_damage_to_a_symbol_is_read_or_refused(exported, fuzz):
    sound = (exported / "model-symbol.json").read_text()
    fuzz(read_symbol, fuzz.changed(sound), "model-symbol.json")


@pytest.mark.fuzz
def test_any_damage_to_a_signature_is_read_or_refused(exported, fuzz):
    images = (exported / "signature.json").read_text()
    arrays = json.dumps(ArraySignature((3, None), ("a",)).to_json())
    contents = fuzz.changed(images) | fuzz.changed(arrays)
    fuzz(lambda path: signature.read(path.parent), contents, "signature.json")


def test_it_is_said_what_to_do_with_a_file_one_trusts(copy):
    path = copy / "model-symbol.json"
    path.write_text(path.read_text().replace('"op": "Flatten"', '"op": "_contrib_box_nms"'))
    with pytest.raises(GluonexpError, match=r"loads a file that you trust: mx\.sym\.load$"):
        read_symbol(path)


def test_a_symbol_of_any_size_is_not_read(copy):
    with (copy / "model-symbol.json").open("ab") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(GluonexpError, match="larger than any symbol"):
        read_symbol(copy / "model-symbol.json")


def test_images_it_cannot_take_are_one_error_and_no_more(copy, capfd):
    def change(signature):
        signature["input"]["shape"] = [None, 2, 1, 1]
        signature["preprocess"].update(height=1, width=1)

    edited(copy / "signature.json", change)
    with pytest.raises(GluonexpError, match=r"does not take \(1, 2, 1, 1\) images: kernel size"):
        runtimes.load(copy, "module")
    assert capfd.readouterr() == ("", "")


def test_another_input_is_told(copy):
    def change(signature):
        signature["input"]["name"] = "image"

    edited(copy / "signature.json", change)
    with pytest.raises(GluonexpError, match=r"model-symbol\.json: has no input 'image'"):
        runtimes.load(copy, "module")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("image"), "image"),
        (lambda s: s.pop("format"), "format"),
        (lambda s: s.update(format=2), "format 2, where only 1 is known"),
        (lambda s: s.update(format="1"), "format '1'"),
        (lambda s: s.update(format=True), "format True"),
        (lambda s: s["image"].update(height=0), "not a positive number"),
        (lambda s: s["image"].update(height=True), "not a positive number"),
        (lambda s: s["image"].update(channels="3"), "not a positive number"),
        (lambda s: s["image"].update(channels=1), "nothing makes 2 channels of 1"),
        (lambda s: s["image"].update(height=10**5, width=10**5), "its image is too large"),
        (lambda s: s["image"].update(height=10**400), "its image is too large"),
        (lambda s: s["image"].update(layout="NCHW"), "image.layout is 'NCHW', not 'NHWC'"),
        (lambda s: s["image"].update(dtype="float32"), "image.dtype is 'float32', not 'uint8'"),
        (lambda s: s["image"].pop("dtype"), "dtype"),
        (lambda s: s["input"].update(layout="NHWC"), "input.layout is 'NHWC', not 'NCHW'"),
        (lambda s: s["input"].update(dtype="uint8"), "input.dtype is 'uint8', not 'float32'"),
        (lambda s: s["output"].update(meaning="probabilities"), "output.meaning"),
        (lambda s: s["preprocess"].update(steps=["normalize"]), "other steps than are known"),
        (lambda s: s["preprocess"].update(steps=None), "other steps than are known"),
        (lambda s: s["preprocess"].update(height=7), "not what its preprocessing gives"),
        (lambda s: s["preprocess"].update(mean=["0.5"]), "mean must be numbers"),
        (lambda s: s["preprocess"].update(mean=[]), "mean must be 1 number"),
        (lambda s: s["preprocess"].update(mean=[0, 0, 0]), "mean must be 1 number"),
        (lambda s: s["preprocess"].update(mean="00"), "mean must be 1 number"),
        (lambda s: s["preprocess"].update(mean=[float("nan")]), "mean must be finite"),
        (lambda s: s["preprocess"].update(mean=[float("inf")]), "mean must be finite"),
        (lambda s: s["preprocess"].update(mean=[10**400]), "mean must be finite"),
        (lambda s: s["preprocess"].update(mean=[1e300]), "mean must be finite in float32"),
        (lambda s: s["preprocess"].update(std=None), "std must be 1 number"),
        (lambda s: s["preprocess"].update(std=[0.25, 0]), "std must be above 0"),
        (lambda s: s["preprocess"].update(std=[-1]), "std must be above 0"),
        (lambda s: s["input"].update(shape=[1, 2, 6, 5]), "not what its preprocessing gives"),
        (lambda s: s["input"].update(name=["data"]), "not a text"),
        (lambda s: s.update(classes=["a", "b"]), "not as many outputs as classes"),
        (lambda s: s.update(classes=[1, 2, 3]), "not a text"),
        (lambda s: s.update(classes=["a", "b", "\x1b[2J"]), "characters that command a terminal"),
        (lambda s: s.update(classes=["a", "b", "c\n"]), "characters that command a terminal"),
        (
            lambda s: s.update(classes=["a", "b", "\u202egnp"]),
            "characters that command a terminal",
        ),
        (lambda s: s.update(output=None), "TypeError"),
    ],
)
def test_a_signature_is_whole_or_refused(copy, change, said):
    assert Signature.read(copy) == SIGNATURE
    edited(copy / "signature.json", change)
    with pytest.raises(GluonexpError, match=r"signature\.json: damaged \(") as caught:
        Signature.read(copy)
    assert said in str(caught.value)


def test_a_large_input_is_refused_as_a_large_image_is(copy):
    def change(signature):
        signature["preprocess"].update(height=60_000, width=60_000)
        signature["input"]["shape"] = [None, 2, 60_000, 60_000]

    edited(copy / "signature.json", change)
    with pytest.raises(GluonexpError, match="its input is too large"):
        Signature.read(copy)


def test_signatures_of_every_version_are_read(copy):
    def change(signature):
        # Names may be in any language or there twice, as a bird and a machine of ImageNet.
        signature["classes"] = ["crane", "crane", "größe\u200c鶴\u3000👩\u200d🔬"]
        signature["adopted"] = {"changes": []}

    edited(copy / "signature.json", change)
    assert Signature.read(copy).classes[2].startswith("größe")
    edited(copy / "signature.json", lambda s: s["preprocess"].pop("steps"))
    Signature.read(copy)


def test_a_signature_of_any_size_is_not_read(copy):
    with (copy / "signature.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(GluonexpError, match="larger than any file of its kind"):
        Signature.read(copy)


# What a network would need.


def network(folder, symbol, values):
    """Write the files of a symbol as a hostile export would have them."""
    symbol.save(str(folder / "model-symbol.json"))
    arrays = {f"arg:{name}": nd.array(value, dtype=value.dtype) for name, value in values.items()}
    nd.save(str(folder / "model-0000.params"), arrays)


def data():
    return sym.var("data")


def weights(**shapes):
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


HARMFUL = {
    # Of 60 values 24 are made, but all are copied.
    "shrinks": (lambda: sym.Reshape(data(), shape=(4, 6)), {}, "are not as many values"),
    # The same with two images, but not with one.
    "fixed": (lambda: sym.Reshape(data(), shape=(1, 60)), {}, "are not as many values"),
    "leftover": (lambda: sym.Reshape(data(), shape=(7, -1)), {}, "are not as many values"),
    "where": (
        lambda: sym.where(sym.sum(data(), axis=(1, 2, 3)), data(), data()),
        {},
        "are not as many values",
    ),
    "large": (
        lambda: (
            sym.sum(sym.broadcast_to(sym.ones((1, 1)), shape=(40_000, 60_000))) + sym.sum(data())
        ),
        {},
        "of which 2400000000 are in one array",
    ),
    "batch": (
        lambda: sym.repeat(sym.Flatten(data()), repeats=2**20, axis=1),
        {},
        "values for 64 images",
    ),
    "patches": (
        lambda: sym.Convolution(
            data(), kernel=(900, 900), pad=(900, 900), num_filter=1, no_bias=True, name="c"
        ),
        weights(c_weight=(1, 2, 900, 900)),
        "c has too many patches",
    ),
    "division": (
        lambda: sym.cast(data(), "int32") / sym.cast(data(), "int32"),
        {},
        "divides whole numbers",
    ),
    "mean": (lambda: sym.mean(sym.cast(data(), "int8")), {}, "divides whole numbers"),
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_what_would_harm_memory_is_refused_before_it_runs(copy, harm):
    make, values, said = HARMFUL[harm]
    network(copy, make(), values)
    for runtime in RUNTIMES:
        with pytest.raises(GluonexpError, match=r"model-symbol\.json: refused: ") as caught:
            runtimes.load(copy, runtime)
        assert said in str(caught.value)


def test_reshapes_that_keep_all_values_are_run(copy):
    x = sym.Reshape(sym.Reshape(data(), shape=(0, -1)), shape=(0, 4, 3, 5))
    x = sym.mean(sym.transpose(x, axes=(0, 2, 1, 3)), axis=(2, 3))
    network(copy, x / 2, {})
    images = np.random.default_rng(0).normal(size=(70, 2, 6, 5)).astype(np.float32)
    expected = images.reshape(70, 4, 3, 5).transpose(0, 2, 1, 3).mean((2, 3)) / 2
    for runtime in RUNTIMES:  # of more images than are given to it at once
        np.testing.assert_allclose(runtimes.load(copy, runtime)(images), expected, atol=1e-6)


@pytest.mark.parametrize("place", ["model-0000.params", "below/deeper/x"])
def test_links_that_leave_the_folder_are_not_followed(copy, tmp_path_factory, place):
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("secret")
    path = copy / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    for runtime in RUNTIMES:
        with pytest.raises(GluonexpError, match="a link that leaves the folder"):
            runtimes.load(copy, runtime)


def test_a_pipe_is_not_waited_for(copy):
    for name in ("model-0000.params", "signature.json"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(GluonexpError, match="neither a file nor a folder"):
            runtimes.load(copy, "module")
        (copy / name).unlink()
        (copy / name).touch()
    (copy / "signature.json").unlink()
    os.mkfifo(copy / "signature.json")
    with pytest.raises(GluonexpError, match="it is not a file"):
        Signature.read(copy)


def test_hard_links_and_links_within_are_files_like_others(copy):
    kept = copy / "below"
    kept.mkdir()
    (copy / "model-0000.params").rename(kept / "params")
    os.link(kept / "params", copy / "model-0000.params")
    (copy / "model-symbol.json").rename(kept / "symbol")
    (copy / "model-symbol.json").symlink_to("below/symbol")
    assert runtimes.load(copy, "module")(np.zeros((1, 2, 6, 5), np.float32)).shape == (1, 3)
