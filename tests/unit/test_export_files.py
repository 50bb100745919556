"""What lies in an export's folder may come from anybody: it is read, or refused in a sentence."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.errors import GluonexpError
from gluonexp.export import files, runtimes, symbol
from gluonexp.mx import mx, nd, nn

RUNTIMES = ["module", "symbolblock"]
STEPS = {"height": 6, "width": 5, "channels": 2, "mean": [0.5], "std": [0.25, 1]}
IMAGE = {"height": 6, "width": 5, "channels": 2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(nd.zeros((1, 2, 6, 5)))
    symbol.export(
        net, folder, image=(6, 5, 2), input_shape=(2, 6, 5), preprocess=STEPS, classes="abc"
    )
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
    network = files.read(exported, files.MODEL, "data", (1, 2, 6, 5))
    reference, arguments, statistics = mx.model.load_checkpoint(str(exported / "model"), 0)
    assert network.symbol.tojson() == reference.tojson()
    for mine, theirs in ((network.arguments, arguments), (network.statistics, statistics)):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype
            np.testing.assert_array_equal(mine[name].asnumpy(), value.asnumpy())


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("_Native", {"info": "0x4141414141414141"}),
        ("_NDArray", {"info": "0x4141414141414141"}),
        ("_backward__Native", {"info": "0x4141414141414141"}),
        ("Custom", {"op_type": "anything"}),
        ("_cvimread", {"filename": "signature.json"}),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_operators_that_are_more_than_arithmetic_are_refused(copy, operator, attributes, nested):
    hostile = {"op": operator, "name": "hostile", "attrs": attributes, "inputs": [[0, 0, 0]]}

    def change(graph):
        node = next(node for node in graph["nodes"] if node["op"] == "Flatten")
        if nested:
            node["subgraphs"] = [{"nodes": [hostile]}]
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
            found = files.read_symbol(path)
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
        files.read_params(path)


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


def test_an_operator_mxnet_does_not_have_is_one_error(copy):
    path = copy / "model-symbol.json"
    path.write_text(path.read_text().replace('"op": "Flatten"', '"op": "Unheard"'))
    with pytest.raises(GluonexpError, match=r"model-symbol\.json: not a symbol: .*Unheard"):
        runtimes.load(copy, "module")


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
    "change",
    [
        lambda s: s.pop("image"),
        lambda s: s["image"].update(height=0),
        lambda s: s["image"].update(height=True),
        lambda s: s["image"].update(channels="3"),
        lambda s: s["preprocess"].update(height=7),
        lambda s: s["preprocess"].update(mean=["0.5"]),
        lambda s: s["preprocess"].update(std=None),
        lambda s: s["input"].update(shape=[1, 2, 6, 5]),
        lambda s: s["input"].update(name=["data"]),
        lambda s: s.update(classes=["a", "b"]),
        lambda s: s.update(classes=[1, 2, 3]),
        lambda s: s.update(output=None),
    ],
)
def test_a_signature_is_whole_or_refused(copy, change):
    assert files.read_signature(copy)["classes"] == ["a", "b", "c"]
    edited(copy / "signature.json", change)
    with pytest.raises(GluonexpError, match=r"signature\.json: damaged \("):
        files.read_signature(copy)
